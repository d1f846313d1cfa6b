"""``mol extract --plan``: what an extraction would take, before it is started."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mol.common.environment import available_cores
from mol.common.workers import one_thread
from mol.data.cache import row_bytes
from mol.data.extract.clip import Extracted, Failed, attempt_clip
from mol.data.extract.settings import FRAMES, SIZE, ExtractConfig
from mol.data.extract.work import plan_work


@dataclass(frozen=True)
class ExtractPlan:
    """What an extraction would take.

    Attributes:
        manifest: its folder.
        clips: number of clips that can be extracted, as far as file names tell.
        frames: number of pictures to read, detect and align.
        rows: number of sub-clips.
        cache_bytes: size of the cache's arrays.
        free_bytes: free space on its disk.
        problems: clips that cannot be extracted, as in skipped.json.
        warnings: what a user should look at.
        seconds_per_frame: processor time per picture over all stages; None if no clip could be timed.
        timed: number of clips that were timed.
        failed: why the others of the sample could not be timed.
        workers: number of processes.
    """

    manifest: str
    clips: int
    frames: int
    rows: int
    cache_bytes: int
    free_bytes: int
    problems: list[dict[str, str]]
    warnings: list[str]
    seconds_per_frame: float | None
    timed: int
    failed: list[str]
    workers: int

    @property
    def hours(self) -> float | None:
        """Expected duration with one core per worker; None if no clip could be timed."""
        return None if self.seconds_per_frame is None else self.frames * self.seconds_per_frame / self.workers / 3600


def plan_extraction(config: ExtractConfig, timed: int = 3) -> ExtractPlan:
    """Estimate rows, space and time of an extraction from a few clips that are extracted and thrown away.

    Args:
        config: as for `extract`.
        timed: number of clips to time, spread evenly over the manifest.
    Raises:
        DataError, MissingExtraError: as `extract`.
    """
    work = plan_work(config)
    good = [index for index, job in enumerate(work.jobs) if not job.problem]
    frames = {index: len(work.jobs[index].used) for index in good}
    sample = sorted({good[round(place)] for place in np.linspace(0, len(good) - 1, min(timed, len(good)))})
    with one_thread():
        outcomes = {index: attempt_clip(work.jobs[index], config.settings(), work.given(index)) for index in sample}
    seconds = {index: sum(one.seconds.values()) for index, one in outcomes.items() if isinstance(one, Extracted)}
    measured = sum(frames[index] for index in seconds)
    rows = sum(len(work.rows_of[index]) for index in good)
    return ExtractPlan(
        config.manifest,
        len(good),
        sum(frames.values()),
        rows,
        rows * row_bytes(FRAMES, SIZE),
        _free_bytes(Path(config.out)),
        work.describe(work.known_failures()),
        work.warnings(),
        sum(seconds.values()) / measured if measured else None,
        len(seconds),
        [one.reason for one in outcomes.values() if isinstance(one, Failed)],
        config.workers or available_cores(),
    )


def _free_bytes(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
