"""MMEW, the micro-expressions: 300 clips at 90 frames per second.

``MMEW_Micro_Exp.xlsx`` has CASME II's columns (Subject, Filename, OnsetFrame, ApexFrame, OffsetFrame, Action Units,
Estimated Emotion); the pictures are ``Micro_Expression/anger/S13-07-001/1.jpg``, one folder a clip. The person is the
first part of the clip's name.

Known quirks: "others" of the sheet also stands in a folder "repression"; a missing apex (blank, ``/`` or 0) is left out
and a missing offset becomes the last frame of the folder. Sixteen rows are reported to have a wrong apex and offset
(a public loader estimates both from the pictures); where such a row is impossible, its clip ends at the last frame of
its folder and has no apex. Which numbers are wrong is not confirmed.

Ben et al., "Video-Based Facial Micro-Expression Analysis: A Survey of Datasets, Features and Algorithms", IEEE
Transactions on Pattern Analysis and Machine Intelligence 44 (9), 2022.
"""

from __future__ import annotations

import re
from pathlib import Path

from mol.common.errors import DataError
from mol.data.manifest import Clip, Loaded, Note, OnError, numbered_frames
from mol.data.sets.collector import (
    ClipCollector,
    check_interval,
    missing_frames,
    named_emotion,
    relative_path,
    required,
)
from mol.data.sets.folders import find_folders, find_sheet, subfolders
from mol.data.sets.sheets import SheetRow, read_sheet

FPS = 90.0
_COLUMNS = {
    "subject": ["Subject"],
    "clip": ["Filename"],
    "onset": ["OnsetFrame", "Onset"],
    "apex": ["ApexFrame", "Apex"],
    "offset": ["OffsetFrame", "Offset"],
    "au": ["Action Units", "AU", "AUs"],
    "emotion": ["Estimated Emotion", "Emotion"],
}
_EMOTIONS = ("happiness", "anger", "surprise", "disgust", "fear", "sadness", "others")
_SPELLINGS = {**{emotion: emotion for emotion in _EMOTIONS}, "other": "others", "repression": "others"}
_REPORTED_ROWS = frozenset({35, *range(37, 45), 144, 145, 147, 148, 150, 156, 158})


def load_mmew(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read the micro-expressions of MMEW.

    Args:
        root: folder with the sheet and ``Micro_Expression``.
        on_error: ``"skip"`` drops a row that cannot be used and lists it.
    Raises:
        DataError: the sheet, a folder or a row is not as expected.
    """
    sheet = find_sheet(root, ("*MMEW_Micro_Exp*.xlsx", "*MMEW_Micro_Exp*.csv"), "annotation sheet of MMEW")
    rows = read_sheet(sheet, _COLUMNS, required=set(_COLUMNS) - {"au", "subject"})
    folders = _clip_folders(root)
    collector = ClipCollector(on_error)
    people: dict[str, str] = {}
    for row in rows:
        name = row.text("clip")
        with collector.row(row.source, name):
            subject = _person(name)
            if (number := row.text("subject")) != people.setdefault(subject, number):
                raise DataError(f"the sheet calls {subject} {people[subject]!r} and here {number!r}; correct the cell.")
            if name.lower() not in folders:
                raise DataError(f"no folder Micro_Expression/…/{name} under {root}; unpack the clip's pictures there.")
            collector.add(_clip(row, subject, folders[name.lower()], root, collector))
    loaded = collector.loaded(sheet)
    if repressed := sum(Path(clip.path).parent.name.lower() == "repression" for clip in loaded.clips):
        what = f"{repressed} clips lie in a folder repression; they are others, as the publication calls them."
        loaded.notes.append(Note("warning", sheet.name, what))
    return loaded


def _clip(row: SheetRow, subject: str, folder: Path, root: Path, collector: ClipCollector) -> Clip:
    frames = numbered_frames(folder)
    onset = required(row.whole("onset"), "OnsetFrame")
    apex, offset = _apex_and_offset(row, onset, max(frames), collector)
    emotion = named_emotion(row.text("emotion"), _SPELLINGS)
    if named_emotion(folder.parent.name, _SPELLINGS) != emotion:
        raise DataError(f"the sheet says {emotion} and the clip lies in {folder.parent}; correct one of them.")
    if missing := check_interval(onset, apex, offset, frames, folder):
        collector.warning(missing_frames(missing, folder))
    return Clip(
        dataset="mmew",
        subject=subject,
        clip=row.text("clip"),
        path=relative_path(folder, root),
        onset=onset,
        apex=apex,
        offset=offset,
        emotion=emotion,
        action_units=row.text("au"),
        fps=FPS,
        source=row.source,
    )


def _apex_and_offset(row: SheetRow, onset: int, last: int, collector: ClipCollector) -> tuple[int | None, int]:
    """Apex and offset with the known gaps closed."""
    apex, offset = (None if row.text(name) in ("", "/", "0") else row.whole(name) for name in ("apex", "offset"))
    if apex is None:
        collector.repaired("the apex is missing; it was left out.")
    if offset is None:
        offset = last
        collector.repaired(f"the offset is missing; the clip ends at the last frame of its folder, {last}.")
    possible = onset <= offset <= last and (apex is None or onset <= apex <= offset)
    if not possible and row.number in _REPORTED_ROWS:
        collector.repaired(
            f"the row is one of those reported wrong and impossible (apex {apex}, offset {offset}, last frame {last}); "
            f"the apex was left out and the clip ends at frame {last}."
        )
        apex, offset = None, last
    return apex, offset


def _person(clip: str) -> str:
    match = re.fullmatch(r"s(\d+)-\d+-\d+", clip, re.IGNORECASE)
    if match is None:
        raise DataError(f"the file name {clip!r} is not of the kind S13-07-001; correct the cell.")
    return f"S{int(match[1]):02d}"


def _clip_folders(root: Path) -> dict[str, Path]:
    """Folders of clips by their names in lower case, whatever emotion they stand under."""
    bases = find_folders(root, ("Micro_Expression",))
    if not bases:
        raise DataError(f"no folder Micro_Expression under {root}; unpack the pictures of MMEW there.")
    found: dict[str, Path] = {}
    for folder in (clip for emotion in subfolders(bases[0]) for clip in subfolders(emotion)):
        if (first := found.setdefault(folder.name.lower(), folder)) is not folder:
            raise DataError(f"the clip {folder.name} lies in {first.parent} and in {folder.parent}; remove one.")
    return found
