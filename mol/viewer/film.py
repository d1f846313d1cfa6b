"""The film of a page: small, grey, every frame at its own time, in a codec that browsers play."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import StorageError
from mol.common.extras import require

HEIGHT = 480
"""Pixels of a film's pictures from top to bottom, at most."""

_MOST_BYTES = 45_000_000  # of the film, so that a page stays below 100 MB
# A key frame every so often: to step back, a browser decodes from the last one.
_KEY_FRAMES = 30
_LEAST_TICKS = 4  # milliseconds of the medium from one frame to the next, usually


@dataclass(frozen=True)
class _Codec:
    name: str
    container: str
    kind: str
    options: dict[str, str]


# From the best on. No frame is delayed or hidden, so that each packet is one frame.
_VPX = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0"}
_CODECS = (
    _Codec("libvpx-vp9", "webm", "video/webm", {**_VPX, "crf": "33", "row-mt": "1"}),
    _Codec("libvpx", "webm", "video/webm", {**_VPX, "crf": "12", "cpu-used": "12"}),
    _Codec("libx264", "mp4", "video/mp4", {"crf": "25", "preset": "veryfast", "movflags": "+faststart", "bf": "0"}),
)


@dataclass(frozen=True)
class Clock:
    """The times at which the medium shows frames: WebM has milliseconds, so films of high rates run slower in it.

    Attributes:
        starts: (k,) milliseconds of the medium, ascending.
        end: where the last frame ends.
        stretch: seconds of the medium per second of the film.
    """

    starts: np.ndarray
    end: int
    stretch: int


def media_clock(seconds: np.ndarray, duration: float) -> Clock:
    """Times in the medium of frames at (k,) seconds of a film that lasts `duration` seconds."""
    times = np.append(seconds, max(duration, seconds[-1])) - seconds[0]
    usual = float(np.median(np.diff(times)))
    stretch = max(1, min(16, int(np.ceil(_LEAST_TICKS / 1000 / usual)))) if usual > 0 else 1
    ticks = np.rint(times * stretch * 1000).astype(np.int64)
    # Each at least a millisecond after the one before, also where the film's own times coincide.
    steps = np.arange(len(ticks))
    ticks = np.maximum.accumulate(ticks - steps) + steps
    return Clock(ticks[:-1], int(ticks[-1]), stretch)


def encode_film(path: Path, pictures: Iterable[np.ndarray], clock: Clock) -> str:
    """Encode the pictures, one at a time.

    Args:
        path: the file to write.
        pictures: (H, W) uint8, as many as the clock has starts; larger ones than `HEIGHT` are reduced.
        clock: when each is shown.
    Returns:
        The media type of the file.
    Raises:
        StorageError: no codec is there, or the film could not be written.
    """
    av = require("av", extra="data")
    codec = next((codec for codec in _CODECS if _can_encode(av, codec.name)), None)
    if codec is None:
        names = ", ".join(codec.name for codec in _CODECS)
        raise StorageError(f"this FFmpeg encodes none of {names}, which pages need; run again with --page false.")
    try:
        # An absolute path: FFmpeg takes a relative one with a colon for an address.
        with av.open(os.path.abspath(path), "w", format=codec.container) as container:
            _encode(av, container, codec, map(reduced, pictures), clock)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, os.strerror(error.errno)) from error
        raise StorageError(
            f"FFmpeg could not encode the film of the page ({error}); run again with --page false."
        ) from error
    return codec.kind


def reduced(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W) with even sides, at most `HEIGHT` from top to bottom."""
    height, width = picture.shape
    scale = min(1, HEIGHT / height)
    size = tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))
    if size == (width, height):
        return picture
    cv2 = require("cv2", extra="data")
    smaller: np.ndarray = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return smaller


def _encode(av: Any, container: Any, codec: _Codec, pictures: Iterator[np.ndarray], clock: Clock) -> None:
    stream = None
    ends = dict(zip(clock.starts.tolist(), [*clock.starts[1:].tolist(), clock.end], strict=True))
    for picture, start in zip(pictures, ends, strict=True):
        stream = stream or _add_stream(container, codec, picture.shape, clock)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray").reformat(format="yuv420p")
        frame.pts, frame.time_base = start, Fraction(1, 1000)
        _mux(container, stream.encode(frame), ends)
    if stream is not None:
        _mux(container, stream.encode(), ends)


def _add_stream(container: Any, codec: _Codec, shape: tuple[int, ...], clock: Clock) -> Any:
    rate = Fraction(1000 * len(clock.starts), clock.end).limit_denominator(1001) or Fraction(1)
    stream = container.add_stream(codec.name, rate=rate)
    stream.height, stream.width = shape
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.codec_context.gop_size = _KEY_FRAMES
    stream.bit_rate = min(2_500_000, _MOST_BYTES * 8000 // clock.end)  # with crf, what is not exceeded
    stream.options = codec.options
    stream.codec_context.thread_count = 0  # as many as there are processors
    return stream


def _mux(container: Any, packets: Iterable[Any], ends: dict[int, int]) -> None:
    """Write packets, each shown until the next one."""
    for packet in packets:
        packet.duration = max(ends[packet.pts] - packet.pts, 1)
        container.mux(packet)


def _can_encode(av: Any, codec: str) -> bool:
    try:
        return bool(av.codec.Codec(codec, "w").is_encoder)
    except av.codec.codec.UnknownCodecError:
        return False
