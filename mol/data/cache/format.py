"""The files of a cache: their names, shapes, sizes and checksums, and reading them with every check."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from mol.common.errors import CacheError
from mol.common.storage import refuse_pipe, write_json
from mol.common.typed import Count, FrameNumber, Kind, Name, NotNegative, Number, read_json, typed, values_of
from mol.vision.points import POINTS

FORMAT = 1
SETTINGS, INDEX, SKIPPED, INTERPOLATED = "settings.json", "index.json", "skipped.json", "interpolated.json"
REQUIRED_KEYS = ("dataset", "subject", "clip", "start", "interval", "label")
CLIP_KEYS = ("dataset", "subject", "clip")
ROW_ARRAYS = ("frames", "flow", "landmarks")
KINDS = ("synthetic", "extracted")
_AGAIN = "make the cache again"


@dataclass(frozen=True)
class CacheSettings:
    """Everything that shaped a cache; caches with equal settings and rows hold equal bytes.

    Attributes:
        kind: ``"synthetic"`` or ``"extracted"``.
        classes: names in the order of the labels.
        settings: all settings of the program that filled the cache, JSON values only.
        versions: versions of the packages that shape the content.
        frames: T.
        size: side S of the aligned frames in pixels.
    """

    kind: str
    classes: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    frames: int = 8
    size: int = 144

    @property
    def synthetic_clips(self) -> bool:
        """Whether this program made the clips, either rendered into the cache or extracted from rendered folders."""
        return self.kind == "synthetic" or bool(self.settings.get("synthetic", False))

    def to_json(self) -> dict[str, Any]:
        """Content of settings.json."""
        content: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return content


@dataclass(frozen=True)
class Layout:
    """Shape of one row, and dtype, of an array file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in this file."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def layouts(frames: int, size: int) -> dict[str, Layout]:
    """Layout of each array file by its name without ``.npy``."""
    return {
        "frames": Layout((frames, size, size), "|u1"),
        "flow": Layout((frames - 1, 2, size, size), "<f2"),
        "landmarks": Layout((frames, POINTS, 2), "<f4"),
        "checksums": Layout((), "<u8"),
    }


def row_bytes(frames: int = 8, size: int = 144) -> int:
    """Bytes of one row on disk, without the index: frames, flow, landmarks and checksum.

    T·S² + (T − 1)·2·S²·2 + T·68·2·4 + 8
    """
    return sum(layout.row_bytes for layout in layouts(frames, size).values())


