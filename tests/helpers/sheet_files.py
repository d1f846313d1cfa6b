"""Tiny annotation sheets and folders of frames for the loaders' tests; the frame files are empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import openpyxl


def write_book(path: Path, rows: Iterable[Sequence[Any]], title: str = "Sheet1", others: Sequence[str] = ()) -> Path:
    """An Excel book whose first worksheet has `rows`, row 1 first; `others` are empty worksheets after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(list(row))
    for name in others:
        book.create_sheet(name)
    book.save(path)
    return path


def touch_frames(folder: Path, numbers: Iterable[int], name: str = "img{}.jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / name.format(number)).touch()
    return folder
