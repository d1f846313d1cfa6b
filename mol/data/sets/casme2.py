"""CASME II: 255 clips of 26 people at 200 frames per second, with onset, apex and offset.

The quirks below are reported by public loaders; each gives a note. Public loaders put the one wrong OffsetFrame in the
sheet's row 62 (the 61st clip) and correct it to 91. In that row, or in the only row of a complete sheet whose offset is
before its onset or apex, an impossible offset becomes the clip's last frame; in any other row it is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import (
    SetNotFoundError,
    clip_folder,
    find_folders,
    find_sheet,
    require_folder,
    subject_folders,
    unlisted_folders,
)
from mol.data.sets.sheets import SheetRow, read_sheet

_COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("OnsetFrame",),
    "apex": ("ApexFrame",),
    "offset": ("OffsetFrame",),
    "action_units": ("Action Units",),
    "emotion": ("Estimated Emotion",),
}
_FOLDERS = {"raw": ("CASME2_RAW_selected", "CASME2-RAW", "CASME2_RAW"), "cropped": ("Cropped",)}
_EMOTIONS = spellings(*("happiness", "disgust", "repression", "surprise", "sadness", "fear", "others"), other="others")
_UNLABELLED = frozenset({"sub09/EP02_02f", "sub24/EP02_07"})
_SHORT_IN_CROPPED = "sub16/EP01_08"
# Position of the row among the clips → the offset that it should have.
_WRONG_OFFSETS: dict[int, int | None] = {60: 91}


def load_casme2(root: Path, on_error: OnError = "raise", frames: Literal["raw", "cropped"] | None = None) -> Loaded:
    """Read CASME II as it was distributed.

    Args:
        root: folder with the coding sheet and the folders of frames.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
        frames: which frames to use; None for the raw ones if present, else the cropped ones.

    Raises:
        DataError: a sheet or folder is missing or not as expected, beyond the known quirks.
    """
    require_folder(root)
    sheet = find_sheet(root, SET.sheets, "coding sheet of CASME II")
    rows = read_sheet(sheet, _COLUMNS)
    subjects = _subject_folders(root, frames)
    wrong_offsets = _wrong_offsets(rows)
    found = ClipCollector(on_error)
    for other in sorted(set(sheet.parent.glob("CASME2-coding-*.[xc]*")) - {sheet}):
        found.note("warning", str(other), f"this coding sheet is ignored; {sheet.name} was read.")
    for position, row in enumerate(rows):
        with found.row(row.source, _name(row)) as where:
            row.text("subject"), row.text("clip")  # raise for what Excel made of a name
            if not row.text("emotion") and _name(row) in _UNLABELLED:
                found.note("dropped", where, "the sheet has no emotion for this clip (known).")
                continue
            emotion = named_emotion(row.text("emotion"), _EMOTIONS)
            folder = clip_folder(subjects, *_name(row).split("/", 1))
            is_wrong, true_offset = position in wrong_offsets, wrong_offsets.get(position)
            onset, apex, offset = _interval(found, row, folder, is_wrong, true_offset)
            found.add(_clip(row, relative_path(folder, root), onset, apex, offset, emotion))
    for name, folder in unlisted_folders(subjects, {_name(row) for row in rows}).items():
        unlabelled = " It is known to have no label." if name in _UNLABELLED else ""
        found.note("warning", str(folder), f"the folder is ignored: it is not in the sheet.{unlabelled}")
    return found.loaded(sheet)


SET = DataSet(
    name="casme2",
    title="CASME II",
    load=load_casme2,
    citation=(
        'Yan et al., "CASME II: An Improved Spontaneous Micro-Expression Database and the Baseline Evaluation", '
        "PLoS ONE 9 (1), 2014"
    ),
    access=(
        "the Institute of Psychology, Chinese Academy of Sciences, with the signed licence agreement (the authors' "
        "page says who may sign it and where to send it)"
    ),
    url="http://casme.psych.ac.cn/casme/e2",
    tree="""
CASME2/
  CASME2-coding-20140508.xlsx            or CASME2-coding-20190701.xlsx
  CASME2_RAW_selected/                   or CASME2-RAW/ (the same recordings, longer), or Cropped/ below
    sub01/EP02_01f/img46.jpg             true frame numbers, no padding; 640 × 480
  Cropped/
    sub01/EP02_01f/reg_img46.jpg         registered and cropped faces; any prefix before the number (?)
