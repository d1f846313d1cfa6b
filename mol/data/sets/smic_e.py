"""SMIC-E, the extended clips of SMIC: longer recordings with a sheet of up to three intervals per row. No apex.

The sheet itself was not available. Its titles are those that public loaders read (Subject, Filename, OnsetF, OffsetF,
Onset2F, Offset2F, Onset3F, Offset3F, FirstF, LastF, TotalVL, TotalMF1 to TotalMF3, Emotion). Columns are found by title
alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mol.common.errors import DataError
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.recordings import Annotated, Recording, in_order
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, find_folders, find_sheet, require_folder, subfolders
from mol.data.sets.neutral import LongVideo, neutral_segments
from mol.data.sets.sheets import SheetRow, read_sheet, read_titles
from mol.data.sets.smic import CLASSES, CLIP_NAME, EMOTIONS, FPS, Part, parse_name

_COLUMNS = {
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
_REQUIRED = {"subject", "clip", "onset", "offset"}
# Clips that the sheet lists and the archive is reported to lack.
_MISSING = frozenset({"s3_ne_03", "s3_ne_20", "s4_ne_05", "s4_ne_06", "s9_sur_02"})


def load_smic_e(root: Path, on_error: OnError = "raise", part: Part = "HS", neutral: int = 0) -> Loaded:
    """Read the expressions of the extended set, as far as its sheet is known (see the module).

    A row with several intervals gives several clips: ``s1_ne_01``, ``s1_ne_01.2``, ``s1_ne_01.3``.

    Args:
        root: folder with ``SMIC-HS-E`` and ``SMIC-HS-E_annotation.xlsx``, at most three levels deep.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
        part: the camera.
        neutral: at most this many neutral clips per person, away from all micro-expressions.

    Raises:
        DataError: a sheet or folder is missing or not as expected, or the sheet has an unknown title.
    """
    require_folder(root)
    names = [pattern.replace("HS", part) for pattern in SET.sheets]
    sheet = find_sheet(root, names, f"annotation sheet of the extended SMIC ({part})")
    _check_titles(sheet)
    folders = _clip_folders(root, part)
    found = ClipCollector(on_error)
    videos: dict[Path, LongVideo] = {}
    for row in read_sheet(sheet, _COLUMNS, required=_REQUIRED):
        if not row.shown("subject") and not row.shown("clip"):
            found.note("warning", row.source, "the row is ignored: it has no clip name.")
            continue
        with found.row(row.source, row.shown("clip")) as where:
            _add(found, where, row, folders, root, FPS[part])
            if neutral:
                _note_intervals(videos, row, folders, root)
    loaded = found.loaded(sheet)
    loaded.recordings.extend(_recordings(loaded.clips, FPS[part]))
    if neutral:
        loaded.clips.extend(neutral_segments(SET.name, videos.values(), loaded.clips, FPS[part], neutral))
    return loaded


SET = DataSet(
    name="smic-e",
    title="SMIC-E (HS), extended clips",
    load=load_smic_e,
    citation=(
        'Li et al., "Towards Reading Hidden Emotions: A Comparative Study of Spontaneous Micro-Expression Spotting and '
        'Recognition Methods", IEEE Transactions on Affective Computing 9 (4), 2018'
    ),
    access="the Center for Machine Vision and Signal Analysis, University of Oulu, with the signed licence agreement",
    url="https://www.oulu.fi/cmvs/node/41319",
    tree="""
SMIC-E/
  SMIC-E_raw image/
    HS_long/
      SMIC-HS-E_annotation.xlsx          intervals, up to three per row (?)
      SMIC-HS-E/
        s01/s01_ne_01/image000001.jpg
