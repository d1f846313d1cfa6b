"""What commands show on the terminal: plain lines on stdout, progress bars on stderr if it is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mol.common.extras import require

Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Iterates over a sequence and shows its progress under a heading, as ``rich.progress.track`` does."""


# Control characters, marks that turn the direction of what follows, and bytes of names that are not UTF-8.
_CONTROLS = [
    *(*range(0x20), *range(0x7F, 0xA0)),
    *(0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    *range(0xD800, 0xE000),
]
_VISIBLE = {code: repr(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Text in which all that has an effect other than being seen is written out; line breaks and tabs stay."""
    return text.translate(_VISIBLE)


_quiet = False


def be_quiet() -> None:
    """Show nothing from here on: another process of the same command does."""
    global _quiet
    _quiet = True


def console(**options: Any) -> Any:
    """A `rich.console.Console` that takes nothing in a text for a command: no [markup], :emoji:, control characters.

    All text that users and their files can choose reaches the library here, in lines and in cells of tables.

    Args:
        options: those of `rich`; the console is on stdout by default.
    """
    base: Any = require("rich.console", extra="train").Console

    class Literal(base):
        def render_str(self, text: str, **styles: Any) -> Any:
            return super().render_str(printable(text), **styles)

    return Literal(markup=False, emoji=False, highlight=False, quiet=_quiet, **options)


def styled(text: str, style: str) -> Any:
    """Text of the program's own in a colour or weight, for a cell of a table."""
    return require("rich.text", extra="train").Text.assemble((text, style))  # not what it is padded with


def say(text: str) -> None:
    """Print lines as they are, not wrapped at the width of the terminal."""
    console().print(text, soft_wrap=True)


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
    output = console(stderr=True)
    return progress.Progress(
        progress.TextColumn("{task.description:<20}", markup=False),
        progress.BarColumn(bar_width=32),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left", markup=False),
        progress.TimeRemainingColumn(),
        console=output,
        disable=not output.is_terminal,
    )
