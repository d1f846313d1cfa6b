"""Grey frames from video files and from folders of pictures, and how clips of T frames are sampled from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import ClipError, MediaError
from mol.common.extras import require
from mol.vision.frame_numbers import frame_numbers
from mol.vision.integrity import truncation

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Video:
    """Grey frames in the order of time.

    Attributes:
        frames: (L, H, W) uint8.
        fps: frames per second.
        names: L names for messages: the picture's file name, or ``frame 17``, counted from 0.
    """

    frames: np.ndarray
    fps: float
    names: list[str]

    def __len__(self) -> int:
        return len(self.frames)


def read_video(path: str | Path, folder_fps: float = 25.0) -> Video:
    """Read a video file, or a folder of pictures in the order of the numbers in their names.

    Args:
        path: a file that FFmpeg can read, or a folder such as ``img1.jpg … img46.jpg`` (zero padding not needed).
        folder_fps: frames per second of a folder of pictures, which carry no rate of their own.
    Raises:
        MediaError: the file or folder is missing, empty, truncated or unreadable, or its pictures differ in size.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, folder_fps)
    if path.is_file():
        return _read_file(path)
    raise MediaError(f"{path} does not exist; give a video file or a folder of pictures.")


def read_picture(path: str | Path) -> np.ndarray:
    """Read one picture as grey.

    Returns:
        (H, W) uint8.
    Raises:
        MediaError: the file is missing, truncated or not a picture.
    """
    cv2 = require("cv2", extra="data")
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot read the picture {path}: {error.strerror}.") from error
    if not data:
        raise MediaError(f"the picture {path} is empty (0 bytes); copy it again from its source.")
    if lacking := truncation(data):  # OpenCV may fill what is missing with grey
        raise MediaError(f"{path}: {lacking}; copy it again from its source.")
    try:
        picture: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        picture = None
    if picture is None:
        raise MediaError(
            f"{path} is truncated, damaged or not a picture ({', '.join(sorted(PICTURE_SUFFIXES))} can be read); "
            "copy it again from its source."
        )
    return picture


def read_frames(path: str | Path, numbers: Sequence[int]) -> np.ndarray:
    """Read some frames of a video file; nothing after the last of them is decoded, and no other frame is kept.

    Args:
        path: a file that FFmpeg can read.
        numbers: which frames, counted from 0, ascending.
    Returns:
        (len(numbers), H, W) uint8.
    Raises:
        MediaError: the file cannot be read up to there, ends before the last frame, or changes its picture size.
    """
    path = Path(path)
    wanted = set(numbers)
    with _opened(path) as (decoded, _):
        frames = [frame for index, frame in enumerate(islice(decoded, max(wanted) + 1)) if index in wanted]
    if len(frames) < len(numbers):
        raise MediaError(f"{path} ends before frame {max(wanted)}; check its length against the annotation.")
    _check_sizes(frames, path)
    return np.stack(frames)


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


def _read_folder(folder: Path, fps: float) -> Video:
    paths = list(numbered_pictures(folder).values())
    frames = [read_picture(path) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise MediaError(
                f"{path} is {_extent(frame)} pixels and {paths[0].name} is {_extent(frames[0])}; "
                "the pictures of a folder must be the frames of one video."
            )
    return Video(np.stack(frames), fps, [path.name for path in paths])


def _extent(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}×{picture.shape[0]}"


def _read_file(path: Path) -> Video:
    with _opened(path) as (decoded, fps):
        frames = list(decoded)
    if not frames:
        raise MediaError(f"{path} holds no frames.")
    _check_sizes(frames, path)
    return Video(np.stack(frames), fps, [f"frame {index}" for index in range(len(frames))])


def _check_sizes(frames: Sequence[np.ndarray], path: Path) -> None:
    if any(frame.shape != frames[0].shape for frame in frames):
        raise MediaError(f"{path} changes its picture size in the middle; convert it to one size first.")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterator[np.ndarray], float]]:
    """The frames of a video file, decoded as they are taken, and their rate; FFmpeg's errors name the file."""
    av = require("av", extra="data")
    taken = 0

    def counted(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path} has no video stream.")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or stream.guessed_rate or 25)
            yield counted(_decode(container, stream, fps, path)), fps
    except av.error.FFmpegError as error:
        where = f"frame {taken} of {path} cannot be read" if taken else f"{path} cannot be read as a video"
        raise MediaError(
            f"{where}: {error.strerror}. The file is damaged, truncated or in an unknown format."
        ) from error


def _decode(container: Any, stream: Any, fps: float, path: Path) -> Iterator[np.ndarray]:
    """Yield grey frames, then check that the file held as much as its header promised."""
    stream.thread_type = "AUTO"
    packets, end = 0, 0.0
    for packet in container.demux(stream):
        if packet.size:
            packets += 1
            end = max(end, float((packet.pts or 0) * packet.time_base) + 1 / fps)
        if packet.is_corrupt:
            raise MediaError(f"{path} is truncated or damaged at frame {packets - 1}; copy it again from its source.")
        for frame in packet.decode():
            yield _upright(frame)
    announced = _announced_seconds(stream)
    if packets < stream.frames or end < announced - 1.5 / fps:
        raise MediaError(
            f"{path} is truncated: it announces {stream.frames or f'{announced:.2f} s'}"
            f"{' frames' if stream.frames else ''} and ends after {packets} frames ({end:.2f} s)."
        )


def _upright(frame: Any) -> np.ndarray:
    """The grey picture, rotated as a player would show it: phones store the rotation beside the frame."""
    picture = frame.to_ndarray(format="gray")
    return np.ascontiguousarray(np.rot90(picture, getattr(frame, "rotation", 0) // 90))


def _announced_seconds(stream: Any) -> float:
    """Length that a Matroska header gives for the stream; 0 if the container has no such entry."""
    parts = str(stream.metadata.get("DURATION", "0")).split(":")
    try:
        return float(sum(float(part) * 60**power for power, part in enumerate(reversed(parts))))
    except ValueError:
        return 0.0
