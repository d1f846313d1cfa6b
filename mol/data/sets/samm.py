"""SAMM: 159 grey clips at 200 frames per second, with onset, apex and offset.

The quirks below are reported by public loaders; each gives a note. One loader adds two that are not confirmed: it also
lists the 134th clip of the sheet among those with an apex outside the interval, and corrects the offset of the 57th
clip to 5739. Both are applied only if the annotation is impossible as it is (and frame 5739 is there).
"""

from __future__ import annotations

from pathlib import Path

from mol.common.errors import DataError
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

COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("Onset Frame",),
    "apex": ("Apex Frame",),
    "offset": ("Offset Frame",),
    "action_units": ("Action Units",),
    "emotion": ("Estimated Emotion",),
}
_FOLDER = "SAMM"
EMOTIONS = spellings(
    *("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise", "others"), other="others"
)
_APEX_OUTSIDE = frozenset({"028_4_1", "032_3_1"})
# Positions of rows among the clips, as one public loader lists them.
_APEX_OUTSIDE_ROWS = frozenset({133})
_WRONG_OFFSETS = {56: 5739}


def load_samm(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read SAMM as it was distributed.

    Args:
        root: folder with the sheet of FACS codes and the folder ``SAMM`` (or the subjects' folders themselves).
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.

    Raises:
        DataError: a sheet or folder is missing or not as expected, beyond the known quirks.
    """
    require_folder(root)
    sheet = find_sheet(root, SET.sheets, "sheet of SAMM's FACS codes")
    rows = read_sheet(sheet, COLUMNS)
    subjects = _subject_folders(root)
    found = ClipCollector(on_error)
    for position, row in enumerate(rows):
        with found.row(row.source, row.shown("clip")):
            emotion = named_emotion(row.text("emotion"), EMOTIONS)
            subject = _subject(row)
            folder = clip_folder(subjects, subject, row.text("clip"))
            onset, apex, offset = _interval(found, row, position, folder)
            clip, path, units = row.text("clip"), relative_path(folder, root), row.text("action_units")
            found.add(Clip(SET.name, subject, clip, path, onset, apex, offset, emotion, units, SET.fps, row.source))
    listed = {f"{row.shown('subject').zfill(3)}/{row.shown('clip')}" for row in rows}
    for folder in unlisted_folders(subjects, listed).values():
        found.note("warning", str(folder), "the folder is ignored: it is not in the sheet.")
    return found.loaded(sheet)


SET = DataSet(
    name="samm",
    title="SAMM",
    load=load_samm,
    citation=(
        'Davison et al., "SAMM: A Spontaneous Micro-Facial Movement Dataset", IEEE Transactions on Affective Computing '
        "9 (1), 2018"
    ),
    access="Manchester Metropolitan University (Moi Hoon Yap's group) with the signed release agreement",
    url="https://helward.mmu.ac.uk/STAFF/M.Yap/dataset.php",
    tree="""
SAMM-root/
  SAMM_Micro_FACS_Codes_v2.xlsx
  SAMM/
    006/006_1_2/006_05562.jpg            true frame numbers
""",
    quirks=(
        (
            "13 lines of notes above the header; copies saved again with the header in row 1 exist",
            "the header is found by its titles",
        ),
        (
            "zero padding differs within 013_1_12, 013_1_8, 017_3_2, 026_1_1, 026_1_2 and 035_7_2",
            "frames are sorted by number",
        ),
        (
            "the apex of 028_4_1 and 032_3_1 is outside the clip",
            "the clip has no apex; *repaired*. In another clip it is an error",
        ),
        ('"Other" and "Others"', "both become `others`"),
        (
            "pictures are large (2040 × 1088)",
            "`mol extract` looks for the face in a copy 640 pixels wide (`--detect-width`), for landmarks in the "
            "original",
        ),
    ),
    fps=200.0,
    sheets=("SAMM*Micro_FACS_Codes*.xlsx", "SAMM*Micro_FACS_Codes*.csv"),
    subject="006",
    subject_pattern=r"\d{3}",
    people=tuple(f"{number:03d}" for number in range(6, 38) if number not in (8, 27, 29)),
    counts={
        "anger": 57,
        "happiness": 26,
        "others": 26,
        "surprise": 15,
        "contempt": 12,
        "disgust": 9,
        "fear": 8,
        "sadness": 6,
    },
)


def _interval(found: ClipCollector, row: SheetRow, position: int, folder: Path) -> tuple[int, int | None, int]:
    """Onset, apex and offset of a row after the known repairs, checked against the frames in its folder."""
    numbers = numbered_frames(folder)
    last = max(numbers)
    onset = required(row.whole("onset"), "Onset Frame")
    apex = row.whole("apex")
    offset = required(row.whole("offset"), "Offset Frame")
    right = _WRONG_OFFSETS.get(position)
    if right is not None and not onset <= offset <= last and onset <= right <= last:
        found.repaired(f"offset {offset} changed to {right}: this row of the sheet is reported to be wrong.")
        offset = right
    if apex is None:
        found.warning("the sheet has no apex for this clip.")
    elif not onset <= apex <= offset and (row.text("clip") in _APEX_OUTSIDE or position in _APEX_OUTSIDE_ROWS):
        found.repaired(f"apex {apex} is outside the interval {onset}–{offset} (known); the clip has no apex.")
        apex = None
    return found.check_interval(onset, apex, offset, numbers, folder)


def _subject(row: SheetRow) -> str:
    text = row.identifier("subject")
    if not text.isdigit():
        raise DataError(f"the subject {text!r} is not a number such as 006; correct the cell.")
    return f"{int(text):03d}"


def _subject_folders(root: Path) -> dict[str, Path]:
    if subjects := subject_folders([*find_folders(root, [_FOLDER]), root], r"\d{3}"):
        return subjects
    raise SetNotFoundError(f"no frames of SAMM under {root}: expected a folder {_FOLDER} with 006, 007, ….")
