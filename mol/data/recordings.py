"""Long recordings and every expression annotated in them: what spotting is scored on.

A manifest of a data set with long videos holds them beside its clips, in ``recordings.csv``: one row per expression,
and one row without an interval for a recording in which there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mol.common.storage import csv_table, read_csv
from mol.common.typed import FrameNumber, Name, NotNegative, typed

FILE = "recordings.csv"
Kind = Literal["micro", "macro", "blink"]
_COLUMNS = ("dataset", "subject", "video", "path", "fps", "kind", "onset", "apex", "offset", "emotion")


@dataclass(frozen=True)
class Annotated:
    """One annotated expression.

    Attributes:
        onset, apex, offset: frame numbers as annotated, the offset inclusive; apex None if the set gives none.
        kind: "micro", "macro" or "blink".
        emotion: empty if the set gives none.
    """

    onset: FrameNumber
    apex: FrameNumber | None
    offset: FrameNumber
    kind: Kind = "micro"
    emotion: str = ""


@dataclass(frozen=True)
class Recording:
    """A long video of one person.

    Attributes:
        dataset, subject: as in `mol.data.manifest.Clip`.
        video: unique within its subject.
        path: folder of frames or video file, relative to the root of the manifest, with ``/``.
        fps: frames per second; 0 if only the file says.
        expressions: in the order of their onsets.
    """

    dataset: str
    subject: str
    video: str
    path: str
    fps: float
    expressions: tuple[Annotated, ...]


def recordings_text(recordings: Iterable[Recording]) -> str:
    """Content of ``recordings.csv``."""
    return csv_table(_COLUMNS, (row for recording in recordings for row in _rows(recording)))


def _rows(recording: Recording) -> list[list[object]]:
    head = [recording.dataset, recording.subject, recording.video, recording.path, recording.fps]
    if not recording.expressions:
        return [[*head, "", "", "", "", ""]]
    return [
        [*head, one.kind, one.onset, "" if one.apex is None else one.apex, one.offset, one.emotion]
        for one in recording.expressions
    ]


@dataclass(frozen=True)
class _Head:
    """What every row says of its recording."""

    dataset: Name
    subject: Name
    video: Name
    path: Name
    fps: NotNegative


def read_recordings(path: Path, remedy: str) -> list[Recording]:
    """Read ``recordings.csv``.

    Raises:
        DataError: it cannot be read, or a row is not as `recordings_text` writes it.
    """
    found: dict[_Head, list[Annotated]] = {}
    for line, row in read_csv(path, _COLUMNS, remedy):
        where = f"{path} line {line}"
        head = typed({name: row[name] for name in _COLUMNS[:5]}, _Head, where, remedy, texts=True)
        expressions = found.setdefault(head, [])
        if row["kind"]:
            content = {name: row[name] for name in _COLUMNS[5:]}
            content = {**content, "apex": content["apex"] or None}
            expressions.append(typed(content, Annotated, where, remedy, texts=True))
    return [
        Recording(head.dataset, head.subject, head.video, head.path, head.fps, in_order(expressions))
        for head, expressions in found.items()
    ]


def in_order(expressions: Sequence[Annotated]) -> tuple[Annotated, ...]:
    """By their onsets."""
    return tuple(sorted(expressions, key=lambda one: (one.onset, one.offset)))
