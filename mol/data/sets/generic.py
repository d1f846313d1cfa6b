"""Any other data: a table with one line per clip.

    subject,clip,path,onset,apex,offset,label
    anna,smile-1,videos/anna/smile-1.mp4,12,20,31,happiness
    ben,frown-1,frames/ben/frown-1,,,,anger

``path`` is a folder of pictures or a video file, relative to the table's folder. Onset, apex and offset are the
numbers in the pictures' names, or are counted from 0 in a video file; a blank onset means the first frame, a blank
offset the last. The columns dataset, fps and action_units are optional. Titles are compared by their letters ("Clip"
and "clip_name" mean "clip"). The separator is a comma, semicolon or tab; the text is UTF-8, with or without a byte
order mark. An Excel workbook with such a table is read as well, from whichever worksheet has it.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mol.common.errors import DataError
from mol.common.storage import refuse_pipe
from mol.data.interval import check_order
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.sets.cells import SEPARATORS, csv_problem, is_no_value, shortened, table_text, usable
from mol.data.sets.collector import ClipCollector
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import film_extent
from mol.data.sets.sheets import SheetRow, read_sheet
from mol.vision.video import PICTURE_SUFFIXES

# Wanted name → accepted titles, reduced to letters and digits in lower case.
COLUMNS = {
    "subject": ("subject", "subjectid", "person", "participant"),
    "clip": ("clip", "clipname", "filename", "name"),
    "path": ("path", "folder", "file", "videopath", "frames"),
    "onset": ("onset", "onsetframe"),
    "apex": ("apex", "apexframe"),
    "offset": ("offset", "offsetframe"),
    "label": ("label", "emotion", "class", "estimatedemotion"),
    "dataset": ("dataset", "set"),
    "fps": ("fps", "framerate"),
    "action_units": ("actionunits", "aus", "au"),
}
OPTIONAL = frozenset({"onset", "apex", "offset", "dataset", "fps", "action_units"})
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
_BOOKS = (".xlsx", ".xlsm")
_SEPARATOR_LINE = re.compile(r"sep=.?\s*$", re.IGNORECASE | re.MULTILINE)  # that Excel writes or reads


def load_generic(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read a table of clips.

    Args:
        root: the table, or a folder with exactly one ``.csv``.
        on_error: ``"skip"`` drops a line that cannot be used and lists it.

    Returns:
        Clips whose paths are relative to the table's folder.

    Raises:
        DataError: the table cannot be read, lacks a column, or has a wrong line; the message gives the line's number.
    """
    table = find_table(root)
    collector = ClipCollector(on_error)
    for row, surplus in _rows(table):
        with collector.row(row.source, f"{row.shown('subject')}/{row.shown('clip')}"):
            if surplus:
                raise DataError(
                    f"the line has {surplus} cells more than the header; quote any cell that contains the separator."
                )
            collector.add(_clip(row, table, collector))
    return collector.loaded(table)


SET = DataSet(name="generic", title="Your own clips", load=load_generic)


def find_table(root: Path) -> Path:
    """The table that a root means.

    Raises:
        DataError: it does not exist or is not a table, or the folder has no table or several.
    """
    if root.is_file() and root.suffix.lower() in (*_TABLE_SUFFIXES, *_BOOKS):
        return root
    if not root.is_dir():
        what = "is not a table (.csv or .xlsx)" if root.is_file() else "does not exist"
        raise DataError(f"{root} {what}; give a table with one line per clip, or its folder.")
    visible = sorted(path for path in root.iterdir() if not path.name.startswith((".", "~$")))
    tables = [path for path in visible if path.suffix.lower() == ".csv"]
    if not tables and len(books := [path for path in visible if path.suffix.lower() in _BOOKS]) == 1:
        return books[0]
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise DataError(f"{root} has {len(tables)} CSV files ({names}), expected one; give the file itself as root.")
    return tables[0]


def _clip(row: SheetRow, table: Path, collector: ClipCollector) -> Clip:
    for name in ("subject", "clip", "path", "label"):
        if not row.text(name) or (name == "label" and is_no_value(row.text(name))):
            raise DataError(f"the column {row.titles[name]!r} is blank; fill it in or remove the line.")
    for name in ("dataset", "subject", "clip"):
        if re.search(r"[/\\]", row.text(name)):
            raise DataError(f"the {name} {row.text(name)!r} contains a slash; choose another, as names become folders.")
    path = _resolve(table.parent, row.text("path"))
    onset, apex, offset, fps = _interval(row, path, collector)
    return Clip(
        dataset=row.text("dataset") or table.stem,
        subject=row.identifier("subject"),
        clip=row.text("clip"),
        path=_relative(path, table.parent),
        onset=onset,
        apex=apex,
        offset=offset,
        emotion=row.text("label").lower(),
        action_units=row.text("action_units"),
        fps=_fps(row) or fps,
        source=row.source,
    )


