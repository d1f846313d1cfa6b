"""Working files beside the output: what grows with a video lies there until it is written where it belongs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from mol.common.errors import StorageError


class Scratch:
    """Bytes in a file without a name, which goes with this process.

    Args:
        folder: on whose disk it lies; it is made if it is missing.
        remedy: the end of a sentence: what needs less space.
    Raises:
        StorageError: the disk is full or cannot be written to.
    """

    def __init__(self, folder: Path, remedy: str) -> None:
        self._folder, self._remedy = folder, remedy
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Write bytes at the end."""
        with self._named():
            self._file.write(data)

    def read(self, start: int, size: int) -> bytes:
        """The bytes from `start` on, `size` of them at most."""
        with self._named():
            self._file.flush()
            self._file.seek(start)
            found = self._file.read(size)
            self._file.seek(0, 2)
            return found

    def close(self) -> None:
        """Give the space back."""
        try:
            self._file.close()
        except OSError:  # what is still to be written does not matter any more
            self._file.raw.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"could not write a working file in {self._folder}: {error.strerror or error}. Free some space, choose "
                f"another folder (--out) or {self._remedy}, then run the same command again."
            ) from error


class Spool:
    """Records of one NumPy type on disk, in order.

    Args:
        kind: of a record.
        folder, remedy: as for `Scratch`.
    """

    def __init__(self, kind: np.dtype, folder: Path, remedy: str) -> None:
        self.kind = kind
        self._scratch = Scratch(folder, remedy)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, record: np.ndarray) -> None:
        """Write a record at the end."""
        self._scratch.write(np.ascontiguousarray(record, self.kind.base).tobytes())
        self._count += 1

    def some(self, start: int, count: int) -> np.ndarray:
        """Records from `start` on, `count` at most: (n, …)."""
        count = min(count, self._count - start)
        data = self._scratch.read(start * self.kind.itemsize, count * self.kind.itemsize)
        return np.frombuffer(data, self.kind)

    def close(self) -> None:
        """Give the space back."""
        self._scratch.close()
