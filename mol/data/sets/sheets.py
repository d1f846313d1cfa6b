"""Annotation sheets and folders of the data sets: found by name, read by the titles of their columns.

The sets are distributed as Excel books whose header stands in the first row, below some lines of notes, or elsewhere
after somebody saved them again, and as archives that unpack into a folder of the same name once more. What is read
here carries the file and the row it came from, for the messages.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mol.common.errors import DataError
from mol.common.extras import require

_SHEET_SUFFIXES = (".xlsx", ".xlsm", ".csv")

# Names that only one data set carries, for the message when a root is another set's.
_TELLTALES = {
    "casme2": ("casme2-coding*", "casme2_raw_selected", "casme2-raw"),
    "samm": ("samm*micro_facs*",),
    "smic": ("smic_all_*", "smic-e_raw*", "smic?*?e_annotation*"),
    "casme-sq": ("code_final.xlsx",),
    "casme3": ("cas(me)3*",),
    "mmew": ("mmew_micro*",),
    "4dme": ("4dme_*",),
}


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet.

    Attributes:
        source: ``"FILE.xlsx row 17"``, with the worksheet's name where the book has several.
        values: wanted name → value of the cell: stripped text, number or None where it is blank.
        titles: wanted name → title of the column in this sheet.
    """

    source: str
    values: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Of the row in its sheet, as Excel counts."""
        return int(self.source.rsplit(" ", 1)[1])

    def text(self, name: str) -> str:
        """The cell as text: ``""`` where it is blank, ``"3"`` for the number 3.0."""
        return as_text(self.values.get(name))

    def whole(self, name: str) -> int | None:
        """The cell as a whole number, None where it is blank.

        Raises:
            DataError: anything else; source and column are named.
        """
        text = self.text(name)
        if not text:
            return None
        if not re.fullmatch(r"-?\d+", text):  # int() would also take "006_1_2"
            title = self.titles.get(name, name)
            raise DataError(
                f"{self.source}: column {title!r} holds {text!r}, expected a whole number; correct the cell."
            )
        return int(text)


@dataclass(frozen=True)
class Cells:
    """A worksheet as it stands.

    Attributes:
        source: ``"FILE.xlsx"``, with the worksheet's name where the book has several.
        rows: the first is row 1; stripped text, number or None where a cell is blank.
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
    """Read the rows below the header, wherever that stands.

    The header is the first row that holds every required column. Titles are compared by their letters and digits in
    lower case, so "Onset Frame", "OnsetFrame" and "onset_frame" are the same. Blank columns and rows are passed over.

    Args:
        path: ``.xlsx`` or ``.csv``.
        columns: wanted name → spellings that its title may have, the preferred one first.
        worksheet: name or position of the worksheet in the book.
        required: names that the sheet must have; None means all of `columns`.
    Raises:
        DataError: the file is missing or no sheet, or no row is a header (the nearest one and its titles are named).
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
    """All titles of the header that `read_sheet` would find, blank columns left out.

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
        worksheet: name or position of the worksheet in the book.
    Raises:
        DataError: the file is missing or cannot be read, or has no such worksheet.
    """
    if not path.is_file():
        raise DataError(f"the sheet {path} does not exist; copy it there from the data set's distribution.")
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    if path.suffix.lower() not in _SHEET_SUFFIXES:
        raise DataError(f"{path} is not a sheet that can be read; save it as .xlsx or .csv.")
    return _read_book(path, worksheet)


def find_sheet(root: Path, patterns: Sequence[str], what: str, own: str = "") -> Path:
    """Find an annotation sheet under `root`, at most three levels down.

    Args:
        root: folder of the data set.
        patterns: names with ``*`` and ``?``, compared without regard to case; the first that matches a file decides,
            and of several files the one whose name sorts last (the names carry dates) and lies highest.
        what: what the sheet is, for the message.
        own: key of the data set; where it is given, the message names the other sets that the folder looks like.
    Raises:
        DataError: the folder or the sheet is missing; what is needed and the sheets that are there are listed.
    """
    require_folder(root)
    files = [path for path in _files(root, depth=3) if not path.name.startswith(("~$", "."))]
    for pattern in patterns:
        found = [path for path in files if fnmatchcase(path.name.lower(), pattern.lower())]
        if found:
            return max(found, key=lambda path: (path.name.lower(), -len(path.parts), str(path)))
    others = sorted(path.name for path in files if path.suffix.lower() in (*_SHEET_SUFFIXES, ".xls"))
    there = f"The sheets found there are {', '.join(others)}." if others else "There is no sheet at all."
    hint = other_sets(root, own) if own else ""
    raise DataError(f"no {what} under {root}: a file {' or '.join(patterns)} is needed. {there}{hint}")


def find_folders(root: Path, names: Sequence[str], depth: int = 4) -> list[Path]:
    """Find folders by name, `root` itself included.

    An archive that was unpacked into a folder of its own name gives X/X/sub01; of such a chain the folders that hold
    anything else than the next X are returned.

    Args:
        root: folder of the data set.
        names: in the order of preference, compared without regard to case.
        depth: how many levels below `root` are searched.
    Returns:
        The folders, ordered by `names`, then by path; empty where there are none.
    """
    order = {name.lower(): place for place, name in reversed(list(enumerate(names)))}
    found = [path for path in _folders(root, depth, set(order)) if _holds_other_folders(path)]
    return sorted(found, key=lambda path: (order[path.name.lower()], str(path)))


def other_sets(root: Path, own: str) -> str:
    """A sentence for messages: which sets but `own` have names of theirs in `root`, at most two levels down."""
    entries = _entries(root)
    entries += [inner for entry in entries if entry.is_dir() for inner in _entries(Path(entry.path))]
    names = {root.resolve().name.lower(), *(entry.name.lower() for entry in entries)}
    sets = [
        key
        for key, patterns in _TELLTALES.items()
        if key != own and any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
    ]
    return f" It looks like another data set: --dataset {' or '.join(sets)}." if sets else ""


def require_folder(root: Path) -> None:
    """Refuse a root that is no folder, or may not be read.

    Raises:
        DataError: it is named.
    """
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist; give the folder into which the data set was unpacked.")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(f"the folder {root} may not be read; change its permissions.")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def subject_folders(bases: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Folders of subjects by name in lower case, in the first of `bases` that has any; empty where none has.

    Args:
        bases: in the order of preference.
        pattern: regular expression of their whole names, without regard to case.
    """
    for base in bases:
        found = {path.name.lower(): path for path in subfolders(base) if re.fullmatch(pattern, path.name.lower())}
        if found:
            return found
    return {}


