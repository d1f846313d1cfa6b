"""Which frames of a clip go into the cache, decided from file names before any picture is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import DataError
from mol.data.extract.settings import FRAMES, ExtractionSettings
from mol.data.interval import existing_interval, frames_between, missing_runs
from mol.data.manifest import Clip, Manifest, numbered_frames
from mol.vision.video import sample_starts

LONGEST_CLIP = 1_000_000
"""Frames; an annotation of more is a mistake, and planning it would fill the memory."""


@dataclass(frozen=True)
class Job:
    """A clip of the manifest and those of its frames that go into the cache.

    Attributes:
        clip: as the manifest gives it.
        source: folder of frames or video file.
        numbers: existing frames of the interval, ascending; all annotated frames if a `problem` hides which exist.
        missing: runs of frames between onset and offset that have no picture.
        interval, starts: see `mol.vision.video.sample_starts`; no starts if the clip is too short.
        problem: why the clip cannot be extracted, as far as it is known before reading pictures.
    """

    clip: Clip
    source: Path
    numbers: tuple[int, ...]
    interval: int
    starts: tuple[int, ...]
    problem: str = ""
    missing: tuple[tuple[int, int], ...] = ()

    @property
    def interpolated(self) -> bool:
        """Whether the clip is interpolated in time to T frames."""
        return len(self.numbers) < FRAMES

    @property
    def samples(self) -> list[list[int]]:
        """T positions in `numbers` for each sub-clip; for an interpolated clip, positions after interpolation."""
        return [[start + self.interval * step for step in range(FRAMES)] for start in self.starts]

    @property
    def used(self) -> list[int]:
        """Positions in `numbers` of all frames to read, ascending."""
        if self.interpolated:
            return list(range(len(self.numbers)))
        return sorted(position for sample in self.samples for position in sample)

    def rows(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Entries of the cache's index, one per sub-clip."""
        clip = self.clip
        common = {
            "dataset": clip.dataset,
            "subject": clip.subject,
            "clip": clip.clip,
            "path": clip.path,
            "interval": self.interval,
            "length": len(self.numbers),
            "label": classes.index(clip.emotion),
            "emotion": clip.emotion,
            "action_units": clip.action_units,
            "onset": clip.onset,
            "apex": clip.apex,
            "offset": clip.offset,
            "fps": clip.fps,
        }
        return [
            {**common, "start": start, "frames": self._frame_numbers(sample)}
            for start, sample in zip(self.starts, self.samples, strict=True)
        ]

    def _frame_numbers(self, sample: Sequence[int]) -> list[int] | list[float]:
        """The T frame numbers of a sub-clip; fractional where frames are blended from their neighbours."""
        if not self.interpolated:
            return [self.numbers[position] for position in sample]
        times = np.linspace(0, len(self.numbers) - 1, FRAMES)
        return np.interp(times, range(len(self.numbers)), self.numbers).round(3).tolist()


def plan_clip(manifest: Manifest, clip: Clip, settings: ExtractionSettings) -> Job:
    """Choose the frames of a clip from file names alone; a problem is recorded in the job, not raised."""
    source, problem = manifest.path_of(clip), ""
    annotated = range(clip.onset, clip.offset + 1)
    if clip.offset - clip.onset >= LONGEST_CLIP:
        reason = (
            f"the annotation of {clip.source} is for the frames {clip.onset}–{clip.offset}, more than {LONGEST_CLIP:,}"
        )
        return Job(clip, source, (), 1, (), f"{reason}; correct it, then run mol prepare again.")
    try:
        numbers, missing = _existing_numbers(source, clip)
    except DataError as error:
        # Planned as if all frames existed, so that the rows stay the same once the folder is repaired.
        numbers, missing, problem = annotated, (), str(error)
    interval, starts = 1, [0]
    if len(numbers) >= FRAMES:
        interval, every_start = sample_starts(len(numbers), FRAMES)
        starts = _spread(every_start, settings.subclips)
    elif settings.short == "reject" or len(numbers) < 2:
        remedy = "--short interpolate stretches clips of at least 2 frames"
        starts, problem = [], problem or f"{len(numbers)} frames in {source}, a clip needs {FRAMES}; {remedy}."
    return Job(clip, source, tuple(numbers), interval, tuple(starts), problem, missing)


def _existing_numbers(source: Path, clip: Clip) -> tuple[Sequence[int], tuple[tuple[int, int], ...]]:
    """The frames of a clip, and the runs that are missing between its onset and offset."""
    if source.is_file():
        return range(clip.onset, clip.offset + 1), ()
    found = list(numbered_frames(source))
    interval = existing_interval(clip.onset, None, clip.offset, found, source)
    missing = missing_runs(found, clip.onset, clip.offset)
    return frames_between(found, interval.onset, interval.offset), tuple(missing)


def _spread(starts: range, most: int) -> list[int]:
    if not 0 < most < len(starts):
        return list(starts)
    return [starts[round(place)] for place in np.linspace(0, len(starts) - 1, most)]
