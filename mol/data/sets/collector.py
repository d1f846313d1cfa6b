"""What the loaders share: collecting clips and notes row by row, checking intervals, naming emotions."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mol.common.errors import DataError
from mol.data.interval import check_order, count_of, existing_interval, listed_runs, missing_runs
from mol.data.manifest import Clip, Loaded, Note, OnError, key


class ClipCollector:
    """Collects clips and notes, and either raises or drops a row that cannot be used.

    Args:
        on_error: ``"raise"`` raises the row's error, ``"skip"`` drops the row and lists it.
    """

    def __init__(self, on_error: OnError) -> None:
        self.on_error = on_error
        self.notes: list[Note] = []
        self._clips: dict[str, Clip] = {}
        self._where = ""

    @contextmanager
    def row(self, source: str, name: str = "") -> Iterator[str]:
        """Process one row; its notes are kept only if the row is.

        Args:
            source: sheet and row, or folder.
            name: of the clip, for messages.

        Yields:
            Where the row is, for notes: ``"FILE.xlsx row 17 (s15/anger1_557)"``.

        Raises:
            DataError: raised inside the block, and `on_error` is ``"raise"``.
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
        """Add a note."""
        self.notes.append(Note(kind, where, what))

    def repaired(self, what: str) -> None:
        """Note that something in the current row was wrong and was corrected."""
        self.note("repaired", self._where, what)

    def warning(self, what: str) -> None:
        """Note something about the current row that a user should know."""
        self.note("warning", self._where, what)

    def check_interval(
        self,
        onset: int,
        apex: int | None,
        offset: int,
        frames: Collection[int],
        folder: Path,
        beyond: bool = False,
    ) -> tuple[int, int | None, int]:
        """Check the interval of the current row and fit it to the frames that exist.

        The nearest frame stands in for a missing onset, apex or offset, with a note; frames missing in between give a
        warning.

        Args:
            onset, apex, offset: frame numbers, inclusive; apex None if there is none.
            frames: numbers of the frames in the folder.
            folder: for messages.
            beyond: whether the data set is known to lack frames at the ends of its recordings, so that onset and offset
                may lie outside the frames of the folder.

        Returns:
            Onset, apex and offset for the clip.

        Raises:
            DataError: onset after offset, apex outside the interval, or no frames for either end.
        """
        check_order(onset, apex, offset)
        numbers = frames if isinstance(frames, range) else sorted(frames)
        found = existing_interval(onset, apex, offset, numbers, folder, beyond)
        for change in found.moved:
            self.repaired(f"{change} ({folder}).")
        if missing := missing_runs(numbers, found.onset, found.offset):
            count, shown = count_of(missing), listed_runs(missing)
            what = "1 frame" if count == 1 else f"{count} frames"
            self.warning(f"{folder} lacks {what} inside the interval: {shown}.")
        return found.onset, found.apex, found.offset

    def add(self, clip: Clip) -> None:
        """Keep a clip.

        Raises:
            DataError: there is already a clip with its name.
        """
        if (first := self._clips.setdefault(key(clip), clip)) is not clip:
            raise DataError(f"the clip {key(clip)} is already listed in {first.source}; remove one of the two rows.")

    def loaded(self, where: Path) -> Loaded:
        """The clips and notes collected.

        Raises:
            DataError: there is no clip at all; the message gives the reason for the first one dropped.
        """
        if not self._clips:
            dropped = [note for note in self.notes if note.kind == "dropped"]
            reason = f"every row was dropped, the first because: {dropped[0].what}" if dropped else "it lists none"
            raise DataError(f"{where} has no usable clip: {reason}")
        return Loaded(list(self._clips.values()), self.notes)


def required(value: int | None, column: str) -> int:
    """A number that a row must have.

    Raises:
        DataError: it is blank.
    """
    if value is None:
        raise DataError(f"the column {column} is blank; fill it in or remove the row.")
    return value


def spellings(*emotions: str, **variants: str) -> dict[str, str]:
    """For `named_emotion`: lower-case spelling → emotion.

    Args:
        emotions: each is spelled as itself.
        variants: other spelling → emotion, such as ``other="others"``.
    """
    return {**{emotion: emotion for emotion in emotions}, **variants}


def named_emotion(text: str, spellings: Mapping[str, str]) -> str:
    """The emotion that an annotation means.

    Args:
        text: as annotated.
        spellings: lower-case spelling → emotion.

    Raises:
        DataError: the annotation is blank or not one of the spellings; the message lists the emotions.
    """
    if not text:
        raise DataError("the emotion is blank; fill it in or remove the row.")
    plain = text.strip().lower()
    if plain not in spellings:
        near = difflib.get_close_matches(plain, spellings, n=1)
        meant = f"; did the sheet mean {near[0]!r}?" if near else "."
        raise DataError(
            f"the emotion {text!r} is not one of this data set's: {', '.join(sorted(set(spellings.values())))}{meant}"
        )
    return spellings[plain]


def relative_path(path: Path, root: Path) -> str:
    """A clip's path for the manifest: relative to the root, with ``/``."""
    return path.relative_to(root).as_posix()
