"""Landmarks, square and flow of one person in every frame of a film, kept on disk: an hour needs the memory of a frame.

A record has 804 bytes: int16 coordinates in fractions of the picture, and the flow on a grid of 16×16 cells in int8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mol.common.scratch import Spool
from mol.vision.points import POINTS

GRID = 16
"""Cells of the coarse flow, along each side of the square."""

UNIT = 16384
"""int16 value of a coordinate at the right or lower edge of the picture."""

ABSENT = -32768
"""int16 value of a coordinate that is not known."""

LOOK = np.dtype(
    [("landmarks", "<i2", (POINTS, 2)), ("square", "<i2", (4, 2)), ("flow", "i1", (2, GRID, GRID)), ("step", "<f4")]
)
"""One frame: a coordinate is value / `UNIT` of the picture's width or height, a flow value × step in pixels."""

WITHOUT_FLOW = LOOK.fields["flow"][1]  # type: ignore[index]
"""Bytes of a record before its flow."""


class Looks:
    """What is seen of one person, frame by frame, in a working file that vanishes with the object.

    Args:
        size: width and height of the film in pixels.
        folder: where the working file lies.

    Attributes:
        has_flow: whether a frame has flow.

    Raises:
        StorageError: the disk is full.
    """

    def __init__(self, size: tuple[int, int], folder: Path) -> None:
        self._size = np.array(size, np.float64)
        self._spool = Spool(LOOK, folder, "leave the page out (--page false)")
        self.has_flow = False

    def __len__(self) -> int:
        """Frames up to the last one added."""
        return len(self._spool)

    def add(
        self,
        number: int,
        landmarks: np.ndarray | None = None,
        square: np.ndarray | None = None,
        flow: np.ndarray | None = None,
    ) -> None:
        """Keep what is seen in one frame; frames in between stay empty.

        Args:
            number: of the frame, from 0, larger than the last one.
            landmarks: (68, 2) in pixels of the film.
            square: (4, 2) corners of what the network sees, in pixels of the film, in the order of a walk around it
                that starts at its upper left.
            flow: (2, 16, 16), as `coarse_flow` gives it.
        Raises:
            StorageError: the disk is full.
        """
        if number < len(self):
            raise ValueError(f"frame {number} comes after frame {len(self) - 1}")
        look = empty_looks(1)
        if landmarks is not None:
            look["landmarks"][0] = self._encoded(landmarks)
        if square is not None:
            look["square"][0] = self._encoded(square)
        if flow is not None:
            self.has_flow = True
            step = float(np.abs(flow).max()) / 127
            look["step"] = step
            look["flow"][0] = np.rint(flow / step) if step > 0 else 0
        for _ in range(len(self), number):
            self._spool.append(empty_looks(1))
        self._spool.append(look)

    def read(self, number: int) -> np.ndarray:
        """The record of a frame, (1,) of dtype `LOOK`; an empty one if nothing was added there."""
        return self._spool.some(number, 1) if number < len(self) else empty_looks(1)

    def close(self) -> None:
        """Give the space back."""
        self._spool.close()

    def _encoded(self, points: np.ndarray) -> np.ndarray:
        """Points in pixels, whose centres are at integers, as fractions of the picture."""
        values = np.rint((np.asarray(points, np.float64) + 0.5) / self._size * UNIT)
        known = np.isfinite(values)
        return np.where(known, np.where(known, values, 0).clip(-32767, 32767), ABSENT).astype(np.int16)


def empty_looks(count: int) -> np.ndarray:
    """Records of frames in which nothing is seen."""
    looks = np.zeros(count, LOOK)
    looks["landmarks"] = looks["square"] = ABSENT
    return looks


def coarse_flow(flow: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The mean flow in each of 16×16 cells, in the directions of the picture.

    Args:
        flow: (2, H, W), (dx, dy) in pixels of the square that the network sees; H and W are multiples of 16.
        matrix: (2, 3) or (2, 2), picture → square, a similarity.
    Returns:
        (2, 16, 16) float32: turned as the picture is, as long as in the square.
    """
    height, width = flow.shape[1:]
    cells = flow.astype(np.float32).reshape(2, GRID, height // GRID, GRID, width // GRID).mean(axis=(2, 4))
    linear = np.asarray(matrix, np.float64)[:, :2]
    turn = np.linalg.inv(linear) * np.sqrt(abs(np.linalg.det(linear)))
    turned: np.ndarray = np.einsum("ij,jyx->iyx", turn, cells).astype(np.float32)
    return turned
