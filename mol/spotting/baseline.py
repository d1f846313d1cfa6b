"""Spotting without a network, after the challenges' baseline: the flow's maximal difference in its main direction.

MDMD (He et al., "Spotting Macro- and Micro-expression Intervals in Long Video Sequences", FG 2020, after Wang et al.,
Neurocomputing 230, 2017) compares the flow from the first frame of a window to its middle with that to its end: in the
direction that most pixels of a region move, the difference of both lengths is large where something rises and falls
again. The curve of the largest differences, less its own surroundings, is cut at

    threshold = mean + p · (maximum − mean).

Here the flow is that of TV-L1 in brows and mouth of the aligned face, less that of the nose; there the regions are
blocks of the whole face. p is chosen as `mol.spotting.spot.choose_parameters` chooses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mol.common.extras import require
from mol.data.clips import CROP
from mol.prediction.regions import REGIONS, region_boxes
from mol.prediction.trace import Trace
from mol.scoring.expression import MACRO, MICRO, Expression
from mol.scoring.spotting import OVERALL, pool_videos, score_video
from mol.spotting.sighting import Sighting
from mol.spotting.spot import longest_micro
from mol.vision.align import transform_points
from mol.vision.footage import Footage
from mol.vision.tvl1 import tvl1_flow

SHARES = tuple(round(0.02 * step, 2) for step in range(1, 50))
"""Values of p among which one is chosen."""
_DIRECTIONS = 4
_PLACES = ("right_brow", "left_brow", "right_mouth", "left_mouth")
# Number of the sampled frame in the middle of a window; side of the aligned pictures in pixels, of which TV-L1 takes a
# third of the time of the network's 128.
_MIDDLE, _SIDE = 4, 64


def main_direction_curve(sighting: Sighting, video: Footage) -> np.ndarray:
    """The largest difference of flow in any of brows and mouth, for each window: (n,) pixels of the crop.

    Args:
        sighting: where the windows are.
        video: the frames.
    """
    curve = []
    for place, (head, middle, tail) in enumerate(_aligned(sighting, video)):
        points = transform_points(_small(sighting.matrices[place]), sighting.points[place])
        there, back = (tvl1_flow(np.stack([head, frame]))[0].transpose(1, 2, 0) for frame in (middle, tail))
        curve.append(_difference(there, back, points) * CROP / _SIDE)
    return np.array(curve)


def _small(matrix: np.ndarray) -> np.ndarray:
    """Picture → crop, at the baseline's side; pixel centres are at integers on both sides."""
    factor = _SIDE / CROP
    small: np.ndarray = factor * matrix
    small[:, 2] += (factor - 1) / 2
    return small


def _aligned(sighting: Sighting, video: Footage) -> Iterator[list[np.ndarray]]:
    """First, middle and last frame of every window, in its crop; only a window's frames are held at a time."""
    cv2 = require("cv2", extra="data")
    chosen = sighting.trace.frames[:, [0, _MIDDLE, -1]]
    waiting = deque(zip(sighting.matrices, chosen.tolist(), strict=True))
    held: dict[int, np.ndarray] = {}
    numbers = np.unique(chosen).tolist()
    for number, picture in zip(numbers, video.walk(numbers), strict=True):
        held[number] = picture
        while waiting and waiting[0][1][-1] <= number:
            matrix, frames = waiting.popleft()
            yield [
                cv2.warpAffine(
                    held[frame],
                    _small(matrix),
                    (_SIDE, _SIDE),
                    flags=cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                )
                for frame in frames
            ]
        needed = waiting[0][1][0] if waiting else number + 1
        for past in [frame for frame in held if frame < needed]:
            del held[past]


def _difference(there: np.ndarray, back: np.ndarray, points: np.ndarray) -> float:
    """The largest of the regions' differences between the flow to the middle and to the end (H, W, 2)."""
    boxes = region_boxes(points)
    heads = [_patch(flow, boxes[REGIONS.index("nose")]).mean(axis=0) for flow in (there, back)]
    values = []
    for name in _PLACES:
        box = boxes[REGIONS.index(name)]
        first, second = (_patch(flow, box) - head for flow, head in zip((there, back), heads, strict=True))
        if len(first):
            values.append(_main_difference(first, second))
    return max([0.0, *values])


def _patch(flow: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(n, 2) flow of the pixels in a square."""
    left, top, right, bottom = np.round(box).astype(int).clip(0, flow.shape[0])
    return flow[top:bottom, left:right].reshape(-1, 2)


def _main_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over the third of the pixels of the main direction that come back most: longer first than second."""
    turn = np.arctan2(first[:, 1], first[:, 0]) / (2 * np.pi) * _DIRECTIONS
    direction = np.round(turn).astype(int) % _DIRECTIONS
    main = direction == np.bincount(direction, minlength=_DIRECTIONS).argmax()
    lengths = np.linalg.norm(first[main], axis=1) - np.linalg.norm(second[main], axis=1)
    return float(np.sort(lengths)[-max(len(lengths) // 3, 1) :].mean())


def spot_peaks(curve: np.ndarray, trace: Trace, share: float) -> list[Expression]:
    """Runs of windows whose curve, less its surroundings, is above the threshold.

    Args:
        curve: of `main_direction_curve`.
        trace: whose windows they are.
        share: p.
    Returns:
        Expressions without an emotion, in the order of their onsets.
    """
    contrast = _contrast(curve, trace)
    threshold = contrast.mean() + share * (contrast.max() - contrast.mean())
    above = np.flatnonzero(contrast > threshold)
    runs = np.split(above, np.flatnonzero(np.diff(above) > 1) + 1) if len(above) else []
    quarter = (trace.frames[:, -1] - trace.frames[:, 0]) // 4
    found = []
    for run in runs:
        # A window is high while its middle is near the apex: an expression is about as long as half a window more.
        onset = int(trace.frames[run[0], _MIDDLE] - quarter[run[0]])
        offset = int(trace.frames[run[-1], _MIDDLE] + quarter[run[-1]])
        apex = int(trace.frames[run[contrast[run].argmax()], _MIDDLE])
        kind = MICRO if offset - onset + 1 <= longest_micro(trace.fps) else MACRO
        found.append(Expression(onset, apex, offset, kind))
    return found


def _contrast(curve: np.ndarray, trace: Trace) -> np.ndarray:
    """The curve less the mean of those half a window before and after; never negative."""
    middles = trace.frames[:, _MIDDLE]
    half = (trace.frames[0, -1] - trace.frames[0, 0]) // 2
    before, after = (np.interp(middles + shift, middles, curve) for shift in (-half, half))
    contrast: np.ndarray = np.maximum(curve - (before + after) / 2, 0.0)
    return contrast


def choose_share(
    videos: Sequence[tuple[np.ndarray, Trace, Iterable[Expression]]], kind: str = OVERALL
) -> tuple[float, float]:
    """The p with the highest F1 on some videos, and that F1.

    Args:
        videos: curve, trace and annotated expressions of people who are not scored.
        kind: whose F1 counts.
    """
    scored = [
        (pool_videos(score_video(truth, spot_peaks(curve, trace, share)) for curve, trace, truth in videos), share)
        for share in SHARES
    ]
    scores, share = max(scored, key=lambda pair: pair[0].of(kind).f1)
    return share, scores.of(kind).f1
