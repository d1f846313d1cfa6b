"""Evaluation on people never seen in training, every score beside a baseline that ignores the clip.

flow        end-point error          beside zero flow and TV-L1
landmarks   NME, failure rate        beside the mean shape of the training clips
emotion     scores per video         beside the most frequent class of the training videos
units       F1 of each, per video    beside always shown, if the network tells action units
confidence  calibration per video    beside that without the checkpoint's temperature
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from msgspec import Meta
from torch import nn

from mol.common.checks import MOST_WORKERS, require_at_most, require_not_negative, require_positive
from mol.common.devices import start_fabric
from mol.common.environment import available_cores
from mol.common.errors import CheckpointError, SettingsError
from mol.common.storage import write_csv
from mol.common.terminal import console, say
from mol.common.typed import NotNegative, typed
from mol.data.action_units import absent_units
from mol.data.cache import ClipSet
from mol.data.clips import ResidentClips
from mol.data.pool import Counts, open_clips
from mol.data.split import person, split_by_subject
from mol.network.checkpoint import STATE, find_checkpoint
from mol.network.estimates import FLOW, LANDMARKS
from mol.networks.interface import HeldClips, Loss
from mol.networks.trained import Trained, load_model
from mol.pictures.evaluation import GalleryExample, confusion_picture, evaluation_gallery
from mol.pictures.faces import strongest_pair
from mol.scoring.action_units import UnitVotes, unit_notes, unit_scores, unit_votes, write_unit_votes
from mol.scoring.baselines import flow_scores
from mol.scoring.calibration import Temperature, confidence_scores, temperature_of
from mol.scoring.estimate import (
    FAILURE_THRESHOLD,
    Errors,
    Estimates,
    Videos,
    absent_classes,
    by_video,
    estimate,
    notes,
    write_predictions,
)
from mol.scoring.evaluation import (
    Calibration,
    Evaluation,
    FlowScores,
    LandmarkScores,
    describe_weights,
    write_evaluation,
)
from mol.scoring.metrics import confusion_matrix, failure_rate, recognition_scores
from mol.scoring.reliability import draw_reliability
from mol.scoring.table import describe_confidence, evaluation_table
from mol.vision.tvl1 import tvl1_flow

_GALLERY_ROWS = 5


@dataclass
class EvaluateConfig:
    """Evaluation of a trained network on people that it has never seen.

    Attributes:
        weights: run folder, or a checkpoint folder inside one.
        cache: cache to evaluate on, or several if the run has a protocol; those that it was trained on when empty.
        out: folder for evaluation.json, predictions.csv, confusion.csv and pictures; the run folder when empty.
        people: people to evaluate (subject or dataset/subject); those held out of the run when empty.
        batch_size: clips at once.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32" or "bf16-mixed".
        tvl1_pairs: pairs of frames on which TV-L1 is compared; 0 leaves it out.
        workers: processes for TV-L1; the number of cores when 0.
        pictures: draw the confusion matrix and the reliability diagram (needs the extra "report").
    """

    weights: str
    cache: str | list[str] | None = None
    out: str | None = None
    people: list[str] | None = None
    batch_size: int = 16
    device: str = "auto"
    precision: str = "32"
    tvl1_pairs: int = 64
    workers: int = 0
    pictures: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "batch_size")
        require_not_negative(self, "tvl1_pairs", "workers")
        require_at_most(self, batch_size=10**6, tvl1_pairs=10**9, workers=MOST_WORKERS)


def run_evaluate(config: EvaluateConfig) -> None:
    """Score a trained network on people that it has never seen."""
    result = evaluate(config)
    console().print(evaluation_table(result))
    say(describe_confidence(result))
    say(f"written to {config.out or config.weights}")


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate a checkpoint and write evaluation.json, predictions.csv, confusion.csv and pictures.

    A network that tells action units also leaves its votes on them, in action_units.csv.

    Args:
        config: what to evaluate on whom.
    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of other classes than the cache.
        SettingsError: people who were trained on, nobody to evaluate, or an unknown device or precision.
        CacheError, ClipError, StorageError: data or disk fail; the message says which.
        MissingExtraError: the packages for pictures or TV-L1 are not installed.
    """
    fabric = start_fabric(config.device, config.precision)
    trained = load_model(config.weights, fabric.device)
    state, folder = trained.state, find_checkpoint(config.weights)
    facts = _training_facts(trained, folder)
    # A cache other than the training's is scored as it is: the protocol's counts are of its own data sets.
    counts: Counts = "warn" if config.cache or facts.config.counts != "require" else "require"
    cache = open_clips(config.cache or facts.config.cache, facts.config.protocol, counts)
    if list(cache.classes) != trained.classes:
        raise CheckpointError(
            f"{folder} knows the classes {trained.classes}, {cache.path} has {list(cache.classes)}; "
            "evaluate on a cache with the same classes in the same order"
        )
    network, rows = trained.network, _rows_to_evaluate(cache, state, config.people)
    clips = network.hold(cache, rows, fabric.device, state["normalisation"])
    mean_shape = None if state["mean_shape"] is None else torch.tensor(state["mean_shape"])
    model = fabric.setup_module(trained.model)
    loss = _loss_of(trained, facts.config.loss, folder)
    found = estimate(model, clips, loss, mean_shape, config.batch_size)
    temperature = temperature_of(state)
    videos = by_video(clips.rows, clips.labels, found.probabilities.numpy()).at(temperature.value)
    # In extracted caches the targets themselves come from TV-L1, so it is not a baseline.
    pairs = config.tvl1_pairs if cache.settings.kind == "synthetic" else 0
    workers = config.workers or available_cores()
    flow = None if found.flow is None else flow_scores(found.flow, cast(ResidentClips, clips), pairs, workers)
    units, learned = None, network.action_units
    if learned is not None and found.action_units is not None:
        units = unit_votes(clips.rows, found.action_units, learned)
    result = _result(folder, trained, cache, clips, found, videos, flow, _calibration(videos, temperature), units)
    out = Path(config.out) if config.out else _run_of(folder)
    _write_tables(out, result, videos)
    write_unit_votes(out, units)
    if config.pictures:
        _draw_recognition(out / "pictures", result)
    if config.pictures and pairs and {FLOW, LANDMARKS} <= {*network.estimates}:
        _draw_gallery(out / "pictures", result, model, cast(ResidentClips, clips))
    return result


