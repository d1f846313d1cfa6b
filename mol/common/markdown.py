"""Generated parts of Markdown pages, each between two comments ``<!-- NAME: start -->`` and ``<!-- NAME: end -->``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mol.common.errors import DataError
from mol.common.storage import write_text


def generated_part(page: str, name: str) -> str:
    """The text between the comments of this name, without blank lines around it.

    Raises:
        DataError: the page does not have exactly one such part.
    """
    return _split(page, name)[1].strip("\n")


def publish(text: str, name: str, arguments: Sequence[str]) -> None:
    """Print a generated text, or write it into the pages given as arguments.

    Args:
        text: Markdown.
        name: of the part that it replaces.
        arguments: paths of pages.

    Raises:
        DataError: a page does not have exactly one such part.
        StorageError: a page cannot be written.
    """
    if not arguments:
        print(text)
    for path in map(Path, arguments):
        before, _, after = _split(path.read_text(encoding="utf-8"), name)
        write_text(path, f"{before}\n{text}\n{after}")


def _split(page: str, name: str) -> tuple[str, str, str]:
    """What is up to the first comment, between the two, and from the second one on."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    if page.count(start) != 1 or page.count(end) != 1 or page.index(end) < page.index(start):
        raise DataError(f"the page must have the comments {start} and {end}, once each and in this order; add them.")
    before, _, rest = page.partition(start)
    text, _, after = rest.partition(end)
    return before + start, text, end + after
