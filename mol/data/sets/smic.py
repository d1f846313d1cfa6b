"""SMIC (Li et al. 2013): 164 clips of 16 people at 100 frames per second (HS); fewer at 25 (VIS, NIR). No apex.

    SMIC_all_cropped/HS/s1/micro/negative/s1_ne_01/reg_image000001.bmp      or SMIC_all_raw
    SMIC-E_raw image/HS_long/SMIC-HS-E/s01/s01_ne_01/image000001.jpg        the extended set: longer recordings
    SMIC-E_raw image/HS_long/SMIC-HS-E_annotation.xlsx                      its intervals, up to three a row

The short set has no sheet: the folder and the name of a clip give its class, its first and last frame onset and offset.
The folder s18_sur_03 can be empty; it is dropped with a note.

The extended set's sheet was not at hand. Its titles are taken from public loaders (Subject, Filename, OnsetF, OffsetF,
Onset2F, Offset2F, Onset3F, Offset3F, FirstF, LastF, TotalVL, TotalMF1 to TotalMF3, Emotion), columns are found by
title alone, and a title about onsets or offsets that is none of these is an error. Its data set is named ``smic-e``:
the protocols count the short set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    find_folders,
    find_sheet,
    folders_by_name,
    other_sets,
    require_folder,
    subfolders,
    subject_folders,
)
from mol.data.sets.sheets import SheetRow, read_sheet, read_titles
from mol.vision.video import PICTURE_SUFFIXES

Part = Literal["HS", "VIS", "NIR"]
FPS: dict[Part, float] = {"HS": 100.0, "VIS": 25.0, "NIR": 25.0}
FOLDERS = {"cropped": "SMIC_all_cropped", "raw": "SMIC_all_raw"}
CLASSES = {"ne": "negative", "po": "positive", "sur": "surprise"}
EMOTIONS = {name: name for name in CLASSES.values()}
_CLIP = re.compile(r"s(\d+)_(ne|po|sur)_(\d+)", re.IGNORECASE)
EMPTY = frozenset({"s18_sur_03"})
COLUMNS = {
    "subject": ("Subject",),
    "clip": ("Filename", "File name"),
    "onset": ("OnsetF", "OnsetFrame", "Onset1F"),
    "offset": ("OffsetF", "OffsetFrame", "Offset1F"),
    "onset2": ("Onset2F",),
    "offset2": ("Offset2F",),
    "onset3": ("Onset3F",),
    "offset3": ("Offset3F",),
    "emotion": ("Emotion",),
}
# Clips that the extended set's sheet lists and its archive is reported to lack.
MISSING_IN_EXTENDED = frozenset({"s3_ne_03", "s3_ne_20", "s4_ne_05", "s4_ne_06", "s9_sur_02"})


def load_smic(
    root: Path,
    on_error: OnError = "raise",
    part: Part = "HS",
    frames: Literal["cropped", "raw"] | None = None,
) -> Loaded:
    """Read the short clips of SMIC as they were distributed.

    Args:
        root: folder that holds ``SMIC_all_cropped`` or ``SMIC_all_raw``.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
        part: the camera; the protocols use HS.
        frames: which pictures; None takes what is there, the cropped ones first.
    Raises:
        DataError: a folder is missing or not as expected, or the class of a clip's folder is not that of its name.
    Source:
        Li et al., "A Spontaneous Micro-Expression Database: Inducement, Collection and Baseline", 2013.
    """
    require_folder(root)
    base, subjects = _subject_folders(root, part, frames)
    found = ClipCollector(on_error)
    for folder in _clip_folders(found, subjects):
        with found.row(relative_path(folder, root)) as where:
            subject, name_class, _ = _parse(folder.name)
            _check_place(folder, subject, name_class)
            if folder.name.lower() in EMPTY and not _pictures(folder):
                found.note("dropped", where, "the folder is empty, which is known.")
                continue
            numbers = numbered_frames(folder)
            first, last = min(numbers), max(numbers)
            if missing := check_interval(first, None, last, numbers, folder):
                found.warning(missing_frames(missing, folder))
            path = relative_path(folder, root)
            found.add(Clip("smic", subject, folder.name, path, first, None, last, name_class, "", FPS[part], path))
    return found.loaded(base)


def load_smic_extended(root: Path, on_error: OnError = "raise", part: Part = "HS") -> Loaded:
    """Read the expressions of the extended set, as far as its sheet is known (see the module).

    A row with several intervals gives several clips: ``s1_ne_01``, ``s1_ne_01.2``, ``s1_ne_01.3``.

    Args:
        root: folder that holds ``SMIC-HS-E`` and ``SMIC-HS-E_annotation.xlsx``, at most three levels down.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
        part: the camera.
    Raises:
        DataError: a sheet or folder is missing or not as expected, or a title of the sheet is not understood.
    Source:
        Li et al., "Towards Reading Hidden Emotions", 2018.
    """
    require_folder(root)
    names = [f"SMIC?{part}?E_annotation*{suffix}" for suffix in (".xlsx", ".csv")]
    sheet = find_sheet(root, names, f"annotation sheet of the extended SMIC ({part})", own="smic")
    required_titles = {"subject", "clip", "onset", "offset"}
    _check_titles(sheet, required_titles)
    folders = _extended_folders(root, part)
    found = ClipCollector(on_error)
    for row in read_sheet(sheet, COLUMNS, required=required_titles):
        if not row.text("subject") and not row.text("clip"):
            found.note("warning", row.source, "the row has no clip name; it is left out.")
            continue
        with found.row(row.source, row.text("clip")) as where:
            _add_extended(found, where, row, folders, root, FPS[part])
    return found.loaded(sheet)


def _subject_folders(root: Path, part: Part, frames: Literal["cropped", "raw"] | None) -> tuple[Path, list[Path]]:
    """The folder of a camera and its folders of subjects."""
    names = [name for kind, name in FOLDERS.items() if frames in (None, kind)]
    bases = [hit for name in names for base in find_folders(root, [name]) for hit in find_folders(base, [part], 2)]
    if frames is None:
        bases += find_folders(root, [part])
    for base in bases:
        folders = subject_folders([base], r"s\d+")
        if any("micro" in folders_by_name(folder) for folder in folders.values()):
            return base, sorted(folders.values(), key=lambda folder: int(folder.name[1:]))
    extended = find_folders(root, [f"SMIC-{part}-E", f"SMIC_{part}_E"])
    hint = (
        " What is there is the extended set; it is read by mol.data.sets.smic.load_smic_extended." if extended else ""
    )
    raise DataError(
        f"no clips of SMIC {part} under {root}: a folder {' or '.join(f'{name}/{part}' for name in names)} with "
        f"s1/micro, s2/micro, … is needed.{hint or other_sets(root, own='smic')}"
    )


def _clip_folders(found: ClipCollector, subjects: list[Path]) -> Iterator[Path]:
    """The folders of the clips; those of ``non_micro`` and others beside ``micro`` are none of them."""
    for subject in subjects:
        micro = folders_by_name(subject).get("micro")
        if micro is None:
            found.note("warning", str(subject), "the subject has no folder micro; nothing of it is used.")
            continue
        for emotion in subfolders(micro):
            yield from subfolders(emotion)


def _parse(name: str) -> tuple[str, str, int]:
    """Subject, class and number that a clip's name tells, ``s01_ne_01`` → ``("s1", "negative", 1)``."""
    parts = _CLIP.fullmatch(name)
    if parts is None:
        raise DataError(f"{name!r} is no name of a clip such as s1_ne_01 (classes {', '.join(CLASSES)}); rename it.")
    return f"s{int(parts[1])}", CLASSES[parts[2].lower()], int(parts[3])


