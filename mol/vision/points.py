"""The 68 points of a face: which is which, how they are joined, mirrored and measured.

Numbers are those of the iBUG 300-W markup, from 0. Left and right are the person's: the right eye is on the left of an
unmirrored picture.

Source: Sagonas et al., "300 Faces in-the-Wild Challenge", ICCV Workshops 2013.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Points = TypeVar("Points", np.ndarray, "Tensor")

POINTS = 68
RIGHT_EYE = slice(36, 42)
LEFT_EYE = slice(42, 48)

SKELETON: tuple[tuple[int, ...], ...] = (
    tuple(range(17)),  # jaw
    tuple(range(17, 22)),  # right brow, outer end first
    tuple(range(22, 27)),  # left brow, inner end first
    tuple(range(27, 31)),  # bridge of the nose
    tuple(range(31, 36)),  # nostrils
    (*range(36, 42), 36),  # right eye
    (*range(42, 48), 42),  # left eye
    (*range(48, 60), 48),  # outer lips
    (*range(60, 68), 60),  # inner lips
)
"""Chains of point numbers that are drawn as lines."""

FLIP_PERMUTATION: tuple[int, ...] = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46),
    *(39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48),
    *(59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60),
    *(67, 66, 65),
)
"""``flipped = points[:, FLIP_PERMUTATION]`` with x mirrored: point numbers after a horizontal flip."""


def interocular_distance(points: Points) -> Points:
    """Distance between the eye centres, the means of points 36–41 and 42–47.

    Args:
        points: (…, 68, 2), an array or a tensor.
    Returns:
        (…) in the unit of the points.
    """
    gap = points[..., LEFT_EYE, :].mean(-2) - points[..., RIGHT_EYE, :].mean(-2)
    return (gap * gap).sum(-1) ** 0.5
