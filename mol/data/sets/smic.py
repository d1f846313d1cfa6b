"""SMIC, the short clips: 164 of 16 people at 100 frames per second (HS); fewer at 25 (VIS, NIR). No apex.

There is no sheet: a clip's class comes from its folder and its name, onset and offset are its first and last frame. The
extended clips are another data set, `mol.data.sets.smic_e`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mol.common.errors import DataError
from mol.data.manifest import NEUTRAL, Clip, Loaded, OnError, numbered_frames
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import (
    SetNotFoundError,
    find_folders,
    folders_by_name,
    require_folder,
    subfolders,
    subject_folders,
)
from mol.data.sets.neutral import spread
from mol.vision.video import PICTURE_SUFFIXES

Part = Literal["HS", "VIS", "NIR"]
FPS: dict[Part, float] = {"HS": 100.0, "VIS": 25.0, "NIR": 25.0}
CLASSES = {"ne": "negative", "po": "positive", "sur": "surprise"}
EMOTIONS = spellings(*CLASSES.values())
CLIP_NAME = re.compile(r"s(\d+)_(ne|po|sur)_(\d+)", re.IGNORECASE)
_FOLDERS = {"cropped": "SMIC_all_cropped", "raw": "SMIC_all_raw"}
_EMPTY = frozenset({"s18_sur_03"})
_NUMBERS = (*range(1, 7), 8, 9, *range(11, 16), *range(18, 21))


def load_smic(
    root: Path,
    on_error: OnError = "raise",
    part: Part = "HS",
    frames: Literal["cropped", "raw"] | None = None,
    neutral: int = 0,
) -> Loaded:
    """Read the short clips of SMIC as they were distributed.

    Args:
        root: folder with ``SMIC_all_cropped`` or ``SMIC_all_raw``.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
        part: the camera; protocols use HS.
        frames: which frames to use; None for the cropped ones if present, else the raw ones.
        neutral: at most this many of each person's clips in ``non_micro``, which become neutral.

    Raises:
        DataError: a folder is missing or not as expected, or a clip's folder and name give different classes.
    """
    require_folder(root)
    base, subjects = _subject_folders(root, part, frames)
    found = ClipCollector(on_error)
    for folder in _clip_folders(found, subjects):
        with found.row(relative_path(folder, root)) as where:
            subject, name_class, _ = parse_name(folder.name)
            _check_place(folder, subject, name_class)
            if folder.name.lower() in _EMPTY and not _has_pictures(folder):
                found.note("dropped", where, "the folder is empty (known).")
                continue
            numbers = numbered_frames(folder)
            first, last = min(numbers), max(numbers)
            found.check_interval(first, None, last, numbers, folder)
            path = relative_path(folder, root)
            found.add(Clip(SET.name, subject, folder.name, path, first, None, last, name_class, "", FPS[part], path))
    loaded = found.loaded(base)
    if neutral:
        loaded.clips.extend(_neutral_clips(found, subjects, root, FPS[part], neutral))
    return loaded


SET = DataSet(
    name="smic",
    title="SMIC (HS)",
    load=load_smic,
    citation=('Li et al., "A Spontaneous Micro-expression Database: Inducement, Collection and Baseline", FG 2013'),
    access=(
        "the Center for Machine Vision and Signal Analysis, University of Oulu, with the signed licence agreement (the "
        "authors' page may have moved)"
    ),
    url="https://www.oulu.fi/cmvs/node/41319",
    tree="""
SMIC/
  SMIC_all_cropped/                      or SMIC_all_raw/
    HS/s1/micro/negative/s1_ne_01/reg_image000001.bmp
    HS/s1/non_micro/<any name>/reg_image000001.bmp
    VIS/…  NIR/…                         the other cameras
