"""Opening a finished cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import CacheError
from mol.data.cache.format import (
    CacheSettings,
    layouts,
    open_arrays,
    read_rows,
    read_settings,
    read_skipped,
    row_checksum,
)


@dataclass(frozen=True)
class Cache:
    """A finished cache, its arrays memory-mapped and read-only; see `mol.data.cache` for the files.

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
        return cls(path, settings, rows, **arrays, skipped=read_skipped(path))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.settings.classes

    @property
    def subjects(self) -> list[str]:
        """Subjects in order of appearance."""
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
        arrays = {"frames": self.frames, "flow": self.flow, "landmarks": self.landmarks}
        for row, expected in enumerate(self.checksums):
            if row_checksum(arrays, row) != expected:
                raise CacheError(f"row {row} of {self.path} is damaged (checksum); make the cache again.")
