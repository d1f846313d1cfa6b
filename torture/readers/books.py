"""Edits of Excel workbooks: cells, far cells, sheets, and the XML inside."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mol.common.extras import require
from torture.readers.edits import Edits, edit, edits, weighed
from torture.readers.values import Text, spelled, texts

openpyxl = require("openpyxl", "data")
_LETTERS = 30_000  # Excel allows 32,767 in a cell
_LARGE = 4 << 20  # bytes, unpacked, which openpyxl changes in a second or two


def book_edits(base: Path, file: str) -> Edits:
    """What people, pandas and Excel make of a sheet."""
    sheet = openpyxl.load_workbook(base / file).worksheets[0]
    row, column = st.integers(1, sheet.max_row), st.integers(1, sheet.max_column)
    kinds = st.sampled_from(["text", "text", "float", "date", "time", "bool", "none", "formula", "error", "huge"])
    cell = edits("book-cell", file, row=row, column=column, kind=kinds, value=texts())
    blank = {"rows": st.sampled_from([300, 20_000, 1_048_576]), "cells": st.sampled_from([0, 1, 9])}
    far = st.sampled_from([(3000, 16384), (1_048_576, 1), (1, 16384), (20_000, 26)])
    return weighed(
        (6, cell),
        (1, edits("book-far", file, place=far)),
        (
            1,
            edits("book-blank", file, **blank),
        ),
        (1, edits("book-notes", file, rows=st.sampled_from([1, 3, 40]))),
        (1, edits("book-sheet", file, first=st.booleans())),
        (1, edits("book-drop", file, row=row, column=st.none() | column)),
        (1, edits("book-floats", file)),
        (1, edits("book-xml", file, at=st.floats(0, 1, allow_nan=False), value=texts())),
        (1, edits("book-size", file, size=st.sampled_from(["A1:XFD1048576", "A1", "", "B2:A1", "x"]))),
    )


def _change(path: Path, change: Callable[[Any], object]) -> None:
    """Change a workbook; one that an earlier edit broke or made huge stays as it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > _LARGE:
                return
        book = openpyxl.load_workbook(path)
        change(book)
        out = io.BytesIO()
        book.save(out)
    except Exception:  # openpyxl passes on whatever its parsers raise
        return
    path.write_bytes(out.getvalue())


@edit("book-cell")
def _cell(path: Path, row: int, column: int, kind: str, value: Text) -> None:
    text = spelled(value)[:_LETTERS]
    now = datetime.datetime(2023, 4, 15, 12, 34, 56)
    values = {
        "text": text,
        "float": 12.5,
        "date": now,
        "time": now.time(),
        "bool": True,
        "none": None,
        "formula": "=A1&B1",
        "error": "#REF!",
        "huge": 1e300,
    }

    def change(book: Any) -> None:
        cell = book.worksheets[0].cell(row, column)
        cell.value = values[kind]
        if kind == "text":
            cell.data_type = "s"

    _change(path, change)


@edit("book-far")
def _far(path: Path, place: tuple[int, int]) -> None:
    def change(book: Any) -> None:
        book.worksheets[0].cell(*place).value = "x"

    _change(path, change)


@edit("book-blank")
def _blank(path: Path, rows: int, cells: int) -> None:
    """Rows up to a number that are listed and blank, as a format of whole columns leaves them."""

    def change(xml: str) -> str:
        first = xml.count("<row ") + 1
        columns = "ABCDEFGHI"[:cells]
        listed = (
            f'<row r="{row}">{"".join(f"""<c r="{column}{row}" s="0"/>""" for column in columns)}</row>'
            for row in range(first, min(rows, 3_000_000 // (1 + cells)))
        )
        return xml.replace("</sheetData>", f"{''.join(listed)}</sheetData>")

    _change_xml(path, change)


@edit("book-notes")
def _notes(path: Path, rows: int) -> None:
    def change(book: Any) -> None:
        book.worksheets[0].insert_rows(1, rows)
        book.worksheets[0]["A1"] = "note"

    _change(path, change)


@edit("book-sheet")
def _sheet(path: Path, first: bool) -> None:
    def change(book: Any) -> None:
        book.create_sheet("notes", 0 if first else None)["A1"] = "see the other sheet"

    _change(path, change)


@edit("book-drop")
def _drop(path: Path, row: int, column: int | None) -> None:
    def change(book: Any) -> None:
        sheet = book.worksheets[0]
        if column is None:
            sheet.delete_rows(row)
        else:
            sheet.delete_cols(column)

    _change(path, change)


@edit("book-floats")
def _floats(path: Path) -> None:
    """Whole numbers as pandas writes a column with a gap."""

    def change(book: Any) -> None:
        # Not those in between, which `iter_rows` would make: up to a stray last row that takes minutes.
        for cell in book.worksheets[0]._cells.values():
            if isinstance(cell.value, int):
                cell.value = f"{cell.value}.0"

    _change(path, change)


@edit("book-xml")
def _xml(path: Path, at: float, value: Text) -> None:
    def change(xml: str) -> str:
        place = int(at * len(xml))
        return xml[:place] + spelled(value)[:_LETTERS] + xml[place:]

    _change_xml(path, change)


@edit("book-size")
def _size(path: Path, size: str) -> None:
    """The extent that the sheet claims, whatever it holds."""

    def change(xml: str) -> str:
        start = xml.find('<dimension ref="')
        end = xml.find('"', start + 16)
        return xml if start < 0 else xml[: start + 16] + size + xml[end:]

    _change_xml(path, change)


def _change_xml(path: Path, change: Callable[[str], str]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError):
        return
    for name in [name for name in members if name.endswith("sheet1.xml")]:
        members[name] = change(members[name].decode(errors="replace")).encode(errors="surrogatepass")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