def checksum(parts: Iterable[bytes]) -> int:
    """1 + CRC-32, so that 0 can mean "not written"."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return 1 + value


def row_checksum(arrays: Mapping[str, Any], row: int) -> int:
    """Checksum of one row of opened arrays."""
    return checksum(arrays[name][row].tobytes() for name in ROW_ARRAYS)


_Extent = Annotated[int, Meta(ge=2, le=1 << 16)]


@dataclass(frozen=True)
class _Settings:
    """What settings.json must hold."""

    kind: Name
    classes: Annotated[list[Name], Meta(min_length=1)]
    frames: _Extent
    size: _Extent
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    """What a row of index.json must hold, and of what kind its other entries are, if it has them."""

    dataset: Name
    subject: Name
    clip: Name
    start: FrameNumber
    interval: FrameNumber
    label: Count | None
    emotion: str = ""
    onset: FrameNumber | None = None
    apex: FrameNumber | None = None
    offset: FrameNumber | None = None
    length: Count | None = None
    fps: NotNegative | None = None
    frames: list[Number] | None = None


@dataclass(frozen=True)
class _Skipped:
    """An entry of skipped.json."""

    dataset: Name
    subject: Name
    clip: Name
    reason: str


@dataclass(frozen=True)
class _Interpolated:
    """An entry of interpolated.json."""

    dataset: Name
    subject: Name
    clip: Name
    frames: list[FrameNumber]


def read_settings(folder: Path) -> CacheSettings:
    """Read settings.json.

    Raises:
        CacheError: the file is missing, damaged or of another format.
    """
    path = folder / SETTINGS
    content = _read(path, dict[str, Any])
    if content.get("format") != FORMAT:
        raise CacheError(
            f"{path}: expected format {FORMAT}, found {content.get('format')}; make the cache again with this version."
        )
    found = typed(content, _Settings, str(path), _AGAIN, CacheError)
    if unknown := content.keys() - {"format", *(item.name for item in fields(_Settings))}:
        raise CacheError(f"{path} has an unknown entry ({sorted(unknown)[0]}); {_AGAIN}.")
    if found.kind not in KINDS:
        raise CacheError(f"{path}: kind is {found.kind!r}, but must be {' or '.join(KINDS)}; {_AGAIN}.")
    if len(set(found.classes)) < len(found.classes):
        raise CacheError(f"{path}: classes are {', '.join(found.classes)}, but must all be different; {_AGAIN}.")
    return CacheSettings(**{**values_of(found), "classes": tuple(found.classes)})


def read_rows(folder: Path, settings: CacheSettings) -> list[dict[str, Any]]:
    """Read index.json.

    Args:
        folder: of the cache.
        settings: of the cache.
    Raises:
        CacheError: the file is missing or damaged, or a row cannot be used.
    """
    path = folder / INDEX
    rows = _read(path, list[dict[str, Any]])
    typed(rows, list[_Row], str(path), _AGAIN, CacheError)
    check_rows(rows, len(settings.classes), path)
    for index, row in enumerate(rows):
        if row.get("frames") is not None and len(row["frames"]) != settings.frames:
            raise CacheError(
                f"{path}: row {index} lists {len(row['frames'])} frames, the settings say {settings.frames}; {_AGAIN}."
            )
    return rows


def check_rows(rows: Sequence[Mapping[str, Any]], class_count: int, path: Path | None = None) -> None:
    """Check that every row has the required keys and a valid label, and that no two are the same sub-clip.

    Raises:
        CacheError: a row cannot be used; the message has its number.
    """
    where = f"{path}: " if path else ""
    if not rows:
        raise CacheError(f"{where}a cache needs at least one row.")
    places: dict[tuple[Any, ...], int] = {}
    for index, row in enumerate(rows):
        if absent := [key for key in REQUIRED_KEYS if key not in row]:
            raise CacheError(f"{where}row {index} lacks {', '.join(absent)}.")
        label = row["label"]
        if label is not None and not (isinstance(label, int) and 0 <= label < class_count):
            raise CacheError(f"{where}row {index}: label {label!r} is outside 0 … {class_count - 1}.")
        place = (row["dataset"], row["subject"], row["clip"], row["start"])
        if place in places:
            raise CacheError(f"{where}rows {places[place]} and {index} are the same clip {place}.")
        places[place] = index


def open_arrays(folder: Path, count: int, expected: Mapping[str, Layout]) -> dict[str, np.memmap]:
    """Map all array files, read-only.

    Raises:
        CacheError: a file is missing, damaged or of another shape or dtype.
    """
    arrays = {}
    for name, layout in expected.items():
        path = folder / f"{name}.npy"
        refuse_pipe(path, CacheError)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise CacheError(f"{path} is missing; make the cache again.") from error
        except Exception as error:  # NumPy evaluates the header and passes on whatever Python's parser raises
            raise CacheError(f"{path} is damaged or cut short ({error}); make the cache again.") from error
        shape = (count, *layout.shape)
        if not isinstance(array, np.memmap) or array.shape != shape or array.dtype != np.dtype(layout.dtype):
            raise CacheError(
                f"{path} holds {array.shape} {array.dtype}, but the settings say {shape} {np.dtype(layout.dtype)}; "
                "make the cache again."
            )
        arrays[name] = array
    return arrays


def read_skipped(folder: Path) -> list[dict[str, str]]:
    """Clips that the cache was finished without; empty if skipped.json does not exist.

    Raises:
        CacheError: the file is damaged.
    """
    path = folder / SKIPPED
    return [values_of(clip) for clip in _read(path, list[_Skipped])] if path.exists() else []


def read_interpolated(folder: Path) -> list[dict[str, Any]]:
    """Clips with frames in which no face was found, whose landmarks there are interpolated; empty if there are none.

    Raises:
        CacheError: the file is damaged.
    """
    path = folder / INTERPOLATED
    return [values_of(clip) for clip in _read(path, list[_Interpolated])] if path.exists() else []


def write_clips(path: Path, clips: Sequence[Mapping[str, Any]]) -> None:
    """Write skipped.json or interpolated.json, or remove it if it would list no clip."""
    if clips:
        write_json(path, [dict(clip) for clip in clips])
    else:
        path.unlink(missing_ok=True)


def read_index(folder: Path) -> list[Any]:
    """The rows of index.json as they are, to be compared.

    Raises:
        CacheError: it is missing or damaged.
    """
    return _read(folder / INDEX, list[Any])


def _read(path: Path, kind: type[Kind]) -> Kind:
    """One of the JSON files."""
    if not path.exists():
        raise CacheError(f"{path} is missing, so {path.parent} is not a cache of this program.")
    return read_json(path, kind, _AGAIN, CacheError)
