"""Files written completely or not at all, and read with errors that name the file, the row and the remedy.

A file is written under a temporary name beside its target, synced and renamed.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from mol.common.errors import DataError, MOLError, StorageError
from mol.common.names import path_part


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary)` and move the result over `path`; on any failure `path` is unchanged.

    Args:
        path: the file to create or replace. Its folder is created if it is missing.
        write: writes the whole file to the path that it receives (same folder, same suffix).
    Raises:
        StorageError: the file could not be written; nothing was overwritten and no temporary file is left.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name of the file may be as long as the file system allows.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path_part(path.stem)[:40]}-", suffix=_suffix(path))
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        usual_mode(temporary)
        os.replace(temporary, path)
    except OSError as error:
        # What is written may come from a film that cannot be read.
        if isinstance(error, MOLError) and not isinstance(error, StorageError):
            raise
        raise StorageError(
            f"could not write {path}: {error.strerror or error}; what was there before is untouched. "
            "Free some space or choose another folder, then run the same command again."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    """The suffix, which tells some writers what to write; none of what is too long for one."""
    return path.suffix if len(path.suffix) <= 10 else ""


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 text atomically.

    A name of a file that is not UTF-8 has its bytes as escapes, ``\udcff``, which JSON reads as the name again.
    """

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

    write_atomic(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (two spaces, UTF-8, a final newline) atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def usual_mode(path: Path) -> None:
    """Give a temporary file, which is private, the usual mode of a new file."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


# What makes a spreadsheet take a cell for a formula, also in its wide forms; and what marks that it is none.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?%?|[+-]?(inf|nan)|.?", re.IGNORECASE)
_TEXT = "'"


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that looks like one gets a leading apostrophe.

    Numbers stay as they are, negative ones too. `csv_text` is the inverse.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _TEXT + value if _FORMULA.match(value) or csv_text(value) != value else value


def csv_text(cell: str) -> str:
    """The text of a cell that `csv_cell` wrote."""
    shielded = cell.startswith(_TEXT) and (cell[1:].startswith(_TEXT) or _FORMULA.match(cell[1:]))
    return cell[1:] if shielded else cell


def csv_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV; text that a spreadsheet would run as a formula is marked as text."""
    text = io.StringIO()
    _write_rows(text, header, rows)
    return text.getvalue()


def _write_rows(file: TextIO, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    usual, quoting = (csv.writer(file, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in itertools.chain([header], rows):
        cells = [csv_cell(value) for value in row]
        # Python before 3.13 does not quote a carriage return, and reads it as the end of the row.
        returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoting if returns else usual).writerow(cells)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as `csv_table` gives it, atomically and row by row."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            _write_rows(file, header, rows)

    write_atomic(path, write)


def refuse_pipe(path: Path, error: type[MOLError] = DataError) -> None:
    """Check that reading a path ends: a pipe may wait for ever, and a device may have no end.

    Args:
        path: what is about to be read. A missing file and a folder pass: whoever reads them has better messages.
        error: the kind of error.
    Raises:
        MOLError: of that kind, if the path is a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise error(f"{path} is {kind}; give an ordinary file.")


def read_csv(
    path: Path, columns: Sequence[str], remedy: str, error: type[MOLError] = DataError
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, each with its line number; the inverse of `write_csv`.

    Spaces around column names are ignored.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        columns: required columns; others are allowed.
        remedy: the end of every message: what to do about a file that cannot be used.
        error: the kind of error.
    Raises:
        MOLError: of that kind, if the file is missing or unreadable, lacks a column, or has an incomplete row.
    """
    refuse_pipe(path, error)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = [csv_text(name.strip()) for name in reader.fieldnames or ()]
            reader.fieldnames = names
            if missing := [name for name in columns if name not in names]:
                raise error(f"{path} lacks the column {missing[0]}; {remedy}")
            for row in reader:
                if None in row or None in row.values():
                    much = "many" if None in row else "few"
                    raise error(f"{path}, line {reader.line_num} has too {much} values; {remedy}")
                yield reader.line_num, {name: csv_text(cell) for name, cell in row.items()}
    except MOLError:
        raise
    except FileNotFoundError as missing_file:
        raise error(f"{path} is missing; {remedy}") from missing_file
    except (OSError, UnicodeDecodeError, csv.Error) as damage:
        raise error(f"{path} cannot be read ({damage}); {remedy}") from damage
