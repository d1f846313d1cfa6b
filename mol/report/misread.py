"""The most confident wrong answers of a run, read again if checkpoint and cache are still there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mol.common.errors import CheckpointError, DataError, MOLError
from mol.data.cache import Cache
from mol.data.clips import ResidentClips
from mol.data.pool import fingerprint
from mol.loso.plan import PlannedCache
from mol.loso.results import Video
from mol.loso.saved_run import LosoRun
from mol.networks.trained import load_model
from mol.pictures.evaluation import Seen
from mol.scoring.calibration import apply_temperature, temperature_of

# Probabilities that other kernels, devices or precisions may move; a different checkpoint moves them further.
_TOLERANCE = 0.05
_BATCH = 8


@dataclass(frozen=True)
class Failure:
    """A video that was misread.

    Attributes:
        video: with the probabilities of the whole video.
        seen: its sub-clip with the highest probability of the wrong class; None if it could not be read again.
        reason: why not.
    """

    video: Video
    seen: Seen | None = None
    reason: str = ""


def confident_failures(videos: Sequence[Video], count: int) -> list[Failure]:
    """The wrong videos with the highest probability of their wrong class, each video once, at most `count`."""
    wrong = sorted(
        (video for video in videos if not video.right),
        key=lambda video: (-float(video.probabilities[video.prediction]), video.key, video.seed),
    )
    first: dict[tuple[str, str, str], Video] = {}
    for video in wrong:
        first.setdefault(video.key, video)
    return [Failure(video) for video in list(first.values())[:count]]


def read_again(run: LosoRun, failures: Sequence[Failure], device: torch.device) -> list[Failure]:
    """Let the checkpoints of their folds read the failures again, for pictures.

    Returns:
        The same failures in the same order, with `Failure.seen`, or with the reason why it is missing.
    """
    opened: dict[str, Cache | str] = {}
    read: list[Failure] = []
    for failure in failures:
        try:
            cache = _cache_of(run, failure.video, opened)
            read.append(replace(failure, seen=_seen(run, failure.video, cache, device)))
        except MOLError as error:
            read.append(replace(failure, reason=str(error)))
    return read


def _cache_of(run: LosoRun, video: Video, opened: dict[str, Cache | str]) -> Cache:
    """The cache that holds a video.

    Raises:
        DataError: none of the run's caches that can be opened holds it; the message says why the others can't.
    """
    tried: list[str] = []
    for planned in run.plan.caches:
        if video.dataset not in planned.datasets:
            continue
        tried.append(planned.path)
        if planned.path not in opened:
            opened[planned.path] = _open(planned)
        found = opened[planned.path]
        if isinstance(found, Cache) and _rows_of(found, video):
            return found
    closed = [text for path in tried if isinstance(text := opened[path], str)]
    raise DataError("; ".join(closed) or f"no cache of the run holds {video.name}")


def _open(planned: PlannedCache) -> Cache | str:
    """The cache as the run saw it, or why it cannot be used."""
    try:
        cache = Cache.open(planned.path)
    except MOLError as error:
        return str(error)
    if fingerprint(cache) != planned.fingerprint:
        return f"{planned.path} holds other clips than when the run was made"
    return cache


def _rows_of(cache: Cache, video: Video) -> list[int]:
    return [i for i, row in enumerate(cache.rows) if _key(row) == video.key]


def _key(row: Any) -> tuple[str, str, str]:
    return str(row["dataset"]), str(row["subject"]), str(row["clip"])


@torch.inference_mode()
def _seen(run: LosoRun, video: Video, cache: Cache, device: torch.device) -> Seen:
    folders = {(fold.seed, fold.dataset, fold.subject): run.folder(fold) for fold in run.plan.folds}
    folder = folders[video.seed, video.dataset, video.subject]
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError("the checkpoints of the folds were not kept (keep_checkpoints)")
    trained = load_model(folder, device)
    # The person's other clips as well: one of the normalisations is over all of them.
    tested = {one.key for one in run.videos if (one.dataset, one.subject) == (video.dataset, video.subject)}
    rows = [i for i, row in enumerate(cache.rows) if _key(row) in tested]
    clips = trained.network.hold(cache, rows, device, trained.state.get("normalisation", "clip"))
    mine = np.flatnonzero([_key(row) == video.key for row in clips.rows])
    batches = clips.evaluation_batches(_BATCH, mine)
    probabilities = (
        torch.cat([trained.model(batch.inputs).logits.double().softmax(1) for batch in batches]).cpu().numpy()
    )
    voted = apply_temperature(probabilities.mean(0), temperature_of(trained.state).value)
    _require_same_answer(video, voted, folder)
    index = int(mine[probabilities[:, video.prediction].argmax()])
    output = trained.model(clips.evaluation_batch([index]).inputs)
    # What the cache holds, whatever the network takes of it.
    whole = ResidentClips(cache, [rows[index]], device)
    target, frames = whole.evaluation_batch([0]), whole.centre_frames(0)
    return Seen(
        frames=frames,
        numbers=[int(number) for number in clips.rows[index].get("frames") or range(1, len(frames) + 1)],
        flow=target.flow[0].cpu().numpy(),
        flow_ours=_numbers(output.flow),
        landmarks=target.landmarks[0].cpu().numpy(),
        landmarks_ours=_numbers(output.landmarks),
    )


def _numbers(output: Tensor | None) -> np.ndarray | None:
    """The estimate for the only clip of a batch; None if the network gives none."""
    return None if output is None else output[0].float().cpu().numpy()


def _require_same_answer(video: Video, probabilities: np.ndarray, folder: Path) -> None:
    recorded, found = (float(values[video.prediction]) for values in (video.probabilities, probabilities))
    if not abs(recorded - found) <= _TOLERANCE:
        raise CheckpointError(
            f"the checkpoint in {folder} gives this class {found:.2f} where the run recorded {recorded:.2f}; "
            "it is not the one that was scored"
        )