""",
    quirks=(
        (
            "the sheet's columns are not confirmed (?)",
            "found by title; a title about onsets or offsets that is not known is an error",
        ),
        ("a row has up to three intervals", "each becomes a clip: `s1_ne_01`, `s1_ne_01.2`, `s1_ne_01.3`"),
        (
            "s3_ne_03, s3_ne_20, s4_ne_05, s4_ne_06 and s9_sur_02 are reported to be missing from the archive",
            "*dropped* if they are not there",
        ),
    ),
    remarks=(
        "No protocol covers this data set, because all of them count the short clips; use `as-labelled`. `--part VIS` "
        "or `--part NIR` selects another camera. `--neutral N` adds up to N neutral clips per person, away from all "
        "intervals; only micro-expressions are annotated, so other movements may be in them."
    ),
    fps=FPS["HS"],
    camera_fps=dict[str, float](FPS.items()),
    sheets=("SMIC?HS?E_annotation*.xlsx", "SMIC?HS?E_annotation*.csv"),
    telltales=("SMIC-E_raw*", "SMIC?HS?E"),
    subject="s1",
    subject_pattern=r"s\d{1,2}",
)


def _check_titles(sheet: Path) -> None:
    """Reject unknown titles about intervals: ignoring such a column would lose expressions."""
    known = {re.sub(r"\W|_", "", title.lower()) for titles in _COLUMNS.values() for title in titles}
    for title in read_titles(sheet, _COLUMNS, required=_REQUIRED):
        plain = re.sub(r"\W|_", "", title.lower())
        if plain.startswith(("onset", "offset")) and plain not in known:
            raise DataError(
                f"{sheet}: unknown column {title!r} (known: OnsetF, OffsetF, Onset2F, Offset2F, Onset3F and "
                "Offset3F); rename it to one of these, or remove it."
            )


def _clip_folders(root: Path, part: Part) -> dict[tuple[str, str, int], Path]:
    """(subject, class, number) → folder of the clip; the archive spells subjects s01 or s1."""
    folders: dict[tuple[str, str, int], Path] = {}
    for base in find_folders(root, [f"SMIC-{part}-E", f"SMIC_{part}_E"]):
        for parent in (base, *(path for path in subfolders(base) if path.name.upper() == part)):
            for subject in subfolders(parent):
                if re.fullmatch(r"(?i)s\d+", subject.name):
                    clips = (clip for clip in subfolders(subject) if CLIP_NAME.fullmatch(clip.name))
                    folders.update({parse_name(clip.name): clip for clip in clips})
    if not folders:
        raise SetNotFoundError(
            f"no recordings of the extended SMIC under {root}: expected a folder SMIC-{part}-E with s01, …."
        )
    return folders


def _add(
    found: ClipCollector, where: str, row: SheetRow, folders: dict[tuple[str, str, int], Path], root: Path, fps: float
) -> None:
    """Add a clip for every interval of one row."""
    name = parse_name(row.text("clip"))
    subject, emotion, number = name
    if row.identifier("subject").lstrip("sS0") != subject[1:]:
        raise DataError(f"the subject is {row.text('subject')!r}, but the name says {subject}; correct the row.")
    if row.text("emotion") and named_emotion(row.text("emotion"), EMOTIONS) != emotion:
        raise DataError(f"the emotion is {row.text('emotion')!r}, but the name says {emotion}; correct the row.")
    if name not in folders:
        plain = f"{subject}_{next(short for short, long in CLASSES.items() if long == emotion)}_{number:02d}"
        if plain in _MISSING:
            found.note("dropped", where, "the archive lacks this clip's folder (known).")
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
        onset, _, offset = found.check_interval(onset, None, offset, numbers, folder)
        clip = f"{row.text('clip')}.{place}" if place else row.text("clip")
        found.add(Clip(SET.name, subject, clip, path, onset, None, offset, emotion, "", fps, row.source))


def _recordings(clips: Sequence[Clip], fps: float) -> list[Recording]:
    """The recordings with the micro-expressions of their rows; nothing else is annotated."""
    found: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        found.setdefault((clip.subject, clip.path), []).append(clip)
    return [
        Recording(SET.name, subject, path.rpartition("/")[2], path, fps, in_order([_annotated(clip) for clip in own]))
        for (subject, path), own in found.items()
    ]


def _annotated(clip: Clip) -> Annotated:
    return Annotated(clip.onset, clip.apex, clip.offset, "micro", clip.emotion)


def _note_intervals(
    videos: dict[Path, LongVideo], row: SheetRow, folders: dict[tuple[str, str, int], Path], root: Path
) -> None:
    """Add the intervals of one row to those of its recording."""
    name = parse_name(row.text("clip"))
    if name not in folders:
        return
    folder = folders[name]
    own = LongVideo(name[0], row.text("clip"), relative_path(folder, root), sorted(numbered_frames(folder)))
    busy = videos.setdefault(folder, own).busy
    for place in ("", "2", "3"):
        if (onset := row.whole(f"onset{place}")) is not None:
            busy.append((onset, row.whole(f"offset{place}")))
