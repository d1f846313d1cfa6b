"""What spotting leaves: a table of expressions, everything in JSON, and the lines on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.extras import require
from mol.common.storage import write_csv
from mol.scoring.expression import MACRO, MICRO, Expression
from mol.scoring.spotting import OVERALL

COLUMNS = (
    *("onset", "apex", "offset", "onset_seconds", "apex_seconds", "offset_seconds"),
    *("kind", "emotion", "confidence"),
)
"""Of expressions.csv; such a table can be the truth of another run."""


def expression_rows(expressions: Iterable[Expression], numbers: Sequence[int], seconds: np.ndarray) -> list[list[Any]]:
    """Rows of expressions.csv.

    Args:
        expressions: with frames counted from 0.
        numbers: of the frames, as the table is to name them.
        seconds: of the frames.
    """
    return [
        [
            *(numbers[frame] for frame in (one.onset, one.apex, one.offset)),
            *(f"{seconds[frame]:.4f}" for frame in (one.onset, one.apex, one.offset)),
            one.kind,
            one.emotion or "",
            f"{one.confidence:.4f}",
        ]
        for one in expressions
    ]


def write_expressions(
    path: Path, expressions: Iterable[Expression], numbers: Sequence[int], seconds: np.ndarray
) -> None:
    """Write expressions.csv."""
    write_csv(path, COLUMNS, expression_rows(expressions, numbers, seconds))


def expression_table(expressions: Sequence[Expression], numbers: Sequence[int], seconds: np.ndarray) -> Any:
    """The expressions as a `rich.table.Table`."""
    table = require("rich.table", "train").Table()
    for name in ("kind", "emotion", "onset", "apex", "offset", "at", "lasts", "confidence"):
        table.add_column(name, justify="left" if name in ("kind", "emotion") else "right")
    for one in expressions:
        frames = (str(numbers[frame]) for frame in (one.onset, one.apex, one.offset))
        lasts = float(seconds[one.offset] - seconds[one.onset])
        table.add_row(
            *(one.kind, one.emotion or "–", *frames),
            *(f"{seconds[one.onset]:.2f} s", f"{lasts:.2f} s", f"{one.confidence:.2f}"),
        )
    return table


def score_table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Any:
    """Scores as a `rich.table.Table`: a row for each way of spotting and kind.

    Args:
        rows: way → what `SpottingScores.describe` gives.
    """
    table = require("rich.table", "train").Table()
    titles = ("by", "kind", "true", "found", "hits", "prec.", "recall", "F1", "UF1", "STRS")
    for name in titles:
        table.add_column(name, justify="left" if name in titles[:2] else "right")
    for way, scores in rows.items():
        for kind in (MICRO, MACRO, OVERALL):
            own = scores[kind]
            counts = (str(own[name]) for name in ("annotated", "found", "hits"))
            shares = (f"{own[name]:.3f}" for name in ("precision", "recall", "f1"))
            both = (f"{own[name]:.3f}" if own["recognised_hits"] else "–" for name in ("uf1", "strs"))
            table.add_row(way, "both" if kind == OVERALL else kind, *counts, *shares, *both)
    return table
