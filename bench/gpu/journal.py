"""The folder that returns from the machine: `results.jsonl`, and the steps' output, `log-1.txt`, `log-2.txt`, ...

What cannot be written, because the disk is full, is said on stderr, and the run goes on.
"""

import json
import os
import sys
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"
PART_BYTES = 12 * 2**20  # of a log: what carries the folder back may leave out larger files


class Journal:
    """Appends to the files of a folder; safe to use from several threads.

    Attributes:
        lost: lines of results that could not be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.lost = folder, 0
        self._torn, self._logged, self._log_is_lost = False, 0, False
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def line(self, kind: str, **fields: Any) -> None:
        """Append a line of results: its kind, the time in UTC, and `fields`."""
        about = {"kind": kind, "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds")}
        text = json.dumps(about | fields, default=str)
        with self._lock:
            try:
                # A write that failed may have left half a line.
                _append(self.folder / RESULTS, f"{chr(10) if self._torn else ''}{text}\n".encode())
                self._torn = False
            except OSError as error:
                self._torn, self.lost = True, self.lost + 1
                print(f"{self.folder / RESULTS}: {error}. The line is only here: {text}", file=sys.stderr, flush=True)

    def output(self, content: bytes) -> None:
        """Append what a step has printed."""
        with self._lock:
            path = self.folder / f"log-{1 + self._logged // PART_BYTES}.txt"
            try:
                _append(path, content)
                self._logged += len(content)
            except OSError as error:
                if not self._log_is_lost:
                    print(f"{path}: {error}. The output of the steps is lost from here on", file=sys.stderr, flush=True)
                self._log_is_lost = True


def _append(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


def read_lines(folder: Path) -> tuple[list[Mapping[str, Any]], int]:
    """The lines of a folder's results, and how many were no JSON: those that a full disk or a kill cut off.

    Raises:
        OSError: there are no results to read.
    """
    lines, torn = [], 0
    for text in (folder / RESULTS).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text) if text else None
        except ValueError:
            torn += 1
            continue
        if isinstance(line, dict) and "kind" in line:
            lines.append(line)
    return lines, torn
