"""Filling a cache row by row, so that an interrupted run can be resumed and a finished cache is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from mol.common.differences import differences
from mol.common.errors import CacheError, CacheSettingsError, ClipError, StorageError
from mol.common.locks import beside, only_one
from mol.common.storage import write_json
from mol.data.cache.format import (
    CLIP_KEYS,
    INDEX,
    INTERPOLATED,
    ROW_ARRAYS,
    SETTINGS,
    SKIPPED,
    CacheSettings,
    Layout,
    check_rows,
    checksum,
    layouts,
    open_arrays,
    read_index,
    read_interpolated,
    read_settings,
    read_skipped,
    row_bytes,
    row_checksum,
    write_clips,
)
from mol.data.manifest import HasName

# Bytes of the name of a cache: file systems allow 255, and `.kept.partial` is added.
_LONGEST = 240


class CacheWriter:
    """Fills a cache row by row, in any order, and resumes an interrupted run.

    Args:
        path: folder of the finished cache; until then it is built in ``<path>.partial``.
        settings: everything that shapes the content.
        rows: the index, one dictionary per row with at least ``dataset, subject, clip, start, interval, label``.
    Raises:
        CacheSettingsError: `path` or its partial folder was made with other settings or rows; nothing is touched.
        CacheError: `path` exists and is not a cache, or a row of the index cannot be used.
        StorageError: not enough space for the whole cache, which is reserved before the first row.
    """

    def __init__(self, path: str | Path, settings: CacheSettings, rows: Sequence[dict[str, Any]]) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.settings = settings
        self.rows: list[dict[str, Any]] = json.loads(json.dumps(list(rows)))
        check_rows(self.rows, len(settings.classes))
        self._layouts = layouts(settings.frames, settings.size)
        self._files: dict[str, BinaryIO] = {}
        self._offsets: dict[str, int] = {}
        self.complete = _is_filled(self.path)
        if self.complete:
            _check_same(self.path, settings, _without(self.rows, read_skipped(self.path)))
            self._checksums = np.ones(len(self.rows), np.uint64)
        elif len(os.fsencode(self.path.name)) > _LONGEST:
            raise StorageError(
                f"the name {self.path.name!r} is too long for a cache; at most {_LONGEST} bytes are possible."
            )
        elif self.partial.exists() and not _is_abandoned_start(self.partial):
            _check_same(self.partial, settings, self.rows)
            self._resume()
        else:
            self._start()

    def pending(self) -> list[int]:
        """Rows that are still to be written; empty if the cache is complete."""
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
            CacheError: the cache is already complete.
            StorageError: the disk refused; the rows written so far are kept.
        """
        if self.complete:
            raise CacheError(f"{self.path} is complete; row {row} cannot be written again.")
        arrays = {"frames": frames, "flow": flow, "landmarks": landmarks}
        data = {name: self._row_data(row, name, array) for name, array in arrays.items()}
        digest = np.uint64(checksum(data[name] for name in ROW_ARRAYS))
        # The checksum goes last: a row counts only once all of it is in the files.
        for name, content in (*data.items(), ("checksums", digest.tobytes())):
            self._put(name, row, content)
        self._checksums[row] = digest

    def note_interpolated(self, clip: HasName, frames: Sequence[int]) -> None:
        """Note that landmarks of a clip were interpolated; before its rows are written, so that none goes unnoticed.

        Args:
            clip: whose rows are written next.
            frames: numbers of its frames without a face; an earlier note is removed if there are none.
        Raises:
            StorageError: the disk refused.
        """
        name = {"dataset": clip.dataset, "subject": clip.subject, "clip": clip.clip}
        found = read_interpolated(self.partial)
        noted = [other for other in found if any(other[part] != name[part] for part in CLIP_KEYS)]
        noted += [{**name, "frames": list(frames)}] if frames else []
        if noted != found:
            write_clips(self.partial / INTERPOLATED, noted)

    def finish(self, skipped: Sequence[Mapping[str, str]] = ()) -> Path:
        """Move the complete cache to its final path and return that path.

        Args:
            skipped: clips to finish without, each with ``dataset, subject, clip, reason``. They are listed in
                skipped.json and their rows left out, which temporarily needs space for a second copy of the others.
        Raises:
            CacheError: rows of other clips are missing, or none would be left.
            StorageError: the disk refused; the partial folder is kept and can be continued.
        """
        copy = self.path.with_name(self.path.name + ".kept")
        self._remove_leftovers(copy)
        if self.complete:
            return self.path
        kept = _kept(self.rows, skipped)
        if missing := sorted(set(self.pending()) & set(kept)):
            raise CacheError(
                f"{self.partial} lacks {len(missing)} of {len(self.rows)} rows, the first is {missing[0]}."
            )
        source = self if len(kept) == len(self.rows) else self._copy(kept, copy)
        write_clips(source.partial / SKIPPED, skipped)
        if source is not self:
            write_clips(source.partial / INTERPOLATED, _without(read_interpolated(self.partial), skipped))
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
        """Remove what was left by a run that was killed while finishing."""
        shutil.rmtree(copy.with_name(copy.name + ".partial"), ignore_errors=True)
        if self.complete and self.partial.exists():
            try:
                _check_same(self.partial, self.settings, self.rows)
            except CacheError:
                return  # of another cache
            shutil.rmtree(self.partial, ignore_errors=True)

    def _copy(self, kept: Sequence[int], path: Path) -> CacheWriter:
        """A second writer that holds only the rows `kept`."""
        arrays = open_arrays(self.partial, len(self.rows), self._layouts)
        copy = CacheWriter(path, self.settings, [self.rows[row] for row in kept])
        for target, row in enumerate(kept):
            copy.write(target, *(arrays[name][row] for name in ROW_ARRAYS))
        return copy

    def close(self) -> None:
        """Close the files; a partial folder is kept for the next run."""
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
        needed = len(self.rows) * row_bytes(self.settings.frames, self.settings.size)
        try:
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"could not create {self.partial}: {error.strerror}; choose another folder.") from error
        try:
            for name, layout in self._layouts.items():
                self._reserve(name, layout)
            write_json(self.partial / INDEX, self.rows)
            # Last, because a folder with settings counts as resumable.
            write_json(self.partial / SETTINGS, self.settings.to_json())
        except OSError as error:
            self.close()
            shutil.rmtree(self.partial, ignore_errors=True)
            raise StorageError(
                f"could not reserve {needed / 2**20:.0f} MiB for {self.path}: {error.strerror or error}. "
                "Free some space or choose another folder; nothing was left behind."
            ) from error
        self._checksums = np.zeros(len(self.rows), np.uint64)

    def _reserve(self, name: str, layout: Layout) -> None:
        """Create an array file at its full length, so that a full disk is noticed now and not half-way."""
        file = open(self.partial / f"{name}.npy", "w+b", buffering=0)  # noqa: SIM115 - open as long as the writer
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
        """Open the partial files and keep the rows whose checksum matches (a power cut can lose written ones)."""
        arrays = open_arrays(self.partial, len(self.rows), self._layouts)
        self._checksums = np.array(arrays["checksums"])
        for row in np.flatnonzero(self._checksums).tolist():
            if row_checksum(arrays, row) != self._checksums[row]:
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
            raise ClipError(
                f"{where}: expected {layout.shape} {np.dtype(layout.dtype)}, got {array.shape} {array.dtype}."
            )
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


