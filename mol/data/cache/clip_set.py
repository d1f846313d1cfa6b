"""Labelled clips on disk, as training, evaluation and leave-one-subject-out runs use them.

`Cache` is one from a single folder, `mol.data.pool.Pool` one from several folders under a protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mol.common.errors import CacheError
from mol.data.cache.format import ROW_ARRAYS, CacheSettings, row_checksum


class RowArray(Protocol):
    """An array whose rows are read, and if a cache holds them compared with their checksums, when they are taken."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, …)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """One row for an integer, (len(rows), …) for a 1-D array of integers."""


@dataclass(frozen=True)
class Video:
    """One annotated video, however many sub-clips of it there are: what a protocol needs to know of it."""

    dataset: str
    subject: str
    clip: str
    emotion: str


@dataclass(frozen=True)
class ClipSet:
    """Rows of labelled clips: an index in memory and arrays on disk.

    Attributes:
        path: the folder, or the folders in one line.
        settings: everything that shaped the rows.
        rows: the index, one dictionary per row.
        frames: (n, T, S, S) uint8.
        flow: (n, T − 1, 2, S, S) float16, pixels.
        landmarks: (n, T, 68, 2) float32, pixels.
        checksums: (n,) uint64.
        skipped: clips that were left out: data set, subject, clip and the reason.
        interpolated: clips with frames in which no face was found: data set, subject, clip and the frames' numbers.
    """

    path: Path
    settings: CacheSettings
    rows: list[dict[str, Any]]
    frames: RowArray
    flow: RowArray
    landmarks: RowArray
    checksums: np.ndarray
    skipped: list[dict[str, str]] = field(default_factory=list)
    interpolated: list[dict[str, Any]] = field(default_factory=list)

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

    @property
    def videos(self) -> list[Video]:
        """Every video once, in order of appearance."""
        return list(dict.fromkeys(map(video_of, self.rows)))

    def damaged_rows(self, progress: Callable[[int], object] = lambda done: None) -> Iterator[int]:
        """Read every row and compare its checksum.

        Args:
            progress: called with the number of rows read, after every row.
        Yields:
            Rows whose frames, flow or landmarks are not those that were written.
        """
        arrays = {name: unchecked(getattr(self, name)) for name in ROW_ARRAYS}
        for row, expected in enumerate(self.checksums):
            if row_checksum(arrays, row) != expected:
                yield row
            progress(row + 1)

    def verify(self) -> None:
        """Read every row and compare its checksum.

        Raises:
            CacheError: a row is damaged.
        """
        for row in self.damaged_rows():
            raise CacheError(f"row {row} of {self.path} is damaged (checksum mismatch); make the cache again.")


def unchecked(array: RowArray) -> Any:
    """The same rows without a comparison with their checksums."""
    return getattr(array, "unchecked", array)


def video_of(row: Mapping[str, Any]) -> Video:
    """The video that a row was sampled from."""
    return Video(str(row["dataset"]), str(row["subject"]), str(row["clip"]), str(row.get("emotion", "")))
