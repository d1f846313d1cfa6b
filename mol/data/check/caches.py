"""Checks of caches: they can be opened, and every row still matches its checksum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mol.data.cache import Cache, video_of
from mol.data.cache.format import INDEX, ROW_ARRAYS, SETTINGS
from mol.data.check.findings import Finding, ranges
from mol.data.manifest import key


def is_cache(folder: Path) -> bool:
    """Whether a folder holds a cache or what is left of one, or is the place of an unfinished one."""
    names = (SETTINGS, INDEX, *(f"{name}.npy" for name in ROW_ARRAYS))
    if folder.is_dir():
        return any((folder / name).exists() for name in names)
    return folder.with_name(folder.name + ".partial").is_dir()


def check_cache(cache: Cache, progress: Callable[[int], object] = lambda done: None) -> Iterator[Finding]:
    """Read all rows of a cache and compare their checksums.

    Args:
        cache: an opened cache.
        progress: called with the number of rows read, after every row.
    Yields:
        An error for each clip with damaged rows, and a note if clips were left out when the cache was made.
    """
    damaged: dict[str, list[int]] = defaultdict(list)
    for row in cache.damaged_rows(progress):
        damaged[key(video_of(cache.rows[row]))].append(row)
    for name, rows in damaged.items():
        what = f"row {ranges(rows)} differs from what was written (checksum)"
        if len(rows) > 1:
            what = f"rows {ranges(rows)} differ from what was written (checksums)"
        yield Finding("error", "damaged rows", f"{cache.path}: {name}", what)
    if cache.skipped:
        what = f"{len(cache.skipped)} clips were left out when the cache was made (see its skipped.json)"
        yield Finding("info", "left out", str(cache.path), what)


def repair(cache: Cache, findings: Sequence[Finding]) -> str:
    """How to repair a cache whose rows are damaged; empty if none is."""
    if not any(finding.severity == "error" and finding.where.startswith(f"{cache.path}: ") for finding in findings):
        return ""
    if cache.skipped:  # its rows are not those that an unfinished cache would have
        return f"To repair {cache.path}, delete it and run the command that made it again."
    return (
        f"To repair {cache.path}, rename it to {cache.path}.partial and run the command that made it again, which then "
        "replaces only what is damaged."
    )
