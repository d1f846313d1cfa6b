"""Checks of caches: they can be opened, and every row still matches its checksum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mol.data.cache import Cache, video_of
from mol.data.cache.format import INDEX, ROW_ARRAYS, SETTINGS
from mol.data.check.findings import Finding, ranges
from mol.data.manifest import key
from mol.data.people import spelled_alike


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
    if cache.interpolated:
        frames = sum(len(clip["frames"]) for clip in cache.interpolated)
        what = (
            f"in {frames} frames of {len(cache.interpolated)} clips no face was found; the landmarks there are "
            "interpolated in time (see its interpolated.json)"
        )
        yield Finding("info", "no face", str(cache.path), what)
    if cache.skipped:
        what = f"{len(cache.skipped)} clips were left out when the cache was made (see its skipped.json)"
        yield Finding("info", "left out", str(cache.path), what)


def check_people_of_caches(caches: Sequence[Cache]) -> Iterator[Finding]:
    """Find people of caches who may be one: names spelled alike, and rows that are the same for two people."""
    videos = [video for cache in caches for video in cache.videos]
    for alike in spelled_alike((video.dataset, video.subject) for video in videos):
        what = (
            f"{alike}. To merge them, give them one spelling in the table of the data set, then run mol prepare and "
            "mol extract again."
        )
        yield Finding("warning", "one person?", ", ".join(str(cache.path) for cache in caches), what)
    of_content: dict[int, dict[tuple[str, str], str]] = defaultdict(dict)
    for cache in caches:
        for row, digest in zip(cache.rows, cache.checksums.tolist(), strict=True):
            of_content[digest].setdefault((row["dataset"], row["subject"]), key(video_of(row)))
    twice = dict.fromkeys(tuple(clips.values()) for clips in of_content.values() if len(clips) > 1)
    for first, *others in twice:
        what = f"has the same rows as {', '.join(others)}: one face as two people, in training and in test"
        yield Finding("error", "copies", first, what)


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
