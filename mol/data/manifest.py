"""Manifests: the clips of a data set on disk, as its sheets and folders describe them.

A loader (one module per data set) turns the distributed files into clips and notes. ``mol prepare`` writes them as a
manifest: a folder with ``clips.csv``, which a person can read, and ``manifest.json`` with its origin and the digest of
``clips.csv``. Of a data set with long videos there is ``recordings.csv`` as well (`mol.data.recordings`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

from mol.common.errors import DataError, MediaError
from mol.common.storage import csv_table, read_csv, write_json, write_text
from mol.common.typed import FrameNumber, Name, NotNegative, read_json, typed
from mol.data.recordings import FILE, Recording, read_recordings, recordings_text
from mol.vision.video import numbered_pictures

# Raised whenever an older reader would misread the files.
FORMAT = 1
OnError = Literal["raise", "skip"]
NEUTRAL = "neutral"
"""The emotion of a clip that shows no expression."""


@dataclass(frozen=True)
class Clip:
    """One annotated video of a data set.

    Attributes:
        dataset: such as ``"casme2"``.
        subject: the person, in one spelling: ``"sub01"`` (CASME II), ``"006"`` (SAMM), ``"s1"`` (SMIC).
        clip: the video, unique within its subject: ``"EP02_01f"``.
        path: folder of frames or video file, relative to the root of the manifest, with ``/``.
        onset: first frame of the expression: the number in the picture's name, or counted from 0 in a video file.
        apex: frame of maximum intensity; None if the set gives none.
        offset: last frame of the expression, inclusive.
        emotion: in lower case, spelled uniformly.
        action_units: as annotated.
        fps: frames per second.
        source: sheet and row, or folder.
    """

    dataset: str
    subject: str
    clip: str
    path: str
    onset: FrameNumber
    apex: FrameNumber | None
    offset: FrameNumber
    emotion: str
    action_units: str = ""
    fps: NotNegative = 0.0
    source: str = ""

    @property
    def length(self) -> int:
        """Number of frames from onset to offset, both included, according to the annotation."""
        return self.offset - self.onset + 1


@dataclass(frozen=True)
class Note:
    """A repair, a dropped clip, or something else that a user should know.

    Attributes:
        kind: what was done.
        where: sheet and row, or folder, and the clip.
        what: what was wrong and what was done about it.
    """

    kind: Literal["repaired", "dropped", "warning"]
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


@dataclass(frozen=True)
class Loaded:
    """What a loader found: clips, what it repaired or dropped, and the long videos, if the set has any."""

    clips: list[Clip]
    notes: list[Note] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)


class Loader(Protocol):
    """Reads a data set as it was distributed: file names only, no pictures.

    Args:
        root: folder into which the archives were unpacked.
        on_error: ``"skip"`` drops and lists a clip that cannot be used instead of raising.
    Raises:
        DataError: a sheet or folder is missing or not as expected, apart from known quirks.
    """

    def __call__(self, root: Path, on_error: OnError = "raise") -> Loaded: ...


@dataclass(frozen=True)
class Manifest:
    """The clips of one data set on this disk.

    Attributes:
        dataset: its name.
        root: absolute folder to which the paths of the clips are relative.
        clips: in the order of the sheet.
        notes: what the loader repaired, dropped or noticed.
        made: settings and versions with which it was made.
        recordings: long videos with all that is annotated in them; none for most sets.
    """

    dataset: str
    root: Path
    clips: list[Clip]
    notes: list[Note] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)
    recordings: list[Recording] = field(default_factory=list)

    def path_of(self, clip: Clip | Recording) -> Path:
        """Folder of frames, or video file, of a clip or a recording."""
        return self.root / clip.path


class HasName(Protocol):
    """Anything that belongs to one clip of one person of one set."""

    @property
    def dataset(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def clip(self) -> str: ...


def key(clip: HasName) -> str:
    """``dataset/subject/clip``, unique over all sets."""
    return f"{clip.dataset}/{clip.subject}/{clip.clip}"


def numbered_frames(folder: Path) -> dict[int, Path]:
    """`numbered_pictures` of a clip's folder.

    Raises:
        DataError: the folder is missing or holds no pictures, a name has no number, or two have the same number.
    """
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist; unpack the set's frames there.")
    try:
        return numbered_pictures(folder)
    except MediaError as error:
        raise DataError(str(error)) from error


def check_unique(clips: Iterable[Clip], where: str) -> None:
    """Check that no two clips have the same name.

    Raises:
        DataError: two clips share a name; both sources are given.
    """
    seen: dict[str, Clip] = {}
    for clip in clips:
        if (first := seen.setdefault(key(clip), clip)) is not clip:
            raise DataError(f"{key(clip)} is listed twice in {where}: {first.source}, {clip.source}; remove one.")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the tables, then ``manifest.json`` with their digests, so that an interrupted write is noticed.

    Raises:
        DataError: two clips share a name.
        StorageError: the disk is full or failed.
    """
    check_unique(manifest.clips, str(folder))
    rows = (["" if value is None else value for value in asdict(clip).values()] for clip in manifest.clips)
    text = csv_table(_COLUMNS, rows)
    write_text(folder / "clips.csv", text)
    head = {
        "format": FORMAT,
        "dataset": manifest.dataset,
        "root": str(manifest.root),
        "clips": len(manifest.clips),
        "sha256": _digest(text.encode("utf-8", "backslashreplace")),
        "notes": [asdict(note) for note in manifest.notes],
        "made": manifest.made,
    }
    if manifest.recordings:
        text = recordings_text(manifest.recordings)
        write_text(folder / FILE, text)
        head["recordings_sha256"] = _digest(text.encode("utf-8", "backslashreplace"))
    write_json(folder / "manifest.json", head)


