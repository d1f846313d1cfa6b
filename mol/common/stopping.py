"""How work ends at a signal: Ctrl-C, a batch system's warning before its time limit, a closed terminal.

Long work ends in one of two ways. A training finishes its step and saves (`mol.training.resume.StopSignal`); everything
else ends where it is by `Stopped`, an exception that removes what is half written on its way out.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mol.common.signals import describe

# A closed terminal, or a batch system that signals every process of a job, sends the same signal several times.
_REPEATED_WITHIN = 5.0


class Stopped(KeyboardInterrupt):
    """One of `mol.common.signals.STOP_SIGNALS` arrived; whoever handles Ctrl-C handles it too.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(describe(number))
        self.number = number


class RaiseStopped:
    """Handler that raises `Stopped`, in the main thread; not for the echoes of a signal, nor within `held`."""

    def __init__(self) -> None:
        self._last: float | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        now = time.monotonic()
        echo = self._last is not None and now - self._last < _REPEATED_WITHIN
        if echo and number != signal.SIGINT:
            return
        self._last = now
        if _held.depth:
            _held.waiting = number
            return
        raise Stopped(number)


class _Held:
    depth = 0
    waiting: int | None = None


_held = _Held()


@contextmanager
def held() -> Iterator[None]:
    """Let `RaiseStopped` wait until the end of this block, which must be short."""
    if threading.current_thread() is not threading.main_thread():  # signals are for the main thread
        yield
        return
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
        if _held.waiting is not None and not _held.depth:
            number, _held.waiting = _held.waiting, None
            raise Stopped(number)
