"""Opening a finished cache, whose rows are compared with their checksums when they are first taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import CacheError
from mol.data.cache.clip_set import ClipSet, video_of
from mol.data.cache.format import (
    ROW_ARRAYS,
    CacheSettings,
    layouts,
    open_arrays,
    read_interpolated,
    read_rows,
    read_settings,
    read_skipped,
    row_checksum,
)


class RowCheck:
    """Compares rows of an opened cache with their checksums, each once.

    Args:
        path: of the cache, for messages.
        rows: its index.
        arrays: the arrays of `ROW_ARRAYS`.
        checksums: (n,) uint64.
    """

    def __init__(
        self, path: Path, rows: Sequence[Mapping[str, Any]], arrays: Mapping[str, Any], checksums: np.ndarray
    ) -> None:
        self._path, self._rows, self._arrays, self._checksums = path, rows, arrays, checksums
        self._sound = np.zeros(len(rows), bool)

    def __call__(self, rows: np.ndarray) -> None:
        """Compare those of some rows that have not been compared yet.

        Args:
            rows: (n,) positions.
        Raises:
            CacheError: a row is damaged.
        """
        for row in np.unique(rows[~self._sound[rows]]).tolist():
            if row_checksum(self._arrays, row) != self._checksums[row]:
                video = video_of(self._rows[row])
                raise CacheError(
                    f"row {row} of {self._path} ({video.dataset}/{video.subject}/{video.clip}) is damaged: its frames, "
                    f"flow or landmarks are not what was written (checksum); `mol check-data {self._path}` checks all "
                    "rows and says how to repair them"
                )
            self._sound[row] = True


class CheckedRows:
    """An array of a cache that compares the checksum of a row before it hands it out for the first time.

    A checksum is of all arrays of its row, so frames, flow and landmarks share a `RowCheck`.

    Args:
        array: (n, …), memory-mapped.
        check: of its cache.
    """

    def __init__(self, array: np.ndarray, check: RowCheck) -> None:
        self.unchecked = array
        self._check = check
        self._positions = np.arange(len(array))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.unchecked.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.unchecked.dtype

    def __len__(self) -> int:
        return len(self.unchecked)

    def __getitem__(self, index: Any) -> Any:
        rows = self._positions[index[0] if isinstance(index, tuple) else index]
        self._check(np.atleast_1d(rows).ravel())
        return self.unchecked[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return np.array(whole, dtype) if copy else np.asarray(whole, dtype)


@dataclass(frozen=True)
class Cache(ClipSet):
    """A finished cache on disk, its arrays memory-mapped and read-only; attributes as in `ClipSet`."""

    frames: CheckedRows
    flow: CheckedRows
    landmarks: CheckedRows

    @classmethod
    def open(cls, path: str | Path) -> Cache:
        """Open a finished cache.

        Raises:
            CacheError: the folder is missing, unfinished, damaged or not a cache; the message names the file.
        """
        path = Path(path)
        if not path.is_dir():
            partial = path.with_name(path.name + ".partial")
            hint = (
                f"{partial} is unfinished: run the command that made it again to continue."
                if partial.is_dir()
                else "make one with `mol extract` or `mol synth`."
            )
            raise CacheError(f"{path} is not a cache folder; {hint}")
        settings = read_settings(path)
        rows = read_rows(path, settings)
        arrays = open_arrays(path, len(rows), layouts(settings.frames, settings.size))
        if not arrays["checksums"].all():
            raise CacheError(f"{path / 'checksums.npy'} marks rows that were never written; make the cache again.")
        if not np.isfinite(arrays["landmarks"]).all():
            raise CacheError(f"{path / 'landmarks.npy'} holds NaN or infinite values; make the cache again.")
        return cls._of(path, settings, rows, arrays, read_skipped(path), read_interpolated(path))

    @classmethod
    def _of(
        cls,
        path: Path,
        settings: CacheSettings,
        rows: list[dict[str, Any]],
        arrays: Mapping[str, np.ndarray],
        skipped: list[dict[str, str]],
        interpolated: list[dict[str, Any]],
    ) -> Cache:
        check = RowCheck(path, rows, arrays, arrays["checksums"])
        frames, flow, landmarks = (CheckedRows(arrays[name], check) for name in ROW_ARRAYS)
        return cls(
            path,
            settings,
            rows,
            frames=frames,
            flow=flow,
            landmarks=landmarks,
            checksums=arrays["checksums"],
            skipped=skipped,
            interpolated=interpolated,
        )

    def packed(self) -> dict[str, Any]:
        """All of it, to be sent to where the folder is not seen; `unpacked` is the inverse. Nothing is copied."""
        arrays = {name: getattr(self, name).unchecked for name in ROW_ARRAYS} | {"checksums": self.checksums}
        return {
            "path": self.path,
            "settings": self.settings,
            "rows": self.rows,
            "arrays": {name: np.asarray(array).view(np.ndarray) for name, array in arrays.items()},
            "skipped": self.skipped,
            "interpolated": self.interpolated,
        }

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Cache:
        """The cache that was `packed`; its rows are still compared with their checksums."""
        return cls._of(**packed)
