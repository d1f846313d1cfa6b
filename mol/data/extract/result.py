"""What an extraction produced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction produced and how it went.

    Attributes:
        path: the finished cache.
        clips: number of clips in it.
        rows: number of their sub-clips.
        extracted: number of clips extracted by this run; earlier runs did the others.
        skipped: clips that were left out, as in `Cache.skipped`.
        warnings: what a user should look at.
        seconds: processor time of each stage, summed over the processes.
        wall_s: duration of this run in seconds.
        workers: number of processes.
    """

    path: Path
    clips: int
    rows: int
    extracted: int
    skipped: list[dict[str, str]]
    warnings: list[str]
    seconds: dict[str, float]
    wall_s: float
    workers: int
