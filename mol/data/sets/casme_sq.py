"""CAS(ME)²: micro-expressions cut from long videos at 30 frames per second.

``code_final.xlsx`` (also ``CAS(ME)^2code_final.xlsx``) has no header; its columns are subject, video, onset, apex,
offset, action units, emotion, type and self-report. Subject 1 is ``s15`` by the second worksheet and the video
``anger1_1`` is ``0401`` by the third; its pictures are ``rawpic/s15/15_0401girlcrashing/img001.jpg``. A video holds
several expressions, so a clip is named by its video and its onset: ``anger1_557``.

The emotion is the sheet's seventh column (positive, negative, surprise, others). Known gaps: an offset of 0 is missing,
and the clip then ends at its apex, as the spotting challenges take it, since the last frame of the folder lies minutes
later; an apex of 0 is missing as well. Macro-expressions are counted, not loaded.

Qu et al., "CAS(ME)²: A Database for Spontaneous Macro-Expression and Micro-Expression Spotting and Recognition",
IEEE Transactions on Affective Computing 9 (4), 2018.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mol.common.errors import DataError
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.sets.collector import (
    ClipCollector,
    check_interval,
    missing_frames,
    named_emotion,
    relative_path,
    required,
)
from mol.data.sets.folders import find_folders, find_sheet, folders_by_name, subfolders
from mol.data.sets.sheets import SheetRow, as_text, read_cells

FPS = 30.0
PICTURES = ("rawpic", "longVideoFaceCropped")
_COLUMNS = ("subject", "video", "onset", "apex", "offset", "au", "emotion", "type", "selfReport")
_EMOTIONS = ("positive", "negative", "surprise", "others", "anger", "disgust", "fear", "happiness", "sadness")
_SPELLINGS = {**{emotion: emotion for emotion in _EMOTIONS}, "other": "others"}


def load_casme_sq(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read the micro-expressions of CAS(ME)².

    Args:
        root: folder with ``code_final.xlsx`` and ``rawpic``, or the face-cropped ``longVideoFaceCropped``.
        on_error: ``"skip"`` drops a row that cannot be used and lists it.
    Raises:
        DataError: a worksheet, folder or row is not as expected.
    """
    sheet = find_sheet(root, ("*code_final*.xlsx",), "annotation sheet of CAS(ME)²")
    subjects, codes = _subject_names(sheet), _video_codes(sheet)
    pictures = find_folders(root, PICTURES)
    if not pictures:
        raise DataError(f"no folder {' or '.join(PICTURES)} under {root}; unpack the pictures of CAS(ME)² there.")
    collector, macro = ClipCollector(on_error), 0
    frames_of = cache(numbered_frames)
    for row in _rows(sheet):
        with collector.row(row.source, row.text("video")):
            if _is_macro(row):
                macro += 1
                continue
            subject = _look_up(subjects, row.text("subject"), "subject", "second")
            folder = _video_folder(pictures[0], subject, _look_up(codes, _video(row), "video", "third"))
            collector.add(_clip(row, subject, folder, frames_of(folder), root, collector))
    if macro:
        what = f"{macro} macro-expressions were left out; only micro-expressions are clips."
        collector.note("warning", sheet.name, what)
    return collector.loaded(sheet)


def _clip(
    row: SheetRow, subject: str, folder: Path, frames: Mapping[int, Path], root: Path, collector: ClipCollector
) -> Clip:
    onset = required(row.whole("onset"), "onset")
    apex, offset = row.whole("apex") or None, row.whole("offset") or None
    if offset is None:
        if apex is None:
            raise DataError("offset and apex are both missing (0); enter one of them or remove the row.")
        offset = apex
        collector.repaired(f"the offset is missing (0); the clip ends at its apex {apex}.")
    elif apex is None:
        collector.repaired("the apex is missing (0); it was left out.")
    if missing := check_interval(onset, apex, offset, frames, folder):
        collector.warning(missing_frames(missing, folder))
    return Clip(
        dataset="casme-sq",
        subject=subject,
        clip=f"{_video(row)}_{onset}",
        path=relative_path(folder, root),
        onset=onset,
        apex=apex,
        offset=offset,
        emotion=named_emotion(row.text("emotion"), _SPELLINGS),
        action_units=row.text("au"),
        fps=FPS,
        source=row.source,
    )


