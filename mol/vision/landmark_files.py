"""Landmarks found by another detector, read from files: of one video, or of the clips of a data set.

In CSV a point is two columns, ``x_0, y_0, …, x_67, y_67``, in pixels of the picture; empty or NaN where a frame has no
face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from mol.common.errors import MediaError
from mol.common.storage import read_csv, refuse_pipe
from mol.vision.points import POINTS

LandmarkTable = dict[tuple[str, str], dict[int, np.ndarray]]
"""(subject, clip) → frame number → (68, 2) float32, pixels of the picture; NaN where a frame has none."""

Content = TypeVar("Content")

_COLUMNS = [f"{axis}_{point}" for point in range(POINTS) for axis in "xy"]


def read_landmarks(path: Path, length: int) -> np.ndarray:
    """Read the landmarks of one video.

    CSV: one row per frame. NPZ: an array ``landmarks`` (frames, 68, 2).

    Args:
        path: ``.csv`` or ``.npz``.
        length: number of frames of the video, which must be the number of rows.
    Returns:
        (length, 68, 2) float32, NaN where a frame has none.
    Raises:
        MediaError: the file is missing, unreadable or of another layout, or does not fit the video.
    """
    points = _read(path, _csv_of_video, _npz_of_video)
    if points.shape != (length, POINTS, 2):
        raise MediaError(
            f"the landmarks file {path} holds {points.shape}; "
            f"the video needs ({length}, {POINTS}, 2), one row per frame"
        )
    return points


def read_landmark_table(path: Path) -> LandmarkTable:
    """Read the landmarks of the clips of a data set.

    CSV: one row per frame, with the columns ``subject, clip, frame`` besides those of the points. NPZ: for each clip
    an array ``subject/clip`` (n, 68, 2) and its frame numbers ``subject/clip/frames`` (n,). Subjects, clips and frame
    numbers are spelled as in the manifest.

    Raises:
        MediaError: the file is missing, unreadable or of another layout, or has a frame twice.
    """
    return _read(path, _csv_of_clips, _npz_of_clips)


def _read(path: Path, csv: Callable[[Path], Content], npz: Callable[[Path], Content]) -> Content:
    """Call the reader that fits the suffix; whatever it raises becomes a `MediaError` that names the file."""
    readers = {".csv": csv, ".npz": npz}
    if path.suffix.lower() not in readers:
        raise MediaError(f"{path}: landmarks are read from .csv and .npz files.")
    if not path.exists():
        raise MediaError(f"the landmarks file {path} does not exist.")
    refuse_pipe(path, MediaError)
    try:
        return readers[path.suffix.lower()](path)
    except MediaError:
        raise
    except Exception as error:  # NumPy passes on whatever zipfile, zlib and Python's parser raise
        raise MediaError(f"the landmarks file {path} cannot be read: {error}.") from error


def _rows(path: Path, *keys: str) -> Iterator[tuple[int, dict[str, str], np.ndarray]]:
    """Line number, row and points (68, 2) float32 of every row of a CSV file."""
    needed = ", ".join((*keys, "x_0, y_0 … x_67, y_67"))
    for line, row in read_csv(path, [*keys, *_COLUMNS], f"the columns needed are {needed}", MediaError):
        try:
            values = [float(row[name].strip() or "nan") for name in _COLUMNS]
        except ValueError as error:
            raise MediaError(f"{path}, line {line}: {error}; give pixels, or leave the cell empty") from error
        yield line, row, np.array(values, np.float32).reshape(POINTS, 2)


def _csv_of_video(path: Path) -> np.ndarray:
    points = [points for _, _, points in _rows(path)]
    return np.array(points, np.float32).reshape(len(points), POINTS, 2)


def _npz_of_video(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        if "landmarks" not in arrays:
            raise ValueError(f'it has no array "landmarks" (found: {", ".join(arrays.files) or "none"})')
        return arrays["landmarks"].astype(np.float32)


def _csv_of_clips(path: Path) -> LandmarkTable:
    table: LandmarkTable = {}
    for line, row, points in _rows(path, "subject", "clip", "frame"):
        frames = table.setdefault((row["subject"], row["clip"]), {})
        number = int(row["frame"])
        if number in frames:
            raise ValueError(f"line {line} repeats frame {number} of {row['subject']}/{row['clip']}")
        frames[number] = points
    return table


def _npz_of_clips(path: Path) -> LandmarkTable:
    table: LandmarkTable = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            subject, _, clip = name.partition("/")
            if name.endswith("/frames") and clip != "frames":
                continue
            if f"{name}/frames" not in arrays.files:
                raise ValueError(f'it has no array "{name}/frames" with the frame numbers of "{name}"')
            points, numbers = arrays[name].astype(np.float32), arrays[f"{name}/frames"].tolist()
            if points.shape != (len(numbers), POINTS, 2) or len(set(numbers)) < len(numbers):
                raise ValueError(f'"{name}" is {points.shape}; needed: ({len(numbers)}, {POINTS}, 2), each frame once')
            table[subject, clip] = dict(zip(numbers, points, strict=True))
    return table