@dataclass(frozen=True)
class _Head:
    """What manifest.json must hold."""

    dataset: Name
    root: Name
    sha256: str
    notes: list[Note]
    made: dict[str, Any]
    recordings_sha256: str | None = None


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest and check that it is complete and unchanged.

    Raises:
        DataError: it is missing, incomplete, edited by hand, damaged, or of another version.
    """
    again = "make it again with mol prepare"
    head_path, table_path = folder / "manifest.json", folder / "clips.csv"
    if not head_path.is_file() or not table_path.is_file():
        missing = head_path if not head_path.is_file() else table_path
        raise DataError(f"{folder} is not a complete manifest ({missing.name} is missing); {again}.")
    content = read_json(head_path, dict[str, Any], again)
    if content.get("format") != FORMAT:
        version = content.get("format")
        raise DataError(f"{head_path} has format {version}, but this version of mol reads {FORMAT}; {again}.")
    head = typed(content, _Head, str(head_path), again)
    _require_unchanged(table_path, head.sha256, f"{again}, or give your own table to --dataset generic")
    clips = [_clip(row, f"{table_path} line {line}", again) for line, row in read_csv(table_path, _COLUMNS, again)]
    recordings = []
    if head.recordings_sha256 is not None:
        _require_unchanged(folder / FILE, head.recordings_sha256, again)
        recordings = read_recordings(folder / FILE, again)
    return Manifest(head.dataset, Path(head.root), clips, head.notes, head.made, recordings)


def _require_unchanged(table: Path, sha256: str, remedy: str) -> None:
    """Check that a table is the one that was written together with manifest.json."""
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}); {remedy}.") from error
    if _digest(content) != sha256:
        raise DataError(f"{table} is not what mol prepare wrote (its SHA-256 differs from manifest.json); {remedy}.")


_COLUMNS = [item.name for item in fields(Clip)]


def _clip(row: dict[str, str], where: str, again: str) -> Clip:
    """A clip from a row of clips.csv."""
    content = {name: row[name] for name in _COLUMNS}
    return typed({**content, "apex": content["apex"] or None}, Clip, where, again, texts=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
