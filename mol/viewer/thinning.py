"""Which frames of a long film the page holds: all around expressions, few elsewhere, so that browsers can open it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mol.scoring.expression import MICRO, Expression

PAGE_MINUTES = 10.0
"""Minutes of film of which a page holds every frame."""

MOST_LOOKS = 36000
"""Frames times people in one page: about a kilobyte each beside the film itself."""

_MARGIN = 1.0  # seconds of film around an expression
_REST = 2.0  # frames a second where the film is thinned, at most
_REST_SHARE = 0.2  # of all frames, for what is thinned


@dataclass(frozen=True)
class Kept:
    """The frames of a film that a page holds.

    Attributes:
        numbers: (k,) of the frames, ascending.
        thinned: start and end in seconds of the stretches that lack frames.
        note: what a user should know about it; None if every frame is held.
    """

    numbers: np.ndarray
    thinned: Sequence[tuple[float, float]] = ()
    note: str | None = None


def kept_frames(
    seconds: np.ndarray,
    duration: float,
    expressions: Sequence[Expression],
    minutes: float = PAGE_MINUTES,
    most: int = MOST_LOOKS,
) -> Kept:
    """Choose frames: every one of a short film; of a long one those around expressions, the surest first, and what is
    left of the limits from the beginning on; of the rest at most two a second.

    Args:
        seconds: (L,) times of the frames.
        duration: of the film, seconds.
        expressions: of all people.
        minutes: of film, of which every frame may be held.
        most: frames, at most.
    """
    if duration <= 60 * minutes and len(seconds) <= most:
        return Kept(np.arange(len(seconds)))
    sparse = _sparse(seconds, duration, max(2, int(most * _REST_SHARE)))
    keep = np.zeros(len(seconds), bool)
    lengths = np.diff(seconds, append=duration)
    frames_left, seconds_left = most - len(sparse), 60 * minutes
    shown = 0
    for one in sorted(expressions, key=lambda one: (one.kind != MICRO, -one.confidence, one.onset)):
        new = _around(seconds, one) & ~keep
        if new.sum() <= frames_left and lengths[new].sum() <= seconds_left:
            keep |= new
            frames_left, seconds_left = frames_left - int(new.sum()), seconds_left - float(lengths[new].sum())
            shown += 1
    rest = np.flatnonzero(~keep)[: max(frames_left, 0)]
    keep[rest[np.cumsum(lengths[rest]) <= seconds_left]] = True
    full = keep.copy()
    keep[sparse] = True
    numbers = np.flatnonzero(keep)
    if len(numbers) == len(seconds):
        return Kept(numbers)
    note = _note(expressions, shown, duration, len(sparse) / duration)
    return Kept(numbers, _stretches(~full, seconds, duration), note)


def _sparse(seconds: np.ndarray, duration: float, most: int) -> np.ndarray:
    """Frames nearest to evenly spaced times, at most `most`, the first among them."""
    count = min(most, max(2, int(duration * _REST)), len(seconds))
    found: np.ndarray = np.unique(np.searchsorted(seconds, np.linspace(0, seconds[-1], count)))
    return found


def _around(seconds: np.ndarray, one: Expression) -> np.ndarray:
    last = min(one.offset, len(seconds) - 1)
    near: np.ndarray = (seconds >= seconds[min(one.onset, last)] - _MARGIN) & (seconds <= seconds[last] + _MARGIN)
    return near


def _stretches(missing: np.ndarray, seconds: np.ndarray, duration: float) -> list[tuple[float, float]]:
    """Start and end in seconds of each run of frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(int)))
    times = np.append(seconds, duration)
    return [(float(times[first]), float(times[end])) for first, end in edges.reshape(-1, 2)]


def _note(expressions: Sequence[Expression], shown: int, duration: float, rate: float) -> str:
    rest = f"{rate:.2g} frames a second" if rate >= 1 else f"a frame every {1 / rate:.1f} seconds"
    if not expressions:
        return (
            f"the film lasts {duration / 60:.1f} minutes; the page holds every frame of its beginning and {rest} of "
            "the rest; --page-minutes sets how much"
        )
    around = "all expressions" if shown == len(expressions) else f"{shown} of {len(expressions)} expressions"
    return (
        f"the film lasts {duration / 60:.1f} minutes; the page holds every frame around {around} and {rest} elsewhere; "
        "--page-minutes sets how much"
    )
