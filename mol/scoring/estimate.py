"""What a network answers for clips, per sub-clip and pooled per video, and why scores may not be reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mol.common.errors import ClipError
from mol.common.storage import write_csv
from mol.data.cache import CacheSettings
from mol.networks.interface import HeldClips, Loss
from mol.scoring.calibration import apply_temperature
from mol.scoring.metrics import (
    endpoint_error,
    failure_rate,
    normalised_mean_error,
    recognition_scores,
    vote_videos,
)

FAILURE_THRESHOLD = 0.1
"""NME over which the landmarks of a frame count as a failure."""

_PEEK_NOTE = "not reportable: checkpoints were chosen on the test subjects"
_SYNTHETIC_NOTE = "synthetic clips: these scores show that learning happens, they are not recognition results"


class Errors(NamedTuple):
    """Errors of an estimate and of its baseline, (n, T-1) float64 on the CPU."""

    ours: Tensor
    baseline: Tensor


class UnitAnswers(NamedTuple):
    """What a network answers about action units, and what is annotated.

    Attributes:
        probabilities: (n, A) float64 on the CPU.
        targets: (n, `mol.network.units.CODES`) int8 on the CPU.
    """

    probabilities: Tensor
    targets: Tensor


class Estimates(NamedTuple):
    """Per-clip answers and errors.

    Attributes:
        probabilities: (n, C) float64 on the CPU.
        flow: end-point errors in pixels, and those of zero flow; None if the network estimates no flow.
        landmarks: NME in inter-ocular distances, and that of the mean shape; None if it estimates no landmarks.
        loss: mean weighted loss.
        action_units: None if the network tells none.
    """

    probabilities: Tensor
    flow: Errors | None
    landmarks: Errors | None
    loss: float
    action_units: UnitAnswers | None = None


class Videos(NamedTuple):
    """One vote per video.

    Attributes:
        names: (dataset, subject, clip) of each.
        labels: (videos,) true classes.
        probabilities: (videos, C), the mean over its sub-clips, at the temperature if there is one.
        uncalibrated: the mean over its sub-clips, if there is a temperature.
    """

    names: list[tuple[str, str, str]]
    labels: np.ndarray
    probabilities: np.ndarray
    uncalibrated: np.ndarray | None = None

    @property
    def means(self) -> np.ndarray:
        """Mean probabilities over the sub-clips, without a temperature."""
        return self.probabilities if self.uncalibrated is None else self.uncalibrated

    @property
    def predictions(self) -> np.ndarray:
        """Class of the highest mean probability of each video, which no temperature changes."""
        return self.means.argmax(1)

    def at(self, temperature: float | None) -> Videos:
        """The same votes at a temperature; None leaves them as they are."""
        if temperature is None:
            return self
        return self._replace(probabilities=apply_temperature(self.means, temperature), uncalibrated=self.means)


@torch.inference_mode()
def estimate(model: nn.Module, clips: HeldClips, loss: Loss, mean_shape: Tensor | None, batch_size: int) -> Estimates:
    """Run a network in evaluation mode over all clips, none of them varied.

    Args:
        model: gives `mol.networks.interface.Output`; left in evaluation mode.
        clips: with the targets of what it estimates.
        loss: for `Estimates.loss`.
        mean_shape: (68, 2), pixels of the centre crop; only for a network that estimates landmarks.
        batch_size: clips at once.
    """
    model.eval()
    parts: dict[str, list[Tensor]] = {}
    for batch in clips.evaluation_batches(batch_size):
        output = model(batch.inputs)
        found = {
            "probabilities": output.logits.double().softmax(1),
            "loss": loss(output, batch).total.double().expand(len(batch.label)),
            **_flow_errors(output, batch),
            **_landmark_errors(output, batch, mean_shape),
            **_unit_answers(output, batch),
        }
        for name, part in found.items():
            parts.setdefault(name, []).append(part)
    whole = {name: torch.cat(part).cpu() for name, part in parts.items()}
    return Estimates(
        whole["probabilities"],
        Errors(whole["epe"], whole["zero_flow_epe"]) if "epe" in whole else None,
        Errors(whole["nme"], whole["mean_shape_nme"]) if "nme" in whole else None,
        float(whole["loss"].mean()),
        UnitAnswers(whole["units"], whole["unit_targets"]) if "units" in whole else None,
    )


def _flow_errors(output: Any, batch: Any) -> dict[str, Tensor]:
    if output.flow is None:
        return {}
    none = torch.zeros_like(batch.flow)
    return {"epe": endpoint_error(output.flow, batch.flow), "zero_flow_epe": endpoint_error(none, batch.flow)}


def _landmark_errors(output: Any, batch: Any, mean_shape: Tensor | None) -> dict[str, Tensor]:
    if output.landmarks is None or mean_shape is None:
        return {}
    shape = mean_shape.to(batch.landmarks.device).expand_as(batch.landmarks)
    return {
        "nme": normalised_mean_error(output.landmarks, batch.landmarks),
        "mean_shape_nme": normalised_mean_error(shape, batch.landmarks),
    }


def _unit_answers(output: Any, batch: Any) -> dict[str, Tensor]:
    logits = getattr(output, "action_units", None)
    if logits is None:
        return {}
    return {"units": logits.double().sigmoid(), "unit_targets": batch.action_units}


def by_video(rows: Sequence[Mapping[str, Any]], labels: np.ndarray, probabilities: np.ndarray) -> Videos:
    """Let the sub-clips of each video vote.

    Args:
        rows: index rows, one per sub-clip.
        labels: (n,) class indices.
        probabilities: (n, C).
    Raises:
        ClipError: sub-clips of one video have different labels.
    """
    names = [(str(row["dataset"]), str(row["subject"]), str(row["clip"])) for row in rows]
    voted, videos = vote_videos(probabilities, names)
    label_of: dict[tuple[str, str, str], int] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        if label_of.setdefault(name, label) != label:
            raise ClipError(f"sub-clips of {'/'.join(name)} have labels {label_of[name]} and {label}; a video has one")
    return Videos(videos, np.array([label_of[name] for name in videos]), voted)


def validation_scores(
    model: nn.Module, clips: HeldClips, loss: Loss, mean_shape: Tensor | None, batch_size: int
) -> dict[str, float]:
    """Loss, EPE, NME, accuracy and UF1 with their baselines, for curves; leaves the model in evaluation mode.

    EPE and NME are left out if the network estimates no flow or landmarks.
    """
    found = estimate(model, clips, loss, mean_shape, batch_size)
    videos = by_video(clips.rows, clips.labels, found.probabilities.numpy())
    recognition = recognition_scores(videos.labels, videos.predictions, found.probabilities.shape[1])
    return {
        "loss": found.loss,
        **_means(found.flow, "epe", "zero_flow_epe"),
        **_means(found.landmarks, "nme", "mean_shape_nme"),
        "accuracy": recognition.accuracy,
        "uf1": recognition.uf1,
    }


def _means(errors: Errors | None, ours: str, baseline: str) -> dict[str, float]:
    return {} if errors is None else {ours: float(errors.ours.mean()), baseline: float(errors.baseline.mean())}


def fold_errors(found: Estimates) -> dict[str, float]:
    """The errors of a fold as fold.json names them; only of what the network estimates."""
    failed = {} if found.landmarks is None else {"failure_rate": failure_rate(found.landmarks.ours, FAILURE_THRESHOLD)}
    return {
        **_means(found.flow, "epe_px", "zero_flow_epe_px"),
        **_means(found.landmarks, "nme", "mean_shape_nme"),
        **failed,
    }


def notes(settings: CacheSettings, selection: str) -> list[str]:
    """Why scores are not recognition results, or not reportable; empty if nothing speaks against them.

    Args:
        settings: of the cache.
        selection: of the checkpoint.
    """
    synthetic = [_SYNTHETIC_NOTE] if settings.synthetic_clips else []
    return synthetic + ([_PEEK_NOTE] if selection == "test-peek" else [])


def absent_classes(classes: Sequence[str], training_videos: Sequence[int]) -> list[str]:
    """A note for each class that a network cannot have learned.

    Args:
        classes: C names.
        training_videos: number of videos of each that it was trained on.
    """
    counted = zip(classes, training_videos, strict=True)
    return [f"no training clip of class {name!r}: it cannot be learned" for name, count in counted if not count]


def prediction_columns(classes: Sequence[str]) -> list[str]:
    """Header of predictions.csv: whose video, true and predicted class, and the probabilities of the classes."""
    return ["dataset", "subject", "clip", "label", "prediction", *(f"p_{name}" for name in classes)]


def prediction_row(
    name: tuple[str, str, str], label: int, prediction: int, probabilities: np.ndarray, classes: Sequence[str]
) -> list[Any]:
    """One video's row of predictions.csv.

    Args:
        name: dataset, subject, clip.
        label, prediction: class indices.
        probabilities: (C,).
        classes: C names.
    """
    return [*name, classes[label], classes[prediction], *(f"{value:.6f}" for value in probabilities)]


PREDICTIONS, UNCALIBRATED = "predictions.csv", "predictions-uncalibrated.csv"
"""The votes on videos, and if there is a temperature, the same without it."""


def write_predictions(folder: Path, videos: Videos, classes: Sequence[str]) -> None:
    """Write predictions.csv and, if there is a temperature, predictions-uncalibrated.csv.

    Raises:
        StorageError: a file could not be written.
    """
    if videos.uncalibrated is None:
        (folder / UNCALIBRATED).unlink(missing_ok=True)  # that of an earlier evaluation
    else:
        plain = videos._replace(probabilities=videos.uncalibrated)
        write_csv(folder / UNCALIBRATED, *predictions_table(plain, classes))
    write_csv(folder / PREDICTIONS, *predictions_table(videos, classes))


def predictions_table(videos: Videos, classes: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of predictions.csv."""
    votes = zip(videos.names, videos.labels.tolist(), videos.predictions.tolist(), videos.probabilities, strict=True)
    return prediction_columns(classes), [prediction_row(*vote, classes) for vote in votes]
