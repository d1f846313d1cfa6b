"""Generated parts of Markdown pages, each between two comments ``<!-- NAME: start -->`` and ``<!-- NAME: end -->``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mol.common.errors import DataError
from mol.common.storage import write_text


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
        before, after = _around(path.read_text(encoding="utf-8"), name)
        write_text(path, f"{before}\n{text}\n{after}")


def _around(page: str, name: str) -> tuple[str, str]:
    """The page up to the first comment, and from the second one on."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    if page.count(start) != 1 or page.count(end) != 1 or page.index(end) < page.index(start):
        raise DataError(f"the page must have the comments {start} and {end}, once each and in this order; add them.")
    before, _, rest = page.partition(start)
    return before + start, end + rest.partition(end)[2]
