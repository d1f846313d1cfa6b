"""CAS(ME)³, part A: micro-expressions annotated in long videos with depth, 30 frames per second.

The sheet lists Subject (``spNO.1``), Filename (``a`` … ``m``), Onset, Apex, Offset, AU, Objective class and emotion.

A few rows of version 2 are impossible. A public loader replaces their numbers, at the same rows; the authors have not
confirmed this. The replacements are used, each with a note, where the row is indeed impossible and becomes possible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from mol.common.errors import DataError
from mol.data.interval import check_order, frames_between
from mol.data.manifest import NEUTRAL, Clip, Loaded, OnError, numbered_frames
from mol.data.recordings import Annotated, Recording, in_order
from mol.data.sets.collector import ClipCollector, named_emotion, relative_path, required, spellings
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, find_folders, find_sheet, folders_by_name
from mol.data.sets.neutral import LongVideo, neutral_segments
from mol.data.sets.sheets import SheetRow, read_sheet

_COLUMNS = {
    "subject": ["Subject"],
    "file": ["Filename"],
    "onset": ["Onset"],
    "apex": ["Apex"],
    "offset": ["Offset"],
    "au": ["AU", "Action Units"],
    "emotion": ["emotion"],
}
_EMOTIONS = spellings(
    *("happiness", "sadness", "disgust", "surprise", "others", "fear", "anger"),
    happy="happiness",
    sad="sadness",
    other="others",
)
_MACRO_SHEETS = ("*part_A_MaE_label_JpgIndex*.xlsx",)
# Row of the sheet → the numbers that replace its own if it is impossible.
_CORRECTED: dict[int, dict[str, int]] = {
    130: {"apex": 160},
    710: {"offset": 34},
    751: {"onset": 2647},
    752: {"onset": 1, "apex": 1},
    798: {"offset": 1845},
    800: {"offset": 2403},
}


def load_casme3(root: Path, on_error: OnError = "raise", neutral: int = 0) -> Loaded:
    """Read the micro-expressions of CAS(ME)³, part A.

    Args:
        root: folder with the sheet and ``part_A`` or ``Part_A_ME_clip``.
        on_error: ``"skip"`` drops a row that cannot be used and lists it.
        neutral: at most this many neutral clips per person, away from all micro- and macro-expressions. They need the
            long videos and the sheet of macro-expressions.

    Raises:
        DataError: the sheet, a folder or a row is missing or not as expected.
    """
    sheet = find_sheet(root, SET.sheets, "annotation sheet of CAS(ME)³, part A")
    rows = read_sheet(sheet, _COLUMNS, required=set(_COLUMNS) - {"au"})
    find_folder = cache(_folder_finder(root))
    frames_of = cache(numbered_frames)
    collector = ClipCollector(on_error)
    for row in rows:
        with collector.row(row.source, f"{row.shown('subject')}/{row.shown('file')}"):
            subject = _subject(row.text("subject"))
            onset = required(row.whole("onset"), "Onset")
            folder = find_folder(subject, row.text("file"), onset)
            collector.add(_clip(row, subject, folder, frames_of(folder), root, collector))
    loaded = collector.loaded(sheet)
    if neutral:
        loaded.clips.extend(_neutral_clips(root, rows, loaded.clips, collector, neutral))
    if find_folders(root, ("part_A",)) and not find_folders(root, ("Part_A_ME_clip",)):
        loaded.recordings.extend(_recordings(root, loaded.clips))
    return loaded


SET = DataSet(
    name="casme3",
    title="CAS(ME)³, part A",
    load=load_casme3,
    citation=(
        'Li et al., "CAS(ME)³: A Third Generation Facial Spontaneous Micro-Expression Database with Depth Information '
        'and High Ecological Validity", IEEE TPAMI 45 (3), 2023'
    ),
    access="the Institute of Psychology, Chinese Academy of Sciences, with the signed licence agreement",
    url="http://casme.psych.ac.cn/casme/e4",
    tree="""
CASME3/
  cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx
  part_A/                                the long videos
    spNO.1/a/color/175.jpg
  Part_A_ME_clip/                        or the release of the cut clips instead
    frame/spNo.1_a_175/175.jpg