""",
    quirks=(
        (
            "no sheet: the class is given by the folder and by `ne`, `po` or `sur` in the name",
            "both must agree; onset and offset are the first and the last frame",
        ),
        ("no apex", "the clips have no apex"),
        ("s18_sur_03 can be empty", "*dropped*; it is not one of the 164"),
        (
            "folders `non_micro` next to `micro`",
            "not read, unless `--neutral` asks for their clips; the names in them can be anything",
        ),
    ),
    remarks=(
        "If both archives are present, the cropped frames are used; `--frames raw` selects the others. `--part VIS` or "
        "`--part NIR` selects another camera; protocols use HS. `--neutral N` adds up to N clips per person from "
        "`non_micro` as neutral. They show no micro-expression, but may show blinks and other movements (?)."
    ),
    fps=FPS["HS"],
    camera_fps=dict[str, float](FPS.items()),
    telltales=tuple(_FOLDERS.values()),
    subject="s1",
    subject_pattern=r"s\d{1,2}",
    people=tuple(f"s{number}" for number in _NUMBERS),
    counts={"negative": 70, "positive": 51, "surprise": 43},
)


def parse_name(name: str) -> tuple[str, str, int]:
    """Subject, class and number from a clip's name: ``s01_ne_01`` → ``("s1", "negative", 1)``.

    Raises:
        DataError: it is not such a name.
    """
    parts = CLIP_NAME.fullmatch(name)
    if parts is None:
        raise DataError(f"{name!r} is not a clip name such as s1_ne_01 (classes {', '.join(CLASSES)}); rename it.")
    return f"s{int(parts[1])}", CLASSES[parts[2].lower()], int(parts[3])


def _subject_folders(root: Path, part: Part, frames: Literal["cropped", "raw"] | None) -> tuple[Path, list[Path]]:
    """A camera's folder and the subjects' folders in it."""
    names = [name for kind, name in _FOLDERS.items() if frames in (None, kind)]
    bases = [hit for name in names for base in find_folders(root, [name]) for hit in find_folders(base, [part], 2)]
    if frames is None:
        bases += find_folders(root, [part])
    for base in bases:
        folders = subject_folders([base], r"s\d+")
        if any("micro" in folders_by_name(folder) for folder in folders.values()):
            return base, sorted(folders.values(), key=lambda folder: int(folder.name[1:]))
    raise SetNotFoundError(
        f"no clips of SMIC {part} under {root}: expected a folder {' or '.join(f'{name}/{part}' for name in names)} "
        "with s1/micro, s2/micro, …."
    )


def _clip_folders(found: ClipCollector, subjects: list[Path]) -> Iterator[Path]:
    """The clips' folders; ``non_micro`` and other folders next to ``micro`` are skipped."""
    for subject in subjects:
        micro = folders_by_name(subject).get("micro")
        if micro is None:
            found.note("warning", str(subject), "the subject is ignored: it has no folder micro.")
            continue
        for emotion in subfolders(micro):
            yield from subfolders(emotion)


def _neutral_clips(found: ClipCollector, subjects: list[Path], root: Path, fps: float, most: int) -> list[Clip]:
    """Clips of the folders ``non_micro``, of people who also have a folder ``micro``."""
    clips: list[Clip] = []
    for subject in subjects:
        folders = folders_by_name(subject)
        name, own = f"s{int(subject.name[1:])}", []
        for folder in subfolders(folders["non_micro"]) if {"micro", "non_micro"} <= set(folders) else ():
            path = relative_path(folder, root)
            with found.row(path):
                named = re.match(r"(?i)s0*(\d+)_", folder.name)
                if named and f"s{named[1]}" != name:
                    raise DataError(f"the clip is in a folder of {name}, but its name says s{named[1]}; move it.")
                numbers = numbered_frames(folder)
                first, last = min(numbers), max(numbers)
                found.check_interval(first, None, last, numbers, folder)
                own.append(Clip(SET.name, name, folder.name, path, first, None, last, NEUTRAL, "", fps, path))
        clips += spread(own, most)
    if not clips:
        raise DataError(f"no person in {subjects[0].parent} has clips in a folder non_micro; omit --neutral.")
    return clips


def _check_place(folder: Path, subject: str, name_class: str) -> None:
    """Check that a clip's folders give the same class and subject as its name."""
    folder_class = named_emotion(folder.parent.name, EMOTIONS)
    if folder_class != name_class:
        raise DataError(f"the clip is in a folder of {folder_class}, but its name says {name_class}; move it.")
    folder_subject = f"s{int(folder.parents[2].name[1:])}"
    if folder_subject != subject:
        raise DataError(f"the clip is in a folder of {folder_subject}, but its name says {subject}; move it.")


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURE_SUFFIXES for path in folder.iterdir())
