"""The two frames that networks on onset and apex compare, for rows of a cache and for windows of a video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mol.data.cache import ClipSet
from mol.vision.tvl1 import TVL1Settings, tvl1_flow

# Smoother than OpenCV's defaults, and at motions of a pixel or two nearer to the truth, in less than half the time.
SMOOTH = TVL1Settings(lambda_=0.04, scales=3, warps=2, inner_iterations=10, outer_iterations=5)
"""TV-L1 from onset to apex."""
WINDOW_NOTE = "each window is read from its first frame to the frame of greatest motion, in place of onset and apex"
"""What `window_pair` does."""


def onset_and_apex(cache: ClipSet, row: int) -> tuple[int, int]:
    """Positions among the T sampled frames of the ones nearest to onset and apex; the second is the later one.

    A row without onset has the first frame in its place; one without apex the frame of greatest motion.

    Args:
        cache: an opened cache or pool.
        row: of its index.
    """
    entry, count = cache.rows[row], cache.settings.frames
    numbers = _frame_numbers(entry, count)
    onset = 0 if entry.get("onset") is None else _nearest(numbers, entry["onset"])
    if entry.get("apex") is None:
        # There must be a frame after the onset.
        onset = min(onset, count - 2)
        return onset, onset + greatest_motion(np.asarray(cache.flow[row], np.float32)[onset:])
    apex = max(1, _nearest(numbers, entry["apex"]))
    return min(onset, apex - 1), apex


def window_pair(frames: np.ndarray) -> np.ndarray:
    """The first frame of a window and that of greatest motion.

    Args:
        frames: (T, S, S) uint8.
    Returns:
        (2, S, S) uint8.
    """
    return frames[[0, greatest_motion(tvl1_flow(frames, SMOOTH))]]


def row_pair(cache: ClipSet, row: int) -> np.ndarray:
    """The frames of `onset_and_apex`, (2, S, S) uint8."""
    return np.asarray(cache.frames[row])[list(onset_and_apex(cache, row))]


def greatest_motion(flow: np.ndarray) -> int:
    """Position of the frame that has moved farthest from the first one; at least 1.

    The flow from frame to frame is added up; its mean is taken off, so that motion of the head counts less.

    Args:
        flow: (T-1, 2, S, S) float32, pixels, from each frame to the next.
    """
    motion = flow.cumsum(axis=0)
    motion -= motion.mean(axis=(-2, -1), keepdims=True)
    return 1 + int(np.hypot(motion[:, 0], motion[:, 1]).mean(axis=(-2, -1)).argmax())


def pair_notes(cache: ClipSet, title: str) -> list[str]:
    """What a network on onset and apex takes in place of those that the index lacks; empty if it lacks none.

    Args:
        cache: an opened cache or pool.
        title: of the network.
    """
    notes = []
    for name, instead in (("onset", "the first sampled frame"), ("apex", "the sampled frame of greatest motion")):
        lacking = Counter(str(row["dataset"]) for row in cache.rows if row.get(name) is None)
        if lacking:
            sets = ", ".join(f"{count} of {dataset}" for dataset, count in lacking.items())
            notes.append(f"{lacking.total()} of {len(cache)} clips have no {name} ({sets}): {title} takes {instead}")
    return notes


def _frame_numbers(entry: Mapping[str, Any], count: int) -> np.ndarray:
    """Numbers of the T sampled frames, counted as onset and apex are."""
    listed = entry.get("frames")
    return np.asarray(listed) if listed else entry["start"] + entry["interval"] * np.arange(count)


def _nearest(numbers: np.ndarray, wanted: float) -> int:
    return int(np.abs(numbers - wanted).argmin())
