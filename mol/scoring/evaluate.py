"""Evaluation on people never seen in training, every score beside a baseline that knows nothing of the clip.

flow        end-point error          beside zero flow and TV-L1
landmarks   NME, failure rate        beside the mean shape of the training clips
emotion     scores per video         beside the most frequent class of the training videos
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mol.common.checks import require_not_negative, require_positive
from mol.common.devices import start_fabric
from mol.common.environment import available_cores, describe_environment
from mol.common.errors import CheckpointError, SettingsError
from mol.common.extras import require
from mol.common.storage import write_csv, write_json
from mol.common.terminal import console, say
from mol.data.cache import ClipSet
from mol.data.clips import ResidentClips
from mol.data.pool import Counts, open_clips
from mol.data.split import person, split_by_subject
from mol.network.checkpoint import find_checkpoint, load_model
from mol.network.losses import MOLLoss
from mol.pictures.evaluation import GalleryExample, confusion_picture, evaluation_gallery
from mol.pictures.faces import strongest_pair
from mol.scoring.estimate import FAILURE_THRESHOLD, Estimates, Videos, by_video, estimate, notes, predictions_table
from mol.scoring.metrics import (
    RecognitionScores,
    confusion_matrix,
    endpoint_error,
    failure_rate,
    recognition_scores,
)
from mol.vision.tvl1 import require_tvl1, tvl1_flow

_GALLERY_ROWS = 5


@dataclass
class EvaluateConfig:
    """Evaluation of a trained network on people that it has never seen.

    Attributes:
        weights: run folder, or a checkpoint folder inside one.
        cache: cache to evaluate on (several under the run's protocol); what the run was trained on when empty.
        out: folder for evaluation.json, predictions.csv, confusion.csv and pictures; the run folder when empty.
        people: people to evaluate (subject or dataset/subject); those held out of the run when empty.
        batch_size: clips at once.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32" or "bf16-mixed".
        tvl1_pairs: pairs of frames on which TV-L1 is compared; 0 leaves it out.
        workers: processes for TV-L1; the number of cores when 0.
        pictures: draw the confusion matrix (needs the extra "report").
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


@dataclass(frozen=True)
class FlowScores:
    """Mean end-point errors in pixels; lower is better.

    Attributes:
        epe: ours, over all pairs.
        zero_flow_epe: of predicting no motion, over all pairs.
        tvl1_pairs: pairs on which TV-L1 was compared; 0 where it was left out.
        tvl1_epe: TV-L1's, over those pairs; None where it was left out.
        epe_on_tvl1_pairs: ours, over the same pairs; None where it was left out.
    """

    epe: float
    zero_flow_epe: float
    tvl1_pairs: int = 0
    tvl1_epe: float | None = None
    epe_on_tvl1_pairs: float | None = None


@dataclass(frozen=True)
class LandmarkScores:
    """Errors of the 68 points, as fractions; lower is better.

    Attributes:
        nme: mean distance in inter-ocular distances.
        failure_rate: share of frames with an NME over 0.1.
        mean_shape_nme, mean_shape_failure_rate: the same of the training clips' mean shape.
    """

    nme: float
    failure_rate: float
    mean_shape_nme: float
    mean_shape_failure_rate: float


@dataclass(frozen=True)
class Evaluation:
    """What evaluation.json holds.

    Attributes:
        checkpoint: folder that was evaluated.
        step: optimisation steps that it had.
        selection: how the checkpoint was chosen.
        normalisation: of the clips.
        kind: of the cache, "synthetic" or "extracted".
        note: what to keep in mind with these numbers; empty where there is nothing.
        people: who was evaluated; nobody of them was trained on.
        videos, clips: how many.
        classes: in the order of labels.
        flow, landmarks: see there.
        recognition: per video, by the mean probability over its sub-clips.
        majority: the same of always answering `majority_class`, the most frequent of the training videos.
        confusion: counts of videos, rows true and columns predicted.
    """

    checkpoint: str
    step: int
    selection: str
    normalisation: str
    kind: str
    note: str
    people: list[str]
    videos: int
    clips: int
    classes: list[str]
    flow: FlowScores
    landmarks: LandmarkScores
    recognition: RecognitionScores
    majority_class: str
    majority: RecognitionScores
    confusion: list[list[int]]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate a checkpoint and write evaluation.json, predictions.csv, confusion.csv and pictures.

    Args:
        config: what to evaluate on whom.
    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of other classes than the cache.
        SettingsError: people that the network was trained on, nobody to evaluate, or an unknown device or precision.
        CacheError, ClipError, StorageError: data or disk fail; the message says which.
        MissingExtraError: pictures or TV-L1 were asked for and their packages are not installed.
    """
    fabric = start_fabric(config.device, config.precision)
    trained = load_model(config.weights, fabric.device)
    state, folder = trained.state, find_checkpoint(config.weights)
    trained_on = state["config"]
    # Another set than the one that was trained on is scored as it is; the counts belong to the protocol's own sets.
    counts: Counts = "warn" if config.cache else trained_on.get("counts", "require")
    cache = open_clips(config.cache or trained_on["cache"], trained_on.get("protocol"), counts)
    if list(cache.classes) != trained.classes:
        raise CheckpointError(
            f"{folder} knows the classes {trained.classes}, {cache.path} has {list(cache.classes)}; "
            "evaluate on a cache with the same classes in the same order"
        )
    clips = ResidentClips(cache, _rows_of_strangers(cache, state, config.people), fabric.device, state["normalisation"])
    mean_shape = torch.tensor(state["mean_shape"])
    model = fabric.setup_module(trained.model)
    found = estimate(model, clips, MOLLoss(**state["config"]["loss"]), mean_shape, config.batch_size)
    videos = by_video(clips.rows, clips.labels, found.probabilities.numpy())
    # Where the truth itself is TV-L1's (extracted caches), TV-L1 is not a baseline.
    pairs = config.tvl1_pairs if cache.settings.kind == "synthetic" else 0
    workers = config.workers or available_cores()
    result = _result(folder, state, cache, clips, found, videos, flow_scores(found, clips, pairs, workers))
    out = Path(config.out) if config.out else _run_of(folder)
    _write_tables(out, result, videos)
    if config.pictures:
        _draw(out / "pictures", result, model, clips, gallery=pairs > 0)
    return result


def flow_scores(found: Estimates, clips: ResidentClips, tvl1_pairs: int, workers: int) -> FlowScores:
    """Flow errors over all pairs, and over at most `tvl1_pairs` random ones (always the same) beside TV-L1's."""
    scores = FlowScores(float(found.epe.mean()), float(found.zero_flow_epe.mean()))
    if not tvl1_pairs:
        return scores
    count = min(tvl1_pairs, found.epe.numel())
    chosen = np.sort(np.random.default_rng(0).choice(found.epe.numel(), count, replace=False))
    pairs = [divmod(int(i), found.epe.shape[1]) for i in chosen]
    return dataclasses.replace(
        scores,
        tvl1_pairs=count,
        tvl1_epe=float(tvl1_errors(clips, pairs, workers).mean()),
        epe_on_tvl1_pairs=float(found.epe.flatten()[torch.as_tensor(chosen)].mean()),
    )


def tvl1_errors(clips: ResidentClips, pairs: Sequence[tuple[int, int]], workers: int) -> np.ndarray:
    """EPE of TV-L1 on the centre crops that the network saw, (pairs,) in pixels.

    Args:
        clips: with exact flow.
        pairs: (clip, frame) each: from that frame to the next.
        workers: threads; OpenCV lets go of Python's lock while it computes.
    """
    cv2 = require_tvl1()
    # One core a pair: OpenCV's own threads would fight with ours.
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return np.array(list(pool.map(lambda pair: _tvl1_error(clips, *pair), pairs)))
    finally:
        cv2.setNumThreads(before)


def _tvl1_error(clips: ResidentClips, clip: int, frame: int) -> float:
    flow = tvl1_flow(clips.centre_frames(clip)[frame : frame + 2])[0]
    target = clips.evaluation_batch([clip]).flow[0, frame].cpu()
    return float(endpoint_error(torch.from_numpy(flow), target))


def evaluation_table(result: Evaluation) -> Any:
    """A `rich.table.Table` of our scores beside the baselines, with units and which way is better."""
    table = require("rich.table", "train").Table(
        title=f"{len(result.people)} people never trained on: {result.videos} videos, {result.clips} clips",
        caption=result.note or None,
    )
    for name, justify in (("", "left"), ("score", "left"), ("better", "left"), ("MOL", "right"), ("baseline", "right")):
        table.add_column(name, justify=justify)
    table.add_column("baseline is")
    table.add_column("MOL is")
    for task, rows in _table_rows(result):
        for i, (score, unit, higher, ours, baseline, name) in enumerate(rows):
            digits = 1 if unit == "%" else 3
            shown = [f"{value:.{digits}f} {unit}".strip() for value in (ours, baseline)]
            # What looks equal is called equal.
            verdict = "equal" if shown[0] == shown[1] else _verdict(ours, baseline, higher)
            table.add_row(task if i == 0 else "", score, "higher" if higher else "lower", *shown, name, verdict)
        table.add_section()
    return table


def _verdict(ours: float, baseline: float, higher: bool) -> str:
    return "[green]better[/]" if (ours > baseline) == higher else "[red]worse[/]"


def _table_rows(result: Evaluation) -> list[tuple[str, list[tuple[str, str, bool, float, float, str]]]]:
    """Per task: (score, unit, higher is better, ours, baseline, its name)."""
    flow, landmarks = result.flow, result.landmarks
    flow_rows = [("EPE", "px", False, flow.epe, flow.zero_flow_epe, "zero flow")]
    if flow.tvl1_epe is not None and flow.epe_on_tvl1_pairs is not None:
        name = f"EPE, {flow.tvl1_pairs} pairs"
        flow_rows.append((name, "px", False, flow.epe_on_tvl1_pairs, flow.tvl1_epe, "TV-L1"))
    failure = f"failures (NME > {FAILURE_THRESHOLD:.0%})"
    landmark_rows = [
        ("NME", "%", False, 100 * landmarks.nme, 100 * landmarks.mean_shape_nme, "mean shape"),
        (failure, "%", False, 100 * landmarks.failure_rate, 100 * landmarks.mean_shape_failure_rate, "mean shape"),
    ]
    majority = f"always {result.majority_class}"
    names = {"accuracy": "accuracy", "war": "WAR", "uar": "UAR", "wf1": "WF1", "uf1": "UF1"}
    emotion_rows = [
        (label, "", True, getattr(result.recognition, field), getattr(result.majority, field), majority)
        for field, label in names.items()
    ]
    return [("flow", flow_rows), ("landmarks", landmark_rows), ("emotion, per video", emotion_rows)]


def _rows_of_strangers(cache: ClipSet, state: Mapping[str, Any], people: Sequence[str] | None) -> np.ndarray:
    """Rows of the people asked for, or of everybody in the cache whom the network has not met.

    Raises:
        SettingsError: somebody was trained on, or nobody is left.
    """
    met = {*state["train_people"], *state["inner_validation_people"]}
    known = [name for name in sorted({person(row) for row in cache.rows}) if name not in met]
    if people is None:
        if not known:
            raise SettingsError(f"the network was trained on everybody in {cache.path}; evaluate on another cache")
        return np.flatnonzero([person(row) in known for row in cache.rows])
    chosen = [row for row in cache.rows if person(row) in people or str(row["subject"]) in people]
    if seen := sorted({person(row) for row in chosen} & met):
        raise SettingsError(f"the network was trained on {', '.join(seen)}; people it has not met: {', '.join(known)}")
    return split_by_subject(cache.rows, people).held_out


def _result(
    folder: Path,
    state: Mapping[str, Any],
    cache: ClipSet,
    clips: ResidentClips,
    found: Estimates,
    videos: Videos,
    flow: FlowScores,
) -> Evaluation:
    count = len(cache.classes)
    majority = int(np.argmax(state["training_videos"]))
    return Evaluation(
        checkpoint=str(folder),
        step=state["step"],
        selection=state["selection"],
        normalisation=state["normalisation"],
        kind=cache.settings.kind,
        note="; ".join(notes(cache.settings, state["selection"])),
        people=sorted({person(row) for row in clips.rows}),
        videos=len(videos.names),
        clips=len(clips),
        classes=list(cache.classes),
        flow=flow,
        landmarks=LandmarkScores(
            nme=float(found.nme.mean()),
            failure_rate=failure_rate(found.nme, FAILURE_THRESHOLD),
            mean_shape_nme=float(found.mean_shape_nme.mean()),
            mean_shape_failure_rate=failure_rate(found.mean_shape_nme, FAILURE_THRESHOLD),
        ),
        recognition=recognition_scores(videos.labels, videos.predictions, count),
        majority_class=cache.classes[majority],
        majority=recognition_scores(videos.labels, np.full(len(videos.labels), majority), count),
        confusion=confusion_matrix(videos.labels, videos.predictions, count).tolist(),
    )


def _run_of(folder: Path) -> Path:
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder


def _write_tables(out: Path, result: Evaluation, videos: Videos) -> None:
    classes = result.classes
    write_json(out / "evaluation.json", {**dataclasses.asdict(result), "environment": describe_environment()})
    confusion = [[name, *counts] for name, counts in zip(classes, result.confusion, strict=True)]
    write_csv(out / "confusion.csv", ["true \\ predicted", *classes], confusion)
    write_csv(out / "predictions.csv", *predictions_table(videos, classes))


def _draw(folder: Path, result: Evaluation, model: nn.Module, clips: ResidentClips, gallery: bool) -> None:
    subtitle = f"{result.videos} videos; UF1 {result.recognition.uf1:.3f}, UAR {result.recognition.uar:.3f}"
    confusion_picture(
        folder / "confusion.png", np.array(result.confusion), result.classes, "Confusion, per video", subtitle
    )
    if gallery:
        examples = [_example(model, clips, i, result.classes) for i in _different_people(clips, _GALLERY_ROWS)]
        evaluation_gallery(folder / "gallery.png", examples)


def _different_people(clips: ResidentClips, count: int) -> list[int]:
    """Positions of clips to show: one person after another, another class each time where there is one."""
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
    output = model(batch.clips)
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


def run_evaluate(config: EvaluateConfig) -> None:
    """Score a trained network on people that it has never seen."""
    result = evaluate(config)
    console().print(evaluation_table(result))
    say(f"written to {config.out or config.weights}")
