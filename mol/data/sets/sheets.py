"""Annotation sheets, read by the titles of their columns.

The data sets come with Excel workbooks whose header may be in the first row, below some lines of notes, or elsewhere
after somebody saved the file again. Every row that is read here keeps its file and row number for error messages.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mol.common.errors import DataError
from mol.common.extras import require

MOST_CHARACTERS = 4000
"""Of a cell. Names have fewer, and Python refuses to read numbers of more digits."""
SHEET_SUFFIXES = (".xlsx", ".xlsm", ".csv")


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet.

    Attributes:
        source: ``"FILE.xlsx row 17"``, with the worksheet's name if the workbook has several.
        values: wanted name → value of the cell: stripped text, a number, or None if blank.
        titles: wanted name → title of the column in this sheet.
    """

    source: str
    values: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Row number in the sheet, as Excel counts."""
        return int(self.source.rsplit(" ", 1)[1])

    def text(self, name: str) -> str:
        """The cell as text: ``""`` if it is blank, ``"3"`` for the number 3.0."""
        return as_text(self.values.get(name))

    def whole(self, name: str) -> int | None:
        """The cell as a whole number, or None if it is blank.

        Raises:
            DataError: the cell holds anything else; the message names the row and the column.
        """
        text = self.text(name)
        if not text:
            return None
        if not re.fullmatch(r"-?\d{1,15}", text):  # int() would also take "006_1_2"
            title = self.titles.get(name, name)
            raise DataError(
                f"{self.source}: column {title!r} holds {text[:60]!r}, expected a whole number; correct the cell."
            )
        return int(text)


@dataclass(frozen=True)
class Cells:
    """All cells of a worksheet.

    Attributes:
        source: ``"FILE.xlsx"``, with the worksheet's name if the workbook has several.
        rows: starting with row 1; each cell is stripped text, a number, or None if blank.
    """

    source: str
    rows: list[list[Any]]


def as_text(value: Any) -> str:
    """A cell's value as text: ``""`` for None, ``"3"`` for 3.0."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def read_sheet(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    worksheet: str | int = 0,
    required: set[str] | None = None,
) -> list[SheetRow]:
    """Read the rows below the header, in whichever row that is.

    The header is the first row that has every required column. Titles are compared by their letters and digits in
    lower case, so "Onset Frame", "OnsetFrame" and "onset_frame" are the same. Blank columns and rows are skipped.

    Args:
        path: ``.xlsx`` or ``.csv``.
        columns: wanted name → accepted titles of its column, the preferred one first.
        worksheet: name or position of the worksheet in the workbook.
        required: names that the sheet must have; None means all of `columns`.

    Raises:
        DataError: the file is missing or unreadable, or no row is a header; the message names the closest row.
    """
    cells = read_cells(path, worksheet)
    wanted = _plain_columns(columns)
    required = set(columns) if required is None else required
    number = _header(path, cells, columns, required)
    header = cells.rows[number]
    positions = _positions(header, wanted)
    titles = {name: as_text(header[position]) for name, position in positions.items()}
    rows = []
    for line, row in enumerate(cells.rows[number + 1 :], number + 2):
        values = {name: row[position] if position < len(row) else None for name, position in positions.items()}
        if any(value is not None for value in values.values()):
            rows.append(SheetRow(f"{cells.source} row {line}", values, titles))
    return rows


def read_titles(
    path: Path, columns: Mapping[str, Sequence[str]], worksheet: str | int = 0, required: set[str] | None = None
) -> list[str]:
    """All titles in the header that `read_sheet` would find, without blank columns.

    Raises:
        DataError: as for `read_sheet`.
    """
    cells = read_cells(path, worksheet)
    header = cells.rows[_header(path, cells, columns, set(columns) if required is None else required)]
    return [as_text(title) for title in header if title is not None]


def read_cells(path: Path, worksheet: str | int = 0) -> Cells:
    """Read every cell of a worksheet, or of a CSV file.

    Args:
        path: ``.xlsx`` or ``.csv`` (UTF-8; comma, semicolon or tab).
        worksheet: name or position of the worksheet in the workbook.

    Raises:
        DataError: the file is missing or unreadable, or has no such worksheet.
    """
    if not path.is_file():
        raise DataError(f"the sheet {path} does not exist; copy it there from the distributed data set.")
    if path.suffix.lower() not in SHEET_SUFFIXES:
        raise DataError(f"{path} is not in a readable format; save it as .xlsx or .csv.")
    cells = _read_csv(path) if path.suffix.lower() == ".csv" else _read_book(path, worksheet)
    for number, row in enumerate(cells.rows, 1):
        require_short_cells(row, f"{cells.source} row {number}")
    return cells


