"""Edits of NumPy and safetensors files that know their headers."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from torture.readers.documents import places_in, set_in_json
from torture.readers.edits import Edits, edit, edits, weighed
from torture.readers.values import Text, integers, json_values, spelled, texts

_SHAPES = ("()", "(0,)", "(1,)", "(-1,)", "(3, 4)", "(2**40,)", "(10**12, 10**12)", "(None,)", "(1.5,)", "7", "'x'")
_DTYPES = (
    "'<f8'",
    "'>f4'",
    "'|O'",
    "'<U9'",
    "'|S4'",
    "'<c8'",
    "'|b1'",
    "'<i8'",
    "'<M8[s]'",
    "[('a', '<f4')]",
    "'x'",
    "3",
)
# Little-endian patterns: NaN, infinity and the largest numbers of 2, 4 and 8 bytes.
_PATTERNS = (
    "00",
    "ff",
    "007e",
    "007c",
    "fffb",
    "0000c07f",
    "0000807f",
    "ffff7f7f",
    "000000000000f87f",
    "ffffffffffffff7f",
)


def npy_edits(file: str, member: str = "") -> Edits:
    """Other shapes and types in the header, other values in the data; of a member of an archive if one is named."""
    where = {"member": st.just(member)}
    return st.one_of(
        edits("npy-header", file, key=st.just("shape"), value=st.sampled_from(_SHAPES), **where),
        edits("npy-header", file, key=st.just("descr"), value=st.sampled_from(_DTYPES), **where),
        edits("npy-header", file, key=st.just("fortran_order"), value=st.sampled_from(["True", "2", "None"]), **where),
        _fill_edits("npy-fill", file, **where),
    )


def npz_edits(base: Path, file: str) -> Edits:
    """Edits of an archive and of the arrays in it."""
    with zipfile.ZipFile(base / file) as archive:
        members = archive.namelist()
    name = st.sampled_from([*members, "landmarks.npy", "x.npy", "../evil.npy", "a/frames.npy", " ", "x"])
    return st.one_of(
        *(npy_edits(file, member) for member in members),
        edits("member-rename", file, member=st.sampled_from(members), to=name),
        edits("member-drop", file, member=st.sampled_from(members)),
    )


def safetensors_edits(base: Path, file: str) -> Edits:
    """Edits of the header, of JSON in its metadata, of its length and of the values."""
    header = json.loads(_parts((base / file).read_bytes())[0])
    place = st.sampled_from(list(places_in(header)))
    choices = [
        (3, edits("tensors-header", file, place=place, value=json_values())),
        (3, _fill_edits("tensors-fill", file)),
        (1, edits("tensors-length", file, length=integers())),
    ]
    for name, text in header.get("__metadata__", {}).items():
        places = st.sampled_from(list(places_in(_parsed(text))))
        values = json_values() | texts()
        choices.append((1, edits("tensors-metadata", file, name=st.just(name), place=places, value=values)))
    return weighed(*choices)


def _parsed(text: str) -> Any:
    """What a text says as JSON, or the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _fill_edits(what: str, file: str, **where: st.SearchStrategy[str]) -> Edits:
    share = st.floats(0, 1, allow_nan=False)
    return edits(
        what, file, at=share, share=st.sampled_from([0.0, 0.01, 1.0]), pattern=st.sampled_from(_PATTERNS), **where
    )


def _filled(data: bytes, at: float, share: float, pattern: str) -> bytes:
    """Bytes with a pattern repeated over a part of them, at least once."""
    piece = bytes.fromhex(pattern)
    start = int(at * len(data)) // 8 * 8
    times = max(1, int(share * (len(data) - start)) // len(piece))
    return (data[:start] + piece * times + data[start + len(piece) * times :])[: len(data)]


def _in_array(path: Path, member: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of an array: a file of its own, or a member of an archive."""
    if not member:
        path.write_bytes(change(path.read_bytes()))
        return
    _rezip(path, [(name, change(data) if name == member else data) for name, data in _members(path)])


def _members(path: Path) -> list[tuple[str, bytes]]:
    """Of an archive; none if an earlier edit broke it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError):
        return []


def _rezip(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    if members:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
        path.write_bytes(out.getvalue())


def _npy_parts(data: bytes) -> tuple[str, bytes] | None:
    """Header and data of an array; None if an earlier edit broke it."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        return None
    length = int.from_bytes(data[8:10], "little")
    return data[10 : 10 + length].decode("latin-1"), data[10 + length :]


@edit("npy-header")
def _npy_header(path: Path, key: str, value: str, member: str) -> None:
    def change(data: bytes) -> bytes:
        if (parts := _npy_parts(data)) is None:
            return data
        header = re.sub(rf"('{key}': )(\([^)]*\)|\[[^\]]*\]|[^,]+)", lambda found: found[1] + value, parts[0])
        header = header.rstrip(" \n")
        header += " " * (-(10 + len(header) + 1) % 64) + "\n"
        return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1") + parts[1]

    _in_array(path, member, change)


@edit("npy-fill")
def _npy_fill(path: Path, at: float, share: float, pattern: str, member: str) -> None:
    def change(data: bytes) -> bytes:
        start = len(data) - len((_npy_parts(data) or ("", data))[1])
        return data[:start] + _filled(data[start:], at, share, pattern)

    _in_array(path, member, change)


@edit("member-rename")
def _member_rename(path: Path, member: str, to: str) -> None:
    _rezip(path, [(to if name == member else name, data) for name, data in _members(path)])


@edit("member-drop")
def _member_drop(path: Path, member: str) -> None:
    _rezip(path, [(name, data) for name, data in _members(path) if name != member])


def _parts(data: bytes) -> tuple[str, bytes]:
    """Header and values of a safetensors file; an empty header if an earlier edit broke it."""
    length = int.from_bytes(data[:8], "little")
    try:
        return data[8 : 8 + length].decode(), data[8 + length :]
    except UnicodeDecodeError:
        return "", data


@edit("tensors-header")
def _tensors_header(path: Path, place: Sequence[str | int], value: Text) -> None:
    _change_header(path, lambda header: set_in_json(header, place, spelled(value)))


@edit("tensors-metadata")
def _tensors_metadata(path: Path, name: str, place: Sequence[str | int], value: Text) -> None:
    """JSON within a text of the header, which must remain a text."""

    def change(header: str) -> str:
        try:
            text = str(json.loads(header)["__metadata__"][name])
        except (ValueError, LookupError, TypeError, RecursionError):
            return header
        changed = set_in_json(text, place, spelled(value)) if place else spelled(value)
        return set_in_json(header, ["__metadata__", name], json.dumps(changed))

    _change_header(path, change)


def _change_header(path: Path, change: Callable[[str], str]) -> None:
    header, values = _parts(path.read_bytes())
    changed = change(header).encode(errors="surrogatepass")
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + values)


@edit("tensors-fill")
def _tensors_fill(path: Path, at: float, share: float, pattern: str) -> None:
    data = path.read_bytes()
    start = len(data) - len(_parts(data)[1])
    path.write_bytes(data[:start] + _filled(data[start:], at, share, pattern))


@edit("tensors-length")
def _tensors_length(path: Path, length: int) -> None:
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
