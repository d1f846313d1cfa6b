"""Grey frames from video files and from folders of pictures, and how clips of T frames are sampled from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from mol.common.errors import ClipError, MediaError
from mol.common.extras import require
from mol.common.memory import memory_for
from mol.common.storage import refuse_pipe
from mol.vision.film import Film, FilmFrame, opened_film
from mol.vision.footage import Footage
from mol.vision.frame_numbers import frame_numbers
from mol.vision.integrity import truncation
from mol.vision.levels import Grey, require_grey_levels, stated_depth
from mol.vision.timing import DEFAULT_RATE

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp"})

_SHORTER = "give a shorter part of the video or smaller pictures, or free some memory"


@dataclass(frozen=True)
class Video(Footage):
    """Grey frames in the order of time, all in memory.

    Attributes:
        frames: (L, H, W) uint8.
        fps: frames per second; the mean where the rate varies.
        names: L names for messages: the picture's file name, or ``frame 17``, counted from 0.
        times: (L,) seconds of the frames, from the first on; by default evenly spaced at `fps`.
        last: seconds for which the last frame is shown; by default that of a frame at `fps`.
        notes: what a user should know about the grey levels.
        rate_notes: what a user should know about the frame rate and the times.
    """

    frames: np.ndarray
    fps: float
    names: list[str]
    times: np.ndarray | None = None
    last: float | None = None
    notes: tuple[str, ...] = ()
    rate_notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.frames.shape[1:]
        return height, width

    def name(self, number: int) -> str:
        """The name of a frame."""
        return self.names[number]

    def walk(self, numbers: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """The frames, or some of them; see `Footage`."""
        return iter(self.frames) if numbers is None else (self.frames[number] for number in numbers)

    def at_rate(self, fps: float) -> Video:
        """The same frames, evenly spaced at a rate that is known better than the file knows it."""
        return replace(self, fps=fps, times=None, last=None, rate_notes=())


@dataclass(frozen=True)
class Extent:
    """The length of a video file.

    Attributes:
        frames: how many.
        fps: frames per second; the mean where the rate varies.
        notes: what a user should know about the rate.
    """

    frames: int
    fps: float
    notes: tuple[str, ...]


def read_video(path: str | Path, folder_fps: float | None = None) -> Video:
    """Read a video file, or a folder of pictures in the order of the numbers in their names.

    Args:
        path: a media container that FFmpeg can read, or a folder such as ``img1.jpg … img46.jpg`` (zero padding not
            needed).
        folder_fps: frames per second of a folder of pictures, which carry no rate of their own; by default 25, and the
            video's notes say so.
    Raises:
        MediaError: the file or folder is missing, empty, truncated or unreadable, or its pictures differ in size.
        NotEnoughMemoryError: the frames don't fit into memory.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, folder_fps)
    return _read_file(existing_film(path))


def video_extent(path: str | Path) -> Extent:
    """Number of frames and frame rate of a video file, without decoding it.

    Raises:
        MediaError: the file cannot be read as a video.
    """
    with opened_film(Path(path)) as film:
        frames, timing = film.packets()
    return Extent(frames, timing.fps, timing.notes)


def walk_video(path: str | Path) -> Iterator[np.ndarray]:
    """The frames (H, W) uint8 of a video file, one at a time, so that memory does not grow with its length.

    Frames with 16 bits per level are scaled one by one here.

    Raises:
        MediaError: as `read_video`, once the frames before the fault have been taken.
    """
    with opened_film(Path(path)) as film:
        shape = None
        for frame in film.frames():
            shape = shape or frame.shape
            check_size(frame.shape, shape, film.path)
            yield _in_8_bits(frame.picture)


def read_picture(path: str | Path) -> np.ndarray:
    """Read one picture as grey, upright by its EXIF orientation.

    Returns:
        (H, W) uint8. Levels of 10, 12 or 14 bits in 16-bit pixels keep their range.
    Raises:
        MediaError: the file is missing, truncated or not a picture.
    """
    picture, bits = decoded_picture(Path(path))
    return _in_8_bits(picture, bits)