def _rows(sheet: Path) -> list[SheetRow]:
    cells = read_cells(sheet, 0)
    rows = []
    for line, values in enumerate(cells.rows, 1):
        filled = [value for value in values[: len(_COLUMNS)] if value is not None]
        if not filled or as_text(values[0]).lower() == "subject":
            continue
        source = f"{cells.source} row {line}"
        if len(values) < len(_COLUMNS) - 1 or len(filled) < 5:
            raise DataError(
                f"{source} has {len(filled)} cells, expected {', '.join(_COLUMNS)}; "
                "is it the first worksheet of CAS(ME)²'s code_final.xlsx?"
            )
        rows.append(SheetRow(source, dict(zip(_COLUMNS, values, strict=False))))
    return rows


def _is_macro(row: SheetRow) -> bool:
    kind = row.text("type").lower()
    if kind.startswith("micro"):
        return False
    if kind.startswith("macro"):
        return True
    raise DataError(
        f"the type {row.text('type')!r} is neither micro-expression nor macro-expression; correct the cell."
    )


def _video(row: SheetRow) -> str:
    """``"anger1"`` of ``"anger1_2"``: the second number counts the expressions of the video."""
    return row.text("video").split("_")[0]


def _subject_names(sheet: Path) -> dict[str, str]:
    """Number of a subject → its folder, by the second worksheet."""
    rows = _naming_rule(sheet, 1, "the numbers of the subjects to their folders")
    names = {as_text(row[2]): as_text(row[1]).lower() for row in rows if len(row) > 2 and as_text(row[2]).isdigit()}
    if not names:
        raise DataError(f"the second worksheet of {sheet} gives no subject (folder in column B, number in column C).")
    return names


def _video_codes(sheet: Path) -> dict[str, str]:
    """Name of a video → the four digits in the name of its folder, by the third worksheet."""
    rows = _naming_rule(sheet, 2, "the names of the videos to the codes of their folders")
    codes = {
        as_text(row[1]): as_text(row[0]).zfill(4)
        for row in rows
        if len(row) > 1 and as_text(row[0]).isdigit() and row[1]
    }
    if not codes:
        raise DataError(f"the third worksheet of {sheet} gives no video (code in column A, name in column B).")
    return codes


def _naming_rule(sheet: Path, position: int, what: str) -> list[list[object]]:
    try:
        return read_cells(sheet, position).rows
    except DataError as error:
        raise DataError(
            f"{error} The worksheets 2 and 3 of code_final.xlsx are needed, this one maps {what}; copy the file again."
        ) from error


def _look_up(names: Mapping[str, str], name: str, what: str, worksheet: str) -> str:
    if name not in names:
        raise DataError(
            f"the {what} {name!r} is not in the {worksheet} worksheet, which has {', '.join(names)}; correct the cell."
        )
    return names[name]


def _video_folder(pictures: Path, subject: str, code: str) -> Path:
    people = folders_by_name(pictures)
    if subject not in people:
        raise DataError(f"the folder {pictures / subject} does not exist; unpack the pictures of {subject} there.")
    folders = subfolders(people[subject])
    found = [folder for folder in folders if re.search(rf"(?<!\d){code}(?!\d)", folder.name)]
    if len(found) != 1:
        there = ", ".join(folder.name for folder in folders) or "no folder"
        raise DataError(
            f"{len(found)} folders of {people[subject]} have the video's code {code} in their name, expected one; "
            f"there is {there}."
        )
    return found[0]
