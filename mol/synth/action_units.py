"""Facial action units as smooth displacement fields, and the action units of each emotion.

The names and the directions of the muscles' pull are from Ekman and Friesen, "Facial Action Coding System", 1978. The
sets per emotion are those found in the CASME II and SAMM annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mol.data.manifest import NEUTRAL
from mol.vision.points import FLIP_PERMUTATION, LEFT_EYE, RIGHT_EYE, interocular_distance


@dataclass(frozen=True)
class Bump:
    """One Gaussian bump of displacement.

    Attributes:
        anchors: landmarks whose mean is the centre, on the left half of the picture (or on the midline).
        pull: (outward, down) displacement at the centre for intensity 1, relative to the other bumps; outward is
            away from the midline.
        width: standard deviation in inter-ocular distances.
        mirrored: whether the right half has its own, mirrored bump.
    """

    anchors: tuple[int, ...]
    pull: tuple[float, float]
    width: float
    mirrored: bool = True


ACTION_UNITS: dict[int, tuple[Bump, ...]] = {
    # Inner brow raiser
    1: (Bump((21,), (-0.1, -1.0), 0.19), Bump((20,), (0.0, -0.5), 0.19)),
    # Outer brow raiser
    2: (Bump((18,), (0.1, -1.0), 0.20), Bump((17,), (0.1, -0.4), 0.18)),
    # Brow lowerer
    4: (Bump((21,), (-0.5, 0.8), 0.18), Bump((19,), (-0.2, 0.7), 0.20), Bump((21, 22), (0.0, 0.3), 0.18, False)),
    # Upper lid raiser
    5: (Bump((37, 38), (0.0, -0.6), 0.13),),
    # Cheek raiser
    6: (
        Bump((41, 41, 48), (0.1, -0.9), 0.25),
        Bump((36,), (-0.3, 0.15), 0.14),
        Bump((40, 41), (0.0, -0.3), 0.13),
    ),
    # Lid tightener
    7: (Bump((40, 41), (0.0, -0.5), 0.13), Bump((37, 38), (0.0, 0.35), 0.13)),
    # Nose wrinkler
    9: (
        Bump((31,), (0.1, -1.0), 0.16),
        Bump((28, 39), (-0.1, -0.5), 0.14),
        Bump((21,), (-0.2, 0.5), 0.17),
        Bump((50,), (0.0, -0.4), 0.15),
    ),
    # Upper lip raiser
    10: (Bump((50,), (0.1, -1.0), 0.16), Bump((31, 48), (0.2, -0.7), 0.18), Bump((51,), (0.0, -0.4), 0.15, False)),
    # Lip corner puller
    12: (Bump((48,), (0.8, -0.8), 0.19), Bump((48, 2), (0.3, -0.5), 0.24)),
    # Dimpler
    14: (Bump((48,), (0.9, 0.0), 0.15), Bump((48, 4), (-0.2, 0.0), 0.16)),
    # Lip corner depressor
    15: (Bump((48,), (0.2, 1.0), 0.17), Bump((48, 6), (0.1, 0.4), 0.18)),
    # Chin raiser
    17: (Bump((57, 8), (0.0, -1.0), 0.24, False), Bump((57,), (0.0, -0.6), 0.18, False)),
    # Lip stretcher
    20: (Bump((48,), (1.0, 0.25), 0.21),),
    # Lip tightener
    23: (Bump((48,), (-0.6, 0.0), 0.16), Bump((51,), (0.0, 0.35), 0.17, False), Bump((57,), (0.0, -0.35), 0.17, False)),
    # Lip pressor
    24: (Bump((50,), (0.0, 0.6), 0.17), Bump((58,), (0.0, -0.6), 0.17)),
    # Lips part
    25: (Bump((51,), (0.0, -0.35), 0.18, False), Bump((57,), (0.0, 0.6), 0.20, False)),
    # Jaw drop
    26: (Bump((8,), (0.0, 0.9), 0.38, False), Bump((57,), (0.0, 0.8), 0.26, False)),
}

EMOTIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "happiness": ((6, 12), (12,), (6, 12, 25)),
    "surprise": ((1, 2), (1, 2, 5), (1, 2, 5, 26)),
    "disgust": ((9,), (9, 10), (4, 9), (7, 10)),
    "repression": ((14,), (14, 17), (15, 17), (17,)),
    "sadness": ((1,), (1, 15), (1, 4, 15)),
    "anger": ((4, 5, 7), (4, 7, 23), (4, 24)),
    "fear": ((1, 2, 4, 20), (1, 4, 5, 20)),
    "others": ((4,), (4, 7), (20,), (24,)),
    NEUTRAL: ((),),
}
"""Alternative sets of action units for each emotion; no set belongs to two emotions."""

BLINK = 45
"""The action unit of a blink: no part of an emotion, and moved by a field of its own, `eyelid_field`."""
_LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
# Width of the bumps and reach beyond the lid's edge, in heights of the open eye; the lower lid's share of the way.
_LID_WIDTH, _LID_REACH, _LOWER_LID = 0.55, 0.15, 0.35
_STEEPEST = 0.8


@dataclass(frozen=True)
class DisplacementField:
    """A sum of Gaussian bumps: D(p) = Σ_b pull_b · exp(−|p − centre_b|² / (2 · width_b²)).

    Attributes:
        centres: (K, 2) pixels.
        pulls: (K, 2) pixels.
        widths: (K,) pixels.
    """

    centres: np.ndarray
    pulls: np.ndarray
    widths: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Displacement at points: (2, ...) → (2, ...), in pixels and in the dtype of the points."""
        displacement = np.zeros_like(points)
        distance, along = np.empty_like(points[0]), np.empty_like(points[0])
        bumps = zip(self.centres.tolist(), self.pulls.tolist(), self.widths.tolist(), strict=True)
        for (x, y), (dx, dy), width in bumps:
            np.subtract(points[0], x, out=distance)
            distance *= distance
            np.subtract(points[1], y, out=along)
            along *= along
            distance += along
            distance *= -0.5 / width**2
            weight = np.exp(distance, out=distance)
            displacement[0] += np.multiply(weight, dx, out=along)
            displacement[1] += np.multiply(weight, dy, out=along)
        return displacement

    def scaled(self, factor: float) -> DisplacementField:
        return DisplacementField(self.centres, self.pulls * factor, self.widths)


