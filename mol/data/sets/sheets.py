"""Annotation sheets, read by the titles of their columns.

The data sets come with Excel workbooks whose header may be in the first row, below some lines of notes, on the second
worksheet, or elsewhere after somebody saved the file again. Every row that is read here keeps its file and row number
for error messages.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mol.common.errors import DataError
from mol.data.sets.cells import (
    SHEET_SUFFIXES,
    Cells,
    Unusable,
    as_text,
    is_no_value,
    read_cells,
    read_tables,
    shortened,
)

__all__ = ["SHEET_SUFFIXES", "Cells", "SheetRow", "as_text", "read_cells", "read_sheet", "read_titles"]

_HEADER_ROWS = 1000  # filled rows in which the header is looked for
_TITLES = 30  # titles that a message lists


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet.

    Attributes:
        source: ``"FILE.xlsx row 17"``, with the worksheet's name if the workbook has several.
        values: wanted name → value of the cell: stripped text, a number, `Unusable`, or None if blank.
        titles: wanted name → title of the column in this sheet.
    """

    source: str
    values: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Row number in the sheet, as Excel counts."""
        return int(self.source.rsplit(" ", 1)[1])

    def shown(self, name: str) -> str:
        """The cell for a message or a comparison, whatever it holds."""
        return shortened(as_text(self.values.get(name)))

    def text(self, name: str) -> str:
        """The cell as text: ``""`` if it is blank, ``"3"`` for the number 3.0.

        Raises:
            DataError: the cell holds a date, a formula without its value, an error or a very long text; the message
                names the row and the column.
        """
        value = self.values.get(name)
        if isinstance(value, Unusable):
            raise DataError(f"{self.source}: the column {self.titles.get(name, name)!r} {value.reason}")
        return as_text(value)

    def identifier(self, name: str) -> str:
        """The cell as text, where ``12.0`` in a CSV file is the number 12.

        Raises:
            DataError: as for `text`.
        """
        text = self.text(name)
        return text.partition(".")[0] if re.fullmatch(r"\d+\.0+", text) else text

    def whole(self, name: str) -> int | None:
        """The cell as a whole number, or None if it is blank; ``12.0``, ``12,0`` and pandas' ``nan`` are understood.

        Raises:
            DataError: the cell holds anything else; the message names the row and the column.
        """
        text = self.text(name)
        if not text or is_no_value(text):
            return None
        # int() would also take "006_1_2", and refuses thousands of digits with an error of its own.
        match = re.fullmatch(r"([-+]?\d{1,15})(?:[.,]0*)?", text)
        if match is None:
            title = self.titles.get(name, name)
            raise DataError(
                f"{self.source}: column {title!r} holds {shortened(text)!r}, expected a whole number; correct the cell."
            )
        return int(match[1])

    def whole_or_none(self, name: str) -> int | None:
        """The cell as a whole number, or None if it holds anything else."""
        try:
            return self.whole(name)
        except DataError:
            return None


def read_sheet(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    worksheet: str | int | None = None,
    required: set[str] | None = None,
) -> list[SheetRow]:
    """Read the rows below the header, in whichever row that is.

    The header is the first row that has every required column. Titles are compared by their letters and digits in
    lower case, so "Onset Frame", "OnsetFrame" and "onset_frame" are the same. Blank columns and rows are skipped.

    Args:
        path: ``.xlsx`` or ``.csv``.
        columns: wanted name → accepted titles of its column, the preferred one first.
        worksheet: name or position of the worksheet in the workbook; None for the first that has a header.
        required: names that the sheet must have; None means all of `columns`.

    Raises:
        DataError: the file is missing or unreadable, or no row is a header; the message names the closest row.
    """
    cells, number = _find_header(path, columns, worksheet, set(columns) if required is None else required)
    header = cells.rows[number]
    positions = _positions(header, _plain_columns(columns))
    titles = {name: as_text(header[position]) for name, position in positions.items()}
    rows = []
    for line, row in cells.rows.items():
        values = {name: row[position] if position < len(row) else None for name, position in positions.items()}
        if line > number and any(value is not None for value in values.values()):
            rows.append(SheetRow(f"{cells.source} row {line}", values, titles))
    return rows


def read_titles(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    worksheet: str | int | None = None,
    required: set[str] | None = None,
) -> list[str]:
    """All titles in the header that `read_sheet` would find, without blank columns.

    Raises:
        DataError: as for `read_sheet`.
    """
    cells, number = _find_header(path, columns, worksheet, set(columns) if required is None else required)
    return [as_text(title) for title in cells.rows[number] if title is not None]


def _find_header(
    path: Path, columns: Mapping[str, Sequence[str]], worksheet: str | int | None, required: set[str]
) -> tuple[Cells, int]:
    """The first worksheet with a row that has every required column, and the number of that row."""
    wanted = _plain_columns(columns)
    seen = []
    for cells in read_tables(path) if worksheet is None else [read_cells(path, worksheet)]:
        for number, row in islice(cells.rows.items(), _HEADER_ROWS):
            if required <= _positions(row, wanted).keys():
                return cells, number
        seen.append(cells)
    raise DataError(_no_header(path, seen, columns, required))


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


def _no_header(path: Path, tables: Sequence[Cells], columns: Mapping[str, Sequence[str]], required: set[str]) -> str:
    """The message for a sheet without a header: the most likely row, what it lacks, and similar titles."""
    wanted = _plain_columns(columns)
    needed = ", ".join(columns[name][0] for name in columns if name in required)
    filled = [cells for cells in tables if cells.rows]
    names = dict.fromkeys(cells.source.removeprefix(path.name).strip() for cells in tables)
    worksheets = f" (worksheets {', '.join(names)})" if len(names) > 1 else ""
    if not filled:
        return f"{path}{worksheets} is empty; expected a sheet with the columns {needed}."
    scores = {
        (at, number): len(required & _positions(row, wanted).keys())
        for at, cells in enumerate(filled)
        for number, row in islice(cells.rows.items(), _HEADER_ROWS)
    }
    at, number = max(scores, key=lambda place: scores[place])
    if not scores[at, number]:
        return f"{path}{worksheets} has no row with the columns {needed}; is it the annotation sheet of this data set?"
    header = [title for title in filled[at].rows[number] if title is not None]
    missing = [name for name in columns if name in required - _positions(header, wanted).keys()]
    near = {columns[name][0]: _near(name, header, wanted) for name in missing}
    looks = "".join(f" '{title}' looks like {name}." for name, title in near.items() if title)
    there = [shortened(as_text(title)) for title in header[:_TITLES]] + ["…"] * (len(header) > _TITLES)
    where = f"{path.parent / filled[at].source} row {number}"
    return (
        f"{where} lacks the columns {', '.join(near)}; it has {', '.join(there)}. "
        f"Were columns renamed?{looks} Restore their original titles."
    )


def _near(name: str, header: Sequence[Any], wanted: Mapping[str, Sequence[str]]) -> str:
    """The title most similar to a missing column's, among those that are not wanted columns themselves."""
    known = {spelling for spellings in wanted.values() for spelling in spellings}
    free = {_plain(title): shortened(as_text(title)) for title in header if _plain(title) not in known}
    for spelling in wanted[name]:
        if close := difflib.get_close_matches(spelling, list(free), n=1, cutoff=0.5):
            return free[close[0]]
    return ""
