"""Grey levels of 8 bits from pictures with 16: cameras of 10, 12 or 14 bits store theirs in 16-bit pixels."""

from __future__ import annotations

import re

import numpy as np

from mol.common.errors import MediaError

_DEPTHS = (8, 10, 12, 14, 16)
_PGM = re.compile(rb"P5\s(?:\s*#[^\n]*\n)*\s*\d+\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*(\d+)\s")


class Depth:
    """The bits per level of a video with 16-bit pixels: the smallest usual depth that holds every level seen so far."""

    def __init__(self) -> None:
        self.bits = _DEPTHS[0]
        self._is_deep = False

    def see(self, picture: np.ndarray, stated_bits: int = 8) -> int:
        """Look at the next frame; returns by how many bits the depth has grown.

        Args:
            picture: (H, W) uint8 or uint16.
            stated_bits: depth according to the file; more is used if the levels need it.
        """
        if picture.dtype != np.uint16:
            return 0
        self._is_deep = True
        needed = max(stated_bits, int(picture.max(initial=0)).bit_length())
        before, self.bits = self.bits, max(self.bits, next(depth for depth in _DEPTHS if depth >= needed))
        return self.bits - before

    def scaled(self, picture: np.ndarray) -> np.ndarray:
        """A picture (H, W) as uint8; one that has 8 bits stays as it is."""
        if picture.dtype == np.uint8:
            return picture
        return (picture >> (self.bits - 8)).astype(np.uint8)

    @property
    def note(self) -> str | None:
        """What a user should know about the depth; None if the pixels use all of their bits."""
        if not self._is_deep or self.bits == _DEPTHS[-1]:
            return None
        return (
            f"the pictures have 16-bit pixels, but their levels need no more than {self.bits} bits: they are read as "
            f"{self.bits}-bit pictures"
        )


class Grey:
    """Collects the grey frames of one video as 8 bits, with one scale for all of them.

    The scale is that of the video's `Depth`. If a later frame needs more bits, the frames before it are shifted by the
    difference, which loses nothing: two shifts are the same as one.

    Args:
        frames: (L, H, W) uint8, filled in order.
    """

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames
        self.count = 0
        self._depth = Depth()
        self._deep: list[int] = []

    def add(self, picture: np.ndarray, stated_bits: int = 8) -> None:
        """Add the next frame.

        Args:
            picture: (H, W) uint8 or uint16.
            stated_bits: depth according to the file; more is used if the levels need it.
        """
        if wider := self._depth.see(picture, stated_bits):
            for index in self._deep:
                self.frames[index] >>= wider
        if picture.dtype == np.uint16:
            self._deep.append(self.count)
        self.frames[self.count] = self._depth.scaled(picture)
        self.count += 1

    @property
    def note(self) -> str | None:
        """What a user should know about the depth; None if the pixels use all of their bits."""
        return self._depth.note


def require_grey_levels(picture: np.ndarray, name: str) -> None:
    """Check that a picture has 8-bit or 16-bit levels.

    Raises:
        MediaError: floating point or other levels, whose black and white the file does not say.
    """
    if picture.dtype not in (np.uint8, np.uint16):
        raise MediaError(f"{name} has levels of type {picture.dtype}; save it with 8 or 16 bits per level.")


def stated_depth(data: bytes) -> int:
    """Bits per level that the header of a PGM states by its largest value; 8 for other files."""
    header = _PGM.match(data[:4096])
    return min(int(header[1][:6]).bit_length(), 16) if header else 8
