"""Edits of pictures and films that know where their headers keep sizes, counts and offsets."""

from __future__ import annotations

import zlib
from pathlib import Path

from hypothesis import strategies as st

from torture.readers.edits import Edits, edit, edits, weighed
from torture.readers.values import integers

# Marks that stand before, or in front of, a field that matters: chunks, segments, tags, boxes and EBML elements.
_MARKS = {
    ".png": ("IHDR", "IDAT", "pHYs", "PLTE"),
    ".jpg": ("\xff\xc0", "\xff\xc4", "\xff\xdb", "\xff\xda", "\xff\xe0", "\xff\xe1"),
    ".bmp": ("BM",),
    ".tiff": ("II*\x00", "\x00\x01", "\x01\x01", "\x11\x01", "\x16\x01", "\x17\x01"),
    ".webp": ("RIFF", "WEBP", "VP8"),
    ".pgm": ("P5",),
    ".mp4": ("ftyp", "moov", "mvhd", "tkhd", "mdhd", "stsd", "stts", "stsz", "stsc", "stco", "avcC", "mdat",
    "elst", "ctts"),
    ".mkv": ("\x1a\x45\xdf\xa3", "\x18\x53\x80\x67", "\x16\x54\xae\x6b", "\x1f\x43\xb6\x75", "\xa3", "\xb0", "\xba"),
    ".avi": ("RIFF", "avih", "strh", "strf", "movi", "idx1", "00dc"),
    ".gif": ("GIF89a", "!\xf9", ","),
}  # fmt: skip
_MARKS[".mov"], _MARKS[".webm"] = _MARKS[".mp4"], _MARKS[".mkv"]


def header_edits(file: str) -> Edits:
    """Other numbers behind (or before) the marks of a format, with a PNG's checksums made right again."""
    marks = _MARKS[Path(file).suffix]
    numbers = edits(
        "field",
        file,
        mark=st.sampled_from(marks),
        occurrence=st.integers(0, 3),
        delta=st.integers(-8, 40),
        value=integers(),
        width=st.sampled_from([1, 2, 4]),
        big=st.booleans(),
    )
    swapped = edits("mark", file, mark=st.sampled_from(marks), to=st.sampled_from(["free", "XXXX", "moov", "\xff\xd9"]))
    return weighed((5, numbers), (1, swapped))


@edit("field")
def _field(path: Path, mark: str, occurrence: int, delta: int, value: int, width: int, big: bool) -> None:
    data = bytearray(path.read_bytes())
    sought, at = mark.encode("latin-1"), -1
    for _ in range(occurrence + 1):
        at = data.find(sought, at + 1)
        if at < 0:
            return
    start = max(0, at + delta)
    number = (value % (1 << 8 * width)).to_bytes(width, "big" if big else "little")
    data[start : start + width] = number[: max(0, len(data) - start)]
    path.write_bytes(_with_checksums(data) if path.suffix == ".png" else data)


@edit("mark")
def _mark(path: Path, mark: str, to: str) -> None:
    path.write_bytes(path.read_bytes().replace(mark.encode("latin-1"), to.encode("latin-1"), 1))


def _with_checksums(data: bytearray) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)