def clip_folder(subjects: Mapping[str, Path], subject: str, clip: str) -> Path:
    """Folder of a clip, its name compared without regard to case.

    Args:
        subjects: as `subject_folders` gives them.
        subject, clip: as the sheet's row names them.
    Raises:
        DataError: there is no such folder.
    """
    if not clip:
        raise DataError("the row names no clip; fill in its file name or remove the row.")
    if subject not in subjects:
        some = ", ".join(sorted(subjects)[:3])
        raise DataError(f"the subject {subject!r} has no folder beside {some}, …; unpack it there or correct the row.")
    for folder in subfolders(subjects[subject]):
        if folder.name.lower() == clip.lower():
            return folder
    raise DataError(f"the folder {subjects[subject] / clip} does not exist; unpack the set's frames there.")


def unlisted_folders(subjects: Mapping[str, Path], listed: Collection[str]) -> dict[str, Path]:
    """Clip folders that no row of the sheet names, by ``subject/clip``.

    Args:
        subjects: as `subject_folders` gives them.
        listed: ``subject/clip`` of every row.
    """
    known = {name.lower() for name in listed}
    folders = {f"{name}/{folder.name}": folder for name in sorted(subjects) for folder in subfolders(subjects[name])}
    return {name: folder for name, folder in folders.items() if name.lower() not in known}