def _check_place(folder: Path, subject: str, name_class: str) -> None:
    """Refuse a clip whose folders say another class or subject than its name."""
    folder_class = named_emotion(folder.parent.name, EMOTIONS)
    if folder_class != name_class:
        raise DataError(f"{folder} stands under {folder_class}, its name says {name_class}; put it where it belongs.")
    folder_subject = f"s{int(folder.parents[2].name[1:])}"
    if folder_subject != subject:
        raise DataError(f"{folder} stands under {folder_subject}, its name says {subject}; put it where it belongs.")


def _pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURE_SUFFIXES for path in folder.iterdir())


def _check_titles(sheet: Path, required_titles: set[str]) -> None:
    """Refuse titles about intervals that are not known: a column left out would lose expressions."""
    known = {re.sub(r"\W|_", "", spelling.lower()) for spellings in COLUMNS.values() for spelling in spellings}
    for title in read_titles(sheet, COLUMNS, required=required_titles):
        plain = re.sub(r"\W|_", "", title.lower())
        if plain.startswith(("onset", "offset")) and plain not in known:
            raise DataError(
                f"{sheet}: the column {title!r} is not understood (known are OnsetF, OffsetF, Onset2F, Offset2F, "
                "Onset3F and Offset3F); rename it to the one that it is, or remove it."
            )


