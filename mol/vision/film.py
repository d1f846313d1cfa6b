"""Video files, decoded by FFmpeg: only media containers, only the file that is named, whole or not at all.

FFmpeg takes ``12:30.mp4`` for an address, opens the files that a playlist names, and reads text as a film. Files are
therefore opened here and handed to it, and only demuxers of media containers are allowed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import MediaError, NotEnoughMemoryError
from mol.common.extras import require
from mol.common.storage import refuse_pipe
from mol.vision.orientation import Uprighting
from mol.vision.timing import DEFAULT_RATE, FrameTimes, timing_of

# FFmpeg's demuxers that read one file and open no other.
_CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "ogg", "flv", "asf", "wtv", "rm", "nut", "mxf", "gxf", "dv", "dhav"),
    *("ivf", "obu", "yuv4mpegpipe", "gif", "apng", "cine", "mpegvideo", "m4v", "h264", "hevc", "vvc", "mjpeg"),
)
# Those without time stamps of their own, for which FFmpeg makes some up.
_RAW = frozenset({"h264", "hevc", "vvc", "mjpeg", "obu", "m4v"})
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FilmFrame:
    """One decoded frame; it is made a grey picture only if that is asked for.

    Attributes:
        shape: (H, W) of the picture, upright.
    """

    shape: tuple[int, int]
    _frame: Any
    _upright: Uprighting

    @property
    def is_deep(self) -> bool:
        """Whether the film has 16 bits per level."""
        return _bits(self._frame) >= 16

    @property
    def picture(self) -> np.ndarray:
        """(H, W) uint8, or uint16 if the film has 16 bits per level; upright."""
        return np.ascontiguousarray(self._upright(_grey(self._frame), self._frame))


@dataclass
class Film:
    """An open video file; `frames` decodes it once.

    Attributes:
        path: of the file.
        announced: number of frames according to the header; 0 if it doesn't say.
        rate: frames per second as stated by the file, None if it states none.
        size: number of pixels of a frame according to the header; 0 if it doesn't say.
        is_raw: whether the file has no container, and therefore no time stamps.
    """

    path: Path
    announced: int
    rate: float | None
    size: int
    is_raw: bool
    _container: Any
    _stream: Any
    _decoded: int = 0
    _stamps: list[float | None] = field(default_factory=list)
    _last: float | None = None
    _upright: Uprighting = field(default_factory=Uprighting)

    def frames(self) -> Iterator[FilmFrame]:
        """Decode the film from its start, then check that it was whole.

        Raises:
            MediaError: the film is damaged, or ends before its header says.
        """
        # Not frame by frame: with frames in several threads it depends on their order what FFmpeg reports as damaged.
        self._stream.thread_type = "SLICE"
        packets, end = 0, 0.0
        for packet in self._container.demux(self._stream):
            if packet.size:
                packets += 1
                end = max(end, _seconds(packet.pts, packet) + _seconds(packet.duration, packet))
            if packet.is_corrupt:
                raise MediaError(
                    f"{self.path} is truncated or damaged at frame {packets - 1}; copy it again from its source."
                )
            for frame in packet.decode():
                # FFmpeg paints over what it can't decode, with several threads differently each time.
                if frame.is_corrupt:
                    raise MediaError(
                        f"{self.path} is damaged at frame {self._decoded}; copy it again from its source, or convert "
                        "it with another program, which decides what the damaged parts show."
                    )
                yield self._take(frame)
        self._require_whole(packets, end)

    def timing(self) -> FrameTimes:
        """The times of the frames decoded so far."""
        return timing_of([None] * len(self._stamps) if self.is_raw else self._stamps, self.rate, self._last)

    def packets(self) -> tuple[int, FrameTimes]:
        """Number of frames, and their times, without decoding them; only for a film that is not decoded."""
        stamps: list[float | None] = []
        for packet in self._container.demux(self._stream):
            if packet.size and not packet.is_discard:
                stamps.append(None if packet.pts is None else float(packet.pts * packet.time_base))
        known = [] if self.is_raw else sorted(stamp for stamp in stamps if stamp is not None)
        # Packets come in the order of decoding.
        return len(stamps), timing_of(known if len(known) == len(stamps) else [None] * len(stamps), self.rate, None)

    def _take(self, frame: Any) -> FilmFrame:
        stamp = None if frame.pts is None else float(frame.pts * frame.time_base)
        stays = float(frame.duration * frame.time_base) if getattr(frame, "duration", 0) else None
        self._stamps.append(stamp)
        self._last = stays
        self._decoded += 1
        return FilmFrame(self._upright.shape(frame), frame, self._upright)

    def _require_whole(self, packets: int, end: float) -> None:
        promised = _matroska_seconds(self._stream)
        stamps = [stamp for stamp in self._stamps if stamp is not None]
        # The mean length of a frame, as the last one may not say how long it is shown.
        step = (max(stamps) - min(stamps)) / (len(stamps) - 1) if len(stamps) > 1 else 1 / (self.rate or DEFAULT_RATE)
        if packets < self.announced or end < promised - 1.5 * step:
            raise MediaError(
                f"{self.path} is truncated: it announces {self.announced or f'{promised:.2f} s'}"
                f"{' frames' if self.announced else ''} and ends after {packets} frames ({end:.2f} s)."
            )


@contextmanager
def opened_film(path: Path) -> Iterator[Film]:
    """Open a video file; errors of FFmpeg, here and while decoding, name the file.

    Raises:
        MediaError: the file is missing, no media container, without pictures, damaged or truncated.
        NotEnoughMemoryError: FFmpeg has not enough memory to decode it.
    """
    av = require("av", extra="data")
    refuse_pipe(path, MediaError)
    film = None
    try:
        with path.open("rb") as file, _container(av, file) as container:
            streams = [stream for stream in container.streams.video if not _is_cover(stream, av)]
            if not streams:
                raise MediaError(f"{path} has no video stream.")
            stream = streams[0]
            if stream.codec_context is None:
                raise MediaError(f"{path} is damaged, or its codec is unknown; copy it again from its source.")
            rate = stream.average_rate or stream.guessed_rate
            raw = container.format.name in _RAW
            rate = float(rate) if rate and not raw else None
            size = (stream.width or 0) * (stream.height or 0)
            film = Film(path, stream.frames, rate, size, raw, container, stream)
            yield film
    except MediaError:
        raise
    except NotEnoughMemoryError:
        raise
    except MemoryError as error:
        raise NotEnoughMemoryError(_no_memory(path)) from error
    except av.error.FFmpegError as error:
        # An ordinary file is never busy: FFmpeg has no memory for another thread.
        if error.errno == errno.EAGAIN:
            raise NotEnoughMemoryError(_no_memory(path)) from error
        raise MediaError(_reason(path, error, film, av)) from error
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}.") from error


def _container(av: Any, file: Any) -> Any:
    return av.open(
        file,
        options={"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "none"},
        metadata_errors="replace",
        buffer_size=_READ_BYTES,
    )


def _no_memory(path: Path) -> str:
    return (
        f"there is not enough memory to decode {path}, whatever its length; scale its pictures down, free some "
        "memory or raise the limit."
    )


def _reason(path: Path, error: Any, film: Film | None, av: Any) -> str:
    if film is None and isinstance(error, (av.error.ArgumentError, av.error.InvalidDataError)):
        return (
            f"{path} cannot be read as a video: it is no media container (MP4, MOV, MKV, WebM, AVI, MPEG, …), or its "
            "header is damaged. Playlists and single pictures are not read; give a video file or a folder of pictures."
        )
    taken = film._decoded if film else 0
    where = f"frame {taken} of {path} cannot be read" if taken else f"{path} cannot be read as a video"
    return f"{where}: {error.strerror}. The file is damaged, truncated or in an unknown format."


def _grey(frame: Any) -> np.ndarray:
    """(H, W) uint8; uint16 if the format has 16 bits per level, all of which need not be used."""
    if _bits(frame) < 16:
        grey: np.ndarray = frame.to_ndarray(format="gray")
        return grey
    deep: np.ndarray = frame.reformat(format="gray16le").to_ndarray()
    return deep


def _bits(frame: Any) -> int:
    """Bits per level that the format of a frame has room for."""
    return int(max(component.bits for component in frame.format.components))


def _is_cover(stream: Any, av: Any) -> bool:
    """Whether a stream is the picture on an album or a film, not the film."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _seconds(ticks: int | None, packet: Any) -> float:
    return float((ticks or 0) * packet.time_base)


def _matroska_seconds(stream: Any) -> float:
    """Length that a Matroska header gives for the stream; 0 if the container has no such entry."""
    parts = str(stream.metadata.get("DURATION", "0")).split(":")
    try:
        return float(sum(float(part) * 60**power for power, part in enumerate(reversed(parts))))
    except ValueError:
        return 0.0