def require_short_cells(row: Sequence[Any], where: str) -> None:
    """Refuse a row with a cell that is longer than any entry of a table.

    Raises:
        DataError: naming the row and the column.
    """
    for column, cell in enumerate(row, 1):
        if isinstance(cell, str) and len(cell) > MOST_CHARACTERS:
            raise DataError(
                f"{where}, column {column} has {len(cell):,} characters; at most {MOST_CHARACTERS:,} are read: "
                "is it a table? Correct the cell."
            )


def _read_csv(path: Path) -> Cells:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    # csv.Sniffer mistakes spaces and letters for separators; the most frequent one is right for a table.
    separator = max(",;\t", key=text.count)
    reader = csv.reader(text.splitlines(), delimiter=separator)
    try:
        rows = [[_value(cell) for cell in row] for row in reader]
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} cannot be read ({error}); correct it.") from error
    return Cells(path.name, rows)


def _read_book(path: Path, worksheet: str | int) -> Cells:
    openpyxl = require("openpyxl", extra="data")
    try:
        book = openpyxl.load_workbook(path, data_only=True)
    except Exception as error:  # openpyxl passes on whatever zipfile, its XML parser and its own code raise
        raise DataError(
            f"{path} cannot be read as an Excel workbook ({type(error).__name__}: {error}); copy it again, or open "
            "it and save it as .xlsx or .csv."
        ) from error
    titles = book.sheetnames
    if worksheet not in (titles if isinstance(worksheet, str) else range(len(titles))):
        raise DataError(f"{path} has no worksheet {worksheet!r}; it has {', '.join(titles)}.")
    title = worksheet if isinstance(worksheet, str) else titles[worksheet]
    rows = [[_value(cell) for cell in row] for row in book[title].iter_rows(values_only=True)]
    book.close()
    return Cells(path.name if len(titles) == 1 else f"{path.name} [{title}]", rows)


def _value(cell: Any) -> Any:
    """Text is stripped; a blank cell becomes None."""
    return (cell.strip() or None) if isinstance(cell, str) else cell


def _plain(title: Any) -> str:
    return "".join(character for character in as_text(title).lower() if character.isalnum())


def _positions(header: Sequence[Any], wanted: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Wanted name → column, for the columns that this row has."""
    titles = [_plain(title) for title in header]
    found = {}
    for name, spellings in wanted.items():
        places = [titles.index(spelling) for spelling in spellings if spelling in titles]
        if places:
            found[name] = places[0]
    return found


def _plain_columns(columns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {name: [_plain(spelling) for spelling in spellings] for name, spellings in columns.items()}


def _header(path: Path, cells: Cells, columns: Mapping[str, Sequence[str]], required: set[str]) -> int:
    """Position of the first row that has every required column."""
    wanted = _plain_columns(columns)
    for number, row in enumerate(cells.rows):
        if required <= _positions(row, wanted).keys():
            return number
    raise DataError(_no_header(path, cells, columns, required))


def _no_header(path: Path, cells: Cells, columns: Mapping[str, Sequence[str]], required: set[str]) -> str:
    """The message for a sheet without a header: the most likely row, what it lacks, and similar titles."""
    wanted = _plain_columns(columns)
    needed = ", ".join(columns[name][0] for name in columns if name in required)
    if not any(value is not None for row in cells.rows for value in row):
        return f"{path} is empty; expected a sheet with the columns {needed}."
    scores = [len(required & _positions(row, wanted).keys()) for row in cells.rows]
    number = scores.index(max(scores))
    if not scores[number]:
        return f"{path} has no row with the columns {needed}; is it the annotation sheet of this data set?"
    header = [title for title in cells.rows[number] if title is not None]
    missing = [name for name in columns if name in required - _positions(header, wanted).keys()]
    near = {columns[name][0]: _near(name, header, wanted) for name in missing}
    looks = "".join(f" '{title}' looks like {name}." for name, title in near.items() if title)
    return (
        f"{path} row {number + 1} lacks the columns {', '.join(near)}; it has {', '.join(map(as_text, header))}. "
        f"Were columns renamed?{looks} Restore their original titles."
    )


def _near(name: str, header: Sequence[Any], wanted: Mapping[str, Sequence[str]]) -> str:
    """The title most similar to a missing column's, among those that are not wanted columns themselves."""
    known = {spelling for spellings in wanted.values() for spelling in spellings}
    free = {_plain(title): as_text(title) for title in header if _plain(title) not in known}
    for spelling in wanted[name]:
        if close := difflib.get_close_matches(spelling, list(free), n=1, cutoff=0.5):
            return free[close[0]]
    return ""