def _extended_folders(root: Path, part: Part) -> dict[tuple[str, str, int], Path]:
    """Clip folders by what their names tell; the archive spells subjects s01 or s1."""
    folders: dict[tuple[str, str, int], Path] = {}
    for base in find_folders(root, [f"SMIC-{part}-E", f"SMIC_{part}_E"]):
        for parent in (base, *(path for path in subfolders(base) if path.name.upper() == part)):
            for subject in subfolders(parent):
                if re.fullmatch(r"(?i)s\d+", subject.name):
                    clips = (clip for clip in subfolders(subject) if _CLIP.fullmatch(clip.name))
                    folders.update({_parse(clip.name): clip for clip in clips})
    if not folders:
        raise DataError(
            f"no recordings of the extended SMIC under {root}: a folder SMIC-{part}-E with s01, … is needed."
        )
    return folders


def _add_extended(
    found: ClipCollector, where: str, row: SheetRow, folders: dict[tuple[str, str, int], Path], root: Path, fps: float
) -> None:
    """Add a clip for every interval of one row."""
    name = _parse(row.text("clip"))
    subject, emotion, number = name
    if row.text("subject").lstrip("sS0") != subject[1:]:
        raise DataError(f"the subject {row.text('subject')!r} is not that of the name, {subject}; correct the row.")
    if row.text("emotion") and named_emotion(row.text("emotion"), EMOTIONS) != emotion:
        raise DataError(f"the emotion {row.text('emotion')!r} is not that of the name, {emotion}; correct the row.")
    if name not in folders:
        plain = f"{subject}_{next(short for short, long in CLASSES.items() if long == emotion)}_{number:02d}"
        if plain in MISSING_IN_EXTENDED:
            found.note("dropped", where, "the archive lacks the folder of this clip, which is known.")
            return
        raise DataError(f"the folder of {row.text('clip')} does not exist; unpack the set's frames.")
    folder = folders[name]
    numbers = numbered_frames(folder)
    path = relative_path(folder, root)
    for place in ("", "2", "3"):
        onset, offset = row.whole(f"onset{place}"), row.whole(f"offset{place}")
        if place and onset is None and offset is None:
            continue
        onset, offset = required(onset, f"Onset{place}F"), required(offset, f"Offset{place}F")
        if missing := check_interval(onset, None, offset, numbers, folder):
            found.warning(missing_frames(missing, folder))
        clip = f"{row.text('clip')}.{place}" if place else row.text("clip")
        found.add(Clip("smic-e", subject, clip, path, onset, None, offset, emotion, "", fps, row.source))
