"""CAS(ME)²: micro-expressions in long videos at 30 frames per second.

The sheet has no header; its columns are those of ``_COLUMNS``. The emotion is the seventh (positive, negative,
surprise, others). According to the second worksheet subject 1 is ``s15``, and according to the third the video
``anger1_1`` is ``0401``; its pictures are in ``rawpic/s15/15_0401girlcrashing``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from mol.common.errors import DataError
from mol.data.interval import check_order
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.recordings import Annotated
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, find_folders, find_sheet, folders_by_name, subfolders
from mol.data.sets.neutral import LongVideo, add_long_videos
from mol.data.sets.sheets import SheetRow, as_text, read_cells

_PICTURES = ("rawpic", "longVideoFaceCropped")
_COLUMNS = ("subject", "video", "onset", "apex", "offset", "au", "emotion", "type", "selfReport")
_EMOTIONS = spellings(
    *("positive", "negative", "surprise", "others", "anger", "disgust", "fear", "happiness", "sadness"), other="others"
)


def load_casme_sq(root: Path, on_error: OnError = "raise", neutral: int = 0) -> Loaded:
    """Read the micro-expressions of CAS(ME)².

    Args:
        root: folder with ``code_final.xlsx`` and ``rawpic``, or the face-cropped ``longVideoFaceCropped``.
        on_error: ``"skip"`` drops a row that cannot be used and lists it.
        neutral: at most this many neutral clips per person, away from all micro- and macro-expressions.

    Raises:
        DataError: a worksheet, folder or row is missing or not as expected.
    """
    sheet = find_sheet(root, SET.sheets, "annotation sheet of CAS(ME)²")
    subjects, codes = _subject_names(sheet), _video_codes(sheet)
    pictures = find_folders(root, _PICTURES)
    if not pictures:
        raise SetNotFoundError(f"no folder {' or '.join(_PICTURES)} under {root}; unpack CAS(ME)² there.")
    collector, macro, usable = ClipCollector(on_error), 0, 0
    frames_of = cache(numbered_frames)
    videos: dict[Path, LongVideo] = {}

    def video_of(row: SheetRow) -> tuple[LongVideo, Path]:
        subject = _look_up(subjects, row.text("subject"), "subject", "second")
        folder = _video_folder(pictures[0], subject, _look_up(codes, _video(row), "video", "third"))
        own = LongVideo(subject, _video(row), relative_path(folder, root), sorted(frames_of(folder)))
        return videos.setdefault(folder, own), folder

    for row in _rows(sheet):
        with collector.row(row.source, row.shown("video")):
            if not neutral and _is_macro(row):
                macro += 1
                with suppress(DataError):  # only spotting needs it, so it stops nothing
                    video_of(row)[0].expressions.append(_macro(row))
                    usable += 1
                continue
            video, folder = video_of(row)
            video.block()
            if _is_macro(row):
                macro += 1
                with suppress(DataError):
                    video.expressions.append(_macro(row))
                    usable += 1
            else:
                clip = _clip(row, video.subject, folder, frames_of(folder), root, collector)
                collector.add(clip)
                video.expressions.append(Annotated(clip.onset, clip.apex, clip.offset, "micro", clip.emotion))
            video.unblock(required(row.whole("onset"), "onset"), row.whole("offset") or None)
    if macro:
        what = f"{macro} macro-expressions were ignored; only micro-expressions become clips."
        collector.note("warning", sheet.name, what)
    if usable < macro:
        what = f"{macro - usable} macro-expressions can't be used for spotting: video or numbers are missing."
        collector.note("warning", sheet.name, what)
    return add_long_videos(collector.loaded(sheet), SET.name, videos.values(), SET.fps, neutral)


SET = DataSet(
    name="casme-sq",
    title="CAS(ME)²",
    load=load_casme_sq,
    citation=(
        'Qu et al., "CAS(ME)²: A Database for Spontaneous Macro-Expression and Micro-Expression Spotting and '
        'Recognition", IEEE Transactions on Affective Computing 9 (4), 2018'
    ),
    access="the Institute of Psychology, Chinese Academy of Sciences, with a form and the signed licence agreement",
    url="http://casme.psych.ac.cn/casme/e3",
    tree="""
CASMESQ/
  code_final.xlsx                        or CAS(ME)^2code_final.xlsx
  rawpic/                                or longVideoFaceCropped/
    s15/15_0401girlcrashing/img001.jpg
