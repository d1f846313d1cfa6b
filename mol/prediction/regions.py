"""Mean optical flow in regions of the face: where in the face something moves, in a few numbers per pair of frames.

The regions are squares about landmarks, as large as a part of the distance between the eyes, as in the published
baselines for spotting (Liong et al., "Shallow Optical Flow Three-Stream CNN for Macro- and Micro-Expression Spotting
from Long Videos", ICIP 2021). The nose hardly takes part in expressions: its flow is that of the head. The squares of
the eyes are small ones on the upper lids, where a blink is seen best, and those of the brows keep away from them.
"""

from __future__ import annotations

import numpy as np

from mol.vision.points import interocular_distance

# Region: landmarks whose mean is its centre, and its offset from there and half side, in distances between the eyes.
_REGIONS: dict[str, tuple[tuple[int, ...], tuple[float, float], float]] = {
    "right_brow": (tuple(range(17, 22)), (0.0, -0.12), 0.22),
    "left_brow": (tuple(range(22, 27)), (0.0, -0.12), 0.22),
    "right_eye": ((37, 38), (0.0, 0.0), 0.12),
    "left_eye": ((43, 44), (0.0, 0.0), 0.12),
    "nose": ((28, 29, 30), (0.0, 0.0), 0.16),
    "right_cheek": ((2, 3, 31, 48), (0.0, 0.0), 0.22),
    "left_cheek": ((13, 14, 35, 54), (0.0, 0.0), 0.22),
    "right_mouth": ((48,), (0.0, 0.0), 0.22),
    "left_mouth": ((54,), (0.0, 0.0), 0.22),
    "chin": ((8, 57), (0.0, 0.0), 0.24),
}
REGIONS = tuple(_REGIONS)
"""Names, as seen from the person: the right brow is at the left of the picture."""


def region_boxes(points: np.ndarray) -> np.ndarray:
    """Squares of all regions.

    Args:
        points: (..., 68, 2) landmarks.
    Returns:
        (..., R, 4) left, top, right, bottom, in the unit of the points.
    """
    points = np.asarray(points, np.float64)
    unit = interocular_distance(points)[..., None]
    boxes = []
    for landmarks, offset, half in _REGIONS.values():
        centre = points[..., list(landmarks), :].mean(axis=-2) + unit * np.array(offset)
        boxes.append(np.concatenate([centre - half * unit, centre + half * unit], axis=-1))
    return np.stack(boxes, axis=-2)


def flow_by_region(flow: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Mean flow in each region of the first frame of every pair.

    Args:
        flow: (P, 2, H, W), (dx, dy) in pixels.
        points: (P, 68, 2) landmarks of the first frames, in pixels of the flow.
    Returns:
        (P, R, 2) float32; NaN for a region outside the picture.
    """
    height, width = flow.shape[-2:]
    # Pixel centres are at integers, so pixel x covers x − 0.5 to x + 0.5.
    low = np.ceil(region_boxes(points)[..., :2] - 0.5).astype(int).clip(0, (width, height))
    high = np.floor(region_boxes(points)[..., 2:] + 0.5).astype(int).clip(0, (width, height))
    means = np.full((*low.shape[:2], 2), np.nan, np.float32)
    for pair, region in np.ndindex(*low.shape[:2]):
        (left, top), (right, bottom) = low[pair, region], high[pair, region]
        if left < right and top < bottom:
            means[pair, region] = flow[pair, :, top:bottom, left:right].astype(np.float32).mean(axis=(1, 2))
    return means