@dataclass(frozen=True)
class _Config:
    """The settings of a training that an evaluation needs."""

    cache: str | list[str]
    loss: dict[str, NotNegative | None]
    protocol: str | None = None
    counts: str = "require"


@dataclass(frozen=True)
class _Facts:
    """What an evaluation needs to know of a training, which `mol train` writes into every checkpoint."""

    config: _Config
    normalisation: str
    selection: str
    train_people: list[str]
    inner_validation_people: list[str]
    training_videos: Annotated[list[int], Meta(min_length=1)]


def _training_facts(trained: Trained, folder: Path) -> _Facts:
    """What the checkpoint says of its training.

    Raises:
        CheckpointError: it lacks something.
    """
    where, again = str(folder / STATE), "evaluate a checkpoint of mol train"
    return typed(trained.state, _Facts, where, again, CheckpointError)


def _loss_of(trained: Trained, weights: Mapping[str, float | None], folder: Path) -> Loss:
    """The losses that the network was trained with.

    Raises:
        CheckpointError: the recorded weights are not those of its losses.
    """
    given = {name: weight for name, weight in weights.items() if weight is not None}
    try:
        return trained.network.loss(given)
    except TypeError as error:
        raise CheckpointError(
            f"{folder / STATE}: config.loss names weights that the network's losses lack ({error}); "
            "evaluate a checkpoint of mol train"
        ) from error


def _rows_to_evaluate(cache: ClipSet, state: Mapping[str, Any], people: Sequence[str] | None) -> np.ndarray:
    """Rows of the people asked for, or of everybody in the cache who was not trained on.

    Raises:
        SettingsError: one of them was trained on, or nobody is left.
    """
    trained = {*state["train_people"], *state["inner_validation_people"]}
    trained |= {*(state.get("starting_weights") or {}).get("people", [])}
    known = [name for name in sorted({person(row) for row in cache.rows}) if name not in trained]
    if people is None:
        if not known:
            raise SettingsError(f"the network was trained on everybody in {cache.path}; evaluate on another cache")
        return np.flatnonzero([person(row) in known for row in cache.rows])
    chosen = [row for row in cache.rows if person(row) in people or str(row["subject"]) in people]
    if seen := sorted({person(row) for row in chosen} & trained):
        raise SettingsError(f"the network was trained on {', '.join(seen)}; people not trained on: {', '.join(known)}")
    return split_by_subject(cache.rows, people).held_out


