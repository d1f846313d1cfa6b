"""Edits of files: what is done to one file of an example, as JSON; and those that need no knowledge of a format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Apply = Callable[..., None]
_APPLY: dict[str, Apply] = {}


@dataclass(frozen=True)
class Edit:
    """One change of one file.

    Attributes:
        what: name of a function that was registered with `edit`.
        file: relative to the folder of the example.
        arguments: of that function, JSON values only.
    """

    what: str
    file: str
    arguments: Mapping[str, Any]

    def apply(self, folder: Path) -> bool:
        """Change the file; returns whether it is there still: an edit before this one may have moved it."""
        path = folder / self.file
        fits = path.is_file() and not path.is_symlink()
        if fits:
            _APPLY[self.what](path, **self.arguments)
        return fits

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "file": self.file, "arguments": dict(self.arguments)}


Edits = st.SearchStrategy[Edit]


def edit(what: str) -> Callable[[Apply], Apply]:
    """Register ``function(path, **arguments)`` as what an `Edit` of this name does."""

    def register(function: Apply) -> Apply:
        _APPLY[what] = function
        return function

    return register


def edits(what: str, file: str, **arguments: st.SearchStrategy[Any]) -> Edits:
    """Edits of one kind of one file."""
    return st.builds(Edit, st.just(what), st.just(file), st.fixed_dictionaries(arguments))


def weighed(*choices: tuple[int, Edits]) -> Edits:
    """One of several kinds of edits, each as often as its weight says."""
    kinds = [kind for _, kind in choices]
    places = [place for place, (weight, _) in enumerate(choices) for _ in range(weight)]
    return st.sampled_from(places).flatmap(kinds.__getitem__)


def victim_of(path: Path) -> Path:
    """The folder that nobody may write to: ``victim``, beside the folder of the example."""
    for parent in path.parents:
        if (parent / "victim").is_dir():
            return parent / "victim"
    return path.parent


# --- Bytes ----------------------------------------------------------------------------------------------------------


def byte_edits(file: str) -> Edits:
    """Damage as transfers and disks cause it."""
    where = st.floats(0, 1, allow_nan=False)
    return st.one_of(
        edits("flip", file, at=where, mask=st.integers(1, 255), count=st.sampled_from([1, 1, 2, 16, 4000])),
        edits("cut", file, at=where),
        edits("insert", file, at=where, data=st.binary(min_size=1, max_size=40).map(bytes.hex)),
        edits("overwrite", file, at=where, data=st.binary(min_size=1, max_size=16).map(bytes.hex)),
        edits("remove", file, at=where, count=st.sampled_from([1, 2, 4, 64, 1000])),
        edits("repeat", file, at=where, count=st.sampled_from([1, 4, 300]), times=st.sampled_from([2, 50])),
    )


def _place(data: bytes | bytearray, at: float) -> int:
    return min(int(at * len(data)), max(len(data) - 1, 0))


@edit("flip")
def _flip(path: Path, at: float, mask: int, count: int) -> None:
    data = bytearray(path.read_bytes())
    for position in range(_place(data, at), min(_place(data, at) + count, len(data))):
        data[position] ^= mask
    path.write_bytes(data)


@edit("cut")
def _cut(path: Path, at: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: _place(data, at)])


@edit("insert")
def _insert(path: Path, at: float, data: str) -> None:
    old = path.read_bytes()
    place = _place(old, at)
    path.write_bytes(old[:place] + bytes.fromhex(data) + old[place:])


@edit("overwrite")
def _overwrite(path: Path, at: float, data: str) -> None:
    old, new = path.read_bytes(), bytes.fromhex(data)
    place = _place(old, at)
    path.write_bytes(old[:place] + new + old[place + len(new) :])


@edit("remove")
def _remove(path: Path, at: float, count: int) -> None:
    data = path.read_bytes()
    place = _place(data, at)
    path.write_bytes(data[:place] + data[place + count :])


@edit("repeat")
def _repeat(path: Path, at: float, count: int, times: int) -> None:
    data = path.read_bytes()
    place = _place(data, at)
    path.write_bytes(data[:place] + data[place : place + count] * times + data[place + count :])


# --- The file as a whole --------------------------------------------------------------------------------------------

_INSTEAD = ("gone", "empty", "folder", "pipe", "dangling link", "link to itself", "endless device")


def file_edits(files: Sequence[str]) -> Edits:
    """Something else where a file should be."""
    return st.builds(
        Edit, st.just("instead"), st.sampled_from(list(files)), st.fixed_dictionaries({"of": st.sampled_from(_INSTEAD)})
    )


@edit("instead")
def _instead(path: Path, of: str) -> None:
    path.unlink()
    if of == "empty":
        path.touch()
    elif of == "folder":
        path.mkdir()
    elif of == "pipe":
        os.mkfifo(path)
    elif of == "dangling link":
        path.symlink_to("nowhere")
    elif of == "link to itself":
        path.symlink_to(path.name)
    elif of == "endless device":
        path.symlink_to("/dev/zero")


@edit("content")
def _content(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


@edit("rename")
@edit("move")
def _rename(path: Path, to: str) -> None:
    new = path.parent / to
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, new)
