"""The exact motion of a synthetic clip: where each point of the face at rest is in each frame.

A point u of the face at rest (aligned pixels) is in frame t at

    φ_t(u) = H_t(v + a_t · D(v)),   v = u + b_t · B(u)

with D the displacement field of the expression's action units, a_t its intensity (0 at rest, 1 at the apex), B the
field that closes the eyelids, b_t how far they are closed (0 without a blink) and H_t the head's similarity transform.
The eyelids move first: two fields that don't fold the skin don't do so one after the other, but could in sum.

Frame t is rendered by sampling the picture at φ_t⁻¹(x), so the flow t → t′ at pixel x is φ_t′(φ_t⁻¹(x)) − x without any
estimation, and the landmarks are φ_t(landmarks at rest).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mol.synth.action_units import DisplacementField

_TOLERANCE = 1e-4
_ITERATIONS = 100


NO_FIELD = DisplacementField(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
"""Moves nothing."""


@dataclass(frozen=True)
class Motion:
    """Motion of one imaginary video of L frames.

    Attributes:
        field: displacement in pixels at the apex.
        intensity: (L,) a_t.
        head: (L, 2, 3) H_t as matrices, aligned pixels → aligned pixels.
        lids: displacement in pixels of closed eyelids; None without a blink.
        closure: (L,) b_t; None without a blink.
    """

    field: DisplacementField
    intensity: np.ndarray
    head: np.ndarray
    lids: DisplacementField | None = None
    closure: np.ndarray | None = None

    def forward(self, time: int, rest: np.ndarray) -> np.ndarray:
        """φ_t: points at rest (2, ...) → points in frame `time`, pixels."""
        if self.lids is not None and self.closure is not None:
            rest = _displaced(rest, self.lids, self.closure[time])
        return _apply(self.head[time], _displaced(rest, self.field, self.intensity[time]))

    def backward(self, time: int, points: np.ndarray) -> np.ndarray:
        """φ_t⁻¹: points in frame `time` (2, ...) → points at rest, to 1e-4 pixels."""
        rest = _undisplaced(_apply(_inverse(self.head[time]), points), self.field, self.intensity[time])
        if self.lids is not None and self.closure is not None:
            rest = _undisplaced(rest, self.lids, self.closure[time])
        return rest


def intensity_profile(length: int, onset: int, apex: int, offset: int, residue: float) -> np.ndarray:
    """Intensity over time: 0 up to the onset, 1 at the apex, `residue` from the offset on, half cosines in between.

    Returns:
        (length,) float64.
    """
    times = np.arange(length)
    rise = _half_cosine((times - onset) / (apex - onset))
    fall = _half_cosine((times - apex) / (offset - apex))
    return np.where(times <= apex, rise, 1 - (1 - residue) * fall)


def blink_profile(length: int, first: int, closed: int, last: int) -> np.ndarray:
    """How far the eyelids are closed over time: 0 up to `first` and from `last` on, 1 at `closed`.

    Both ways follow the smoothest path (minimum jerk), 10 s³ − 15 s⁴ + 6 s⁵.

    Args:
        length: frames of the video.
        first, closed, last: frame numbers, which may lie outside the video.
    Returns:
        (length,) float64.
    """
    times = np.arange(length)
    closing, opening = (times - first) / (closed - first), (last - times) / (last - closed)
    share = np.clip(np.where(times <= closed, closing, opening), 0, 1)
    profile: np.ndarray = share**3 * (10 - 15 * share + 6 * share**2)
    return profile


def head_motion(shift: np.ndarray, angle: np.ndarray, zoom: np.ndarray, size: int) -> np.ndarray:
    """Similarity transforms about the centre of the frame.

    Args:
        shift: (L, 2) pixels.
        angle: (L,) radians.
        zoom: (L,) relative magnification, 0 for none.
        size: side of the frame in pixels.
    Returns:
        (L, 2, 3) float64.
    """
    cosine, sine = (1 + zoom) * np.cos(angle), (1 + zoom) * np.sin(angle)
    turn = np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=-2)
    centre = np.full(2, (size - 1) / 2)
    return np.concatenate([turn, (centre + shift - turn @ centre)[..., None]], axis=-1)


def _half_cosine(progress: np.ndarray) -> np.ndarray:
    smooth: np.ndarray = 0.5 - 0.5 * np.cos(np.pi * np.clip(progress, 0, 1))
    return smooth


def _displaced(points: np.ndarray, field: DisplacementField, intensity: float) -> np.ndarray:
    """u + a · D(u), in the dtype of the points."""
    return points + field(points) * points.dtype.type(intensity)


def _undisplaced(points: np.ndarray, field: DisplacementField, intensity: float) -> np.ndarray:
    """The inverse of `_displaced` for points (2, ...): u = x − a · D(u) by fixed-point iteration.

    It converges because the field's slope is below 1: `displacement_field` at up to 3 pixels keeps it below 0.7,
    `eyelid_field` at 0.8.
    """
    target = points.reshape(2, -1)
    factor = target.dtype.type(intensity)
    rest = target - factor * field(target)
    # Most pixels are outside all bumps and finished after one step; only the others continue.
    active = _far_apart(rest, target)
    for _ in range(_ITERATIONS):
        if not active.size:
            break
        current = rest.take(active, axis=1)
        moved = target.take(active, axis=1) - factor * field(current)
        rest[0][active], rest[1][active] = moved
        active = active[_far_apart(moved, current)]
    return rest.reshape(points.shape)


def _far_apart(moved: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The columns of (2, n) points that still move by more than the tolerance."""
    step = np.abs(moved - current)
    return np.flatnonzero(np.maximum(step[0], step[1]) > _TOLERANCE)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A (2, 3) matrix times points (2, ...), element by element: the same bits for any number of threads."""
    ((a, b, c), (d, e, f)) = matrix.tolist()
    x, y = points
    return np.stack([a * x + b * y + c, d * x + e * y + f])


def _inverse(matrix: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(matrix[:, :2])
    return np.concatenate([inverse, -(inverse @ matrix[:, 2])[:, None]], axis=1)
