"""Annotated expressions of one video, from a table or from a data set's manifest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mol.common.errors import DataError
from mol.common.storage import read_csv
from mol.data.recordings import Annotated, Recording
from mol.scoring.expression import BLINK, KINDS, MACRO, MICRO, Expression
from mol.spotting.spot import longest_micro

_REMEDY = "correct the table, or give that of this video"


def read_truth(
    path: Path, video: Path, numbers: Sequence[int], fps: float, classes: Collection[str] = ()
) -> list[Expression]:
    """Read a table of expressions: columns onset and offset, and if known apex, kind, emotion, video or path.

    Frames are counted from 0 in a video file; of a folder of pictures they are the numbers in their names. A blank kind
    is told by the length. Rows without onset and offset are passed over.

    Args:
        path: the CSV file.
        video: what it is of.
        numbers: of the video's frames, ascending.
        fps: frames per second.
        classes: emotions that the network knows; an emotion that is none of them is an error. Any if empty.
    Raises:
        DataError: a column or a number is missing, an interval is out of order or outside the video, or the table is of
            another video.
    """
    found = []
    for line, row in read_csv(path, ("onset", "offset"), _REMEDY):
        where = f"{path}, line {line}"
        _require_this_video(row, video, where)
        if not row["onset"].strip() and not row["offset"].strip():
            continue
        found.append(_expression(row, numbers, fps, classes, where))
    return sorted(found, key=lambda one: (one.onset, one.offset))


def expressions_of(recording: Recording, numbers: Sequence[int]) -> list[Expression]:
    """The annotated expressions of a recording with frames counted from 0.

    Args:
        recording: of a manifest.
        numbers: of its frames, ascending.
    Raises:
        DataError: an interval lies outside the video.
    """
    where = f"{recording.dataset}/{recording.subject}/{recording.video}"
    return [_placed(one, numbers, where) for one in recording.expressions]


def _require_this_video(row: Mapping[str, str], video: Path, where: str) -> None:
    """The name in a row, if it has any, must be that of the video."""
    path, name = row.get("path", "").strip(), row.get("video", "").strip()
    if path:
        # As written on any system.
        own = PurePosixPath(path.replace("\\", "/")).name
        right = own == video.name
    else:
        own, right = name, name in ("", video.name, video.stem)
    if not right:
        raise DataError(f"{where} is of the video {own}, and this one is {video.name}; {_REMEDY}.")


def _expression(
    row: Mapping[str, str], numbers: Sequence[int], fps: float, classes: Collection[str], where: str
) -> Expression:
    onset, apex, offset = (_number(row, column, where) for column in ("onset", "apex", "offset"))
    if onset is None or offset is None:
        raise DataError(f"{where} has no {'onset' if onset is None else 'offset'}; {_REMEDY}.")
    if onset > offset or (apex is not None and not onset <= apex <= offset):
        shown = f"onset {onset}, apex {'–' if apex is None else apex}, offset {offset}"
        raise DataError(f"{where} is out of order ({shown}); {_REMEDY}.")
    kind = row.get("kind", "").strip().lower()
    if not kind:
        kind = MICRO if offset - onset + 1 <= longest_micro(fps) else MACRO
    if kind not in KINDS:
        raise DataError(f"{where}: the kind {row['kind']!r} is not one of {', '.join(KINDS)}; {_REMEDY}.")
    emotion = row.get("emotion", "").strip().lower()
    if emotion and kind != BLINK and classes and emotion not in classes:
        raise DataError(
            f"{where}: the emotion {emotion!r} is not one of the network's, {', '.join(classes)}; leave the cell blank "
            "to score its interval alone."
        )
    annotated = Annotated(onset, apex, offset, kind, emotion)  # type: ignore[arg-type]
    return _placed(annotated, numbers, where)


def _number(row: Mapping[str, str], column: str, where: str) -> int | None:
    text = row.get(column, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: the {column} {text!r} is not a frame number; {_REMEDY}.") from None


def _placed(one: Annotated, numbers: Sequence[int], where: str) -> Expression:
    """With frames counted from 0; a frame that a folder lacks is the nearest one inside the interval."""
    first, last = numbers[0], numbers[-1]
    if one.onset < first or one.offset > last:
        raise DataError(
            f"{where}: the interval {one.onset}–{one.offset} lies outside the video, whose frames are {first} to "
            f"{last}; {_REMEDY}."
        )
    onset = int(np.searchsorted(numbers, one.onset))
    offset = int(np.searchsorted(numbers, one.offset, side="right")) - 1
    apex = (onset + offset) // 2 if one.apex is None else int(np.searchsorted(numbers, one.apex))
    offset = max(offset, onset)
    return Expression(onset, min(max(apex, onset), offset), offset, one.kind, one.emotion or None)