def _result(
    folder: Path,
    trained: Trained,
    cache: ClipSet,
    clips: HeldClips,
    found: Estimates,
    videos: Videos,
    flow: FlowScores | None,
    calibration: Calibration,
    units: UnitVotes | None,
) -> Evaluation:
    learned = trained.network.action_units
    of_units = unit_scores([(units, learned.frequencies)]) if units is not None and learned is not None else None
    state, count = trained.state, len(cache.classes)
    start = state.get("starting_weights")
    majority = int(np.argmax(state["training_videos"]))
    return Evaluation(
        checkpoint=str(folder),
        step=state["step"],
        selection=state["selection"],
        normalisation=state["normalisation"],
        kind=cache.settings.kind,
        note="; ".join(
            [
                *notes(cache.settings, state["selection"]),
                *absent_classes(trained.classes, state["training_videos"]),
                *trained.network.notes(cache),
                *([] if learned is None or of_units is None else [*absent_units(learned), *unit_notes(of_units)]),
                *([f"started from {describe_weights(start['file'], start['fingerprint'])}"] if start else []),
            ]
        ),
        people=sorted({person(row) for row in clips.rows}),
        videos=len(videos.names),
        clips=len(clips),
        classes=list(cache.classes),
        flow=flow,
        landmarks=None if found.landmarks is None else _landmark_scores(found.landmarks),
        recognition=recognition_scores(videos.labels, videos.predictions, count),
        majority_class=cache.classes[majority],
        majority=recognition_scores(videos.labels, np.full(len(videos.labels), majority), count),
        confusion=confusion_matrix(videos.labels, videos.predictions, count).tolist(),
        calibration=calibration,
        network=trained.network.name,
        starting_weights={name: start[name] for name in ("file", "fingerprint")} if start else None,
        action_units=of_units,
    )


def _landmark_scores(found: Errors) -> LandmarkScores:
    return LandmarkScores(
        nme=float(found.ours.mean()),
        failure_rate=failure_rate(found.ours, FAILURE_THRESHOLD),
        mean_shape_nme=float(found.baseline.mean()),
        mean_shape_failure_rate=failure_rate(found.baseline, FAILURE_THRESHOLD),
    )


def _calibration(videos: Videos, temperature: Temperature) -> Calibration:
    before = confidence_scores(videos.means, videos.labels)
    after = confidence_scores(videos.probabilities, videos.labels) if temperature.value is not None else None
    return Calibration(temperature, before, after)


def _run_of(folder: Path) -> Path:
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder


def _write_tables(out: Path, result: Evaluation, videos: Videos) -> None:
    classes = result.classes
    write_evaluation(out / "evaluation.json", result)
    confusion = [[name, *counts] for name, counts in zip(classes, result.confusion, strict=True)]
    write_csv(out / "confusion.csv", ["true \\ predicted", *classes], confusion)
    write_predictions(out, videos, classes)


def _draw_recognition(folder: Path, result: Evaluation) -> None:
    subtitle = f"{result.videos} videos; UF1 {result.recognition.uf1:.3f}, UAR {result.recognition.uar:.3f}"
    confusion_picture(
        folder / "confusion.png", np.array(result.confusion), result.classes, "Confusion, per video", subtitle
    )
    if result.calibration:
        _draw_reliability(folder / "reliability.png", result.calibration, result.videos)


def _draw_gallery(folder: Path, result: Evaluation, model: nn.Module, clips: ResidentClips) -> None:
    examples = [_example(model, clips, i, result.classes) for i in _different_people(clips, _GALLERY_ROWS)]
    evaluation_gallery(folder / "gallery.png", examples)


def _draw_reliability(path: Path, calibration: Calibration, videos: int) -> None:
    before, after = calibration.before, calibration.after
    scores = {f"not calibrated: ECE {before.ece:.3f}": before}
    if after is not None:
        scores = {f"temperature {calibration.temperature.value:.3g}: ECE {after.ece:.3f}": after, **scores}
    subtitle = f"{videos} videos of people never trained on; vertical lines: 95 % intervals"
    draw_reliability(path, scores, "Reliability, per video", subtitle)


def _different_people(clips: ResidentClips, count: int) -> list[int]:
    """Positions of clips to show: a different person each time and, if possible, a different class."""
    first: dict[tuple[str, int], int] = {}
    for i, (row, label) in enumerate(zip(clips.rows, clips.labels.tolist(), strict=True)):
        first.setdefault((person(row), label), i)
    people = sorted({name for name, _ in first})
    classes = sorted({label for _, label in first})
    diagonals = [
        first[key]
        for turn in range(len(classes))
        for i, name in enumerate(people)
        if (key := (name, classes[(i + turn) % len(classes)])) in first
    ]
    return diagonals[:count]


@torch.inference_mode()
def _example(model: nn.Module, clips: ResidentClips, index: int, classes: Sequence[str]) -> GalleryExample:
    batch = clips.evaluation_batch([index])
    output = model(batch.inputs)
    flow = batch.flow[0].cpu().numpy()
    pair = strongest_pair(flow)
    frames = clips.centre_frames(index)
    return GalleryExample(
        title=f"{clips.rows[index]['subject']} · {classes[int(clips.labels[index])].replace('_', ' ')}",
        image=frames[pair + 1],
        flow=flow[pair],
        flow_ours=output.flow[0, pair].float().cpu().numpy(),
        flow_tvl1=tvl1_flow(frames[pair : pair + 2])[0],
        landmarks=batch.landmarks[0, pair].cpu().numpy(),
        landmarks_ours=output.landmarks[0, pair].float().cpu().numpy(),
    )
