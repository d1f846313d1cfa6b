"""Small video files, with the time stamps, levels and display matrices that a test needs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from data_fixtures import smooth_texture

MILLISECOND = Fraction(1, 1000)


def moving_frames(count: int = 24) -> np.ndarray:
    """(count, 64, 96) uint8: a texture that moves by a pixel per frame."""
    texture = smooth_texture(np.random.default_rng(3), 64, 128).astype(np.uint8)
    return np.stack([texture[:, shift % 32 : shift % 32 + 96] for shift in range(count)])


def write_film(path: Path, frames: np.ndarray, fps: int = 30, codec: str = "mpeg4", pixels: str = "yuv420p") -> Path:
    """Encode frames (L, H, W), uint8 or uint16, at a constant rate."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt, stream.bit_rate = pixels, 4_000_000
        for frame in frames:
            container.mux(stream.encode(_picture(frame, pixels)))
        container.mux(stream.encode())
    return path


def write_timed(
    path: Path, frames: np.ndarray, milliseconds: Iterable[int], codec: str = "libx264", last: int | None = None
) -> Path:
    """Encode frames that are shown at given times, the last of them for `last` milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", MILLISECOND
        fast = {"bf": "0", "tune": "zerolatency", "preset": "ultrafast"}
        stream.options = fast if codec == "libx264" else {"deadline": "realtime", "cpu-used": "8"}
        packets = []
        for frame, time in zip(frames, milliseconds, strict=True):
            picture = _picture(frame, "yuv420p")
            picture.pts, picture.time_base = time, MILLISECOND
            packets += stream.encode(picture)
        packets += stream.encode()
        if last is not None:
            packets[-1].duration = last
        container.mux(packets)
    return path


def set_display_matrix(path: Path, linear: Sequence[int]) -> None:
    """Write a b c d, which take (x, y) to (ax + cy, bx + dy), into the track header of an MP4 file."""
    data = bytearray(path.read_bytes())
    # Version and flags, four times, track, duration, layer, group and volume come first.
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (number << 16 for number in linear)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def _picture(frame: np.ndarray, pixels: str) -> av.VideoFrame:
    kind = "gray16le" if frame.dtype == np.uint16 else "gray"
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind).reformat(format=pixels)