""",
    quirks=(
        ("folders differ from the sheet in upper and lower case", "found in any case"),
        ("a video has several expressions", "a clip is named by file and onset, such as `a_175`"),
        ('"happy" and "sad"', "become `happiness` and `sadness`"),
        (
            "a few rows are impossible",
            "the numbers of a public loader are used where they make the row possible (?); *repaired*",
        ),
        (
            "frames are missing, often the first 7 or 8 of a recording (about a tenth of the clips)",
            "the nearest frame stands in for a missing onset, apex or offset; *repaired*",
        ),
        ("depth pictures", "not read"),
    ),
    remarks=(
        "The sheet has 860 rows with 7 emotions. No counts are checked, because no published ones are known. "
        "`--neutral N` adds up to N neutral clips per person. It needs the long videos and the sheet of "
        "macro-expressions, `cas(me)3_part_A_MaE_label_JpgIndex_v2_emotion.xlsx`, whose columns are taken to be those "
        "of the other (?)."
    ),
    fps=30.0,
    sheets=("*part_A_ME_label_JpgIndex*.xlsx",),
    telltales=("cas(me)3*",),
    subject="spNO.1",
    subject_pattern=r"spNO\.\d+",
    stated_clips=860,
)


def _neutral_clips(
    root: Path, rows: Sequence[SheetRow], clips: Sequence[Clip], collector: ClipCollector, most: int
) -> list[Clip]:
    """Neutral clips out of the long videos that the sheet of micro-expressions lists."""
    bases = find_folders(root, ("part_A",))
    if not bases:
        raise DataError(
            f"--neutral needs the long videos, but {root} has no folder part_A; unpack them or omit --neutral."
        )
    macro_sheet = find_sheet(root, _MACRO_SHEETS, "sheet of CAS(ME)³'s macro-expressions, which --neutral needs")
    find_folder = _whole_videos(bases)

    @cache
    def video_of(subject: str, file: str) -> LongVideo:
        folder = find_folder(subject, file, 0)
        return LongVideo(subject, file, relative_path(folder, root), sorted(numbered_frames(folder)))

    found = {clip.source: clip for clip in clips}
    videos: dict[str, LongVideo] = {}
    for row in rows:
        if (clip := found.get(row.source)) is None:
            with suppress(DataError):  # a dropped row, which has its note
                video_of(_subject(row.text("subject")), row.text("file").lower()).block()
            continue
        video = video_of(clip.subject, row.text("file").lower())
        video.busy.append((clip.onset, clip.offset))
        videos[video.path] = video
    for row in read_sheet(macro_sheet, _COLUMNS, required={"subject", "file", "onset", "offset"}):
        with collector.row(row.source, f"{row.shown('subject')}/{row.shown('file')}"):
            video = video_of(_subject(row.text("subject")), row.text("file").lower())
            video.block()
            video.unblock(required(row.whole("onset"), "Onset"), row.whole("offset") or None)
    return neutral_segments(SET.name, videos.values(), clips, SET.fps, most)


def _recordings(root: Path, clips: Sequence[Clip]) -> list[Recording]:
    """The long videos in which a micro-expression is annotated, with the macro-expressions of their own sheet."""
    expressions: dict[tuple[str, str, str], list[Annotated]] = {}
    for clip in clips:
        if clip.emotion != NEUTRAL:
            video = expressions.setdefault((clip.subject, _file_of(clip.path), clip.path), [])
            video.append(Annotated(clip.onset, clip.apex, clip.offset, "micro", clip.emotion))
    for subject, file, macro in _macro_expressions(root):
        for (own, name, _), found in expressions.items():
            if (own.lower(), name) == (subject.lower(), file):
                found.append(macro)
    return [
        Recording(SET.name, subject, file, path, SET.fps, in_order(found))
        for (subject, file, path), found in expressions.items()
    ]


def _macro_expressions(root: Path) -> Iterator[tuple[str, str, Annotated]]:
    """(subject, file, expression) of the sheet of macro-expressions, as far as it is there and its rows can be used."""
    rows: Sequence[SheetRow] = ()
    with suppress(DataError):  # only spotting needs them, so they stop nothing
        sheet = find_sheet(root, _MACRO_SHEETS, "sheet of CAS(ME)³'s macro-expressions")
        rows = read_sheet(sheet, _COLUMNS, required={"subject", "file", "onset", "offset"})
    for row in rows:
        with suppress(DataError):
            yield _subject(row.text("subject")), row.text("file").lower(), _macro(row)


def _file_of(path: str) -> str:
    """The name of a video, ``a`` of ``part_A/spNO.1/a/color``."""
    return path.split("/")[-2].lower()


def _macro(row: SheetRow) -> Annotated:
    onset, offset = required(row.whole("onset"), "Onset"), required(row.whole("offset"), "Offset")
    apex = row.whole("apex")
    apex = apex if apex is not None and onset <= apex <= offset else None
    check_order(onset, apex, offset)
    return Annotated(onset, apex, offset, "macro", _EMOTIONS.get(row.text("emotion").strip().lower(), ""))


def _clip(
    row: SheetRow, subject: str, folder: Path, frames: Mapping[int, Path], root: Path, collector: ClipCollector
) -> Clip:
    numbers = {name: row.whole(name) for name in ("onset", "apex", "offset")}
    if repair := _repair(row, numbers, frames):
        changes = ", ".join(f"{name} {row.text(name) or 'blank'} → {number}" for name, number in repair.items())
        collector.repaired(f"the row is impossible; {changes}, as in a public loader.")
        numbers.update(repair)
    onset, offset = required(numbers["onset"], "Onset"), required(numbers["offset"], "Offset")
    first, apex, last = collector.check_interval(onset, numbers["apex"], offset, frames, folder, beyond=True)
    return Clip(
        dataset=SET.name,
        subject=subject,
        clip=f"{row.text('file')}_{onset}",
        path=relative_path(folder, root),
        onset=first,
        apex=apex,
        offset=last,
        emotion=named_emotion(row.text("emotion"), _EMOTIONS),
        action_units=row.text("au"),
        fps=SET.fps,
        source=row.source,
    )


def _repair(row: SheetRow, numbers: dict[str, int | None], frames: Mapping[int, Path]) -> dict[str, int]:
    """The known correction of a row if the row needs it and it helps; otherwise empty."""
    corrected = _CORRECTED.get(row.number, {})
    if not corrected or _is_possible(numbers, frames) or not _is_possible({**numbers, **corrected}, frames):
        return {}
    return corrected


def _is_possible(numbers: dict[str, int | None], frames: Mapping[int, Path]) -> bool:
    onset, apex, offset = numbers["onset"], numbers["apex"], numbers["offset"]
    if onset is None or offset is None:
        return False
    try:
        check_order(onset, apex, offset)
    except DataError:
        return False
    return bool(frames_between(list(frames), onset, offset))


def _subject(text: str) -> str:
    """``"spNO.1"`` in whatever case and with or without the dot."""
    match = re.fullmatch(r"spno\.?(\d+)", text, re.IGNORECASE)
    if match is None:
        raise DataError(f"the subject {text!r} is not a name such as spNO.1; correct the cell.")
    return f"spNO.{int(match[1])}"


def _folder_finder(root: Path) -> Callable[[str, str, int], Path]:
    """A function from (subject, file, onset) to the folder of frames, for whichever release is there."""
    if clips := find_folders(root, ("Part_A_ME_clip",)):
        return _cut_clips(clips[0])
    if videos := find_folders(root, ("part_A",)):
        return _whole_videos(videos)
    raise SetNotFoundError(f"no folder part_A or Part_A_ME_clip under {root}; unpack CAS(ME)³, part A, there.")


def _cut_clips(base: Path) -> Callable[[str, str, int], Path]:
    folders = folders_by_name(folders_by_name(base).get("frame", base))

    def find(subject: str, file: str, onset: int) -> Path:
        name = f"{subject}_{file}_{onset}"
        if name.lower() not in folders:
            raise DataError(f"{base} has no folder {name} (in any case); unpack the clip there.")
        return folders[name.lower()]

    return find


def _whole_videos(bases: list[Path]) -> Callable[[str, str, int], Path]:
    people = {name: folder for base in reversed(bases) for name, folder in folders_by_name(base).items()}

    def find(subject: str, file: str, onset: int) -> Path:
        if subject.lower() not in people:
            raise DataError(f"{bases[0]} has no folder {subject} (in any case); unpack the subject's pictures there.")
        videos = folders_by_name(people[subject.lower()])
        if file.lower() not in videos:
            raise DataError(f"{people[subject.lower()]} has no folder {file}; unpack the video's pictures there.")
        inner = folders_by_name(videos[file.lower()])
        if "color" not in inner:
            raise DataError(f"{videos[file.lower()]} has no folder color; unpack the video's pictures there.")
        return inner["color"]

    return find