""",
    quirks=(
        (
            "the sheet has no header",
            "columns are read in their order: subject, video, onset, apex, offset, action units, emotion, type, "
            "self-report",
        ),
        ("worksheets 2 and 3 map subject numbers and video names to folders", "used to find the folders"),
        ("a video has several expressions", "a clip is named by video and onset, such as `anger1_557`"),
        (
            "macro-expressions are in the same sheet",
            "no clips, counted; *warning*. `--neutral` keeps away from them as well, and spotting is scored on them",
        ),
        (
            "an offset of 0 means that it is missing",
            "the clip ends at its apex, as in the spotting challenges, because the last frame of the folder is minutes "
            "later; *repaired*",
        ),
        ("an apex of 0 means that it is missing", "the clip has no apex; *repaired*"),
    ),
    remarks=(
        "No counts are checked. Use the protocol `as-labelled` (positive, negative, surprise, others). `--neutral N` "
        "adds up to N neutral clips per person from the videos with annotations; what follows an expression without an "
        "offset is not used."
    ),
    fps=30.0,
    sheets=("*code_final*.xlsx",),
    subject="s15",
    subject_pattern=r"s\d{1,2}",
)


def _macro(row: SheetRow) -> Annotated:
    """A macro-expression; without an offset it ends at its apex."""
    onset, apex = required(row.whole("onset"), "onset"), row.whole("apex") or None
    offset = row.whole("offset") or apex
    if offset is None:
        raise DataError("offset and apex are both missing (0).")
    check_order(onset, apex, offset)
    emotion = row.text("emotion").strip().lower()
    return Annotated(onset, apex, offset, "macro", _EMOTIONS.get(emotion, ""))


def _clip(
    row: SheetRow, subject: str, folder: Path, frames: Mapping[int, Path], root: Path, collector: ClipCollector
) -> Clip:
    onset = required(row.whole("onset"), "onset")
    apex, offset = row.whole("apex") or None, row.whole("offset") or None
    if offset is None:
        if apex is None:
            raise DataError("offset and apex are both missing (0); fill in one of them or remove the row.")
        offset = apex
        collector.repaired(f"the offset is missing (0); the clip ends at its apex {apex}.")
    elif apex is None:
        collector.repaired("the apex is missing (0); the clip has no apex.")
    first, apex, offset = collector.check_interval(onset, apex, offset, frames, folder)
    return Clip(
        dataset=SET.name,
        subject=subject,
        clip=f"{_video(row)}_{onset}",
        path=relative_path(folder, root),
        onset=first,
        apex=apex,
        offset=offset,
        emotion=named_emotion(row.text("emotion"), _EMOTIONS),
        action_units=row.text("au"),
        fps=SET.fps,
        source=row.source,
    )


def _rows(sheet: Path) -> list[SheetRow]:
    cells = read_cells(sheet, 0)
    rows = []
    for line, values in cells.rows.items():
        filled = [value for value in values[: len(_COLUMNS)] if value is not None]
        if not filled or as_text(values[0]).lower() == "subject":
            continue
        source = f"{cells.source} row {line}"
        if len(values) < len(_COLUMNS) - 1 or len(filled) < 5:
            raise DataError(
                f"{source} has {len(filled)} cells, expected {', '.join(_COLUMNS)}; "
                "is it the first worksheet of CAS(ME)²'s code_final.xlsx?"
            )
        rows.append(SheetRow(source, dict(zip(_COLUMNS, values, strict=False))))
    return rows


def _is_macro(row: SheetRow) -> bool:
    kind = row.text("type").lower()
    if kind.startswith("micro"):
        return False
    if kind.startswith("macro"):
        return True
    raise DataError(
        f"the type {row.text('type')!r} is neither micro-expression nor macro-expression; correct the cell."
    )


def _video(row: SheetRow) -> str:
    """``"anger1"`` from ``"anger1_2"``: the second number counts the expressions in the video."""
    return row.text("video").split("_")[0]


def _subject_names(sheet: Path) -> dict[str, str]:
    """Number of a subject → its folder, according to the second worksheet."""
    rows = _naming_rule(sheet, 1, "the numbers of the subjects to their folders")
    names = {as_text(row[2]): as_text(row[1]).lower() for row in rows if len(row) > 2 and as_text(row[2]).isdigit()}
    if not names:
        raise DataError(
            f"the second worksheet of {sheet} has no subject (expected folder in column B, number in column C)."
        )
    return names


def _video_codes(sheet: Path) -> dict[str, str]:
    """Name of a video → the four digits in its folder's name, according to the third worksheet."""
    rows = _naming_rule(sheet, 2, "the names of the videos to the codes of their folders")
    codes = {
        as_text(row[1]): as_text(row[0]).zfill(4)
        for row in rows
        if len(row) > 1 and as_text(row[0]).isdigit() and row[1]
    }
    if not codes:
        raise DataError(f"the third worksheet of {sheet} has no video (expected code in column A, name in column B).")
    return codes


def _naming_rule(sheet: Path, position: int, what: str) -> list[list[object]]:
    try:
        return list(read_cells(sheet, position).rows.values())
    except DataError as error:
        raise DataError(
            f"{error} Worksheets 2 and 3 of code_final.xlsx are needed; this one maps {what}. Copy the file again."
        ) from error


def _look_up(names: Mapping[str, str], name: str, what: str, worksheet: str) -> str:
    if name not in names:
        raise DataError(
            f"the {what} {name!r} is not in the {worksheet} worksheet, which has {', '.join(names)}; correct the cell."
        )
    return names[name]


def _video_folder(pictures: Path, subject: str, code: str) -> Path:
    people = folders_by_name(pictures)
    if subject not in people:
        raise DataError(f"the folder {pictures / subject} does not exist; unpack the pictures of {subject} there.")
    folders = subfolders(people[subject])
    found = [folder for folder in folders if re.search(rf"(?<!\d){code}(?!\d)", folder.name)]
    if len(found) != 1:
        there = ", ".join(folder.name for folder in folders) or "no folder"
        raise DataError(
            f"{len(found)} folders of {people[subject]} have the video's code {code} in their name, expected one; "
            f"there is {there}."
        )
    return found[0]
