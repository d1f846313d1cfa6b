"""Failures on disk: an archive with the files that an example used, and what to do with them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CASE, _FILES = "case.json", "files"


def save(folder: Path, unit: str, case: Mapping[str, Any], files: Path | None) -> Path:
    """Write a reproducer.

    Args:
        folder: where to.
        unit: which unit found it.
        case: whatever the unit needs to repeat it, as JSON, and the outcome under "outcome".
        files: folder whose content belongs to it, if there is one.
    Returns:
        The archive.
    """
    text = json.dumps({"unit": unit, **case}, indent=1, ensure_ascii=True)
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{unit}-{case['outcome']}")[:100].strip("-").lower()
    path = folder / f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.tar.gz"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=3, format=tarfile.PAX_FORMAT) as archive:
        content = tarfile.TarInfo(_CASE)
        content.size = len(text.encode())
        archive.addfile(content, io.BytesIO(text.encode()))
        if files is not None:
            archive.add(files, _FILES)
    return path


def load(path: Path, folder: Path) -> tuple[dict[str, Any], Path | None]:
    """Unpack a reproducer into an empty folder.

    Returns:
        The case, and the folder of its files if it has any.
    """
    with tarfile.open(path) as archive:
        # Links to nowhere and named pipes are what some reproducers are about, so no filter that refuses them.
        members = [member for member in archive if not Path(member.name).is_absolute() and ".." not in member.name]
        archive.extractall(folder, members, filter="fully_trusted")
    files = folder / _FILES
    return json.loads((folder / _CASE).read_text()), files if files.exists() else None