def displacement_field(
    points: np.ndarray, intensities: Mapping[int, tuple[float, float]], amplitude: float, size: int = 144
) -> DisplacementField:
    """The field of several action units on one face, scaled so that the largest displacement is `amplitude`.

    Args:
        points: (68, 2) landmarks in pixels of the frame.
        intensities: action unit → (left, right) intensity; left is the picture's left.
        amplitude: length of the longest displacement vector in pixels.
        size: side of the frame in pixels, in which the longest vector is searched.
    Returns:
        The field; without action units it is zero everywhere.
    """
    if not intensities:
        return DisplacementField(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    bumps = [bump for unit, sides in intensities.items() for bump in _placed(ACTION_UNITS[unit], points, sides)]
    centres, pulls, widths = (np.array(column, np.float64) for column in zip(*bumps, strict=True))
    field = DisplacementField(centres, pulls, widths)
    grid = np.stack(np.meshgrid(np.arange(0, size, 2.0), np.arange(0, size, 2.0))).reshape(2, -1)
    lengths = np.linalg.norm(field(np.concatenate([grid, centres.T], axis=1)), axis=0)
    return field.scaled(amplitude / lengths.max())


def eyelid_field(points: np.ndarray) -> DisplacementField:
    """The displacement that closes the eyes of one face: upper lids down, lower lids up by less.

    Skin can't fold in a smooth field: the open eye is squeezed to a little under half of its height, where the field's
    slope reaches 0.8, instead of disappearing behind the lid.

    Args:
        points: (68, 2) landmarks in pixels of the frame.
    """
    distance, down = _face_axes(points)
    heights = {eye: np.mean([np.linalg.norm(points[a] - points[b]) for a, b in eye]) for eye in (_LIDS[:2], _LIDS[2:])}
    bumps = []
    for eye, height in heights.items():
        width = max(_LID_WIDTH * height, 0.04 * distance)
        reach = _LID_REACH * height * down
        for upper, lower in eye:
            bumps.append((points[upper] - reach, (1 - _LOWER_LID) * height * down, width))
            bumps.append((points[lower] + reach, -_LOWER_LID * height * down, width))
    centres, pulls, widths = (np.array(column, np.float64) for column in zip(*bumps, strict=True))
    field = DisplacementField(centres, pulls, widths)
    return field.scaled(min(1.0, _STEEPEST / _steepest_slope(field, down)))


def _steepest_slope(field: DisplacementField, direction: np.ndarray) -> float:
    """The largest slope of a field whose pulls all have one direction, on a grid of half pixels around its bumps."""
    low, high = field.centres.min(axis=0) - 10, field.centres.max(axis=0) + 10
    grid = np.stack(np.meshgrid(np.arange(low[0], high[0], 0.5), np.arange(low[1], high[1], 0.5)))
    gradient = np.zeros_like(grid)
    for centre, length, width in zip(field.centres, field.pulls @ direction, field.widths, strict=True):
        offset = grid - centre[:, None, None]
        gradient -= length * offset / width**2 * np.exp(-0.5 * (offset**2).sum(axis=0) / width**2)
    return float(np.hypot(*gradient).max())


def _face_axes(points: np.ndarray) -> tuple[float, np.ndarray]:
    """Inter-ocular distance in pixels, and the unit vector from the brows to the mouth."""
    distance = float(interocular_distance(points))
    rightward = (points[LEFT_EYE].mean(axis=0) - points[RIGHT_EYE].mean(axis=0)) / distance
    return distance, np.array([-rightward[1], rightward[0]])


def _placed(
    bumps: Iterable[Bump], points: np.ndarray, sides: tuple[float, float]
) -> Iterable[tuple[np.ndarray, np.ndarray, float]]:
    """Centre, pull and width in pixels of every bump of one action unit, in the face's own axes."""
    distance, down = _face_axes(points)
    rightward = np.array([down[1], -down[0]])
    left, right = sides
    for bump in bumps:
        outward, downward = bump.pull
        anchors = list(bump.anchors)
        if bump.mirrored:
            mirror = [FLIP_PERMUTATION[anchor] for anchor in anchors]
            yield points[anchors].mean(axis=0), left * (downward * down - outward * rightward), bump.width * distance
            yield points[mirror].mean(axis=0), right * (downward * down + outward * rightward), bump.width * distance
        else:
            middle = (left + right) / 2
            yield points[anchors].mean(axis=0), middle * downward * down, bump.width * distance
