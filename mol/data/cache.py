"""One aligned data set as one folder of memory-mapped arrays, an index and a JSON of all that shaped it.

    settings.json   format, kind, frames, size, classes, settings, versions
    index.json      one entry a row: data set, subject, clip, start, interval, label, emotion, …
    frames.npy      (n, T, S, S) uint8
    flow.npy        (n, T − 1, 2, S, S) float16, (dx, dy) pixels from frame t to t + 1
    landmarks.npy   (n, T, 68, 2) float32, (x, y) pixels
    checksums.npy   (n,) uint64, 1 + CRC-32 of the row's three arrays; 0 while the row is not written
    skipped.json    where clips were left out: their data set, subject, clip and the reason

The folder is built as ``<path>.partial`` and renamed when the last row is in. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from mol.common.errors import CacheError, CacheSettingsError, ClipError, StorageError
from mol.common.storage import write_json

FORMAT = 1
POINTS = 68
REQUIRED_KEYS = ("dataset", "subject", "clip", "start", "interval", "label")


@dataclass(frozen=True)
class CacheSettings:
    """Everything that shaped a cache; two caches with equal settings and rows hold equal bytes.

    Attributes:
        kind: ``"synthetic"`` or ``"extracted"``.
        classes: names in the order of the labels.
        settings: every setting of the program that filled the cache, JSON values only.
        versions: the versions of the packages that shape the content.
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
        """Whether the clips were made by this program, rendered into the cache or extracted from a set's folders."""
        return self.kind == "synthetic" or bool(self.settings.get("synthetic", False))

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return content


