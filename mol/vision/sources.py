"""Films and folders of pictures whose frames are decoded when they are asked for and then let go.

Opening decodes everything once and keeps nothing: so the length, the frames' own times and the scale of the grey levels
are known exactly, and what is damaged, truncated or of two sizes is refused before anything is computed. The packets of
a film would tell its length faster, but not always rightly: some make no frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mol.common.errors import MediaError
from mol.vision.film import opened_film
from mol.vision.footage import Footage, Source
from mol.vision.levels import Depth
from mol.vision.video import (
    check_size,
    decoded_picture,
    existing_film,
    numbered_pictures,
    rate_of_folder,
    require_one_size,
)


def open_footage(
    path: str | Path, folder_fps: float | None = None, rate_notes: tuple[str, ...] | None = None
) -> Footage:
    """A video file, or a folder of pictures in the order of the numbers in their names, with its frames on disk.

    Args:
        path: a media container that FFmpeg can read, or a folder such as ``img1.jpg … img46.jpg`` (zero padding not
            needed).
        folder_fps: frames per second of a folder of pictures, which carry no rate of their own; by default 25, and the
            notes say so.
        rate_notes: what is to be said of the rate of a folder instead.
    Raises:
        MediaError: the file or folder is missing, empty, truncated or unreadable, or its pictures differ in size.
        NotEnoughMemoryError: FFmpeg has not enough memory for a few frames.
    """
    path = Path(path)
    return _open_folder(path, folder_fps, rate_notes) if path.is_dir() else _open_film(existing_film(path))


@dataclass(frozen=True)
class _OnDisk(Footage):
    """What is known of frames that are not held.

    Attributes:
        size: (H, W).
        depth: of their grey levels.
        fps, times, last, notes, rate_notes: see `Footage`.
    """

    size: tuple[int, int]
    depth: Depth
    fps: float
    times: np.ndarray | None
    last: float | None
    notes: tuple[str, ...]
    rate_notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.size

    def at_rate(self: Source, fps: float) -> Source:
        """The same frames, evenly spaced at another rate."""
        return replace(self, fps=fps, times=None, last=None, rate_notes=())  # type: ignore[type-var]


@dataclass(frozen=True)
class FilmFootage(_OnDisk):
    """The frames of a video file.

    Attributes:
        path: of the file.
        length: number of frames.
    """

    path: Path
    length: int

    def __len__(self) -> int:
        return self.length

    def name(self, number: int) -> str:
        """``frame 17``, counted from 0."""
        return f"frame {number}"

    def walk(self, numbers: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """Decode the film from its start to the last frame that is wanted."""
        wanted = iter(range(self.length) if numbers is None else numbers)
        number = next(wanted, None)
        if number is None:
            return
        with opened_film(self.path) as film:
            for index, frame in enumerate(film.frames()):
                if index < number:
                    continue
                check_size(frame.shape, self.size, self.path)
                yield self.depth.scaled(frame.picture)
                number = next(wanted, None)
                if number is None:
                    return
        raise MediaError(f"{self.path} was changed while it was read: frame {number} is missing; run again.")


@dataclass(frozen=True)
class FolderFootage(_OnDisk):
    """The frames of a folder of pictures.

    Attributes:
        paths: of the pictures, in the order of time.
    """

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        """The file name of a picture."""
        return self.paths[number].name

    def walk(self, numbers: Iterable[int] | None = None) -> Iterator[np.ndarray]:
        """Read one picture after another."""
        for number in range(len(self.paths)) if numbers is None else numbers:
            picture, _ = decoded_picture(self.paths[number])
            require_one_size(picture, self.paths[number], self.size, self.paths[0])
            yield self.depth.scaled(picture)


def _open_film(path: Path) -> FilmFootage:
    depth, shape, count = Depth(), None, 0
    with opened_film(path) as film:
        for frame in film.frames():
            shape, count = shape or frame.shape, count + 1
            check_size(frame.shape, shape, path)
            if frame.is_deep:
                depth.see(frame.picture)
        timing = film.timing()
    if shape is None:
        raise MediaError(f"{path} holds no frames.")
    times = (timing.fps, timing.times, timing.last)
    return FilmFootage(shape, depth, *times, _notes(depth), timing.notes, path, count)


def _open_folder(folder: Path, fps: float | None, said: tuple[str, ...] | None) -> FolderFootage:
    paths = list(numbered_pictures(folder).values())
    depth, shape = Depth(), None
    for path in paths:
        picture, bits = decoded_picture(path)
        shape = shape or (picture.shape[0], picture.shape[1])
        require_one_size(picture, path, shape, paths[0])
        depth.see(picture, bits)
    assert shape is not None  # `numbered_pictures` refuses a folder without pictures
    rate, rate_notes = rate_of_folder(fps)
    notes = rate_notes if said is None else said
    return FolderFootage(shape, depth, rate, None, None, _notes(depth), notes, paths)


def _notes(depth: Depth) -> tuple[str, ...]:
    return (depth.note,) if depth.note else ()
