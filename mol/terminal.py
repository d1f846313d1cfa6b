"""What commands show on the terminal: plain lines on stdout, progress bars on stderr where it is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mol.extras import require

if TYPE_CHECKING:
    from mol.sliding import Track


def console() -> Any:
    """A `rich.console.Console` on stdout."""
    return require("rich.console", extra="train").Console()


def say(text: str) -> None:
    """Print as it is: a path must not be taken for markup, nor broken at the width of the terminal."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def tracking() -> Iterator[Track]:
    """A progress bar for each sequence that is gone through; gives a `mol.sliding.Track`."""
    with _bars() as bars:
        yield lambda sequence, description: bars.track(sequence, description=description)


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for work that reports (done, total)."""
    with _bars() as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


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
