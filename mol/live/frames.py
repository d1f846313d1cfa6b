"""Frames on their way to the network: checked, and never queued.

There is room for one frame. Whoever brings a newer one takes the place of what waits there, so that the network always
reads the newest and falls behind by one reading at most.
"""

from __future__ import annotations

import struct
import threading
import time
from dataclasses import dataclass

import numpy as np

from mol.common.errors import ClipError

HEADER = struct.Struct("<IdHH")
"""What stands before the pixels of a frame: its number, the seconds of its capture, width and height."""

MOST_PIXELS = 1280 * 960
LEAST_SIDE = 32
_LATEST = 1e9  # seconds


@dataclass(frozen=True)
class LiveFrame:
    """One frame.

    Attributes:
        number: from its source, ascending.
        seconds: when it was captured, by the clock of its source.
        picture: (H, W) uint8.
        arrived: when it came here, by `time.monotonic`.
    """

    number: int
    seconds: float
    picture: np.ndarray
    arrived: float


def parse_frame(message: bytes, after: LiveFrame | None = None) -> LiveFrame:
    """A frame as the page sends it: `HEADER`, then the grey levels row by row.

    Args:
        message: the bytes.
        after: the frame before it.
    Raises:
        ClipError: it is no picture, too large or too small, or not newer than the one before it.
    """
    if len(message) < HEADER.size:
        raise ClipError(f"a frame of {len(message)} bytes is no picture: it has no header")
    number, seconds, width, height = HEADER.unpack_from(message)
    if width * height > MOST_PIXELS or min(width, height) < LEAST_SIDE:
        raise ClipError(
            f"frame {number} has {width}×{height} pixels; at least {LEAST_SIDE} on each side and at most "
            f"{MOST_PIXELS:,} are read"
        )
    if len(message) != HEADER.size + width * height:
        raise ClipError(
            f"frame {number} is no picture: {width}×{height} pixels are announced and {len(message) - HEADER.size} came"
        )
    if not 0 <= seconds < _LATEST:  # also NaN
        raise ClipError(f"frame {number} was captured at no possible time ({seconds} s)")
    if after is not None and (number <= after.number or seconds <= after.seconds):
        raise ClipError(
            f"frame {number} at {seconds:.3f} s is not newer than frame {after.number} at {after.seconds:.3f} s"
        )
    picture = np.frombuffer(message, np.uint8, offset=HEADER.size).reshape(height, width)
    return LiveFrame(number, seconds, picture, time.monotonic())


class NewestFrame:
    """Room for one frame between the thread that brings frames and the one that reads them."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._frame: LiveFrame | None = None
        self._closed = self._idle = False
        self.dropped = 0

    def put(self, frame: LiveFrame) -> None:
        """Leave a frame here; one that waits is dropped and counted in `dropped`."""
        with self._change:
            self.dropped += self._frame is not None
            self._frame = frame
            self._change.notify_all()

    def put_patiently(self, frame: LiveFrame) -> None:
        """Leave a frame here as soon as the one before it has been taken."""
        with self._change:
            self._change.wait_for(lambda: self._frame is None or self._closed)
            self._frame = frame
            self._change.notify_all()

    def take(self, timeout: float | None = None) -> LiveFrame | None:
        """Wait for the newest frame; None after the time is over or this was closed."""
        with self._change:
            self._idle = True
            self._change.notify_all()
            self._change.wait_for(lambda: self._frame is not None or self._closed, timeout)
            frame, self._frame = self._frame, None
            self._idle = False
            self._change.notify_all()
            return None if self._closed else frame

    def wait_until_read(self) -> None:
        """Wait until no frame waits here, and whoever took the last one waits for another."""
        with self._change:
            self._change.wait_for(lambda: (self._frame is None and self._idle) or self._closed)

    def clear(self) -> None:
        """Forget a frame that waits."""
        with self._change:
            self._frame = None
            self._change.notify_all()

    @property
    def closed(self) -> bool:
        """Whether nothing will be taken any more."""
        return self._closed

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._change:
            self._closed = True
            self._change.notify_all()
