"""SAMM Long Videos: whole recordings at 200 frames per second, with macro- and micro-movements.

The set itself was not available. Names of sheet, columns and folders are those that public loaders read: a sheet
``SAMM_LongVideos_V2_Release.xlsx`` with Subject, Filename, Inducement Code, Onset, Apex, Offset, Duration, Type, Action
Units and Notes below some lines of notes, a type "Macro" or "Micro - 1/2", and a folder ``SAMM_longvideos`` with a
folder of frames per video, ``006_1``, which the first two numbers of a file name (``006_1_2``) name. The sheet has no
emotions; those of the micro-expressions are in the sheet of SAMM, by the file name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from mol.common.errors import DataError
from mol.data.interval import check_order
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.recordings import Annotated
from mol.data.sets import samm
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, find_folders, find_sheet, subfolders
from mol.data.sets.neutral import LongVideo, add_long_videos
from mol.data.sets.sheets import SheetRow, read_sheet

_COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("Onset", "Onset Frame"),
    "apex": ("Apex", "Apex Frame"),
    "offset": ("Offset", "Offset Frame"),
    "type": ("Type",),
    "action_units": ("Action Units",),
}
_FOLDERS = ("SAMM_longvideos", "SAMM_long_videos", "SAMM Long Videos")


def load_samm_lv(root: Path, on_error: OnError = "raise", neutral: int = 0) -> Loaded:
    """Read the micro-movements of SAMM Long Videos as clips, and all movements for spotting.

    Args:
        root: folder with the sheets of SAMM Long Videos and of SAMM, and ``SAMM_longvideos``.
        on_error: ``"skip"`` drops a row that cannot be used and lists it.
        neutral: at most this many neutral clips per person, away from all movements.

    Raises:
        DataError: a sheet, folder or row is missing or not as expected.
    """
    sheet = find_sheet(root, SET.sheets, "annotation sheet of SAMM Long Videos")
    emotions = _emotions(root)
    folders = _video_folders(root)
    collector = ClipCollector(on_error)
    frames_of = cache(numbered_frames)
    videos: dict[str, LongVideo] = {}
    for row in read_sheet(sheet, _COLUMNS, required=set(_COLUMNS) - {"action_units"}):
        with collector.row(row.source, row.shown("clip")):
            subject, name = _names(row)
            if name not in folders:
                raise DataError(f"no folder {name} in {_FOLDERS[0]}; unpack the video's frames there.")
            folder = folders[name]
            numbers = frames_of(folder)
            own = LongVideo(subject, name, relative_path(folder, root), sorted(numbers))
            video = videos.setdefault(name, own)
            video.block()
            onset, apex, offset = _interval(row, numbers, folder, collector)
            kind = _kind(row)
            clip_name = row.text("clip")
            emotion = emotions.get(clip_name, "") if kind == "micro" else ""
            video.expressions.append(Annotated(onset, apex, offset, kind, emotion))
            video.unblock(onset, offset)
            if kind == "macro":
                continue
            if not emotion:
                raise DataError(
                    f"the sheet of SAMM has no emotion for {clip_name}; correct the name, or remove the row."
                )
            units, path = row.text("action_units"), video.path
            collector.add(
                Clip(SET.name, subject, clip_name, path, onset, apex, offset, emotion, units, SET.fps, row.source)
            )
    return add_long_videos(collector.loaded(sheet), SET.name, videos.values(), SET.fps, neutral)


SET = DataSet(
    name="samm-lv",
    title="SAMM Long Videos",
    load=load_samm_lv,
    citation=('Yap et al., "SAMM Long Videos: A Spontaneous Facial Micro- and Macro-Expressions Dataset", FG 2020'),
    access="Manchester Metropolitan University (Moi Hoon Yap's group) with the signed release agreement",
    url="https://helward.mmu.ac.uk/STAFF/M.Yap/dataset.php",
    tree="""
SAMMLV/
  SAMM_LongVideos_V2_Release.xlsx        (?)
  SAMM_Micro_FACS_Codes_v2.xlsx          SAMM's own sheet, for the emotions
  SAMM_longvideos/                       (?)
    006_1/006_1_0001.jpg                 (?)
""",
    quirks=(
        ("names of sheet, columns and folders are not confirmed (?)", "those that public loaders read"),
        ("lines of notes above the header", "the header is found by its titles"),
        ("the sheet has no emotions", "those of the micro-movements are looked up in SAMM's sheet by the file name"),
        (
            "macro-movements are in the same sheet",
            "no clips; `--neutral` keeps away from them, spotting is scored on them",
        ),
        ("an apex outside its interval", "left out; *repaired*"),
    ),
    remarks=(
        "147 videos of 32 people with 343 macro- and 159 micro-movements according to its authors. No counts are "
        "checked; use the protocol `as-labelled`."
    ),
    fps=200.0,
    sheets=("SAMM*LongVideos*.xlsx", "SAMM*Long*Videos*.xlsx"),
    telltales=("SAMM_longvideos",),
    subject="006",
    subject_pattern=r"\d{3}",
    stated_clips=159,
)


def _emotions(root: Path) -> dict[str, str]:
    """File name of a micro-expression → emotion, from the sheet of SAMM."""
    what = "sheet of SAMM's FACS codes, which has the emotions of SAMM Long Videos"
    rows = read_sheet(find_sheet(root, samm.SET.sheets, what), samm.COLUMNS, required={"clip", "emotion"})
    return {row.text("clip"): named_emotion(row.text("emotion"), samm.EMOTIONS) for row in rows}


def _video_folders(root: Path) -> dict[str, Path]:
    """``006_1`` → its folder of frames."""
    found: dict[str, Path] = {}
    for base in find_folders(root, _FOLDERS):
        for folder in subfolders(base):
            if re.fullmatch(r"\d{3}_\d+", folder.name):
                found.setdefault(folder.name, folder)
    if not found:
        raise SetNotFoundError(f"no recordings under {root}: expected a folder {_FOLDERS[0]} with 006_1, ….")
    return found


def _names(row: SheetRow) -> tuple[str, str]:
    """Subject and video, ``006`` and ``006_1`` of ``006_1_2``."""
    parts = re.fullmatch(r"(\d{3})_(\d+)_\d+", row.text("clip"))
    if parts is None:
        raise DataError(f"the file name {row.text('clip')!r} is not one such as 006_1_2; correct the cell.")
    return parts[1], f"{parts[1]}_{parts[2]}"


def _kind(row: SheetRow) -> Literal["micro", "macro"]:
    kind = row.text("type").lower()
    if kind.startswith("micro"):
        return "micro"
    if kind.startswith("macro"):
        return "macro"
    raise DataError(f"the type {row.text('type')!r} is neither macro nor micro; correct the cell.")


def _interval(
    row: SheetRow, numbers: Mapping[int, Path], folder: Path, collector: ClipCollector
) -> tuple[int, int | None, int]:
    onset, offset = required(row.whole("onset"), "Onset"), required(row.whole("offset"), "Offset")
    apex = row.whole("apex")
    check_order(onset, None, offset)
    if apex is not None and not onset <= apex <= offset:
        collector.repaired(f"apex {apex} is outside the interval {onset}–{offset}; the movement has no apex.")
        apex = None
    return collector.check_interval(onset, apex, offset, numbers, folder)