@dataclass(frozen=True)
class _Layout:
    """Shape of one row and dtype of an array file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


_ROW_ARRAYS = ("frames", "flow", "landmarks")


def _layouts(frames: int, size: int) -> dict[str, _Layout]:
    return {
        "frames": _Layout((frames, size, size), "|u1"),
        "flow": _Layout((frames - 1, 2, size, size), "<f2"),
        "landmarks": _Layout((frames, POINTS, 2), "<f4"),
        "checksums": _Layout((), "<u8"),
    }


def row_bytes(frames: int = 8, size: int = 144) -> int:
    """Bytes that one row takes on the disk, beside the index: frames, flow, landmarks and checksum.

    T·S² + (T − 1)·2·S²·2 + T·68·2·4 + 8
    """
    return sum(layout.row_bytes for layout in _layouts(frames, size).values())


class CacheWriter:
    """Fills a cache row by row, in any order, and goes on where an interrupted run stopped.

    Args:
        path: the folder that the finished cache will have; work goes on in ``<path>.partial``.
        settings: everything that shapes the content.
        rows: the index, one dictionary a row with at least ``dataset, subject, clip, start, interval, label``.
    Raises:
        CacheSettingsError: `path` or its partial folder was made with other settings or rows; nothing is touched.
        CacheError: `path` exists and is no cache, or a row of the index cannot be used.
        StorageError: not enough space for the whole cache; all of it is reserved before the first row.
    """

    def __init__(self, path: str | Path, settings: CacheSettings, rows: Sequence[dict[str, Any]]) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.settings = settings
        self.rows: list[dict[str, Any]] = json.loads(json.dumps(list(rows)))
        _check_rows(self.rows, len(settings.classes))
        self._layouts = _layouts(settings.frames, settings.size)
        self._files: dict[str, BinaryIO] = {}
        self._offsets: dict[str, int] = {}
        self.complete = self.path.exists() and not _is_empty_folder(self.path)
        if self.complete:
            _check_same(self.path, settings, _without(self.rows, _read_skipped(self.path)))
            self._checksums = np.ones(len(self.rows), np.uint64)
        elif self.partial.exists() and not _is_abandoned_start(self.partial):
            _check_same(self.partial, settings, self.rows)
            self._resume()
        else:
            self._start()

    def pending(self) -> list[int]:
        """Rows that are still to be written; empty where the cache is complete."""
        return np.flatnonzero(self._checksums == 0).tolist()

    def write(self, row: int, frames: np.ndarray, flow: np.ndarray, landmarks: np.ndarray) -> None:
        """Write one row.

        Args:
            row: its position in the index.
            frames: (T, S, S) uint8.
            flow: (T − 1, 2, S, S) float, stored as float16.
            landmarks: (T, 68, 2) float, stored as float32.
        Raises:
            ClipError: a wrong shape or dtype, NaN or infinite values.
            StorageError: the disk refused; the rows written so far stay.
        """
        if self.complete:
            raise CacheError(f"{self.path} is complete; row {row} cannot be written again.")
        arrays = {"frames": frames, "flow": flow, "landmarks": landmarks}
        data = {name: self._row_data(row, name, array) for name, array in arrays.items()}
        checksum = np.uint64(_checksum(data[name] for name in _ROW_ARRAYS))
        # The checksum goes last: a row counts only once all of it is in the files.
        for name, content in (*data.items(), ("checksums", checksum.tobytes())):
            self._put(name, row, content)
        self._checksums[row] = checksum

    def finish(self, skipped: Sequence[Mapping[str, str]] = ()) -> Path:
        """Put the complete cache in its place and return that.

        Args:
            skipped: clips to finish without, each with ``dataset, subject, clip, reason``. Their rows are left out,
                which needs the space of the other rows once more until the end, and they are listed in skipped.json.
        Raises:
            CacheError: rows of other clips are missing, or none would be left.
            StorageError: the disk refused; the partial folder stays and can be continued.
        """
        copy = self.path.with_name(self.path.name + ".kept")
        self._remove_leftovers(copy)
        if self.complete:
            return self.path
        kept = _kept(self.rows, skipped)
        if missing := sorted(set(self.pending()) & set(kept)):
            raise CacheError(
                f"{self.partial} misses {len(missing)} of {len(self.rows)} rows, the first is {missing[0]}."
            )
        source = self if len(kept) == len(self.rows) else self._copy(kept, copy)
        _write_skipped(source.partial, skipped)
        try:
            for file in source._files.values():
                os.fsync(file.fileno())
            source.close()
            if self.path.exists():
                self.path.rmdir()
            os.replace(source.partial, self.path)
        except OSError as error:
            raise StorageError(f"could not finish {self.path}: {error.strerror}; {self.partial} is kept.") from error
        self.close()
        shutil.rmtree(self.partial, ignore_errors=True)
        self.complete = True
        return self.path

    def _remove_leftovers(self, copy: Path) -> None:
        """Remove what a run left that was killed while it finished."""
        shutil.rmtree(copy.with_name(copy.name + ".partial"), ignore_errors=True)
        if self.complete and self.partial.exists():
            try:
                _check_same(self.partial, self.settings, self.rows)
            except CacheError:
                return  # not of this cache
            shutil.rmtree(self.partial, ignore_errors=True)

    def _copy(self, kept: Sequence[int], path: Path) -> CacheWriter:
        """Another writer that holds only the rows `kept`."""
        arrays = _open_arrays(self.partial, len(self.rows), self._layouts)
        copy = CacheWriter(path, self.settings, [self.rows[row] for row in kept])
        for target, row in enumerate(kept):
            copy.write(target, *(arrays[name][row] for name in _ROW_ARRAYS))
        return copy

    def close(self) -> None:
        """Close the files; a partial folder stays for the next run."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self.partial.exists():
            shutil.rmtree(self.partial)
        needed = len(self.rows) * sum(layout.row_bytes for layout in self._layouts.values())
        try:
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"could not create {self.partial}: {error.strerror}; choose another folder.") from error
        try:
            for name, layout in self._layouts.items():
                self._reserve(name, layout)
            write_json(self.partial / "index.json", self.rows)
            # Last, because a folder with settings counts as one that can be continued.
            write_json(self.partial / "settings.json", self.settings.to_json())
        except OSError as error:
            self.close()
            shutil.rmtree(self.partial, ignore_errors=True)
            raise StorageError(
                f"could not reserve {needed / 2**20:.0f} MiB for {self.path}: {error.strerror or error}. "
                "Free some space or choose another folder; nothing was left behind."
            ) from error
        self._checksums = np.zeros(len(self.rows), np.uint64)

    def _reserve(self, name: str, layout: _Layout) -> None:
        """Create an array file at its full length, so that a full disk shows now and not half-way."""
        file = open(self.partial / f"{name}.npy", "w+b", buffering=0)  # noqa: SIM115 - stays open for the writer's life
        self._files[name] = file
        header = {"descr": layout.dtype, "fortran_order": False, "shape": (len(self.rows), *layout.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        self._offsets[name] = file.tell()
        length = self._offsets[name] + len(self.rows) * layout.row_bytes
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, length)
        else:
            file.truncate(length)

    def _resume(self) -> None:
        """Open the partial files and keep the rows whose checksum holds (a power cut can lose written ones)."""
        arrays = _open_arrays(self.partial, len(self.rows), self._layouts)
        self._checksums = np.array(arrays["checksums"])
        for row in np.flatnonzero(self._checksums):
            if _checksum(arrays[name][row].tobytes() for name in _ROW_ARRAYS) != self._checksums[row]:
                self._checksums[row] = 0
        for name in self._layouts:
            try:
                self._files[name] = open(self.partial / f"{name}.npy", "r+b", buffering=0)  # noqa: SIM115
            except OSError as error:
                raise StorageError(f"cannot write {self.partial / name}.npy: {error.strerror}.") from error
            self._offsets[name] = int(arrays[name].offset)

    def _row_data(self, row: int, name: str, array: np.ndarray) -> bytes:
        layout = self._layouts[name]
        array = np.asarray(array)
        where = f"{name} of row {row} ({self.rows[row]['subject']}/{self.rows[row]['clip']})"
        if array.shape != layout.shape or (array.dtype.kind == "f") != (name != "frames"):
            raise ClipError(f"{where}: expected {layout.shape} like {layout.dtype}, got {array.shape} {array.dtype}.")
        if name == "frames" and array.dtype != np.uint8:
            raise ClipError(f"{where}: expected uint8, got {array.dtype}.")
        stored = array.astype(layout.dtype)
        if not np.isfinite(stored).all():
            raise ClipError(f"{where}: NaN or infinite values (float16 holds flow up to 65504 pixels).")
        return stored.tobytes()

    def _put(self, name: str, row: int, content: bytes) -> None:
        file = self._files[name]
        try:
            file.seek(self._offsets[name] + row * self._layouts[name].row_bytes)
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            raise StorageError(
                f"could not write row {row} to {self.partial / name}.npy: {error.strerror}. The rows before it are "
                "kept: free some space and run the same command again to continue."
            ) from error


@dataclass(frozen=True)
class Cache:
    """A finished cache, its arrays memory-mapped and read-only; see the module for the layout.

    Attributes:
        path: the folder.
        settings: everything that shaped it.
        rows: the index.
        frames: (n, T, S, S) uint8.
        flow: (n, T − 1, 2, S, S) float16.
        landmarks: (n, T, 68, 2) float32.
        checksums: (n,) uint64.
        skipped: clips that the cache was finished without: data set, subject, clip and the reason.
    """

    path: Path
    settings: CacheSettings
    rows: list[dict[str, Any]]
    frames: np.ndarray
    flow: np.ndarray
    landmarks: np.ndarray
    checksums: np.ndarray
    skipped: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Path) -> Cache:
        """Open a finished cache.

        Raises:
            CacheError: the folder is missing, unfinished, damaged or no cache; the message names the file.
        """
        path = Path(path)
        if not path.is_dir():
            partial = path.with_name(path.name + ".partial")
            hint = (
                f"{partial} is unfinished: run the command that makes it again to continue."
                if partial.is_dir()
                else "make one with `mol extract` or `mol synth`."
            )
            raise CacheError(f"{path} is not a cache folder; {hint}")
        settings = _read_settings(path)
        rows = _read_rows(path, len(settings.classes))
        arrays = _open_arrays(path, len(rows), _layouts(settings.frames, settings.size))
        if not arrays["checksums"].all():
            raise CacheError(f"{path / 'checksums.npy'} marks rows that were never written; make the cache again.")
        if not np.isfinite(arrays["landmarks"]).all():
            raise CacheError(f"{path / 'landmarks.npy'} holds NaN or infinite values; make the cache again.")
        return cls(path, settings, rows, **arrays, skipped=_read_skipped(path))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.settings.classes

    @property
    def subjects(self) -> list[str]:
        """The subjects, each once, in the order in which they appear."""
        return list(dict.fromkeys(row["subject"] for row in self.rows))

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64; −1 where a row has no label."""
        return np.array([-1 if row["label"] is None else row["label"] for row in self.rows], np.int64)

    def verify(self) -> None:
        """Read everything and compare the checksums.

        Raises:
            CacheError: a row is damaged.
        """
        for row, expected in enumerate(self.checksums):
            if _checksum(getattr(self, name)[row].tobytes() for name in _ROW_ARRAYS) != expected:
                raise CacheError(f"row {row} of {self.path} is damaged (checksum); make the cache again.")


def _checksum(parts: Iterator[bytes]) -> int:
    """1 + CRC-32, so that 0 can mean "not written"."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return 1 + value


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_abandoned_start(partial: Path) -> bool:
    """Whether a run was killed while it reserved space: array files and no settings, hence no row yet."""
    own = {f"{name}.npy" for name in (*_ROW_ARRAYS, "checksums")} | {"index.json"}
    return partial.is_dir() and {path.name for path in partial.iterdir()} <= own


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing, so {path.parent} is not a cache of this program.") from error
    except (OSError, ValueError) as error:
        raise CacheError(f"{path} is damaged ({error}); make the cache again.") from error


