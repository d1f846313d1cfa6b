"""Whether a picture file is complete: some decoders silently fill what a truncated file lacks with grey.

Which ones do depends on the library, its version and how it is called, so the file itself is checked. Only its
structure is read (and the checksums of PNG), which takes a fraction of the time of decoding. Damage that keeps the
structure, such as a changed byte in the middle of a JPEG, is not found.
"""

from __future__ import annotations

import struct
import zlib

_JPEG, _PNG, _BMP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"
# Markers without a length of their own: TEM and the restarts inside compressed data.
_BARE = {0x01, *range(0xD0, 0xD8)}
_EOI = 0xD9


def truncation(data: bytes) -> str | None:
    """What is missing at the end of a picture file.

    A JPEG must reach its end-of-image marker, a PNG its IEND with every checksum right, a BMP the length in its header;
    anything after that is ignored, since some cameras pad with zeros. Other formats are not checked.

    Args:
        data: the whole file.
    Returns:
        What is wrong, as the end of a sentence; None if nothing is.
    """
    for signature, check in ((_JPEG, _jpeg), (_PNG, _png), (_BMP, _bmp)):
        if data.startswith(signature):
            return check(data)
    return None


def _jpeg(data: bytes) -> str | None:
    """Walk from marker to marker: a thumbnail inside a segment has an end-of-image marker of its own."""
    lacking = f"the JPEG breaks off after {len(data)} bytes (its end-of-image marker is missing)"
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return lacking
        marker = data[at + 1]
        if marker == _EOI:
            return None
        if marker == 0xFF:  # a fill byte; the next one may start the marker
            at += 1
        elif marker == 0x00 or marker in _BARE:
            at += 2
        elif at + 4 > len(data):
            return lacking
        else:
            # After the header of a scan (SOS) come compressed bytes, through which the search above goes on.
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _png(data: bytes) -> str | None:
    at = len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if end > len(data):
            break
        kind = data[at + 4 : at + 8]
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"the PNG is damaged (checksum of {kind.decode('latin-1')} at byte {at})"
        if kind == b"IEND":
            return None
        at = end
    return f"the PNG breaks off after {len(data)} bytes (its end, IEND, is missing)"


def _bmp(data: bytes) -> str | None:
    if len(data) < 34:
        return f"the BMP breaks off in its header, after {len(data)} bytes"
    announced, first_pixel = struct.unpack_from("<I4xI", data, 2)
    width, height, bits, compression = struct.unpack_from("<ii2xHI", data, 18)
    if compression in (0, 3):  # uncompressed; some writers leave the size of the file 0
        announced = first_pixel + (abs(width) * bits + 31) // 32 * 4 * abs(height)
    if len(data) >= announced:
        return None
    return f"the BMP breaks off after {len(data)} of {announced} bytes"
