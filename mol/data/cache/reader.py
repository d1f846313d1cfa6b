"""Opening a finished cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mol.common.errors import CacheError
from mol.data.cache.clip_set import ClipSet
from mol.data.cache.format import layouts, open_arrays, read_interpolated, read_rows, read_settings, read_skipped


@dataclass(frozen=True)
class Cache(ClipSet):
    """A finished cache on disk, its arrays memory-mapped and read-only; attributes as in `ClipSet`."""

    frames: np.ndarray
    flow: np.ndarray
    landmarks: np.ndarray

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
        rows = read_rows(path, len(settings.classes))
        arrays = open_arrays(path, len(rows), layouts(settings.frames, settings.size))
        if not arrays["checksums"].all():
            raise CacheError(f"{path / 'checksums.npy'} marks rows that were never written; make the cache again.")
        if not np.isfinite(arrays["landmarks"]).all():
            raise CacheError(f"{path / 'landmarks.npy'} holds NaN or infinite values; make the cache again.")
        return cls(path, settings, rows, **arrays, skipped=read_skipped(path), interpolated=read_interpolated(path))
