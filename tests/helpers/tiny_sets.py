"""Annotation sheets and folders of frames small enough for a test; loaders read only names, so pictures are empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import openpyxl

from mol.data.manifest import Loaded


def write_frames(folder: Path, numbers: Iterable[int], name: str = "{}.jpg") -> Path:
    """A folder of empty pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / name.format(number)).touch()
    return folder


def write_book(path: Path, *worksheets: Sequence[Sequence[Any]], titles: Sequence[str] = ()) -> Path:
    """An Excel book with the rows of each worksheet."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for position, rows in enumerate(worksheets):
        sheet = book.create_sheet(titles[position] if titles else f"Sheet{position + 1}")
        for row in rows:
            sheet.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def notes(loaded: Loaded, kind: str) -> list[str]:
    """The notes of one kind as they are printed."""
    return [str(note) for note in loaded.notes if note.kind == kind]
