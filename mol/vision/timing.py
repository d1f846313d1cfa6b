"""When the frames of a video are shown: their time stamps, the frame rate, and how long the last frame stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DEFAULT_RATE = 25.0
"""Frames per second where nothing gives a rate."""
_ROUNDING = 1e-3  # seconds between two time stamps that are lost to milliseconds


@dataclass(frozen=True)
class FrameTimes:
    """The times of a video's frames.

    Attributes:
        times: (L,) float64 seconds, from the first frame on, never falling.
        fps: frames per second: the stated rate if it fits the times, else the mean.
        last: seconds for which the last frame is shown.
        notes: what a user should know about these.
    """

    times: np.ndarray
    fps: float
    last: float
    notes: tuple[str, ...] = ()


def even_times(count: int, fps: float) -> np.ndarray:
    """Times of frames at a constant rate: (count,) seconds."""
    times: np.ndarray = np.arange(count) / fps
    return times


def is_variable(times: np.ndarray, fps: float) -> bool:
    """Whether a frame is half a frame or more away from where the constant rate has it; rounded stamps are not."""
    return bool(np.abs(times * fps - np.arange(len(times))).max(initial=0) > 0.5)


def timing_of(stamps: Sequence[float | None], rate: float | None, last: float | None) -> FrameTimes:
    """The times of the frames of a film.

    Containers with millisecond stamps (Matroska, WebM, FLV) often state no frame rate, or that of their clock: 1000 per
    second. A stated rate is therefore believed only if it puts the last frame where its time stamp does.

    Args:
        stamps: seconds of each frame in the order in which they are shown, None where a frame has no time stamp.
        rate: frames per second as stated by the file, None if it states none.
        last: how long the last frame is shown, in seconds, if the file says so.
    """
    count = len(stamps)
    stated = rate if rate is not None and 0 < rate < np.inf else None
    times = _usable(stamps)
    if times is None:
        fps = stated or DEFAULT_RATE
        source = "as the file states" if stated else "as it states no rate"
        note = f"the file has no usable time stamps; {fps:g} frames per second are assumed {source}; --fps sets another"
        return FrameTimes(even_times(count, fps), fps, 1 / fps, (note,))
    span = float(times[-1])
    mean = (count - 1) / span if span else None
    fits = stated is not None and abs(stated * span - (count - 1)) < 0.01 + _ROUNDING * stated
    fps = stated if stated and fits else mean or stated or DEFAULT_RATE
    usual = float(np.median(np.diff(times))) if count > 1 else 1 / fps
    # Millisecond containers give every frame the duration of one tick.
    stays = last if last is not None and last > usual / 2 else usual
    return FrameTimes(times, fps, stays, tuple(_notes(times, fps, stated)))


def _usable(stamps: Sequence[float | None]) -> np.ndarray | None:
    """The time stamps from 0 on; None if some are missing, fall, or are all the same."""
    if not stamps or None in stamps:
        return None
    times = np.array(stamps, np.float64)
    times -= times[0]
    falls = (np.diff(times) < 0).any()
    return None if falls or (len(times) > 1 and times[-1] == 0) else times


def _notes(times: np.ndarray, fps: float, stated: float | None) -> list[str]:
    if is_variable(times, fps):
        steps = 1000 * np.diff(times)
        return [
            f"the frame rate varies: from one frame to the next pass {steps.min():.3g} to {steps.max():.3g} ms, "
            f"{fps:.3g} frames per second on average; each frame's own time stamp is used"
        ]
    if stated and abs(stated / fps - 1) > 0.05:
        return [f"the file states {stated:g} frames per second, but its time stamps give {fps:.4g}, which is used"]
    return []