def read_pictures(paths: Sequence[Path]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read pictures of one size as the frames of one video, with one scale of grey levels.

    Args:
        paths: at least one.
    Returns:
        (L, H, W) uint8, and notes about the grey levels.
    Raises:
        MediaError: a file is missing, truncated or not a picture, or they differ in size.
        NotEnoughMemoryError: they don't fit into memory.
    """
    first, bits = decoded_picture(paths[0])
    with memory_for(len(paths) * first.size, f"the {len(paths)} pictures in {paths[0].parent}", _SHORTER):
        grey = Grey(np.empty((len(paths), *first.shape), np.uint8))
        grey.add(first, bits)
        for path in paths[1:]:
            picture, bits = decoded_picture(path)
            require_one_size(picture, path, first.shape, paths[0])
            grey.add(picture, bits)
    return grey.frames, (grey.note,) if grey.note else ()


def read_frames(path: str | Path, numbers: Sequence[int]) -> np.ndarray:
    """Read some frames of a video file; nothing after the last of them is decoded, and no other frame is kept.

    Args:
        path: a media container that FFmpeg can read.
        numbers: which frames, counted from 0, ascending.
    Returns:
        (len(numbers), H, W) uint8.
    Raises:
        MediaError: the file cannot be read up to there, ends before the last frame, or changes its picture size.
        NotEnoughMemoryError: the frames don't fit into memory.
    """
    return read_frames_and_notes(path, numbers)[0]


def read_frames_and_notes(path: str | Path, numbers: Sequence[int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """`read_frames`, and what a user should know about their grey levels."""
    path = Path(path)
    wanted = set(numbers)
    with opened_film(path) as film:
        decoded = enumerate(islice(film.frames(), max(wanted) + 1))
        grey = _collect((frame for index, frame in decoded if index in wanted), len(numbers), film)
    frames = grey.frames
    if len(frames) < len(numbers):
        raise MediaError(f"{path} ends before frame {max(wanted)}; check its length against the annotation.")
    return frames, (grey.note,) if grey.note else ()


def numbered_pictures(folder: Path) -> dict[int, Path]:
    """Pictures of a folder by the number in their names: any prefix, any padding, in the order of the numbers.

    Of several numbers in a name it is the one that varies, see `frame_numbers`.

    Raises:
        MediaError: no pictures, a name without a number, or a number twice.
    """
    numbered: dict[int, Path] = {}
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    ]
    numbers = frame_numbers([path.stem for path in paths])
    if numbers is None:
        path = next(path for path in paths if not re.search(r"\d", path.stem))
        raise MediaError(f"{path} has no number in its name; rename it, since frames are ordered by number.")
    for number, path in zip(numbers, paths, strict=True):
        if number in numbered:
            raise MediaError(
                f"{numbered[number].name} and {path.name} in {folder} have the same frame number {number}; "
                "keep one video per folder."
            )
        numbered[number] = path
    if not numbered:
        raise MediaError(f"the folder {folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}).")
    return dict(sorted(numbered.items()))


def sample_starts(length: int, frames: int = 8) -> tuple[int, range]:
    """Sub-clips of T frames at equal intervals: interval s = length // T, starts 0 … s − 1.

    Sub-clip j takes the frames ``j, j + s, …, j + (T − 1)·s``, so the s sub-clips share no frame.

    Args:
        length: number of frames of the video.
        frames: T.
    Returns:
        (s, range of the starts).
    Raises:
        ClipError: the video has fewer than T frames.
    """
    if length < frames:
        raise ClipError(
            f"the video has {length} frames and a clip needs {frames}; give a longer video, or lengthen this one "
            "by interpolation in time (interpolate_frames)."
        )
    interval = length // frames
    return interval, range(interval)


def interpolate_frames(frames: np.ndarray, count: int) -> np.ndarray:
    """Resample a video in time by linear interpolation between neighbouring frames; first and last frame stay.

    Args:
        frames: (L, H, W) uint8, L ≥ 2.
        count: number of frames wanted.
    Returns:
        (count, H, W) uint8.
    Raises:
        ClipError: fewer than two frames.
    """
    if len(frames) < 2:
        raise ClipError(f"interpolation in time needs at least 2 frames, the video has {len(frames)}.")
    times = np.linspace(0, len(frames) - 1, count)
    earlier = np.minimum(times.astype(int), len(frames) - 2)
    weight = (times - earlier).astype(np.float32)[:, None, None]
    blend = frames[earlier] * (1 - weight) + frames[earlier + 1] * weight
    resampled: np.ndarray = np.rint(blend).astype(np.uint8)
    return resampled


def existing_film(path: Path) -> Path:
    """The path, which must be of a file; whether it is an ordinary one is checked when it is opened.

    Raises:
        MediaError: it is missing, or a single picture.
    """
    if not path.exists():
        raise MediaError(f"{path} does not exist; give a video file or a folder of pictures.")
    if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES:
        raise MediaError(f"{path} is a single picture; give the folder with the pictures of a video, or a video file.")
    return path


def _read_folder(folder: Path, fps: float | None) -> Video:
    paths = list(numbered_pictures(folder).values())
    frames, notes = read_pictures(paths)
    rate, rate_notes = rate_of_folder(fps)
    return Video(frames, rate, [path.name for path in paths], notes=notes, rate_notes=rate_notes)


def rate_of_folder(fps: float | None) -> tuple[float, tuple[str, ...]]:
    """The rate of a folder of pictures, and what a user should know about it.

    Args:
        fps: frames per second if they are known.
    """
    if fps is not None:
        return fps, ()
    assumed = f"a folder has no frame rate; {DEFAULT_RATE:g} frames per second are assumed; --fps sets another"
    return DEFAULT_RATE, (assumed,)


def decoded_picture(path: Path) -> tuple[np.ndarray, int]:
    """A picture (H, W), uint8 or uint16, upright, and the bits per level that its file states.

    Raises:
        MediaError: the file is missing, truncated or not a picture.
    """
    cv2 = require("cv2", extra="data")
    refuse_pipe(path, MediaError)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot read the picture {path}: {error.strerror}.") from error
    if not data:
        raise MediaError(f"the picture {path} is empty (0 bytes); copy it again from its source.")
    if lacking := truncation(data):  # OpenCV may fill what is missing with grey
        raise MediaError(f"{path}: {lacking}; copy it again from its source.")
    try:
        picture: np.ndarray | None = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error:
        picture = None
    if picture is None:
        raise MediaError(
            f"{path} is truncated, damaged or not a picture ({', '.join(sorted(PICTURE_SUFFIXES))} can be read); "
            "copy it again from its source."
        )
    require_grey_levels(picture, str(path))
    return picture, stated_depth(data)


def _in_8_bits(picture: np.ndarray, bits: int = 8) -> np.ndarray:
    """A picture that belongs to no sequence, or whose scale may differ from its neighbours'."""
    if picture.dtype == np.uint8:
        return picture
    alone = Grey(np.empty((1, *picture.shape), np.uint8))
    alone.add(picture, bits)
    only: np.ndarray = alone.frames[0]
    return only


def require_one_size(picture: np.ndarray, path: Path, shape: tuple[int, ...], first: Path) -> None:
    """Check that a picture of a folder is as large as its first one.

    Raises:
        MediaError: it is not.
    """
    if picture.shape != shape:
        raise MediaError(
            f"{path} is {_extent(picture.shape)} pixels and {first.name} is {_extent(shape)}; "
            "the pictures of a folder must be the frames of one video, all of one size."
        )


def _extent(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _read_file(path: Path) -> Video:
    expected = _expected_frames(path)
    with opened_film(path) as film:
        grey = _collect(film.frames(), expected, film)
        timing = film.timing()
    frames = grey.frames
    if not len(frames):
        raise MediaError(f"{path} holds no frames.")
    notes = (grey.note,) if grey.note else ()
    names = [f"frame {index}" for index in range(len(frames))]
    return Video(frames, timing.fps, names, timing.times, timing.last, notes, timing.notes)


def _expected_frames(path: Path) -> int:
    """At least as many frames as the film has, from its header or else by counting packets."""
    with opened_film(path) as film:
        return film.announced or film.packets()[0]


def _collect(frames: Iterator[FilmFrame], expected: int, film: Film) -> Grey:
    """Frames of one size in one array, which is allocated once.

    Args:
        frames: as they are decoded.
        expected: how many; if there are more, the array grows in place.
        film: that they come from.
    """
    with memory_for(expected * film.size, f"the {expected} frames of {film.path}", _SHORTER):
        first = next(frames, None)
        if first is None:
            return Grey(np.empty((0, 0, 0), np.uint8))
        shape = first.shape
        grey = Grey(np.empty((max(expected, 1), *shape), np.uint8))
        grey.add(first.picture)
        for frame in frames:
            check_size(frame.shape, shape, film.path)
            if grey.count == len(grey.frames):
                grey.frames.resize((grey.count + grey.count // 8 + 1, *shape), refcheck=False)
            grey.add(frame.picture)
        grey.frames.resize((grey.count, *shape), refcheck=False)
    return grey


def check_size(found: tuple[int, ...], shape: tuple[int, ...], path: Path) -> None:
    """Check that a frame of a film is as large as the others.

    Raises:
        MediaError: it is not.
    """
    if found != shape:
        raise MediaError(f"{path} changes its picture size in the middle; convert it to one size first.")