def _read_csv(path: Path) -> Cells:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    # csv.Sniffer takes spaces and letters for separators; the one that occurs most is right for a table.
    separator = max(",;\t", key=text.count)
    rows = [[_value(cell) for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator)]
    return Cells(path.name, rows)


def _read_book(path: Path, worksheet: str | int) -> Cells:
    openpyxl = require("openpyxl", extra="data")
    try:
        book = openpyxl.load_workbook(path, data_only=True)
    except Exception as error:  # openpyxl lets whatever zipfile, its XML parser and its own code raise through
        raise DataError(
            f"{path} cannot be read as an Excel book ({type(error).__name__}: {error}); copy it again, or open it and "
            "save it as .xlsx or .csv."
        ) from error
    titles = book.sheetnames
    if worksheet not in (titles if isinstance(worksheet, str) else range(len(titles))):
        raise DataError(f"{path} has no worksheet {worksheet!r}; it has {', '.join(titles)}.")
    title = worksheet if isinstance(worksheet, str) else titles[worksheet]
    rows = [[_value(cell) for cell in row] for row in book[title].iter_rows(values_only=True)]
    book.close()
    return Cells(path.name if len(titles) == 1 else f"{path.name} [{title}]", rows)


def _value(cell: Any) -> Any:
    """Text without the spaces around it; None for what is blank."""
    return (cell.strip() or None) if isinstance(cell, str) else cell


def _plain(title: Any) -> str:
    return "".join(character for character in as_text(title).lower() if character.isalnum())


def _positions(header: Sequence[Any], wanted: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Wanted name → column, for those that this row holds."""
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
    """Position of the first row that holds every required column."""
    wanted = _plain_columns(columns)
    for number, row in enumerate(cells.rows):
        if required <= _positions(row, wanted).keys():
            return number
    raise DataError(_no_header(path, cells, columns, required))


def _no_header(path: Path, cells: Cells, columns: Mapping[str, Sequence[str]], required: set[str]) -> str:
    """The message for a sheet without a header: the most likely row, what it lacks and what looks like it."""
    wanted = _plain_columns(columns)
    needed = ", ".join(columns[name][0] for name in columns if name in required)
    if not any(value is not None for row in cells.rows for value in row):
        return f"{path} is empty; a sheet with the columns {needed} is needed."
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
        f"Renamed columns?{looks} Give them their original names back."
    )


def _near(name: str, header: Sequence[Any], wanted: Mapping[str, Sequence[str]]) -> str:
    """The title that most resembles a missing column, among those that are no wanted column themselves."""
    known = {spelling for spellings in wanted.values() for spelling in spellings}
    free = {_plain(title): as_text(title) for title in header if _plain(title) not in known}
    for spelling in wanted[name]:
        if close := difflib.get_close_matches(spelling, list(free), n=1, cutoff=0.5):
            return free[close[0]]
    return ""


def _files(folder: Path, depth: int) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_file():
            yield Path(entry.path)
        elif depth > 1 and entry.is_dir():
            yield from _files(Path(entry.path), depth - 1)


def _folders(root: Path, depth: int, names: set[str]) -> Iterator[Path]:
    """`root` and the folders under it that have one of the names; below such a one only its namesake is looked for."""
    name = root.resolve().name.lower()
    if matches := name in names:
        yield root
    for entry in _entries(root) if depth else ():
        if entry.is_dir() and (not matches or entry.name.lower() == name):
            yield from _folders(Path(entry.path), depth - 1, names)


def _holds_other_folders(folder: Path) -> bool:
    namesake = folder.name.lower()
    return any(entry.is_dir() and entry.name.lower() != namesake for entry in _entries(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        return []  # a search passes over what it may not read, such as lost+found; roots are checked by require_folder
    except OSError as error:
        raise DataError(f"cannot look into {folder}: {error.strerror}; check the path.") from error