def sole_cache_writer(path: str | Path, command: str) -> AbstractContextManager[None]:
    """Keep other processes from filling the cache meanwhile; one that is filled already needs no lock.

    Args:
        path: folder of the cache.
        command: what this process runs, for the others.
    Raises:
        InUseError: another process fills it; the message names process and machine.
        StorageError: the lock, a file beside the cache, can't be written.
    """
    if _is_filled(Path(path)):
        return nullcontext()
    return only_one(beside(path), path, command, "choose another --out")


def _is_filled(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _is_abandoned_start(partial: Path) -> bool:
    """Whether a run was killed while reserving space: there are array files but no settings, hence no rows."""
    own = {f"{name}.npy" for name in (*ROW_ARRAYS, "checksums")} | {INDEX}
    return partial.is_dir() and {path.name for path in partial.iterdir()} <= own


def _kept(rows: Sequence[Mapping[str, Any]], skipped: Sequence[Mapping[str, str]]) -> list[int]:
    """Positions of the rows whose clip is not skipped."""
    names = {tuple(clip[key] for key in CLIP_KEYS) for clip in skipped}
    return [index for index, row in enumerate(rows) if tuple(row[key] for key in CLIP_KEYS) not in names]


def _without(rows: list[dict[str, Any]], skipped: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Rows or clips that are not skipped."""
    return [rows[index] for index in _kept(rows, skipped)]


def _check_same(folder: Path, settings: CacheSettings, rows: list[dict[str, Any]]) -> None:
    """Refuse to continue a folder that was made with other settings or rows."""
    found = read_settings(folder).to_json()
    changes = differences(found, settings.to_json())
    changes = changes or differences(_numbered(read_index(folder)), _numbered(rows))
    if changes:
        shown = "\n  ".join([*changes[:20], *(["…"] if len(changes) > 20 else [])])
        raise CacheSettingsError(
            f"{folder} was made with other settings (there → now):\n  {shown}\n"
            "Use those settings, choose another folder, or delete this one."
        )


def _numbered(rows: Any) -> dict[str, Any]:
    return {"rows": len(rows)} | {f"row {index}": row for index, row in enumerate(rows)}
