"""Where the parts of a face are over time, relative to the head: the flow of the windows, added up.

From window to window the flow is that of the same seconds, seen several times. It is averaged per step from one frame
to the next, the motion of the head is taken off, and the steps are summed. An expression is then an excursion: a region
leaves its place and comes back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mol.prediction.regions import REGIONS
from mol.prediction.trace import Trace

# Centres of the regions in an aligned crop of 128×128 pixels, the mean of 24 pictures of the ORL set, and how much each
# says of the head: the nose hardly takes part in expressions, brows and mouth do all the time.
_CENTRES = {
    "right_brow": (31.4, 14.3, 0.5),
    "left_brow": (95.4, 14.1, 0.5),
    "right_eye": (35.6, 33.2, 1.0),
    "left_eye": (91.3, 33.2, 1.0),
    "nose": (63.9, 52.0, 3.0),
    "right_cheek": (25.2, 78.2, 1.0),
    "left_cheek": (100.8, 78.3, 1.0),
    "right_mouth": (38.5, 90.1, 0.5),
    "left_mouth": (87.9, 90.0, 0.5),
    "chin": (63.5, 116.2, 0.5),
}
# Pixels of the crop beyond which a region that moves otherwise than the head counts less, and rounds of fitting.
_OUTLIER, _ROUNDS = 0.06, 8
# Pairs of frames from which the share of the head's motion that is left in a region is estimated, and its limit.
_FEWEST_PAIRS, _LARGEST_SHARE = 50, 0.2


@dataclass(frozen=True)
class Displacement:
    """Places of the regions over time, in ticks: frames of a video with the same mean rate, evenly spaced.

    Attributes:
        places: (L, R, 2) in pixels of the crop, relative to where the region was at the start of the segment.
        segment: (L,) number of the stretch without a gap that a tick belongs to; −1 where no window is.
        steps: ticks from one sampled frame to the next, the resolution in time.
        frames: (L,) frame number of each tick; the tick itself where the rate does not vary.
    """

    places: np.ndarray
    segment: np.ndarray
    steps: float
    frames: np.ndarray


def displacement(trace: Trace) -> Displacement:
    """Add up the flow of a trace, without the motion of the head.

    Args:
        trace: of one person; windows may overlap, and there may be gaps between them.
    """
    moved = without_bias(*split_head(trace.flow))
    ticks = np.round(trace.seconds * trace.fps).astype(int)
    length, count = max(trace.length, int(ticks.max()) + 1), moved.shape[2]
    total, seen = np.zeros((length, count, 2)), np.zeros(length)
    first, last = ticks[:, :-1].ravel(), ticks[:, 1:].ravel()
    flat = moved.reshape(-1, count, 2)
    usable = np.isfinite(flat).all(axis=(1, 2)) & (last > first)
    first, last, flat = first[usable], last[usable], flat[usable]
    span = last - first
    for step in range(int(span.max(initial=0))):
        within = span > step
        np.add.at(total, first[within] + step, flat[within] / span[within, None, None])
        np.add.at(seen, first[within] + step, 1)
    # Step t leads from tick t to tick t + 1.
    moved_by = np.where(seen[:, None, None] > 0, total / np.maximum(seen, 1)[:, None, None], 0.0)
    places = np.concatenate([np.zeros((1, count, 2)), np.cumsum(moved_by[:-1], axis=0)])
    known, at = np.unique(ticks, return_index=True)
    frames = np.interp(np.arange(length), known, trace.frames.ravel()[at]).round().astype(int)
    return Displacement(places, _segments(seen[:-1] > 0), float(np.median(span)) if len(span) else 1.0, frames)


def _segments(covered: np.ndarray) -> np.ndarray:
    """(L,) number of the run of covered steps that a tick is in; −1 for a tick without any."""
    before, after = np.append(False, covered), np.append(covered, False)
    starts = after & ~before
    return np.where(before | after, np.cumsum(starts) - 1, -1)


def split_head(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flow of the regions less that of the head, and that of the head: shift, in-plane turn and zoom.

    They are fitted to all regions at once. Regions that move otherwise than the rest count less from round to round
    (iteratively reweighted least squares with Huber's weights), so that an expression in one part of the face is not
    taken for a motion of the head.

    Args:
        flow: (..., R, 2) in pixels of the crop, NaN where a region is outside it.
    Returns:
        The rest, (..., R, 2), NaN in all regions where fewer than three are known; and the head (..., 4): shift along
        x and y, zoom and turn as pixels at 50 pixels from the nose.
    """
    centres = np.array([_CENTRES[name][:2] for name in REGIONS])
    prior = np.array([_CENTRES[name][2] for name in REGIONS])
    x, y = (centres - centres[REGIONS.index("nose")]).T / 50
    nothing, one = np.zeros_like(x), np.ones_like(x)
    # Columns: shift along x and y, zoom, turn.
    design = np.stack([np.stack([one, nothing, x, -y], axis=-1), np.stack([nothing, one, y, x], axis=-1)], axis=1)
    flat = flow.reshape(-1, len(REGIONS), 2).astype(np.float64)
    known = np.isfinite(flat).all(axis=-1)
    filled = np.where(known[..., None], flat, 0.0)
    weights = known * prior
    rest, head = filled, np.zeros((len(flat), 4))
    for _ in range(_ROUNDS):
        normal = np.einsum("nr,rak,ral->nkl", weights, design, design) + 1e-9 * np.eye(4)
        right = np.einsum("nr,rak,nra->nk", weights, design, filled)
        head = np.linalg.solve(normal, right[..., None])[..., 0]
        rest = filled - np.einsum("rak,nk->nra", design, head)
        weights = known * prior * _huber(np.linalg.norm(rest, axis=-1))
    enough = known.sum(axis=-1, keepdims=True)[..., None] >= 3
    left = np.where(known[..., None] & enough, rest, np.nan)
    return left.reshape(flow.shape), head.reshape(*flow.shape[:-2], 4)


def without_bias(rest: np.ndarray, head: np.ndarray) -> np.ndarray:
    """What is left of the head's motion in a region over the whole video is taken off as well.

    A head is no plane, and a network's flow is a little too short in one part of the face and too long in another: then
    a region moves a little whenever the head does. That part is linear in the motion of the head, and found by robust
    least squares over all pairs of frames; expressions are rare, and have little to do with it. It is at most a fifth:
    where a head hardly moves, some of an expression is taken for its motion, and must not be taken off many times over.

    Args:
        rest, head: of `split_head`.
    Returns:
        (..., R, 2); as it was where fewer than 50 pairs of frames are known.
    """
    flat, moves = rest.reshape(-1, len(REGIONS), 2), head.reshape(-1, 4)
    left = flat.copy()
    for region in range(len(REGIONS)):
        known = np.isfinite(flat[:, region]).all(axis=-1)
        if known.sum() < _FEWEST_PAIRS:
            continue
        given, target = moves[known], flat[known, region]
        weights = np.ones(len(given))
        for _ in range(_ROUNDS):
            weighted = given * weights[:, None]
            share = np.linalg.solve(given.T @ weighted + 1e-6 * np.eye(4), weighted.T @ target)
            share = share.clip(-_LARGEST_SHARE, _LARGEST_SHARE)
            weights = _huber(np.linalg.norm(target - given @ share, axis=-1))
        left[known, region] = target - given @ share
    return left.reshape(rest.shape)


def _huber(distance: np.ndarray) -> np.ndarray:
    """Huber's weights."""
    weights: np.ndarray = np.minimum(1.0, _OUTLIER / np.maximum(distance, 1e-9))
    return weights
