"""Sheets and folders of the data sets, found by name below the folder that the archives were unpacked into.

Names are compared without regard to case. An archive that unpacked into a second folder of the same name (X/X/sub01)
is handled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from mol.common.errors import DataError, MediaError
from mol.data.sets.sheets import SHEET_SUFFIXES
from mol.vision.video import Extent, video_extent


class SetNotFoundError(DataError):
    """The root does not contain the data set: its sheet or its pictures are missing."""


def find_sheet(root: Path, patterns: Sequence[str], what: str) -> Path:
    """Find an annotation sheet under `root`, at most three levels deep.

    Args:
        root: folder of the data set.
        patterns: file names with ``*`` and ``?``; the first pattern that matches any file is used. Of several files,
            the one whose name sorts last (names contain dates) and is nearest to the root is returned.
        what: what the sheet is, for the error message.

    Raises:
        DataError: the folder is missing.
        SetNotFoundError: the sheet is missing; the message says what is needed and which sheets are there.
    """
    require_folder(root)
    files = [path for path in _files(root, depth=3) if not path.name.startswith(("~$", "."))]
    for pattern in patterns:
        found = [path for path in files if fnmatchcase(path.name.lower(), pattern.lower())]
        if found:
            return max(found, key=lambda path: (path.name.lower(), -len(path.parts), str(path)))
    others = sorted(path.name for path in files if path.suffix.lower() in (*SHEET_SUFFIXES, ".xls"))
    there = f"Sheets found: {', '.join(others)}." if others else "No sheet was found."
    raise SetNotFoundError(f"no {what} under {root}: expected a file {' or '.join(patterns)}. {there}")


def find_folders(root: Path, names: Sequence[str], depth: int = 4) -> list[Path]:
    """Find folders by name, `root` itself included.

    Of nested folders of the same name (X/X/sub01), those that hold other folders than the next X are returned.

    Args:
        root: folder of the data set.
        names: in order of preference.
        depth: number of levels below `root` to search.

    Returns:
        The folders, ordered by `names`, then by path; empty if there are none.
    """
    order = {name.lower(): place for place, name in reversed(list(enumerate(names)))}
    found = [path for path in _folders(root, depth, set(order)) if _holds_other_folders(path)]
    return sorted(found, key=lambda path: (order[_name(path)], str(path)))


def require_folder(root: Path) -> None:
    """Check that a root is a folder that may be read.

    Raises:
        DataError: it is missing, not a folder, or not readable.
    """
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist; give the folder into which the data set was unpacked.")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(f"no permission to read the folder {root}; change its permissions.")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name; hidden ones are left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def subject_folders(bases: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Subjects' folders by lower-case name, from the first of `bases` that has any; empty if none has.

    Args:
        bases: in order of preference.
        pattern: regular expression that matches a whole lower-case name.
    """
    for base in bases:
        found = {path.name.lower(): path for path in subfolders(base) if re.fullmatch(pattern, path.name.lower())}
        if found:
            return found
    return {}


def clip_folder(subjects: Mapping[str, Path], subject: str, clip: str) -> Path:
    """The folder of a clip.

    Args:
        subjects: from `subject_folders`.
        subject, clip: as named in the sheet's row.

    Raises:
        DataError: there is no such folder.
    """
    if not clip:
        raise DataError("the row has no clip name; fill it in or remove the row.")
    if not subjects:
        raise DataError("no subject folders were found; give the folder that contains them as --root.")
    if subject not in subjects:
        some = ", ".join(sorted(subjects)[:3])
        raise DataError(f"no folder {subject!r} next to {some}, …; unpack it there or correct the row.")
    for folder in subfolders(subjects[subject]):
        if folder.name.lower() == clip.lower():
            return folder
    raise DataError(f"the folder {subjects[subject] / clip} does not exist; unpack the set's frames there.")


def unlisted_folders(subjects: Mapping[str, Path], listed: Collection[str]) -> dict[str, Path]:
    """Clip folders that are not in the sheet, by ``subject/clip``.

    Args:
        subjects: from `subject_folders`.
        listed: ``subject/clip`` of every row of the sheet.
    """
    known = {name.lower() for name in listed}
    folders = {f"{name}/{folder.name}": folder for name in sorted(subjects) for folder in subfolders(subjects[name])}
    return {name: folder for name, folder in folders.items() if name.lower() not in known}


def folders_by_name(parent: Path) -> dict[str, Path]:
    """The folders in a folder by lower-case name; empty if there is no such folder."""
    return {path.name.lower(): path for path in subfolders(parent)} if parent.is_dir() else {}


def names_within(root: Path, depth: int) -> set[str]:
    """Lower-case names of `root` and of the files and folders in it, at most `depth` levels deep."""
    names = {_name(root)}
    for entry in _entries(root) if depth else ():
        names.add(entry.name.lower())
        if _is_folder(entry):
            names |= names_within(Path(entry.path), depth - 1)
    return names


def _files(folder: Path, depth: int) -> Iterator[Path]:
    for entry in _entries(folder):
        if _is_file(entry):
            yield Path(entry.path)
        elif depth > 1 and _is_folder(entry):
            yield from _files(Path(entry.path), depth - 1)


def _name(folder: Path) -> str:
    """The name of a folder in lower case; of ``.`` and ``x/..`` too, and a link's own."""
    return os.path.basename(os.path.abspath(folder)).lower()


def _folders(root: Path, depth: int, names: set[str]) -> Iterator[Path]:
    """`root` and the folders under it that have one of the names; below a match, only the same name is searched for."""
    name = _name(root)
    if matches := name in names:
        yield root
    for entry in _entries(root) if depth else ():
        if _is_folder(entry) and (not matches or entry.name.lower() == name):
            yield from _folders(Path(entry.path), depth - 1, names)


def _holds_other_folders(folder: Path) -> bool:
    namesake = _name(folder)
    return any(_is_folder(entry) and entry.name.lower() != namesake for entry in _entries(folder))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or into a folder that may not be read
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        return []  # skip what may not be read, such as lost+found; require_folder checks the roots
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; check the path.") from error


def film_extent(path: Path) -> Extent:
    """Length and rate of a video file that a table names; whatever is wrong with it is an error of the table's line.

    Raises:
        DataError: the file is missing, cannot be read or has no frames.
    """
    try:
        extent = video_extent(path)
    except MediaError as error:
        raise DataError(str(error)) from error
    if not extent.frames:
        raise DataError(f"{path} has no frames; copy it again from its source.")
    return extent