def _interval(row: SheetRow, path: Path, collector: ClipCollector) -> tuple[int, int | None, int, float]:
    """Onset, apex and offset, checked against the frames, and a video file's frame rate (0 for a folder)."""
    numbers = {name: row.whole(name) for name in ("onset", "apex", "offset")}
    if numbers["onset"] is not None and numbers["offset"] is not None:
        check_order(numbers["onset"], numbers["apex"], numbers["offset"])
    fps = 0.0
    if path.is_dir():
        frames: Mapping[int, Path] | range = numbered_frames(path)
    else:
        extent = film_extent(path)
        for note in extent.notes:
            collector.warning(f"{path}: {note}.")
        frames, fps = range(extent.frames), extent.fps
    onset = min(frames) if numbers["onset"] is None else numbers["onset"]
    offset = max(frames) if numbers["offset"] is None else numbers["offset"]
    return *collector.check_interval(onset, numbers["apex"], offset, frames, path), fps


def _fps(row: SheetRow) -> float:
    text = row.text("fps")
    try:
        fps = float(text.replace(",", ".")) if text and not is_no_value(text) else 0.0
    except ValueError:
        fps = -1.0
    if not 0 <= fps < math.inf:
        raise DataError(f"column {row.titles['fps']!r} holds {text!r}, expected frames per second; correct it.")
    return fps


def _resolve(folder: Path, text: str) -> Path:
    """A path from the table on this system; tables written on Windows have backslashes."""
    for path in (folder / text, folder / text.replace("\\", "/")):
        if path.is_dir():
            return path
        if path.is_file():
            if path.suffix.lower() in PICTURE_SUFFIXES:
                raise DataError(f"{path} is a single picture; give its folder, or a video file.")
            return path
        refuse_pipe(path)
    raise DataError(
        f"{folder / text} does not exist; paths are relative to the table's folder. Correct it or copy the clip there."
    )


def _relative(path: Path, folder: Path) -> str:
    """With ``/``; absolute if it is outside the table's folder."""
    # Not resolve(): a link in the table's folder is a clip, wherever it points.
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.as_posix()


def _rows(table: Path) -> Iterator[tuple[SheetRow, int]]:
    """The lines below the header, each with the number of filled cells that it has beyond the header's.

    Line numbers are right even after a quoted cell of several lines.
    """
    if table.suffix.lower() in _BOOKS:
        yield from ((row, 0) for row in read_sheet(table, COLUMNS, required=set(COLUMNS) - OPTIONAL))
        return
    text = table_text(table)
    lines = (line for line in text.splitlines() if not _SEPARATOR_LINE.match(line))
    header_line = next(lines, "")
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=max(SEPARATORS, key=header_line.count), strict=True)
    try:
        header = next(reader, [])
        if header and _SEPARATOR_LINE.match(text):
            header = next(reader, [])
        positions = _positions(table, header)
        titles = {name: header[position].strip() for name, position in positions.items()}
        line = reader.line_num + 1
        for cells in reader:
            source, line = f"{table.name} line {line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            values = {name: usable(cells[position]) for name, position in positions.items() if position < len(cells)}
            row = SheetRow(source, values, titles)
            yield row, sum(bool(cell.strip()) for cell in cells[len(header) :])
    except csv.Error as error:
        raise DataError(f"{table} line {reader.line_num} cannot be read as a table: {csv_problem(error)}") from error


def _positions(table: Path, header: list[str]) -> dict[str, int]:
    plain = [re.sub(r"[\W_]", "", title.lower()) for title in header]
    if not any(plain):
        raise DataError(f"{table} is empty; its first line must be subject,clip,path,onset,apex,offset,label.")
    found: dict[str, int] = {}
    for name, titles in COLUMNS.items():
        places = [plain.index(title) for title in titles if title in plain]
        if places:
            found[name] = places[0]
    if missing := [name for name in COLUMNS if name not in found and name not in OPTIONAL]:
        raise DataError(_no_column(table, header, plain, found, missing))
    return found


def _no_column(table: Path, header: list[str], plain: list[str], found: Mapping[str, int], missing: list[str]) -> str:
    free = {plain[i]: shortened(header[i].strip()) for i in range(len(header)) if plain[i] and i not in found.values()}
    hints, there = "", [shortened(title.strip()) for title in header[:30]] + ["…"] * (len(header) > 30)
    for name in missing:
        near = [close for title in COLUMNS[name] for close in difflib.get_close_matches(title, free, n=1)]
        hints += f" {free[near[0]]!r} looks like {name}." if near else ""
    return (
        f"{table} line 1 lacks the columns {', '.join(missing)}; it has {', '.join(there)}."
        f"{hints} Required are {', '.join(name for name in COLUMNS if name not in OPTIONAL)}."
    )
