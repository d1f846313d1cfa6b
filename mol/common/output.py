"""The standard streams of a program: what can't be shown never ends its work.

A terminal may lack a letter, a reader of a pipe may leave, a disk may be full, a terminal may be closed. Whatever is
printed then is replaced or dropped, and the program goes on; at its end it can say what became of its output.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any


class _Descriptor(io.RawIOBase):
    """Writes to a file descriptor until that fails, and drops the rest.

    Attributes:
        failure: the error of the first write that failed.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._number = number

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        while True:
            try:
                return os.write(self._number, view)
            except BlockingIOError:  # the program at the other end has asked for that
                select.select([], [self._number], [])
            except OSError as error:
                self.failure = error
                # What other libraries write there directly fails no longer either.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._number)
                return len(view)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)


def protect_streams() -> None:
    """Replace stdout and stderr of this process by streams that never raise an error; open those that are closed."""
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if os.name == "nt" or not isinstance(stream, io.TextIOWrapper) or isinstance(_raw(stream), _Descriptor):
            continue
        stream.flush()
        # Strict would end the program at the first letter that the terminal lacks.
        errors = stream.errors if stream.errors not in ("strict", "surrogateescape") else "replace"
        raw = _Descriptor(stream.fileno())
        lines = stream.line_buffering or stream.write_through
        buffer = io.BufferedWriter(raw)
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, errors, line_buffering=lines))


def lost_output() -> str | None:
    """Why a part of stdout was dropped; None if nothing was, or only because the reader of a pipe had left."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return None
    stream.flush()
    failure = getattr(_raw(stream), "failure", None)
    if failure is None or failure.errno == errno.EPIPE:
        return None
    return str(failure.strerror or failure)


def _raw(stream: io.TextIOWrapper) -> Any:
    """What is under the buffer; with PYTHONUNBUFFERED there is none."""
    return getattr(stream.buffer, "raw", stream.buffer)


def _open_closed() -> None:
    """Give a process that was started with closed streams (``>&-``) open ones, before a file takes their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as the process
