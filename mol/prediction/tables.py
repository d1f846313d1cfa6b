"""The table of frames: for every frame of a video where the face is, what moves in it, and what the network says.

Columns that OpenFace has too mean the same: face_id, timestamp, success and the landmarks x_0 … y_67 (Baltrušaitis et
al., "OpenFace 2.0", FG 2018). Frames are counted from 0 as everywhere in `mol`; OpenFace counts from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.extras import require
from mol.common.storage import write_atomic, write_csv
from mol.prediction.regions import REGIONS
from mol.prediction.result import Prediction
from mol.prediction.tape import pairs_shown
from mol.vision.points import POINTS

_ROWS = 4096
FOUND, INTERPOLATED = "found", "interpolated"


def require_table(format: str) -> None:
    """Check that tables of a format can be written here.

    Raises:
        MissingExtraError: a package is missing.
    """
    if format == "parquet":
        require("pyarrow.parquet", extra="tables")


def frame_columns(classes: list[str]) -> list[str]:
    """The names of all columns."""
    return [
        *("frame", "face_id", "timestamp", "success", "landmarks"),
        *(f"{axis}_{point}" for axis in "xy" for point in range(POINTS)),
        *(f"flow_{region}_{axis}" for region in REGIONS for axis in "xy"),
        *(f"p_{name}" for name in classes),
    ]


def write_frames(path: Path, prediction: Prediction, format: str) -> None:
    """Write a row for every frame of the video, a few thousand at a time.

    Args:
        path: of the table.
        prediction: of one person.
        format: "csv" or "parquet".
    Raises:
        StorageError: the file could not be written.
        MissingExtraError: "parquet" without the extra "tables".
    """
    if format == "csv":
        rows = (row for block in frame_blocks(prediction) for row in _cells(block))
        write_csv(path, frame_columns(prediction.classes), rows)
    else:
        write_atomic(path, lambda temporary: _write_parquet(temporary, prediction))


def frame_blocks(prediction: Prediction) -> Iterator[list[np.ndarray]]:
    """The columns for some thousand frames after the other; NaN where a number is not known."""
    seconds = prediction.video.seconds
    pairs = pairs_shown(prediction.trace.frames, prediction.nearest)
    for start in range(0, len(seconds), _ROWS):
        numbers = np.arange(start, min(start + _ROWS, len(seconds)))
        points, known = _points_at(prediction, numbers, seconds)
        window = prediction.nearest[numbers]
        unread = window < 0
        flow = prediction.trace.flow[window, pairs[numbers]].copy()
        probabilities = prediction.calibrated(prediction.trace.probabilities[window])
        flow[unread], probabilities[unread] = np.nan, np.nan
        yield [
            numbers,
            np.full(len(numbers), (prediction.person.number or 1) - 1),
            seconds[numbers],
            (known != "").astype(int),
            known,
            *points.transpose(2, 1, 0).reshape(2 * POINTS, -1),
            *flow.transpose(1, 2, 0).reshape(2 * len(REGIONS), -1),
            *probabilities.T,
        ]


def _points_at(prediction: Prediction, numbers: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The detector's landmarks (n, 68, 2) at some frames, and whether they were found there or interpolated.

    Frames that no window uses lie between two that are used; where these differ in face, or have none, nor do they.
    """
    person = prediction.person
    after = np.searchsorted(person.frames, numbers).clip(0, len(person.frames) - 1)
    exact = person.frames[after] == numbers
    before = np.where(exact, after, (after - 1).clip(0))
    start, end = seconds[person.frames[before]], seconds[person.frames[after]]
    weight = np.where(end > start, (seconds[numbers] - start) / np.maximum(end - start, 1e-9), 0).clip(0, 1)
    weight = weight.astype(np.float32)[:, None, None]
    points = person.points[before] * (1 - weight) + person.points[after] * weight
    points[person.identity[before] != person.identity[after]] = np.nan
    there = np.isfinite(points).all(axis=(1, 2))
    found = exact & person.found[after]
    return points, np.where(~there, "", np.where(found, FOUND, INTERPOLATED))


def _cells(block: list[np.ndarray]) -> Iterator[tuple[Any, ...]]:
    """The rows of some columns; numbers short, and empty where they are not known."""
    digits = [None, None, 4, None, None, *[2] * (2 * POINTS), *[4] * (len(block) - 5 - 2 * POINTS)]
    columns = [
        column.tolist()
        if places is None
        else ["" if value != value else round(value, places) for value in column.astype(float).tolist()]
        for column, places in zip(block, digits, strict=True)
    ]
    return zip(*columns, strict=True)


def _write_parquet(path: Path, prediction: Prediction) -> None:
    arrow, parquet = require("pyarrow", extra="tables"), require("pyarrow.parquet", extra="tables")
    names = frame_columns(prediction.classes)
    floats = [(name, arrow.float32()) for name in names[5:]]
    schema = arrow.schema(
        [
            ("frame", arrow.int64()),
            ("face_id", arrow.int64()),
            ("timestamp", arrow.float64()),
            ("success", arrow.int64()),
            ("landmarks", arrow.string()),
            *floats,
        ]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for block in frame_blocks(prediction):
            columns = [
                arrow.array(column, type=kind.type, from_pandas=True)
                for column, kind in zip(block, schema, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
