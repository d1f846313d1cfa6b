"""SAMM (Davison et al. 2016): 159 clips of people at 200 frames per second, grey, with onset, apex and offset.

    SAMM_Micro_FACS_Codes_v2.xlsx             13 lines of notes, the header in row 14; or saved again, in row 1
    SAMM/006/006_1_2/006_05562.jpg            true frame numbers, zero padding not the same in every clip

What is known to be wrong in it, and what is done (public loaders report these; each gives a note):

- The apex of 028_4_1 and 032_3_1 lies outside onset to offset: the clip gets no apex. One public loader lists the
  134th clip of the sheet too (unconfirmed); there, an apex outside is treated the same.
- The offset of the 57th clip of the sheet is corrected to 5739 by one public loader (unconfirmed); where the annotated
  one is impossible and frame 5739 is there, it is taken.
- "Other" and "Others" are both in use: ``others``.
"""

from __future__ import annotations

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
SHEETS = ("SAMM*Micro_FACS_Codes*.xlsx", "SAMM*Micro_FACS_Codes*.csv")
COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("Onset Frame",),
    "apex": ("Apex Frame",),
    "offset": ("Offset Frame",),
    "action_units": ("Action Units",),
    "emotion": ("Estimated Emotion",),
}
FOLDERS = ("SAMM",)
_NAMES = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise", "others")
EMOTIONS = {**{name: name for name in _NAMES}, "other": "others"}
APEX_OUTSIDE = frozenset({"028_4_1", "032_3_1"})
# Positions of rows among the clips, as one public loader lists them.
APEX_OUTSIDE_ROWS = frozenset({133})
WRONG_OFFSETS = {56: 5739}


def load_samm(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read SAMM as it was distributed.

    Args:
        root: folder that holds the sheet of FACS codes and the folder ``SAMM`` (or the subjects' folders themselves).
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
    Raises:
        DataError: a sheet or folder is missing or not as expected, beyond what is known (see the module).
    Source:
        Davison et al., "SAMM: A Spontaneous Micro-Facial Movement Dataset", 2016.
    """
    require_folder(root)
    sheet = find_sheet(root, SHEETS, "sheet of SAMM's FACS codes", own="samm")
    rows = read_sheet(sheet, COLUMNS)
    subjects = _subject_folders(root)
    found = ClipCollector(on_error)
    for position, row in enumerate(rows):
        with found.row(row.source, row.text("clip")):
            emotion = named_emotion(row.text("emotion"), EMOTIONS)
            subject = _subject(row)
            folder = clip_folder(subjects, subject, row.text("clip"))
            onset, apex, offset = _interval(found, row, position, folder)
            clip, path, units = row.text("clip"), relative_path(folder, root), row.text("action_units")
            found.add(Clip("samm", subject, clip, path, onset, apex, offset, emotion, units, FPS, row.source))
    listed = {f"{row.text('subject').zfill(3)}/{row.text('clip')}" for row in rows}
    for folder in unlisted_folders(subjects, listed).values():
        found.note("warning", str(folder), "the sheet has no row for this folder; it is left out.")
    return found.loaded(sheet)


def _interval(found: ClipCollector, row: SheetRow, position: int, folder: Path) -> tuple[int, int | None, int]:
    """Onset, apex and offset of a row after the known repairs, checked against the frames of its folder."""
    numbers = numbered_frames(folder)
    last = max(numbers)
    onset = required(row.whole("onset"), "Onset Frame")
    apex = row.whole("apex")
    offset = required(row.whole("offset"), "Offset Frame")
    right = WRONG_OFFSETS.get(position)
    if right is not None and not onset <= offset <= last and onset <= right <= last:
        found.repaired(f"offset {offset} became {right}: the sheet is reported to be wrong in this row.")
        offset = right
    if apex is None:
        found.warning("the sheet gives no apex; the clip has none.")
    elif not onset <= apex <= offset and (row.text("clip") in APEX_OUTSIDE or position in APEX_OUTSIDE_ROWS):
        found.repaired(f"apex {apex} lies outside {onset}–{offset}, which is known; the clip has no apex.")
        apex = None
    if missing := check_interval(onset, apex, offset, numbers, folder):
        found.warning(missing_frames(missing, folder))
    return onset, apex, offset


def _subject(row: SheetRow) -> str:
    text = row.text("subject")
    if not text.isdigit():
        raise DataError(f"the subject {text!r} is no number such as 006; correct the cell.")
    return f"{int(text):03d}"


def _subject_folders(root: Path) -> dict[str, Path]:
    if subjects := subject_folders([*find_folders(root, FOLDERS), root], r"\d{3}"):
        return subjects
    raise DataError(
        f"no frames of SAMM under {root}: a folder {FOLDERS[0]} with 006, 007, … is needed."
        f"{other_sets(root, own='samm')}"
    )
