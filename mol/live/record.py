"""What was seen and read, written while it happens: only if it was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import SettingsError, StorageError
from mol.common.extras import require
from mol.common.storage import csv_table
from mol.live.engine import Reading
from mol.prediction.regions import REGIONS, flow_by_region
from mol.prediction.tables import FOUND, frame_columns
from mol.prediction.windows import Window
from mol.vision.align import transform_points
from mol.vision.points import POINTS

TABLE = "frames.csv"
MORE_COLUMNS = ("window_seconds", "latency_ms")
"""Columns that the table has besides those of `mol predict`: how long the window lasts, 0 for none, and the time from
the frame's arrival to its reading."""


class Recorder:
    """Appends a row for each frame that was read, and the frame itself to a film without loss.

    The table is that of `mol predict`; a frame's probabilities and flow are those of the window that ends with it. Rows
    are on the disk as soon as they are known, and the film can be read however it ends.

    Args:
        folder: a new one, or an empty one.
        classes: names.
        film: whether to write the frames too.
    Raises:
        SettingsError: the folder has something in it.
        StorageError: it cannot be written to.
        MissingExtraError: PyAV is not installed, and a film is wanted.
    """

    def __init__(self, folder: Path, classes: Sequence[str], film: bool) -> None:
        self.folder = folder
        self._count, self._start = 0, 0.0
        self._films = _Films(folder) if film else None
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise SettingsError(f"{folder} is not empty; give --record a new folder, so that nothing is lost")
            self._file = open(folder / TABLE, "x", encoding="utf-8", newline="")  # noqa: SIM115 - closed in `close`
            self._write([*frame_columns(list(classes)), *MORE_COLUMNS])
        self._classes = len(classes)

    def add(self, reading: Reading, now: float) -> None:
        """Record a frame.

        Args:
            reading: of it.
            now: by `time.monotonic`.
        Raises:
            StorageError: the disk is full.
        """
        frame = reading.frame
        if not self._count:
            self._start = frame.arrived
        seconds = frame.arrived - self._start
        cells = [
            *(self._count, 0, round(seconds, 4), int(reading.points is not None)),
            FOUND if reading.points is not None else "",
            *_cells(None if reading.points is None else reading.points.T.ravel(), 2 * POINTS, 2),
            *_cells(None if reading.window is None else _flow(reading.window), 2 * len(REGIONS), 4),
            *_cells(reading.probabilities, self._classes, 4),
            *(round(reading.lasts, 4), round(1000 * (now - frame.arrived), 1)),
        ]
        with self._named():
            self._write(cells)
            if self._films is not None:
                self._films.add(frame.picture, seconds)
        self._count += 1

    def close(self) -> None:
        """Finish the files.

        Raises:
            StorageError: the disk is full.
        """
        with self._named():
            if self._films is not None:
                self._films.close()
            self._file.close()

    def _write(self, cells: Sequence[Any]) -> None:
        self._file.write(csv_table(cells, ()))
        self._file.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"could not record to {self.folder}: {error.strerror or error}. What was recorded before is there; "
                "free some space or choose another folder."
            ) from error


class _Films:
    """Frames in films without loss: FFV1 in Matroska, a new file when their size changes."""

    def __init__(self, folder: Path) -> None:
        self._av = require("av", extra="data")
        self._folder = folder
        self._count, self._last = 0, -1
        self._shape: tuple[int, ...] = ()
        self._container: Any = None
        self._stream: Any = None

    def add(self, picture: np.ndarray, seconds: float) -> None:
        if picture.shape != self._shape:
            self.close()
            self._open(picture.shape)
        self._last = max(self._last + 1, round(1000 * seconds))
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
        frame.pts, frame.time_base = self._last, Fraction(1, 1000)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None

    def _open(self, shape: tuple[int, ...]) -> None:
        self._count += 1
        self._shape = shape
        name = "film.mkv" if self._count == 1 else f"film-{self._count}.mkv"
        # An absolute path: FFmpeg takes a relative one with a colon for an address.
        self._container = self._av.open(os.path.abspath(self._folder / name), "w", format="matroska")
        self._stream = self._container.add_stream("ffv1", rate=Fraction(1000))
        self._stream.height, self._stream.width = shape
        self._stream.pix_fmt = "gray"
        self._stream.codec_context.time_base = Fraction(1, 1000)


def _flow(window: Window) -> np.ndarray | None:
    """Mean flow in the regions from the last frame but one to the newest: (R · 2,), in pixels of the square."""
    if window.flow is None:
        return None
    points = transform_points(window.matrix, window.detected[-2:-1])
    found: np.ndarray = flow_by_region(window.flow[-1:], points).ravel()
    return found


def _cells(values: np.ndarray | None, count: int, digits: int) -> list[Any]:
    """Numbers short, and empty where they are not known."""
    if values is None:
        return [""] * count
    return ["" if value != value else round(value, digits) for value in values.astype(float).tolist()]
