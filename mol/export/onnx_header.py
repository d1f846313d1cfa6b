"""What stands around the graph of an ONNX file: operator set, metadata, checksum; read without loading the graph.

An ONNX file is a protocol buffer: fields, each a number, a kind and a value. Those of the outermost message are read
here; the graph, nearly all of the file, is skipped. So a file is refused, by name and reason, before a runtime is asked
to load it.

Source: onnx.proto of the ONNX specification (ModelProto); protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mol.common.errors import CheckpointError
from mol.common.storage import refuse_pipe

CHECKSUM = "mol.crc32"
"""The entry of the metadata with the CRC-32 of the whole file, in which its own eight digits are zeros."""
BLANK = "00000000"

_AGAIN = "export the network again with `mol export`"
_PRODUCER, _GRAPH, _OPSETS, _METADATA = 2, 7, 8, 14
_NUMBER, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass
class Header:
    """The outermost fields of an ONNX file.

    Attributes:
        producer: the program that wrote it.
        opsets: domain of operators → version of the set; "" is ONNX's own.
        metadata: key → value.
        checksum_at: where the digits of `CHECKSUM` begin, in bytes; None if the file has none.
    """

    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    checksum_at: int | None = None


class _DamageError(Exception):
    """Bytes that are no protocol buffer."""


def read_header(path: Path) -> Header:
    """Read the outermost fields, and compare the checksum if there is one.

    Raises:
        CheckpointError: the file is missing, is no ONNX file, ends too early, or was changed after it was written.
    """
    refuse_pipe(path, CheckpointError)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; {_AGAIN}")
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _header_of(data)
            stored = header.metadata.get(CHECKSUM)
            if stored is not None and header.checksum_at is not None:
                found = _checksum(data, header.checksum_at)
                if found != stored:
                    raise CheckpointError(
                        f"{path} was damaged or changed after it was written (its checksum is {found}, not {stored}); "
                        f"{_AGAIN}"
                    )
            return header
    except (ValueError, _DamageError) as error:  # mmap raises ValueError for an empty file
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is no ONNX file, or ends too early ({error}); {_AGAIN}") from error


def write_checksum(path: Path) -> None:
    """Put the checksum in the place of `BLANK`."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        at = _header_of(data).checksum_at
        if at is None:
            raise ValueError(f"{path} has no entry {CHECKSUM}")
        data[at : at + len(BLANK)] = _checksum(data, at).encode()
        data.flush()


def _checksum(data: mmap.mmap, at: int) -> str:
    with memoryview(data) as view:
        head, tail = view[:at], view[at + len(BLANK) :]
        try:
            return f"{zlib.crc32(tail, zlib.crc32(BLANK.encode(), zlib.crc32(head))):08x}"
        finally:
            head.release()
            tail.release()


def _header_of(data: mmap.mmap) -> Header:
    header, has_graph = Header(), False
    for number, _value, first, last in _fields(data, 0, len(data)):
        if number == _GRAPH:
            has_graph = True
        elif number == _PRODUCER:
            header.producer = _text(data, first, last)
        elif number == _OPSETS:
            entry = {name: (value, a, b) for name, value, a, b in _fields(data, first, last)}
            domain = _text(data, *entry[1][1:]) if 1 in entry else ""
            header.opsets[domain] = entry[2][0] if 2 in entry else 0
        elif number == _METADATA:
            entry = {name: (value, a, b) for name, value, a, b in _fields(data, first, last)}
            key, text = (_text(data, *entry[place][1:]) if place in entry else "" for place in (1, 2))
            header.metadata[key] = text
            if key == CHECKSUM and len(text) == len(BLANK):
                header.checksum_at = entry[2][1]
    if not (has_graph and header.opsets):
        raise _DamageError("it holds no graph")
    return header


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, value of a number, first and last byte of bytes) of each field between two places."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _NUMBER:
            value, at = _varint(data, at, end)
            yield number, value, at, at
            continue
        if kind == _BYTES:
            size, at = _varint(data, at, end)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise _DamageError(f"a field of the unknown kind {kind} at byte {at}")
        if at + size > end:
            raise _DamageError(f"a field of {size} bytes at byte {at} of {end}")
        yield number, 0, at, at + size
        at += size


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _DamageError(f"a number that does not end at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _DamageError(f"a number of more than ten bytes at byte {at}")


def _text(data: mmap.mmap, first: int, last: int) -> str:
    return data[first:last].decode("utf-8", "replace")
