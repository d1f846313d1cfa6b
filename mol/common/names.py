"""Names that come from files, as parts of paths: the one way in which a data set, a person or a clip names a file."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

# Bytes of a part; file systems allow 255, and prefixes and suffixes are added.
_LONGEST = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def path_part(name: str) -> str:
    """One part of a path made from any text, in letters, digits, dots, dashes and underscores of ASCII.

    It is never empty, hidden, an option, a separator, a device of Windows or longer than file systems allow. Ordinary
    names of people, clips and sets stay as they are; different names can become equal (`path_parts` keeps them apart).
    """
    part = re.sub(r"[^A-Za-z0-9.-]", "_", name)
    part = re.sub(r"^[.-]|\.$", "_", part)
    if _RESERVED.match(part):
        part = f"_{part}"
    if len(part) > _LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        part = f"{part[: _LONGEST - 13]}-{digest}"
    return part or "_"


def shortened(name: str, most: int) -> str:
    """The beginning of a file name, at most `most` bytes of it and no half letter."""
    return (
        os.fsencode(name)[:most].decode(sys.getfilesystemencoding(), "ignore")
        if len(os.fsencode(name)) > most
        else name
    )


def path_parts(names: Sequence[str]) -> list[str]:
    """`path_part` of each name; those that become equal, also up to case as some file systems see it, are numbered.

    Args:
        names: all that are put into one folder.
    """
    parts = [path_part(name) for name in names]
    frequency = Counter(part.lower() for part in parts)
    taken = {part for part, count in frequency.items() if count == 1}
    found = []
    for number, part in enumerate(parts, 1):
        if frequency[part.lower()] > 1:
            part = f"{part}_{number}"
            while part.lower() in taken:
                part += "_"
            taken.add(part.lower())
        found.append(part)
    return found


def path_inside(path: str) -> str:
    """A relative path from a file, which must stay in the folder that it is relative to.

    Raises:
        ValueError: it is absolute, empty, or leads out of the folder.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or re.search(r"[\\\0]|^[A-Za-z]:", path):
        raise ValueError(f"{path!r} is not a path inside the folder")
    return path
