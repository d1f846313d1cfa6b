"""What commands show on the terminal: plain lines on stdout, progress bars on stderr if it is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mol.common.extras import require

Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Iterates over a sequence and shows its progress under a heading, as ``rich.progress.track`` does."""


def console() -> Any:
    """A `rich.console.Console` on stdout."""
    return require("rich.console", extra="train").Console()


def say(text: str) -> None:
    """Print literally: a path must not be read as markup, nor wrapped at the width of the terminal."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def tracking() -> Iterator[Track]:
    """A progress bar for each sequence that is iterated over; yields a `Track`."""
    with _bars() as bars:
        yield lambda sequence, description: bars.track(sequence, description=description)


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for work that reports (done, total)."""
    with _bars() as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def saying_when_stopped(text: str) -> Iterator[None]:
    """Say how to continue when Ctrl-C or another stop signal ends what is inside."""
    try:
        yield
    except KeyboardInterrupt:
        say(text)
        raise


def silently(sequence: Sequence[Any], _: str) -> Iterable[Any]:
    """A `Track` that shows nothing."""
    return sequence


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, rounded for a line of progress."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bars() -> Any:
    progress = require("rich.progress", extra="train")
    output = require("rich.console", extra="train").Console(stderr=True)
    return progress.Progress(
        progress.TextColumn("{task.description:<20}"),
        progress.BarColumn(bar_width=32),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=output,
        disable=not output.is_terminal,
    )