def _read_settings(folder: Path) -> CacheSettings:
    path = folder / "settings.json"
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise CacheError(f"{path}: format {FORMAT} expected, found {found}; make the cache again with this version.")
    try:
        content = {**content, "classes": tuple(content["classes"])}
        settings = CacheSettings(**{key: value for key, value in content.items() if key != "format"})
    except (KeyError, TypeError) as error:
        raise CacheError(f"{path} lacks or misnames an entry ({error}); make the cache again.") from error
    if not all(isinstance(extent, int) and extent > 1 for extent in (settings.frames, settings.size)):
        raise CacheError(f"{path}: frames and size must be integers above 1; make the cache again.")
    return settings


def _read_rows(folder: Path, class_count: int) -> list[dict[str, Any]]:
    path = folder / "index.json"
    rows = _read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CacheError(f"{path} is not a list of rows; make the cache again.")
    _check_rows(rows, class_count, path)
    return rows


def _write_skipped(folder: Path, skipped: Sequence[Mapping[str, str]]) -> None:
    if skipped:
        write_json(folder / "skipped.json", [dict(clip) for clip in skipped])
    else:
        (folder / "skipped.json").unlink(missing_ok=True)


def _read_skipped(folder: Path) -> list[dict[str, str]]:
    path = folder / "skipped.json"
    if not path.exists():
        return []
    clips = _read_json(path)
    keys = (*_CLIP_KEYS, "reason")
    if not isinstance(clips, list) or not all(isinstance(clip, dict) and {*keys} <= {*clip} for clip in clips):
        raise CacheError(f"{path} is not a list of clips with {', '.join(keys)}; make the cache again.")
    return clips


