"""How a film's frames are turned and mirrored to be shown: one of eight ways, given by its display matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

# FFmpeg's AV_PKT_DATA_DISPLAYMATRIX: nine 32-bit integers a b u, c d v, x y w; (x, y) goes to (ax + cy, bx + dy).
_SIDE_DATA = "DISPLAYMATRIX"


class Uprighting:
    """Shows the decoded pictures of one film as a player does: telephones store rotation and mirroring beside them.

    The matrix is read again only when the rotation changes: PyAV keeps every frame whose side data is read until the
    garbage collector finds it, which can be hundreds of frames later.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix: np.ndarray | None = None

    def __call__(self, picture: np.ndarray, frame: Any) -> np.ndarray:
        """A view of the picture (H, W) as it is shown, (H, W) or (W, H).

        Args:
            picture: (H, W).
            frame: the `av.VideoFrame` that it was decoded from.
        """
        matrix = self._of(frame)
        return picture if matrix is None else oriented(picture, matrix)

    def shape(self, frame: Any) -> tuple[int, int]:
        """(H, W) of the picture as it is shown."""
        matrix = self._of(frame)
        height, width = frame.height, frame.width
        return (width, height) if matrix is not None and _is_crossed(matrix) else (height, width)

    def _of(self, frame: Any) -> np.ndarray | None:
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, display_matrix(frame)
        return self._matrix


def display_matrix(frame: Any) -> np.ndarray | None:
    """(2, 2) int matrix from (x, y) in the stored picture to (x, y) as shown; None if the frame has none."""
    for entry in frame.side_data:
        if entry.type.name == _SIDE_DATA:
            a, b, _, c, d = np.frombuffer(bytes(entry), np.int32)[:5].astype(int)
            return np.array([[a, c], [b, d]])
    return None


def oriented(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror a picture by the nearest of the eight matrices that map the pixel grid onto itself.

    Args:
        picture: (H, W).
        matrix: (2, 2) from (x, y) in the picture to (x, y) in the result, x to the right and y down; any scale.
    """
    if _is_crossed(matrix):
        picture = picture.T
        x_sign, y_sign = matrix[0, 1], matrix[1, 0]
    else:
        x_sign, y_sign = matrix[0, 0], matrix[1, 1]
    return picture[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1]


def _is_crossed(matrix: np.ndarray) -> bool:
    """Whether what was across is now upright."""
    return bool(abs(matrix[0, 1]) + abs(matrix[1, 0]) > abs(matrix[0, 0]) + abs(matrix[1, 1]))
