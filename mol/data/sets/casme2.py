"""CASME II (Yan et al. 2014): 255 clips of 26 people at 200 frames per second, with onset, apex and offset.

    CASME2-coding-20140508.xlsx or CASME2-coding-20190701.xlsx
    CASME2_RAW_selected/sub01/EP02_01f/img46.jpg      640 × 480, true frame numbers without padding
    CASME2-RAW/sub01/EP02_01f/img1.jpg                the same recordings, longer
    Cropped/sub01/EP02_01f/reg_img46.jpg              faces, registered and cropped

What is known to be wrong in it, and what is done (public loaders report these; each gives a note):

- ApexFrame can be ``/``: the clip gets no apex.
- One OffsetFrame is wrong. Public loaders put it in the sheet's row 62 (the 61st clip) and correct it to 91. In that
  row, or in the only row of a complete sheet whose offset lies before its onset or apex, an impossible offset becomes
  the clip's last frame; in any other row it is an error.
- sub16/EP01_08 lacks its last frames in Cropped: the offset becomes the last frame that is there.
- sub09/EP02_02f and sub24/EP02_07 are reported without a label: rows without an emotion are dropped for these two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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
from mol.data.sets.folders import (
    clip_folder,
    find_folders,
    find_sheet,
    other_sets,
    require_folder,
    subject_folders,
    unlisted_folders,
)
from mol.data.sets.sheets import SheetRow, read_sheet

FPS = 200.0
CLIPS = 255
SHEETS = ("CASME2-coding-*.xlsx", "CASME2-coding-*.csv", "*CASME2-coding*.xlsx", "*CASME2-coding*.csv")
COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("OnsetFrame",),
    "apex": ("ApexFrame",),
    "offset": ("OffsetFrame",),
    "action_units": ("Action Units",),
    "emotion": ("Estimated Emotion",),
}
FOLDERS = {"raw": ("CASME2_RAW_selected", "CASME2-RAW", "CASME2_RAW"), "cropped": ("Cropped",)}
EMOTIONS = {
    **{name: name for name in ("happiness", "disgust", "repression", "surprise", "sadness", "fear", "others")},
    "other": "others",
}
UNLABELLED = frozenset({"sub09/EP02_02f", "sub24/EP02_07"})
SHORT_IN_CROPPED = "sub16/EP01_08"
# Position of the row among the clips → the offset that it should have.
WRONG_OFFSETS: dict[int, int | None] = {60: 91}


def load_casme2(root: Path, on_error: OnError = "raise", frames: Literal["raw", "cropped"] | None = None) -> Loaded:
    """Read CASME II as it was distributed.

    Args:
        root: folder that holds the coding sheet and the folders of frames.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
        frames: which pictures; None takes what is there, the raw ones first.
    Raises:
        DataError: a sheet or folder is missing or not as expected, beyond what is known (see the module).
    Source:
        Yan et al., "CASME II: An Improved Spontaneous Micro-Expression Database and the Baseline Evaluation", 2014.
    """
    require_folder(root)
    sheet = find_sheet(root, SHEETS, "coding sheet of CASME II", own="casme2")
    rows = read_sheet(sheet, COLUMNS)
    subjects = _subject_folders(root, frames)
    wrong_offsets = _wrong_offsets(rows)
    found = ClipCollector(on_error)
    for other in sorted(set(sheet.parent.glob("CASME2-coding-*.[xc]*")) - {sheet}):
        found.note("warning", str(other), f"the coding sheet is left out; {sheet.name} is the one that was read.")
    for position, row in enumerate(rows):
        with found.row(row.source, _name(row)) as where:
            if not row.text("emotion") and _name(row) in UNLABELLED:
                found.note("dropped", where, "the sheet gives no emotion for this clip, which is known.")
                continue
            emotion = named_emotion(row.text("emotion"), EMOTIONS)
            folder = clip_folder(subjects, *_name(row).split("/", 1))
            is_wrong, true_offset = position in wrong_offsets, wrong_offsets.get(position)
            onset, apex, offset = _interval(found, row, folder, is_wrong, true_offset)
            found.add(_clip(row, relative_path(folder, root), onset, apex, offset, emotion))
    for name, folder in unlisted_folders(subjects, {_name(row) for row in rows}).items():
        unlabelled = " It is known to have no label." if name in UNLABELLED else ""
        found.note("warning", str(folder), f"the sheet has no row for this folder; it is left out.{unlabelled}")
    return found.loaded(sheet)


def _clip(row: SheetRow, path: str, onset: int, apex: int | None, offset: int, emotion: str) -> Clip:
    subject, clip = _name(row).split("/", 1)
    action_units = row.text("action_units")
    return Clip("casme2", subject, clip, path, onset, apex, offset, emotion, action_units, FPS, row.source)


def _name(row: SheetRow) -> str:
    """``sub01/EP02_01f``; the subject as it stands where it is no number."""
    subject = re.sub(r"^sub", "", row.text("subject"), flags=re.IGNORECASE)
    return f"sub{int(subject):02d}/{row.text('clip')}" if subject.isdigit() else f"{subject}/{row.text('clip')}"


def _interval(
    found: ClipCollector, row: SheetRow, folder: Path, offset_is_wrong: bool, true_offset: int | None
) -> tuple[int, int | None, int]:
    """Onset, apex and offset of a row after the known repairs, checked against the frames of its folder."""
    numbers = numbered_frames(folder)
    last = max(numbers)
    onset = required(row.whole("onset"), "OnsetFrame")
    apex = _apex(found, row)
    offset = required(row.whole("offset"), "OffsetFrame")
    earliest = max(onset, apex or onset)
    if _name(row) == SHORT_IN_CROPPED and folder.parent.parent.name.lower() == "cropped" and offset > last:
        found.repaired(f"offset {offset} became {last}: Cropped lacks its last frames, which is known.")
        offset = last
    elif offset_is_wrong and not earliest <= offset <= last:
        right = true_offset if true_offset is not None and earliest <= true_offset <= last else last
        found.repaired(f"offset {offset} became {right}: the sheet's one offset that is known as wrong.")
        offset = right
    if missing := check_interval(onset, apex, offset, numbers, folder):
        found.warning(missing_frames(missing, folder))
    return onset, apex, offset


def _apex(found: ClipCollector, row: SheetRow) -> int | None:
    if row.text("apex") not in ("/", ""):
        return row.whole("apex")
    found.repaired(f"ApexFrame is {row.text('apex') or 'blank'!r}; the clip has no apex.")
    return None


def _wrong_offsets(rows: Sequence[SheetRow]) -> dict[int, int | None]:
    """Position of the row whose offset is known to be wrong, and the offset that it should have where that is known."""
    backwards = [position for position, row in enumerate(rows) if _runs_backwards(row)]
    alone = len(rows) >= CLIPS and len(backwards) == 1
    return {**({backwards[0]: None} if alone else {}), **WRONG_OFFSETS}


def _runs_backwards(row: SheetRow) -> bool:
    numbers = [int(row.text(name)) for name in ("onset", "apex") if row.text(name).isdigit()]
    return bool(numbers) and row.text("offset").isdigit() and int(row.text("offset")) < max(numbers)


def _subject_folders(root: Path, frames: Literal["raw", "cropped"] | None) -> dict[str, Path]:
    names = [name for kind, names in FOLDERS.items() if frames in (None, kind) for name in names]
    if subjects := subject_folders([*find_folders(root, names), root], r"sub\d+"):
        return subjects
    raise DataError(
        f"no frames of CASME II under {root}: a folder {' or '.join(names)} with sub01, sub02, … is needed."
        f"{other_sets(root, own='casme2')}"
    )
