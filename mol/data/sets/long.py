"""Long videos of your own, or made by ``mol synth --layout long``: a table with one line per annotated expression.

    subject,video,path,kind,onset,apex,offset,emotion
    anna,interview,videos/anna.mp4,micro,412,418,424,disgust
    anna,interview,videos/anna.mp4,macro,630,660,701,happiness
    ben,interview,videos/ben.mp4,,,,,

A line without a kind lists a video in which nothing is annotated. Frames are counted from 0 in a video file; for a
folder of pictures they are the numbers in their names. The column fps is optional, and needed for folders.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mol.common.errors import DataError
from mol.common.storage import read_csv
from mol.data.interval import check_order
from mol.data.manifest import Clip, Loaded, OnError, numbered_frames
from mol.data.recordings import Annotated
from mol.data.sets.collector import ClipCollector
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, film_extent, require_folder
from mol.data.sets.neutral import LongVideo, neutral_segments

TABLE = "expressions.csv"
KINDS = ("micro", "macro", "blink")
_COLUMNS = ("subject", "video", "path", "kind", "onset", "apex", "offset", "emotion")


def load_long(root: Path, on_error: OnError = "raise", neutral: int = 0) -> Loaded:
    """Read ``expressions.csv``: micro-expressions become clips, all expressions are kept for spotting.

    Args:
        root: folder with the table, to which its paths are relative.
        on_error: ``"skip"`` drops a line that cannot be used and lists it.
        neutral: at most this many neutral clips per person, away from all micro- and macro-expressions.

    Raises:
        DataError: the table, a video or a line is missing or not as expected.
    """
    require_folder(root)
    table = root / TABLE
    if not table.is_file():
        raise SetNotFoundError(f"no table {TABLE} in {root}.")
    collector = ClipCollector(on_error)
    extent_of = cache(_extent)
    videos: dict[tuple[str, str], tuple[LongVideo, float]] = {}
    for line, row in read_csv(table, _COLUMNS, "correct the table"):
        source = f"{TABLE} line {line}"
        with collector.row(source, f"{row['subject']}/{row['video']}"):
            subject, name, path = (_filled(row, column) for column in ("subject", "video", "path"))
            numbers, fps = extent_of(root / path)
            fps = _fps(row) or fps
            if not fps:
                raise DataError(f"{path} is a folder of pictures, which carry no rate; add a column fps.")
            video, _ = videos.setdefault((subject, name), (LongVideo(subject, name, path, numbers), fps))
            if video.path != path:
                raise DataError(f"the video {subject}/{name} has the paths {video.path} and {path}; correct one.")
            if row["kind"]:
                _add(collector, video, row, fps, source)
    loaded = collector.loaded(table)
    loaded.recordings.extend(video.recording(SET.name, fps) for video, fps in videos.values())
    if neutral:
        longest = max(fps for _, fps in videos.values())
        busy = [video for video, _ in videos.values()]
        loaded.clips.extend(neutral_segments(SET.name, busy, loaded.clips, longest, neutral))
    return loaded


SET = DataSet(
    name="long",
    title="Your own long videos",
    load=load_long,
    tree="""
LONG/
  expressions.csv                        subject, video, path, kind, onset, apex, offset, emotion
  videos/anna.mp4                        or folders of numbered pictures
""",
    quirks=(
        ("a line without a kind", "a video in which nothing is annotated"),
        ("macro-expressions and blinks", "no clips; spotting is scored on macro-expressions, blinks are not scored"),
    ),
    remarks=(
        "For spotting (`mol loso --task spot`) in recordings of your own. `kind` is micro, macro or blink; a blank "
        "apex is not known, a blank emotion of a macro-expression or a blink neither. Frames are counted from 0 in a "
        "video file, and are the numbers in the pictures' names in a folder, for which a column fps is needed. `mol "
        "synth --layout long` writes such a set."
    ),
    telltales=(TABLE,),
)


def _add(collector: ClipCollector, video: LongVideo, row: Mapping[str, str], fps: float, source: str) -> None:
    """Add one annotated expression to its video, and a micro-expression to the clips."""
    kind = row["kind"].strip().lower()
    if kind not in KINDS:
        raise DataError(f"the kind {row['kind']!r} is not one of {', '.join(KINDS)}; correct the cell.")
    onset, apex, offset = (_number(row, column) for column in ("onset", "apex", "offset"))
    if onset is None or offset is None:
        raise DataError("onset and offset are needed; fill them in or remove the line.")
    check_order(onset, apex, offset)
    first, last = min(video.numbers), max(video.numbers)
    if onset < first or offset > last:
        raise DataError(f"the interval {onset}–{offset} lies outside the video, whose frames are {first} to {last}.")
    emotion = row["emotion"].strip().lower()
    video.expressions.append(Annotated(onset, apex, offset, kind, emotion))  # type: ignore[arg-type]
    if kind != "blink":
        video.busy.append((onset, offset))
    if kind == "micro":
        name = f"{video.name}_{onset}"
        emotion = _filled(row, "emotion").lower()
        clip = Clip(SET.name, video.subject, name, video.path, onset, apex, offset, emotion, "", fps, source)
        collector.add(clip)


def _extent(path: Path) -> tuple[range | list[int], float]:
    """Frame numbers and rate of a video file; of a folder the numbers, and 0."""
    if path.is_dir():
        return sorted(numbered_frames(path)), 0.0
    extent = film_extent(path)
    return range(extent.frames), extent.fps


def _filled(row: Mapping[str, str], column: str) -> str:
    text = row[column].strip()
    if not text:
        raise DataError(f"the column {column} is blank; fill it in or remove the line.")
    if column in ("subject", "video") and re.search(r"[/\\]", text):
        raise DataError(f"the {column} {text!r} contains a slash; choose another, as names become folders.")
    return text


def _number(row: Mapping[str, str], column: str) -> int | None:
    text = row[column].strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise DataError(f"the {column} {text!r} is not a frame number; correct the cell.")
    return int(text)


def _fps(row: Mapping[str, str]) -> float:
    text = row.get("fps", "").strip()
    try:
        fps = float(text) if text else 0.0
    except ValueError:
        fps = -1.0
    if not 0 <= fps < math.inf:
        raise DataError(f"the column fps holds {text!r}, expected frames per second; correct it.")
    return fps
