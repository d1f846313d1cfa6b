"""Tables of expressions: rows for the page, and expressions.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.storage import csv_table, write_text
from mol.scoring.expression import Expression

COLUMNS = (
    "person",
    "onset_frame",
    "apex_frame",
    "offset_frame",
    "onset_seconds",
    "apex_seconds",
    "offset_seconds",
    "duration_seconds",
    "kind",
    "emotion",
    "confidence",
)
"""Frames are counted from 0; a time is that of the frame's beginning; the duration reaches to the end of the offset."""


def expression_rows(
    people: Sequence[tuple[str, Sequence[Expression]]], seconds: np.ndarray, duration: float
) -> list[tuple[Any, ...]]:
    """Rows of a table with the columns `COLUMNS`.

    Args:
        people: names and expressions.
        seconds: (L,) times of the frames of the film.
        duration: of the film, seconds.
    """
    times = np.append(seconds, duration)
    return [
        (
            name,
            *(one.onset, one.apex, one.offset),
            *(round(float(times[frame]), 4) for frame in (one.onset, one.apex, one.offset)),
            round(float(times[one.offset + 1] - times[one.onset]), 4),
            one.kind,
            one.emotion or "",
            round(float(one.confidence), 4),
        )
        for name, expressions in people
        for one in sorted(expressions, key=lambda one: (one.onset, one.offset))
    ]


def expressions_csv(people: Sequence[tuple[str, Sequence[Expression]]], seconds: np.ndarray, duration: float) -> str:
    """The text of expressions.csv; see `expression_rows`."""
    return csv_table(COLUMNS, expression_rows(people, seconds, duration))


def write_expressions_csv(
    path: Path, people: Sequence[tuple[str, Sequence[Expression]]], seconds: np.ndarray, duration: float
) -> None:
    """Write expressions.csv.

    Raises:
        StorageError: the file could not be written.
    """
    write_text(path, expressions_csv(people, seconds, duration))
