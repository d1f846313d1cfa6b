"""The signals that ask a program to end, and what to do about them before anything is imported.

Nothing but `os` and `signal` is imported here, because a program is most easily interrupted while its modules load.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes longer to load than all of this
    from typing import Any, NoReturn

STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name)
    # Slurm and others warn with USR1 or USR2; XCPU comes before a limit of processor time.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals that end a program by default and are sent to ask for it."""

_SHOWN = {signal.SIGINT: "Ctrl-C"}


def describe(number: int) -> str:
    """What stopped the program, in words."""
    known = signal.Signals(number)
    return f"stopped by {_SHOWN.get(known, known.name)}"


def exit_code(number: int) -> int:
    """The exit code of a program that a signal ended, as shells give it."""
    return 128 + number


def handle_stop_signals(handler: Any) -> dict[signal.Signals, Any]:
    """Set the handler of every signal of `STOP_SIGNALS` that is not ignored (``nohup`` ignores SIGHUP).

    Args:
        handler: called with the number of the signal and the frame that it interrupted.
    Returns:
        The previous handlers of these signals.
    """
    # None is a handler that was not set from Python, and that could not be restored.
    chosen = [number for number in STOP_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in chosen}


def ignore_stop_signals() -> None:
    """Leave all of `STOP_SIGNALS` to the parent process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_at_once(number: int, frame: object = None) -> NoReturn:
    """Handler for the time before there is anything to clean up, such as while modules are imported.

    An exception in the midst of an import turns into whatever the module makes of it.
    """
    try:
        os.write(2, f"error: {describe(number)}\n".encode())
    finally:
        os._exit(exit_code(number))
