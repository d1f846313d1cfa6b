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


def row_pair(cache: ClipSet, row: int) -> np.ndarray:
    """The sampled frames of a row that are nearest to onset and apex, (2, S, S) uint8.

    A row without onset has the first frame in its place; one without apex the frame of greatest motion.

    Args:
        cache: an opened cache or pool.
        row: of its index.
    """
    frames, entry = np.asarray(cache.frames[row]), cache.rows[row]
    numbers = _frame_numbers(entry, len(frames))
    onset = 0 if entry.get("onset") is None else _nearest(numbers, entry["onset"])
    if entry.get("apex") is None:
        # There must be a frame after the onset.
        return window_pair(frames[min(onset, len(frames) - 2) :])
    apex = max(1, _nearest(numbers, entry["apex"]))
    return frames[[min(onset, apex - 1), apex]]


def window_pair(frames: np.ndarray) -> np.ndarray:
    """The first of some frames and that of greatest motion, (2, S, S) uint8.

    Args:
        frames: (T, S, S) uint8, T at least 2.
    """
    motion = np.concatenate([tvl1_flow(frames[[0, later]], SMOOTH) for later in range(1, len(frames))])
    return frames[[0, 1 + greatest_motion(motion)]]


def greatest_motion(motion: np.ndarray) -> int:
    """Position of the flow that is longest on average once its affine part is taken off.

    The affine part is what a head does that moves, turns or comes nearer, which can last when the expression is over.

    Args:
        motion: (n, 2, S, S) float32, pixels, from one frame to each of n later ones.
    """
    y, x = np.mgrid[: motion.shape[-2], : motion.shape[-1]]
    basis, _ = np.linalg.qr(np.stack([np.ones(x.size), x.ravel(), y.ravel()], axis=1))
    flat = motion.reshape(*motion.shape[:2], -1)
    rest = flat - (flat @ basis) @ basis.T
    return int(np.hypot(rest[:, 0], rest[:, 1]).mean(axis=-1).argmax())


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
