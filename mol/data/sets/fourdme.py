"""4DME: the micro-expressions in its grey videos, 60 frames per second.

The sheet lists sub_ID, fold_name, Onset, Apex, Offset, AUs and Emotion. The folders are not confirmed: one public
loader reads ``gray_micro/<sub_ID>/<fold_name>/``. A folder ``<fold_name>`` without a subject's folder above it is
accepted as well, and so is the root instead of ``gray_micro``.
"""

from __future__ import annotations

import re
from pathlib import Path

from mol.common.errors import DataError
from mol.data.interval import check_order
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import find_folders, find_sheet, folders_by_name
from mol.data.sets.sheets import SheetRow, read_sheet

_PICTURES = ("gray_micro", "gray_micro_crop")
_COLUMNS = {
    "subject": ["sub_ID"],
    "clip": ["fold_name"],
    "onset": ["Onset"],
    "apex": ["Apex"],
    "offset": ["Offset"],
    "au": ["AUs", "AU"],
    "emotion": ["Emotion"],
}
_EMOTIONS = ("positive", "negative", "surprise", "repression", "others")  # in the order in which they are joined
_SPELLINGS = spellings(*_EMOTIONS, other="others")
_DOUBTED_ROWS = (146, 147)


def load_fourdme(root: Path, on_error: OnError = "raise") -> Loaded:
    """Read the micro-expressions of 4DME's grey videos.

    Args:
        root: folder with the sheet and ``gray_micro``.
        on_error: ``"skip"`` drops a row that cannot be used and lists it.

    Raises:
        DataError: the sheet, a folder or a row is missing or not as expected.
    """
    sheet = find_sheet(root, SET.sheets, "annotation sheet of 4DME")
    rows = read_sheet(sheet, _COLUMNS, required=set(_COLUMNS) - {"au"})
    collector = ClipCollector(on_error)
    bases = [*find_folders(root, _PICTURES), root]
    for row in rows:
        with collector.row(row.source, f"{row.shown('subject')}/{row.shown('clip')}"):
            subject = _subject(row.text("subject"))
            folder = _clip_folder(bases, subject, row.text("clip"))
            collector.add(_clip(row, subject, folder, root, collector))
            if row.number in _DOUBTED_ROWS:
                collector.warning("a public loader swaps the labels of rows 146 and 147; the sheet's are kept.")
    return collector.loaded(sheet)


SET = DataSet(
    name="4dme",
    title="4DME, grey videos",
    load=load_fourdme,
    citation=(
        'Li et al., "4DME: A Spontaneous 4D Micro-Expression Dataset With Multimodalities", IEEE Transactions on '
        "Affective Computing, 2022"
    ),
    access="the Center for Machine Vision and Signal Analysis, University of Oulu, with the signed licence agreement",
    tree="""
4DME/
  4DME_Labelling_Micro_release v1.xlsx
  gray_micro/
    <sub_ID>/<fold_name>/                or <fold_name>/ alone (?)
""",
    quirks=(
        ("emotions combine, in either order", "one spelling: `positive+surprise`"),
        (
            "frames may be numbered as in the long video, or from the start of the clip",
            "a folder with exactly as many frames as the interval, under other numbers, is used for it; *repaired*",
        ),
        ("a public loader swaps the labels of rows 146 and 147 (?)", "the sheet's are kept; *warning*"),
    ),
    remarks=(
        "The folders are not confirmed (?). Only the grey videos are read, not the 4D scans, colour or depth. No "
        "counts are checked. Use the protocol `as-labelled`, in which each combination of emotions is a class."
    ),
    fps=60.0,
    sheets=("*4DME_Labelling_Micro*.xlsx",),
    telltales=("4DME_*",),
    subject="sub_01",
    subject_pattern=r"sub_\d+",
)


def combined_emotion(text: str) -> str:
    """One spelling for each emotion or combination: ``"positive+surprise"`` for ``"Surprise_Positive"``.

    Raises:
        DataError: a part is not one of 4DME's emotions.
    """
    parts = {named_emotion(part, _SPELLINGS) for part in re.split(r"[^A-Za-z]+", text) if part}
    return "+".join(emotion for emotion in _EMOTIONS if emotion in parts) or named_emotion("", _SPELLINGS)


def _clip(row: SheetRow, subject: str, folder: Path, root: Path, collector: ClipCollector) -> Clip:
    onset, offset = required(row.whole("onset"), "Onset"), required(row.whole("offset"), "Offset")
    apex = row.whole("apex")
    check_order(onset, apex, offset)
    frames = numbered_frames(folder)
    if shift := _shift(onset, offset, list(frames)):
        collector.repaired(
            f"the {len(frames)} frames of {folder} have other numbers than the sheet; {onset}–{offset} changed to "
            f"{min(frames)}–{max(frames)}."
        )
        onset, offset, apex = onset + shift, offset + shift, None if apex is None else apex + shift
    onset, apex, offset = collector.check_interval(onset, apex, offset, frames, folder)
    return Clip(
        dataset=SET.name,
        subject=subject,
        clip=row.text("clip"),
        path=relative_path(folder, root),
        onset=onset,
        apex=apex,
        offset=offset,
        emotion=combined_emotion(row.text("emotion")),
        action_units=row.text("au"),
        fps=SET.fps,
        source=row.source,
    )


def _shift(onset: int, offset: int, numbers: list[int]) -> int:
    """What to add to the sheet's numbers if the folder has exactly the interval under other numbers, else 0."""
    consecutive = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return numbers[0] - onset if consecutive and len(numbers) == offset - onset + 1 else 0


def _number(name: str) -> int | None:
    match = re.search(r"\d+", name)
    return int(match[0]) if match else None


def _subject(text: str) -> str:
    number = _number(text)
    if number is None:
        raise DataError(f"the subject {text!r} has no number; expected a sub_ID such as 1 or sub_01. Correct the cell.")
    return f"sub_{number:02d}"


def _clip_folder(bases: list[Path], subject: str, clip: str) -> Path:
    """``<subject>/<clip>`` or ``<clip>`` under the first base that has it; subjects are compared by number."""
    for base in bases:
        folders = folders_by_name(base)
        people = [folder for name, folder in folders.items() if _number(name) == _number(subject)]
        for parent in (*people, base):
            if clip.lower() in (inner := folders_by_name(parent)):
                return inner[clip.lower()]
    raise DataError(
        f"no folder {clip} of {subject} under {bases[0]}; unpack the grey videos of the micro-expressions there, as "
        "gray_micro/<sub_ID>/<fold_name>. If your copy is organised differently, list its clips for --dataset generic."
    )
