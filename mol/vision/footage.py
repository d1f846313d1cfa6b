"""The frames of a video one after another, whether they lie in memory, in a film or in a folder of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from mol.vision.timing import even_times, is_variable

Source = TypeVar("Source", bound="Footage")


class Footage(ABC):
    """Grey frames in the order of time, and when they are shown.

    Attributes:
        fps: frames per second; the mean where the rate varies.
        times: (L,) seconds of the frames, from the first on; None if they are evenly spaced at `fps`.
        last: seconds for which the last frame is shown; None for as long as a frame at `fps`.
        notes: what a user should know about the grey levels.
        rate_notes: what a user should know about the frame rate and the times.
    """

    fps: float
    times: np.ndarray | None
    last: float | None
    notes: tuple[str, ...]
    rate_notes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """L."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(H, W)."""

    @abstractmethod
    def name(self, number: int) -> str:
        """The name of a frame for messages: the picture's file name, or ``frame 17``, counted from 0."""

    @abstractmethod
    def walk(self, numbers: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """Frames (H, W) uint8 in the order of time; only the one that is asked for is held.

        Every call starts at the beginning of the video.

        Args:
            numbers: which frames, ascending, each once; all by default.
        Raises:
            MediaError: a frame cannot be read.
        """

    @abstractmethod
    def at_rate(self: Source, fps: float) -> Source:
        """The same frames, evenly spaced at a rate that is known better than the file knows it."""

    @property
    def seconds(self) -> np.ndarray:
        """(L,) seconds of the frames."""
        return even_times(len(self), self.fps) if self.times is None else self.times

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        if not len(self):
            return 0.0
        return float(self.seconds[-1]) + (1 / self.fps if self.last is None else self.last)

    @property
    def has_variable_rate(self) -> bool:
        """Whether frame numbers at the mean rate miss the frames' own times."""
        return self.times is not None and is_variable(self.times, self.fps)
