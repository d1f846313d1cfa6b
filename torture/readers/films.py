"""Bytes of films and pictures, and folders of frames."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from torture import materials
from torture.readers.edits import Edits, byte_edits, edits, file_edits, weighed
from torture.readers.media import header_edits
from torture.readers.reader import Reader
from torture.sandbox import InvalidResultError

# Texts that name another film: FFmpeg follows each of them unless it is told not to.
_PLAYLISTS = (
    "ffconcat version 1.0\nfile '{film}'\n",
    "ffconcat version 1.0\nfile {film}\nduration 1\nfile {film}\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{film}\n#EXT-X-ENDLIST\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "<?xml version='1.0'?><MPD type='static' mediaPresentationDuration='PT1S'><Period>"
    "<AdaptationSet mimeType='video/mp4'>"
    "<Representation id='1' bandwidth='1'><BaseURL>{film}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "<asx version='3.0'><entry><ref href='{film}'/></entry></asx>",
    "<CompositionPlaylist xmlns='http://www.smpte-ra.org/schemas/2067-3/2016'><Id>urn:uuid:{film}</Id>"
    "</CompositionPlaylist>",
    "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"
    "timestamp: 00:00:00:000, filepos: 000000000\n",
    "[playlist]\nFile1={film}\nNumberOfEntries=1\n",
    "testsrc=duration=1:size=64x64:rate=10",
    "movie={film}",
    "Some words that somebody wrote.\n" * 40,
    "\x1b[31mcoloured\x1b[0m words\n" * 40,
    "1\n00:00:00,000 --> 00:00:01,000\nwords\n",
    "<svg xmlns='http://www.w3.org/2000/svg' width='100000' height='100000'></svg>",
)  # fmt: skip
_NAMES = (
    "12:30", "subject1:take2", "http:", "file:film", "concat:a|b", "pipe:0", "-dash", "--help", "a b", "%d",
    "a%20b", "a?b=1",
    "[x]", "$x", "é", "ﬁlm", "x" * 240, ".hidden", "film.txt", "data:,x", "tcp:host", "async:film",
    "subfile,,start,0,end,9,,:x",
    "http:/a", "crypto:x", "#film", "\u202efilm", "image2:%d", "a\nb", "~", "*", "CON",
)  # fmt: skip
_FRAME_NAMES = (
    "screenshot_20230415123456", "-5", "1e9", "00000000000000000000001", "9" * 60, "²", "٣", "no number", "12 (1)",
    "img9_copy",
    "x_3_y", ".3", "3.", "10:30",
)  # fmt: skip


def _sole(folder: Path = Path()) -> Path:
    """The one file or link of an example, wherever an edit has put it."""
    for entry in sorted(folder.iterdir()):
        if entry.name == "decoy":
            continue
        if entry.is_dir() and any(entry.iterdir()):
            return _sole(entry)
        return entry
    return folder / "gone"


def _read_video() -> None:
    """Read all frames, some of them, and count them, as `predict`, `extract` and `prepare` do."""
    from mol.vision.video import read_video, video_extent

    path = _sole()
    video = read_video(path)
    shape = video.frames.shape
    if len(shape) != 3 or video.frames.dtype != np.uint8 or not len(video) or len(video.names) != len(video):
        raise InvalidResultError(f"frames {shape} {video.frames.dtype}, {len(video.names)} names")
    if not 0 < video.fps < math.inf:
        raise InvalidResultError(f"{video.fps} frames per second")
    if path.is_file():
        video_extent(path)
        _compare_last(path, video.frames[-1])


def _compare_last(path: Path, last: np.ndarray) -> None:
    """The last frame, read alone, against that of a reading of all frames.

    FFmpeg decodes some damaged films (FFV1) differently at times. What differs counts where it differs at each of
    several readings although all frames read the same.
    """
    from mol.vision.video import read_frames, read_video

    for _ in range(4):
        frames = read_video(path).frames
        alone = read_frames(path, [len(frames) - 1])[0]
        if np.array_equal(alone, last) or not np.array_equal(frames[-1], last):
            return
    raise InvalidResultError("the last frame alone differs from the last of all")


def _read_picture() -> None:
    from mol.vision.video import read_picture

    picture = read_picture(_sole())
    if picture.ndim != 2 or picture.dtype != np.uint8 or not picture.size:
        raise InvalidResultError(f"a picture {picture.shape} {picture.dtype}")


def _read_frames() -> None:
    """A folder of frames, and a clip of a set that lies in it."""
    from mol.data.extract.frames import plan_clip
    from mol.data.extract.settings import ExtractionSettings
    from mol.data.manifest import Clip, Manifest
    from mol.vision.video import read_video

    folder = Path("frames")
    clip = Clip("mine", "anna", "one", "frames", 1, None, 12, "happiness")
    plan_clip(Manifest("mine", Path.cwd(), [clip]), clip, ExtractionSettings())
    video = read_video(folder)
    if len(video.names) != len(video.frames):
        raise InvalidResultError("names and frames differ in number")


def _make_film(name: str, made: Path, base: Path) -> None:
    shutil.copy(made / name, base / name)
    (base / "decoy").mkdir()
    shutil.copy(made / "film.mp4", base / "decoy" / "film.mp4")


def _film_edits(base: Path) -> Edits:
    name = _sole(base).name
    film = "decoy/film.mp4"
    playlists = [text.replace("{film}", place) for text in _PLAYLISTS for place in (film, f"{base}/{film}")]
    names = st.sampled_from([f"{stem}{Path(name).suffix}" for stem in _NAMES] + ["http:/x.mp4", "12:30/film"])
    return weighed(
        (8, byte_edits(name)),
        (9, header_edits(name)),
        (1, edits("content", name, text=st.sampled_from(playlists))),
        (1, edits("rename", name, to=names)),
        (1, file_edits([name])),
    )


def _make_picture(name: str, made: Path, base: Path) -> None:
    shutil.copy(made / "pictures" / name, base / name)


def _picture_edits(base: Path) -> Edits:
    name = _sole(base).name
    return weighed((9, byte_edits(name)), (12, header_edits(name)), (1, file_edits([name])))


def _make_frames(made: Path, base: Path) -> None:
    (base / "frames").mkdir()
    for number in range(1, 13):
        shutil.copy(made / "pictures/picture.png", base / "frames" / f"img{number}.png")


def _frame_edits(base: Path) -> Edits:
    files = sorted(f"frames/{path.name}" for path in (base / "frames").iterdir())
    chosen = st.sampled_from(files)
    damage = chosen.flatmap(lambda file: weighed((1, byte_edits(file)), (1, header_edits(file))))
    names = st.sampled_from(_FRAME_NAMES).map(lambda stem: f"{stem}.png")
    moved = chosen.flatmap(lambda file: edits("move", file, to=names))
    return weighed((5, damage), (6, moved), (1, file_edits(files)))


def _importing(*names: str) -> Callable[[], None]:
    def prepare() -> None:
        for name in names:
            import_module(name)
        import_module("cv2").setNumThreads(1)

    return prepare


def readers() -> list[Reader]:
    """All readers of films and pictures."""
    imports = _importing("mol.vision.video", "mol.data.sets.generic", "mol.data.extract.frames", "av")
    pictures = [f"picture{suffix}" for suffix in materials.PICTURES] + ["deep.png", "deep.tiff", "colour.jpg"]
    films = {name: partial(_make_film, name) for name in materials.FILMS}
    shots = {name: partial(_make_picture, name) for name in pictures}
    return [
        Reader("video", 1400, 130, _read_video, films, _film_edits, prepare=imports),
        Reader("picture", 1800, 60, _read_picture, shots, _picture_edits, prepare=imports),
        Reader("frames", 700, 40, _read_frames, {"frames": _make_frames}, _frame_edits, prepare=imports),
    ]
