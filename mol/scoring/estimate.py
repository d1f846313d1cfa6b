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
from mol.data.clips import ResidentClips
from mol.network.losses import MOLLoss
from mol.scoring.calibration import apply_temperature
from mol.scoring.metrics import (
    endpoint_error,
    normalised_mean_error,
    recognition_scores,
    vote_videos,
)

FAILURE_THRESHOLD = 0.1
"""NME over which the landmarks of a frame count as a failure."""

_PEEK_NOTE = "not reportable: checkpoints were chosen on the test subjects"
_SYNTHETIC_NOTE = "synthetic clips: these scores show that learning happens, they are not recognition results"


class Estimates(NamedTuple):
    """Per-clip answers and errors, float64 on the CPU.

    Attributes:
        probabilities: (n, C).
        epe, zero_flow_epe: (n, T-1), pixels.
        nme, mean_shape_nme: (n, T-1), inter-ocular distances.
        loss: mean weighted loss.
    """

    probabilities: Tensor
    epe: Tensor
    zero_flow_epe: Tensor
    nme: Tensor
    mean_shape_nme: Tensor
    loss: float


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
def estimate(model: nn.Module, clips: ResidentClips, loss: MOLLoss, mean_shape: Tensor, batch_size: int) -> Estimates:
    """Run the network in evaluation mode over the centre crops of all clips.

    Args:
        model: gives `MOLOutput`; left in evaluation mode.
        clips: with their exact flow and landmarks.
        loss: for `Estimates.loss`.
        mean_shape: (68, 2), pixels of the centre crop.
        batch_size: clips at once.
    """
    model.eval()
    shape = mean_shape.to(clips.device)
    parts: list[tuple[Tensor, ...]] = []
    for batch in clips.evaluation_batches(batch_size):
        output = model(batch.clips)
        parts.append(
            (
                output.logits.double().softmax(1),
                endpoint_error(output.flow, batch.flow),
                endpoint_error(torch.zeros_like(batch.flow), batch.flow),
                normalised_mean_error(output.landmarks, batch.landmarks),
                normalised_mean_error(shape.expand_as(batch.landmarks), batch.landmarks),
                loss(output, batch).total.double().expand(len(batch.label)),
            )
        )
    probabilities, epe, zero_epe, nme, shape_nme, losses = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    return Estimates(probabilities, epe, zero_epe, nme, shape_nme, float(losses.mean()))


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
    model: nn.Module, clips: ResidentClips, loss: MOLLoss, mean_shape: Tensor, batch_size: int
) -> dict[str, float]:
    """Loss, EPE, NME, accuracy and UF1 with their baselines, for curves; leaves the model in evaluation mode."""
    found = estimate(model, clips, loss, mean_shape, batch_size)
    videos = by_video(clips.rows, clips.labels, found.probabilities.numpy())
    recognition = recognition_scores(videos.labels, videos.predictions, found.probabilities.shape[1])
    return {
        "loss": found.loss,
        "epe": float(found.epe.mean()),
        "zero_flow_epe": float(found.zero_flow_epe.mean()),
        "nme": float(found.nme.mean()),
        "mean_shape_nme": float(found.mean_shape_nme.mean()),
        "accuracy": recognition.accuracy,
        "uf1": recognition.uf1,
    }


def notes(settings: CacheSettings, selection: str) -> list[str]:
    """Why scores are not recognition results, or not reportable; empty if nothing speaks against them.

    Args:
        settings: of the cache.
        selection: of the checkpoint.
    """
    synthetic = [_SYNTHETIC_NOTE] if settings.synthetic_clips else []
    return synthetic + ([_PEEK_NOTE] if selection == "test-peek" else [])


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
