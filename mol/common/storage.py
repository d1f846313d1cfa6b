"""Files that are either complete or absent: write under a temporary name beside the target, sync, rename."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mol.common.errors import StorageError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary)` and move the result over `path`; on any failure `path` stays as it was.

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
