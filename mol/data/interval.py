"""An annotated interval and the frames that exist: what is missing, and what stands in for a missing end or apex.

`mol prepare`, `mol check-data` and `mol extract` decide by the same functions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mol.common.errors import DataError


@dataclass(frozen=True)
class Interval:
    """Onset, apex and offset for which there are frames.

    Attributes:
        onset, apex, offset: frame numbers, inclusive; apex None if there is none.
        moved: what was changed: ``"the onset 40 is missing; the nearest frame, 41, stands in for it"``.
    """

    onset: int
    apex: int | None
    offset: int
    moved: tuple[str, ...] = ()


def check_order(onset: int, apex: int | None, offset: int) -> None:
    """Check that onset, apex and offset are in this order.

    Raises:
        DataError: they are not.
    """
    if onset > offset:
        raise DataError(f"onset {onset} is after offset {offset}; correct the annotation.")
    if apex is not None and not onset <= apex <= offset:
        raise DataError(f"apex {apex} is outside the interval {onset}–{offset}; correct it or leave it blank.")


def existing_interval(
    onset: int, apex: int | None, offset: int, frames: Sequence[int], folder: Path, beyond: bool = False
) -> Interval:
    """The interval with its nearest existing frames in place of a missing onset, apex or offset.

    Of two frames equally near, the one inside the interval is taken.

    Args:
        onset, apex, offset: as annotated, in this order.
        frames: numbers of all frames in the folder, ascending.
        folder: for messages.
        beyond: whether onset and offset may lie outside the frames of the folder, in a data set that lacks frames at
            the ends of its recordings.

    Raises:
        DataError: the interval has no frame at all, or it begins before the first frame or ends after the last.
    """
    if not frames:
        raise DataError(f"{folder} has no frames; copy it again from its source.")
    first, last = frames[0], frames[-1]
    if (onset < first or offset > last) and not beyond:
        raise DataError(
            f"{folder} has the frames {first}–{last}, but the annotation is for {onset}–{offset}; unpack the missing "
            "frames or correct the annotation, then run mol prepare again."
        )
    inside = frames_between(frames, onset, offset)
    if not inside:
        raise DataError(
            f"{folder} has the frames {first}–{last}, but none from {onset} to {offset}; unpack them or correct the "
            "annotation, then run mol prepare again."
        )
    start, end = _nearest(onset, frames, later=True), _nearest(offset, frames, later=False)
    top = None if apex is None else _nearest(apex, frames_between(frames, start, end), later=True)
    changes = (("onset", onset, start), ("apex", apex, top), ("offset", offset, end))
    moved = tuple(
        f"the {name} {old} is missing; the nearest frame, {new}, stands in for it"
        for name, old, new in changes
        if old != new
    )
    return Interval(start, top, end, moved)


def frames_between(frames: Sequence[int], first: int, last: int) -> Sequence[int]:
    """The existing frames from `first` to `last`, both included.

    Args:
        frames: all, ascending; of a range the result is a range.
    """
    return frames[bisect_left(frames, first) : bisect_right(frames, last)]


def missing_runs(frames: Sequence[int], first: int, last: int) -> list[tuple[int, int]]:
    """First and last number of every run of missing frames; as many as there are frames, however long the interval.

    Args:
        frames: all existing ones, ascending.
        first, last: of the interval, both included.
    """
    inside = frames_between(frames, first, last)
    if isinstance(inside, range) and inside:
        edges = [first - 1, inside[0], inside[-1], last + 1]
        pairs = [(edges[0], edges[1]), (edges[2], edges[3])]
    else:
        edges = [first - 1, *inside, last + 1]
        pairs = list(pairwise(edges))
    return [(before + 1, after - 1) for before, after in pairs if after > before + 1]


def count_of(runs: Sequence[tuple[int, int]]) -> int:
    """How many frames are in runs."""
    return sum(last - first + 1 for first, last in runs)


def listed_runs(runs: Sequence[tuple[int, int]], most: int = 8) -> str:
    """``17–19, 23``; of many runs the first."""
    shown = [str(first) if first == last else f"{first}–{last}" for first, last in runs[:most]]
    return ", ".join([*shown, *(["…"] if len(runs) > most else [])])


def _nearest(number: int, frames: Sequence[int], later: bool) -> int:
    """The nearest of the frames; of two equally near the later or the earlier."""
    place = bisect_left(frames, number)
    near = [frames[at] for at in (place - 1, place) if 0 <= at < len(frames)]
    return min(near, key=lambda frame: (abs(frame - number), frame < number if later else frame > number))