""",
    quirks=(
        ("the archives unpack to `CASME2_RAW_selected/CASME2_RAW_selected/sub01`", "the inner folder is used"),
        ("ApexFrame is `/`", "the clip has no apex; *repaired*"),
        (
            "one OffsetFrame is wrong",
            "in its row an impossible offset is corrected, or becomes the clip's last frame; *repaired*. In another "
            "row it is an error",
        ),
        ("sub16/EP01_08 lacks its last frames in `Cropped`", "the offset becomes the last frame there; *repaired*"),
        (
            "sub09/EP02_02f and sub24/EP02_07 are reported to have no label",
            "*dropped* if your sheet has no emotion for them",
        ),
        (
            "sub04/EP12_01f, sub05/EP12_03f and sub24/EP02_07 are not among the 145 clips of MEGC 2019",
            "kept in the manifest; the protocol excludes them",
        ),
    ),
    remarks="If both archives are present, the raw frames are used; `--frames cropped` selects the others.",
    fps=200.0,
    sheets=("CASME2-coding-*.xlsx", "CASME2-coding-*.csv", "*CASME2-coding*.xlsx", "*CASME2-coding*.csv"),
    telltales=("CASME2_RAW_selected", "CASME2-RAW"),
    subject="sub01",
    subject_pattern=r"sub\d{2}",
    people=tuple(f"sub{number:02d}" for number in range(1, 27)),
    counts={
        "others": 99,
        "disgust": 63,
        "happiness": 32,
        "repression": 27,
        "surprise": 25,
        "sadness": 7,
        "fear": 2,
    },
)


def _clip(row: SheetRow, path: str, onset: int, apex: int | None, offset: int, emotion: str) -> Clip:
    subject, clip = _name(row).split("/", 1)
    action_units = row.text("action_units")
    return Clip(SET.name, subject, clip, path, onset, apex, offset, emotion, action_units, SET.fps, row.source)


def _name(row: SheetRow) -> str:
    """``sub01/EP02_01f``; a subject that is not a number is left as it is."""
    subject = re.sub(r"^sub", "", row.shown("subject").removesuffix(".0"), flags=re.IGNORECASE)
    clip = row.shown("clip")
    return f"sub{int(subject):02d}/{clip}" if re.fullmatch(r"[0-9]{1,6}", subject) else f"{subject}/{clip}"


def _interval(
    found: ClipCollector, row: SheetRow, folder: Path, offset_is_wrong: bool, true_offset: int | None
) -> tuple[int, int | None, int]:
    """Onset, apex and offset of a row after the known repairs, checked against the frames in its folder."""
    numbers = numbered_frames(folder)
    last = max(numbers)
    onset = required(row.whole("onset"), "OnsetFrame")
    apex = _apex(found, row)
    offset = required(row.whole("offset"), "OffsetFrame")
    earliest = max(onset, apex or onset)
    if _name(row) == _SHORT_IN_CROPPED and folder.parent.parent.name.lower() == "cropped" and offset > last:
        found.repaired(f"offset {offset} changed to {last}: Cropped lacks the last frames (known).")
        offset = last
    elif offset_is_wrong and not earliest <= offset <= last:
        right = true_offset if true_offset is not None and earliest <= true_offset <= last else last
        found.repaired(f"offset {offset} changed to {right}: it is the sheet's one wrong offset (known).")
        offset = right
    return found.check_interval(onset, apex, offset, numbers, folder)


def _apex(found: ClipCollector, row: SheetRow) -> int | None:
    if row.text("apex") not in ("/", ""):
        return row.whole("apex")
    found.repaired(f"ApexFrame is {row.text('apex') or 'blank'!r}; the clip has no apex.")
    return None


def _wrong_offsets(rows: Sequence[SheetRow]) -> dict[int, int | None]:
    """Position of the row with the wrong offset → its true offset, or None where that is not known."""
    backwards = [position for position, row in enumerate(rows) if _runs_backwards(row)]
    alone = len(rows) >= SET.clips and len(backwards) == 1
    return {**({backwards[0]: None} if alone else {}), **_WRONG_OFFSETS}


def _runs_backwards(row: SheetRow) -> bool:
    numbers = {name: row.whole_or_none(name) for name in ("onset", "apex", "offset")}
    onset, apex, offset = numbers.values()
    return offset is not None and offset < max(onset or 0, apex or 0)


def _subject_folders(root: Path, frames: Literal["raw", "cropped"] | None) -> dict[str, Path]:
    names = [name for kind, names in _FOLDERS.items() if frames in (None, kind) for name in names]
    if subjects := subject_folders([*find_folders(root, names), root], r"sub\d+"):
        return subjects
    raise SetNotFoundError(
        f"no frames of CASME II under {root}: expected a folder {' or '.join(names)} with sub01, sub02, …."
    )
