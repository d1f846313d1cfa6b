"""Cells of workbooks and CSV files, before anybody knows which row is the header.

A workbook is unpacked and read as far as a table of clips can reach, so that a stray cell in the last column or row
costs nothing, nor do the rows and cells that a program lists although they are blank. What Excel made of a cell that
cannot be read, such as a date out of a name, is kept with the reason.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mol.common.errors import DataError
from mol.common.extras import require
from mol.common.storage import refuse_pipe

_BOOKS = (".xlsx", ".xlsm")
SHEET_SUFFIXES = (*_BOOKS, ".csv")
SEPARATORS = (",", ";", "\t", "|")

LONGEST_TEXT = 1000
"""Characters of a cell that is read."""
LARGEST_FILE = 64 * 2**20
"""Bytes of a CSV file, or of the parts of a workbook that are read, unpacked."""
MOST_ROWS, MOST_COLUMNS = 200_000, 256
"""Rows of a sheet that hold cells, more of which are refused, and columns, more of which are ignored."""

_LAST_ROW = 1_048_576  # of Excel
# Cells and rows of a worksheet's XML without a value, as programs write a format that reaches to the last row.
_BLANK_CELL = re.compile(rb"<(?:\w+:)?c [^<>]*(?:/>|>\s*(?:<(?:\w+:)?v\s*(?:/>|></(?:\w+:)?v>)\s*)?</(?:\w+:)?c>)\s*")
_BLANK_ROW = re.compile(rb"<(?:\w+:)?row [^<>]*(?:/>|>\s*</(?:\w+:)?row>)\s*")
# Where one has no number of its own its place counts; and a text may quote what looks like XML.
_COUNTED = re.compile(rb"""<(?:\w+:)?(?:row|c)(?=[\s/>])(?![^<>]*\sr=["'])|<!\[CDATA\[""")
# Parts of a workbook that reading cells never needs.
_LEFT_OUT = ("xl/pivotCache/", "xl/externalLinks/")
_NO_TEXT = {"nan", "<na>", "n/a", "#n/a", "none", "null", "nat"}


@dataclass(frozen=True)
class Unusable:
    """A cell whose content is not what somebody typed, and why.

    Attributes:
        content: as far as it can be shown.
        reason: continues the name of the cell: ``"holds the date 2006-01-02: …"``, with the remedy.
    """

    content: str
    reason: str

    def __str__(self) -> str:
        return self.content


@dataclass(frozen=True)
class Cells:
    """The cells of a worksheet, or of a CSV file.

    Attributes:
        source: ``"FILE.xlsx"``, with the worksheet's name if the workbook has several.
        rows: number of the row, from 1 → its cells, for rows that are not blank. A cell is stripped text, a number,
            `Unusable`, or None if it is blank.
    """

    source: str
    rows: dict[int, list[Any]]


def as_text(value: Any) -> str:
    """A cell's value as text: ``""`` for None, ``"3"`` for 3.0."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def is_no_value(text: str) -> bool:
    """Whether a text is what programs write for a missing number, such as pandas' ``nan``."""
    return text.lower() in _NO_TEXT


def shortened(text: str, most: int = 80) -> str:
    """A text for a message."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def usable(cell: Any) -> Any:
    """A cell with its text stripped: None if it is blank, `Unusable` if it is very long."""
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    if len(text) > LONGEST_TEXT:
        reason = f"holds {len(text):,} characters, expected at most {LONGEST_TEXT:,}; correct the cell."
        return Unusable(shortened(text), reason)
    return text or None


def read_tables(path: Path) -> Iterator[Cells]:
    """The worksheets of a workbook, or a CSV file read with each separator that it may have, the likeliest first.

    Args:
        path: ``.xlsx`` or ``.csv`` (UTF-8; comma, semicolon, tab or vertical bar).

    Raises:
        DataError: the file is missing, unreadable or too large.
    """
    _require_file(path)
    return iter(_worksheets(path).values()) if path.suffix.lower() in _BOOKS else _separated(path)


def read_cells(path: Path, worksheet: str | int = 0) -> Cells:
    """Read every cell of a worksheet, or of a CSV file.

    Args:
        path: as for `read_tables`.
        worksheet: its name, or its position among those that are not blank.

    Raises:
        DataError: the file is missing or unreadable, or has no such worksheet.
    """
    if path.suffix.lower() not in _BOOKS:
        return next(read_tables(path))
    sheets = _worksheets(path)
    filled = [cells for cells in sheets.values() if cells.rows] or list(sheets.values())
    if isinstance(worksheet, str) and worksheet in sheets:
        return sheets[worksheet]
    if isinstance(worksheet, int) and worksheet < len(filled):
        return filled[worksheet]
    raise DataError(f"{path} has no worksheet {worksheet!r}; it has {', '.join(sheets)}.")


def table_text(path: Path) -> str:
    """The text of a CSV file.

    Raises:
        DataError: it is not UTF-8, too large, no ordinary file, or can't be read.
    """
    refuse_pipe(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST_FILE else b""
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the file, or where a link leads.") from error
    if size > LARGEST_FILE:
        raise DataError(f"{path} has {size / 2**20:.0f} MB, a table at most {LARGEST_FILE / 2**20:.0f}; is it a table?")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8).")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); save the table as UTF-8 (in Excel: "
            "CSV UTF-8)."
        ) from error


def csv_problem(error: csv.Error) -> str:
    """What the csv module means, and what to do about it."""
    if "field larger" in str(error):
        return "a cell has more than 131,072 characters; is a quotation mark missing?"
    return f"{error}; correct it."


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"the sheet {path} does not exist; copy it there from the distributed data set.")
    if path.suffix.lower() not in SHEET_SUFFIXES:
        raise DataError(f"{path} is not in a readable format; save it as .xlsx or .csv.")


def _separated(path: Path) -> Iterator[Cells]:
    text = table_text(path)
    # csv.Sniffer mistakes spaces and letters for separators; the most frequent one is right for most tables.
    ordered = sorted(SEPARATORS, key=text.count, reverse=True)
    for separator in [mark for mark in ordered if mark in text] or [","]:
        reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator)
        try:
            yield _cells(path, path.name, map(iter, reader))
        except csv.Error as error:
            problem = csv_problem(error)
            raise DataError(f"{path} line {reader.line_num} cannot be read as a table: {problem}") from error


def _cells(path: Path, source: str, rows: Iterator[Iterator[Any]]) -> Cells:
    filled: dict[int, list[Any]] = {}
    listed = 0  # rows of a workbook that are parsed; a spreadsheet may end a CSV file in a million blank ones
    for number, row in enumerate(rows, 1):
        cells = [usable(cell) for cell in row]
        listed += bool(cells) and path.suffix.lower() in _BOOKS
        if any(cell is not None for cell in cells):
            filled[number] = cells
        if max(listed, len(filled)) > MOST_ROWS:
            raise DataError(f"{path} has more than {MOST_ROWS:,} filled rows; is it the annotation sheet?")
    return Cells(source, filled)


def _worksheets(path: Path) -> dict[str, Cells]:
    openpyxl = require("openpyxl", extra="data")
    _require_file(path)
    try:
        content, formulas = _unpacked(path)
        with (
            closing(openpyxl.load_workbook(content, read_only=True, data_only=True, keep_links=False)) as book,
            closing(openpyxl.load_workbook(content, read_only=True, keep_links=False)) as typed,
        ):
            titles = [sheet.title for sheet in book.worksheets]
            sources = [path.name if len(titles) == 1 else f"{path.name} [{title}]" for title in titles]
            return {
                title: _cells(path, source, _rows(book[title], typed[title] if formulas else None))
                for title, source in zip(titles, sources, strict=True)
            }
    except DataError:
        raise
    except Exception as error:  # openpyxl passes on whatever zipfile, its XML parser and its own code raise
        raise DataError(
            f"{path} cannot be read as an Excel workbook ({type(error).__name__}: {shortened(str(error), 200)}); copy "
            "it again, or open it and save it as .xlsx or .csv."
        ) from error


def _unpacked(path: Path) -> tuple[io.BytesIO, bool]:
    """A workbook without what costs time and says nothing, and whether a worksheet has formulas.

    Raises:
        DataError: the parts of the workbook that are read would be too large.
    """
    content, formulas = io.BytesIO(), False
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(content, "w") as unpacked:
        parts = {part.filename: part for part in archive.infolist()}
        read = {name for name in parts if name.lower().endswith((".xml", ".rels")) and not name.startswith(_LEFT_OUT)}
        if (size := sum(parts[name].file_size for name in read)) > LARGEST_FILE:
            raise DataError(
                f"{path} unpacks to {size / 2**20:.0f} MB of cells, a table has at most {LARGEST_FILE / 2**20:.0f}; "
                "copy its rows into a new workbook."
            )
        for name in parts:
            part = archive.read(name) if name in read else b""
            if name.startswith("xl/worksheets/") and name in read:
                formulas = formulas or b"<f>" in part or b"<f " in part or b"<f/" in part
                if not _COUNTED.search(part):
                    part = _BLANK_ROW.sub(b"", _BLANK_CELL.sub(b"", part))
            unpacked.writestr(name, part)
    return content, formulas


def _rows(sheet: Any, typed: Any) -> Iterator[Iterator[Any]]:
    """Cells of every row; a formula without its value is `Unusable`.

    Args:
        sheet: with the values of formulas.
        typed: the same with the formulas themselves; None if there are none.
    """
    rows = _filled_rows(sheet)
    if typed is None:
        return (map(_content, row, row) for row in rows)
    return (map(_content, row, formulas) for row, formulas in zip(rows, _filled_rows(typed), strict=False))


def _filled_rows(sheet: Any) -> Iterator[Sequence[Any]]:
    """Every row up to its last cell that is in the file."""
    # Some programs write a wrong extent into the file, or that of the whole sheet.
    sheet.reset_dimensions()
    empty: Sequence[Any] | None = None
    for row in sheet.iter_rows(max_row=_LAST_ROW, max_col=MOST_COLUMNS):
        # openpyxl gives one and the same row for all that are missing, up to a million before a stray last one.
        if row is not empty:
            last = max((place for place, cell in enumerate(row, 1) if hasattr(cell, "row")), default=0)
            empty = row if last == 0 else empty
            yield row[:last]
        else:
            yield ()


def _content(cell: Any, typed: Any) -> Any:
    value, kind = cell.value, cell.data_type
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        # Excel's dates have a time, midnight if none was meant.
        shown = str(value).removesuffix(" 00:00:00")
        return Unusable(
            shown,
            f"holds the date {shown}: Excel has turned what was typed into a date; format the column as text and type "
            "the cell again.",
        )
    if kind == "e":
        return Unusable(str(value), f"holds Excel's error {value}; correct its formula, or type the value.")
    # A formula whose result is an empty text has kind "str".
    if value is None and kind != "str" and typed is not None and typed.data_type == "f":
        formula = getattr(typed.value, "text", typed.value)
        shown = shortened(str(formula))
        return Unusable(
            shown,
            f"holds the formula {shown} without its value; open the file in Excel or LibreOffice and save it again, or "
            "type the value.",
        )
    return value
