"""Files written completely or not at all, and read with errors that name the file, the row and the remedy.

A file is written under a temporary name beside its target, synced and renamed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mol.common.errors import DataError, MOLError, StorageError


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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        usual_mode(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"could not write {path}: {error.strerror or error}; what was there before is untouched. "
            "Free some space or choose another folder, then run the same command again."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (two spaces, UTF-8, a final newline) atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def usual_mode(path: Path) -> None:
    """Give a temporary file, which is private, the usual mode of a new file."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table as CSV, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(
    path: Path, columns: Sequence[str], remedy: str, error: type[MOLError] = DataError
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, each with its line number; spaces around column names are ignored.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        columns: required columns; others are allowed.
        remedy: the end of every message: what to do about a file that cannot be used.
        error: the kind of error.
    Raises:
        MOLError: of that kind, if the file is missing or unreadable, lacks a column, or has an incomplete row.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            if missing := [name for name in columns if name not in names]:
                raise error(f"{path} lacks the column {missing[0]}; {remedy}")
            for row in reader:
                if None in row or None in row.values():
                    much = "many" if None in row else "few"
                    raise error(f"{path}, line {reader.line_num} has too {much} values; {remedy}")
                yield reader.line_num, row
    except MOLError:
        raise
    except FileNotFoundError as missing_file:
        raise error(f"{path} is missing; {remedy}") from missing_file
    except (OSError, UnicodeDecodeError, csv.Error) as damage:
        raise error(f"{path} cannot be read ({damage}); {remedy}") from damage
