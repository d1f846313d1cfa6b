"""What the loaders share: one row at a time, refused or dropped with its place in the sheet; intervals and emotions."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mol.common.errors import DataError
from mol.data.manifest import Clip, Loaded, Note, OnError, key


class ClipCollector:
    """Gathers clips and notes row by row, and decides what becomes of a row that cannot be used.

    Args:
        on_error: ``"raise"`` lets its error through with the row in front, ``"skip"`` drops the row and lists it.
    """

    def __init__(self, on_error: OnError) -> None:
        self.on_error = on_error
        self.notes: list[Note] = []
        self._clips: dict[str, Clip] = {}
        self._where = ""

    @contextmanager
    def row(self, source: str, name: str = "") -> Iterator[str]:
        """The work on one row; what is noted in it is kept only if the row is.

        Args:
            source: sheet and row, or folder.
            name: of the clip, for messages.
        Returns:
            The row's place for notes, ``"FILE.xlsx row 17 (s15/anger1_557)"``.
        Raises:
            DataError: one was raised inside and rows are not skipped.
        """
        where = self._where = f"{source} ({name})" if name else source
        before = len(self.notes)
        try:
            yield where
        except DataError as error:
            message = str(error)
            if self.on_error == "skip":
                self.notes[before:] = [Note("dropped", where, message.removeprefix(f"{source}: "))]
            elif message.startswith(source):
                raise
            else:
                raise DataError(f"{where}: {message}") from error

    def note(self, kind: Literal["repaired", "dropped", "warning"], where: str, what: str) -> None:
        """Remember what a user should know."""
        self.notes.append(Note(kind, where, what))

    def repaired(self, what: str) -> None:
        """Something in the row at hand was wrong and has been put right."""
        self.note("repaired", self._where, what)

    def warning(self, what: str) -> None:
        """Something about the row at hand that a user should know."""
        self.note("warning", self._where, what)

    def add(self, clip: Clip) -> None:
        """Keep a clip.

        Raises:
            DataError: its name is taken.
        """
        if (first := self._clips.setdefault(key(clip), clip)) is not clip:
            raise DataError(f"the clip {key(clip)} stands in {first.source} already; remove one of the two rows.")

    def loaded(self, where: Path) -> Loaded:
        """What was gathered.

        Raises:
            DataError: there is no clip at all; the first note says why.
        """
        if not self._clips:
            dropped = [note for note in self.notes if note.kind == "dropped"]
            reason = f"every row was dropped, the first because: {dropped[0].what}" if dropped else "it lists none"
            raise DataError(f"no clip of {where} can be used: {reason}")
        return Loaded(list(self._clips.values()), self.notes)


def check_interval(onset: int, apex: int | None, offset: int, frames: Collection[int], folder: Path) -> list[int]:
    """Refuse an interval that is impossible or that its folder cannot show.

    Args:
        onset, apex, offset: frame numbers, inclusive; apex None where there is none.
        frames: the numbers of the frames in the folder.
        folder: for messages.
    Returns:
        Frame numbers inside the interval that the folder lacks.
    Raises:
        DataError: onset after offset, apex outside, or frames missing at either end.
    """
    check_order(onset, apex, offset)
    first, last = min(frames), max(frames)
    if onset < first or offset > last:
        raise DataError(
            f"{folder} holds the frames {first}–{last}, the annotation asks for {onset}–{offset}; "
            "unpack the missing frames or correct the annotation."
        )
    present = set(frames)
    return [number for number in range(onset, offset + 1) if number not in present]


def check_order(onset: int, apex: int | None, offset: int) -> None:
    """Refuse an interval that runs backwards or leaves its apex outside.

    Raises:
        DataError: the numbers are named.
    """
    if onset > offset:
        raise DataError(f"onset {onset} lies after offset {offset}; correct the annotation.")
    if apex is not None and not onset <= apex <= offset:
        raise DataError(f"apex {apex} lies outside onset {onset} – offset {offset}; correct it or leave it blank.")


def missing_frames(missing: Collection[int], folder: Path) -> str:
    """The warning about frames that a folder lacks inside an interval."""
    numbers = sorted(missing)
    shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
    return f"{folder} lacks {len(numbers)} frames inside the interval: {shown}."


def required(value: int | None, column: str) -> int:
    """A number that a row cannot do without.

    Raises:
        DataError: it is blank.
    """
    if value is None:
        raise DataError(f"the column {column} is blank; fill it in or remove the row.")
    return value


def named_emotion(text: str, spellings: Mapping[str, str]) -> str:
    """The one spelling of an annotated emotion.

    Args:
        text: as annotated.
        spellings: lower-case spelling → the one that is kept.
    Raises:
        DataError: it is blank or none of them; all are listed.
    """
    if not text:
        raise DataError("the emotion is blank; fill it in or remove the row.")
    plain = text.strip().lower()
    if plain not in spellings:
        near = difflib.get_close_matches(plain, spellings, n=1)
        meant = f"; did the sheet mean {near[0]!r}?" if near else "."
        raise DataError(
            f"the emotion {text!r} is none of this data set's: {', '.join(sorted(set(spellings.values())))}{meant}"
        )
    return spellings[plain]


def relative_path(path: Path, root: Path) -> str:
    """Path of a clip as a manifest holds it: relative to its root, with ``/``."""
    return path.relative_to(root).as_posix()