_CLIP_KEYS = ("dataset", "subject", "clip")


def _kept(rows: Sequence[Mapping[str, Any]], skipped: Sequence[Mapping[str, str]]) -> list[int]:
    """Positions of the rows whose clip is not skipped."""
    names = {tuple(clip[key] for key in _CLIP_KEYS) for clip in skipped}
    return [index for index, row in enumerate(rows) if tuple(row[key] for key in _CLIP_KEYS) not in names]


def _without(rows: list[dict[str, Any]], skipped: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    return [rows[index] for index in _kept(rows, skipped)]


def _check_rows(rows: Sequence[dict[str, Any]], class_count: int, path: Path | None = None) -> None:
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


def _open_arrays(folder: Path, count: int, layouts: dict[str, _Layout]) -> dict[str, Any]:
    arrays = {}
    for name, layout in layouts.items():
        path = folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise CacheError(f"{path} is missing; make the cache again.") from error
        except (OSError, ValueError, EOFError) as error:
            raise CacheError(f"{path} is damaged or cut short ({error}); make the cache again.") from error
        expected = (count, *layout.shape)
        if not isinstance(array, np.memmap) or array.shape != expected or array.dtype != np.dtype(layout.dtype):
            raise CacheError(
                f"{path} holds {array.shape} {array.dtype}, the settings say {expected} {np.dtype(layout.dtype)}; "
                "make the cache again."
            )
        arrays[name] = array
    return arrays


def _check_same(folder: Path, settings: CacheSettings, rows: list[dict[str, Any]]) -> None:
    """Refuse to mix: `folder` must have been made with these settings and rows."""
    found = _read_settings(folder).to_json()
    differences = _differences(found, settings.to_json())
    if not differences:
        differences = _differences(_numbered(_read_json(folder / "index.json")), _numbered(rows))
    if differences:
        shown = "\n  ".join([*differences[:20], *(["…"] if len(differences) > 20 else [])])
        raise CacheSettingsError(
            f"{folder} was made with other settings (there → now):\n  {shown}\n"
            "Use those settings, choose another folder, or delete this one."
        )


def _numbered(rows: Any) -> dict[str, Any]:
    return {"rows": len(rows)} | {f"row {index}": row for index, row in enumerate(rows)}


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Lines ``name: old → new`` for every leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in (*old, *(key for key in new if key not in old)):
            inner = f"{name}.{key}" if name else key
            lines += _differences(old.get(key, "(absent)"), new.get(key, "(absent)"), inner)
        return lines
    return [] if old == new else [f"{name}: {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "…"
