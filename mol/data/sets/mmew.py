"""MMEW, the micro-expressions: 300 clips at 90 frames per second.

The sheet has CASME II's columns. The person is the first part of the clip's name. A public loader lists sixteen rows
whose apex and offset it estimates from the pictures; which of their numbers are wrong is not confirmed.
"""

from __future__ import annotations

import re
from pathlib import Path

from mol.common.errors import DataError
from mol.data.manifest import Clip, Loaded, Note, OnError, numbered_frames
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, find_folders, find_sheet, subfolders
from mol.data.sets.sheets import SheetRow, read_sheet

_COLUMNS = {
    "subject": ["Subject"],
    "clip": ["Filename"],
    "onset": ["OnsetFrame", "Onset"],
    "apex": ["ApexFrame", "Apex"],
    "offset": ["OffsetFrame", "Offset"],
    "au": ["Action Units", "AU", "AUs"],
    "emotion": ["Estimated Emotion", "Emotion"],
}
_EMOTIONS = spellings(
    *("happiness", "anger", "surprise", "disgust", "fear", "sadness", "others"), other="others", repression="others"
)
_REPORTED_ROWS = frozenset({35, *range(37, 45), 144, 145, 147, 148, 150, 156, 158})


def load_mmew(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read the micro-expressions of MMEW.

    Args:
        root: folder with the sheet and ``Micro_Expression``.
        on_error: ``"skip"`` drops a row that cannot be used and lists it.

    Raises:
        DataError: the sheet, a folder or a row is missing or not as expected.
    """
    sheet = find_sheet(root, SET.sheets, "annotation sheet of MMEW")
    rows = read_sheet(sheet, _COLUMNS, required=set(_COLUMNS) - {"au", "subject"})
    folders = _clip_folders(root)
    collector = ClipCollector(on_error)
    people: dict[str, str] = {}
    for row in rows:
        with collector.row(row.source, row.shown("clip")):
            name = row.text("clip")
            subject = _person(name)
            if (number := row.identifier("subject")) != people.setdefault(subject, number):
                raise DataError(
                    f"{subject} is {people[subject]!r} elsewhere in the sheet, but {number!r} here; correct the cell."
                )
            if name.lower() not in folders:
                raise DataError(f"no folder Micro_Expression/…/{name} under {root}; unpack the clip's pictures there.")
            collector.add(_clip(row, subject, folders[name.lower()], root, collector))
    loaded = collector.loaded(sheet)
    if repressed := sum(Path(clip.path).parent.name.lower() == "repression" for clip in loaded.clips):
        what = f"{repressed} clips are in a folder repression; their emotion is others, as in the publication."
        loaded.notes.append(Note("warning", sheet.name, what))
    return loaded


SET = DataSet(
    name="mmew",
    title="MMEW",
    load=load_mmew,
    citation=(
        'Ben et al., "Video-Based Facial Micro-Expression Analysis: A Survey of Datasets, Features and Algorithms", '
        "IEEE TPAMI 44 (9), 2022"
    ),
    access="the authors (Shandong University, dpailab.com) with the signed licence agreement",
    url="https://github.com/benxianyeteam/MMEW-Dataset",
    tree="""
MMEW/
  MMEW_Micro_Exp.xlsx
  Micro_Expression/
    anger/S13-07-001/1.jpg
""",
    quirks=(
        (
            'some clips with emotion "others" are in a folder `repression`',
            "their emotion is `others`, as in the sheet; *warning*",
        ),
        (
            "apex or offset blank, `/` or 0",
            "the clip has no apex, or ends at the last frame in its folder; *repaired*",
        ),
        (
            "sixteen rows are reported to have a wrong apex and offset (?)",
            "if such a row is impossible, the clip has no apex and ends at the last frame in its folder; *repaired*",
        ),
        ("folder and sheet give different emotions", "an error"),
    ),
    remarks="The publication states 300 clips. No counts are checked.",
    fps=90.0,
    sheets=("*MMEW_Micro_Exp*.xlsx", "*MMEW_Micro_Exp*.csv"),
    subject="S13",
    subject_pattern=r"S\d{2}",
    stated_clips=300,
)


def _clip(row: SheetRow, subject: str, folder: Path, root: Path, collector: ClipCollector) -> Clip:
    frames = numbered_frames(folder)
    onset = required(row.whole("onset"), "OnsetFrame")
    apex, offset = _apex_and_offset(row, onset, max(frames), collector)
    emotion = named_emotion(row.text("emotion"), _EMOTIONS)
    if named_emotion(folder.parent.name, _EMOTIONS) != emotion:
        raise DataError(f"the sheet says {emotion}, but the clip is in {folder.parent}; correct one of them.")
    onset, apex, offset = collector.check_interval(onset, apex, offset, frames, folder)
    return Clip(
        dataset=SET.name,
        subject=subject,
        clip=row.text("clip"),
        path=relative_path(folder, root),
        onset=onset,
        apex=apex,
        offset=offset,
        emotion=emotion,
        action_units=row.text("au"),
        fps=SET.fps,
        source=row.source,
    )


def _apex_and_offset(row: SheetRow, onset: int, last: int, collector: ClipCollector) -> tuple[int | None, int]:
    """Apex and offset after the known repairs."""
    apex, offset = (None if row.text(name) in ("", "/", "0") else row.whole(name) for name in ("apex", "offset"))
    if apex is None:
        collector.repaired("the apex is missing; the clip has no apex.")
    if offset is None:
        offset = last
        collector.repaired(f"the offset is missing; the clip ends at the last frame in its folder, {last}.")
    possible = onset <= offset <= last and (apex is None or onset <= apex <= offset)
    if not possible and row.number in _REPORTED_ROWS:
        collector.repaired(
            f"the row is impossible (apex {apex}, offset {offset}, last frame {last}) and among those reported wrong; "
            f"the clip has no apex and ends at frame {last}."
        )
        apex, offset = None, last
    return apex, offset


def _person(clip: str) -> str:
    match = re.fullmatch(r"s(\d+)-\d+-\d+", clip, re.IGNORECASE)
    if match is None:
        raise DataError(f"the file name {clip!r} is not a name such as S13-07-001; correct the cell.")
    return f"S{int(match[1]):02d}"


def _clip_folders(root: Path) -> dict[str, Path]:
    """Folders of clips by lower-case name, whatever emotion's folder they are in."""
    bases = find_folders(root, ("Micro_Expression",))
    if not bases:
        raise SetNotFoundError(f"no folder Micro_Expression under {root}; unpack MMEW there.")
    found: dict[str, Path] = {}
    for folder in (clip for emotion in subfolders(bases[0]) for clip in subfolders(emotion)):
        if (first := found.setdefault(folder.name.lower(), folder)) is not folder:
            raise DataError(f"the clip {folder.name} is both in {first.parent} and in {folder.parent}; remove one.")
    return found
