"""Which frames of a video the windows of a prediction take: by their numbers, or in time where the rate varies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mol.common.errors import ClipError
from mol.data.annotations import LONGEST_EXPRESSION
from mol.network.estimates import FRAMES
from mol.vision.footage import Footage

# A step within a window that is longer than this many usual ones is a gap.
_GAP = 3.0
# Seconds; times closer than this are equal.
_SAME = 1e-9


@dataclass(frozen=True)
class Skipped:
    """A window that was left out.

    Attributes:
        start, end: its first and last frame number.
        reason: why.
        is_gap: whether that is a gap in time, and not a frame without a usable face.
    """

    start: int
    end: int
    reason: str
    is_gap: bool = False


@dataclass(frozen=True)
class WindowPlan:
    """Which frames the windows of a video take.

    Attributes:
        interval, stride: in frames; on average if sampled in time.
        samples: (T,) frame numbers of each window.
        seconds_apart: seconds between the frames of a window if sampled in time, else None.
    """

    interval: int
    stride: int
    samples: list[np.ndarray]
    seconds_apart: float | None = None


def plan_windows(video: Footage, interval: int | None, stride: int | None) -> WindowPlan:
    """Choose the frames of all windows: by their numbers, or by their times where the frame rate varies.

    Args:
        video: its length and times.
        interval: frames between two sampled frames; if given, frames are taken by number at any rate.
        stride: frames between two starts.
    Raises:
        ClipError: the video is shorter than one window.
    """
    by_number, between_starts, starts = window_starts(len(video), video.fps, interval, stride)
    if interval is not None or not video.has_variable_rate:
        samples = [np.arange(FRAMES) * by_number + start for start in starts]
        return WindowPlan(by_number, between_starts, samples)
    seconds = video.seconds
    apart = min(LONGEST_EXPRESSION / (FRAMES - 1), float(seconds[-1]) / FRAMES)
    return WindowPlan(
        max(1, round(apart * video.fps)),
        stride or max(1, round(2 * apart * video.fps)),
        sample_in_time(seconds, apart, stride),
        apart,
    )


def window_starts(length: int, fps: float, interval: int | None, stride: int | None) -> tuple[int, int, list[int]]:
    """Interval, stride and the first frames of all windows; the last window ends with the video.

    Args:
        length: frames of the video.
        fps: frames per second.
        interval: frames between two sampled frames; by default ``length // T``, at most what lets a window last
            `LONGEST_EXPRESSION`.
        stride: frames between two starts; by default a quarter of a window, ``2 · interval``.
    Raises:
        ClipError: the video is shorter than one window.
    """
    if length < FRAMES:
        raise ClipError(
            f"the video has {length} frame{'s' if length != 1 else ''} and a window needs {FRAMES}; give a longer video"
            + (", or lengthen this one with --interpolate." if length > 1 else ": one picture has no motion.")
        )
    if interval is None:
        longest = max(1, round(LONGEST_EXPRESSION * fps / (FRAMES - 1)))
        interval = min(max(1, length // FRAMES), longest)
    span = (FRAMES - 1) * interval + 1
    if span > length:
        raise ClipError(
            f"{FRAMES} frames at interval {interval} span {span} frames and the video has {length}; "
            f"use --interval {(length - 1) // (FRAMES - 1)} or less."
        )
    stride = stride or 2 * interval
    starts = list(range(0, length - span + 1, stride))
    if starts[-1] != length - span:
        starts.append(length - span)
    return interval, stride, starts


def sample_in_time(seconds: np.ndarray, apart: float, stride: int | None = None) -> list[np.ndarray]:
    """Windows of T frames equally far apart in time, as nearly as the frames' times allow.

    A window takes the frame nearest to each of T equally spaced times, but no frame twice: where frames are further
    apart than `apart`, it takes consecutive ones. The last window ends with the video.

    Args:
        seconds: (L,) times of the frames, never falling, L at least T.
        apart: seconds between the frames of a window, so that a window is shorter than the video.
        stride: frames between two starts; by default as many as pass in a quarter of a window.
    Returns:
        (T,) frame numbers of each window, in the order of time.
    """
    samples: list[np.ndarray] = []
    start = 0
    while (sample := _window_from(seconds, start, apart)) is not None:
        samples.append(sample)
        later = int(np.searchsorted(seconds, seconds[start] + 2 * apart - _SAME))
        start = start + stride if stride else max(start + 1, later)
    # The last window is the first one of the reversed video.
    last = _window_from(seconds[-1] - seconds[::-1], 0, apart)
    if last is None or (samples and samples[-1][-1] == len(seconds) - 1):
        return samples
    last = len(seconds) - 1 - last[::-1]
    return [*(sample for sample in samples if sample[0] < last[0]), last]


def _window_from(seconds: np.ndarray, start: int, apart: float) -> np.ndarray | None:
    """The frames of the window that starts with frame `start`; None if the video ends before."""
    left = len(seconds) - FRAMES
    if start > left or seconds[start] + (FRAMES - 1.5) * apart > seconds[-1]:
        return None
    chosen = [start]
    for step in range(1, FRAMES):
        target = seconds[start] + step * apart
        after = min(int(np.searchsorted(seconds, target)), len(seconds) - 1)
        before = max(after - 1, 0)
        nearest = before if target - seconds[before] <= seconds[after] - target else after
        chosen.append(min(max(nearest, chosen[-1] + 1), left + step))
    return np.array(chosen)


def split_at_gaps(video: Footage, samples: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[Skipped]]:
    """Leave out windows with a gap in time, such as the seconds in which a camera dropped its frames.

    Args:
        video: its times.
        samples: (T,) frame numbers of each window.
    Returns:
        The windows in which no step is longer than three times the usual one, and the others.
    Raises:
        ClipError: every window has a gap.
    """
    if not video.has_variable_rate:
        return list(samples), []
    seconds = video.seconds
    steps = np.stack([np.diff(seconds[sample]) for sample in samples])
    whole = steps.max(axis=1) <= _GAP * float(np.median(steps)) + _SAME
    if not whole.any():
        raise ClipError(
            f"every window of the video has a gap: {steps.max(axis=1).min():.2g} s or more between two frames. If the "
            "time stamps of the file are wrong, give its frame rate with --fps."
        )
    kept = [sample for sample, is_whole in zip(samples, whole, strict=True) if is_whole]
    return kept, [
        _torn(sample, step) for sample, step, is_whole in zip(samples, steps, whole, strict=True) if not is_whole
    ]


def nearest_windows(samples: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Which window speaks for each frame: of those over it, the one whose middle is nearest in time.

    Args:
        samples: (n, T) frame numbers of the windows, in the order of time: no window starts or ends before the one
            before it.
        seconds: (L,) times of the frames.
    Returns:
        (L,) int64 number of the window, −1 if none is over the frame.
    """
    nearest = np.full(len(seconds), -1)
    centres = (seconds[samples[:, 0]] + seconds[samples[:, -1]]) / 2
    first = 0
    for number, time in enumerate(seconds):
        while first < len(samples) and samples[first, -1] < number:
            first += 1
        distance = np.inf
        for window in range(first, len(samples)):
            away = abs(centres[window] - time)
            if samples[window, 0] > number or (centres[window] >= time and away > distance):
                break
            if away < distance:
                # An earlier window that is further away now stays so, and ends no later.
                nearest[number], distance, first = window, away, window
    return nearest


def _torn(sample: np.ndarray, steps: np.ndarray) -> Skipped:
    place = int(steps.argmax())
    reason = f"a gap of {steps[place]:.2f} s between frames {sample[place]} and {sample[place + 1]}"
    return Skipped(int(sample[0]), int(sample[-1]), reason, is_gap=True)


def long_windows(video: Footage, samples: Sequence[np.ndarray]) -> list[str]:
    """A note if windows last much longer than a micro-expression, because the video has too few frames per second."""
    seconds = video.seconds
    longest = max(float(seconds[sample[-1]] - seconds[sample[0]]) for sample in samples)
    if longest <= 1.25 * LONGEST_EXPRESSION:
        return []
    return [
        f"a window lasts up to {longest:.2g} s, but a micro-expression at most {LONGEST_EXPRESSION:g} s: the "
        "frame rate or the interval does not suit the network"
    ]
