"""Checks of folders and pictures: annotated frames exist, can be read and have one size; no clip is a copy."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from mol.common.errors import DataError, MediaError
from mol.common.workers import WORKER_DIED, in_processes
from mol.data.check.findings import Finding, Severity, ranges
from mol.data.interval import count_of, existing_interval, frames_between, listed_runs, missing_runs
from mol.data.manifest import Clip, Manifest, key, numbered_frames
from mol.vision.video import read_picture, walk_video

Size = tuple[int, int]
# Picture sizes of a set that are listed.
_SIZES = 10
# Runs of missing frames that are listed.
_RUNS = 20


@dataclass(frozen=True)
class Job:
    """A folder of frames or a video file, and the clips in it.

    Attributes:
        folder: folder or file.
        clips: those in it.
        pictures: whether to read the pictures.
        frames: minimum length of a clip.
        reject_short: whether a shorter clip is an error.
    """

    folder: Path
    clips: tuple[Clip, ...]
    pictures: bool
    frames: int
    reject_short: bool


@dataclass
class Inspected:
    """What was found in one folder or file.

    Attributes:
        findings: of its clips.
        sizes: clip → (height, width) → frame numbers.
        prints: clip → digests of its first, middle and last frame.
        pictures: clip → digests of its frames, without those of one grey level.
        subjects: clip → person, as dataset/subject.
    """

    findings: list[Finding] = field(default_factory=list)
    sizes: dict[str, dict[Size, list[int]]] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, frozenset[bytes]] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Frame:
    """One picture: its size, the digest of its pixels and whether they are all equal; or its problem."""

    size: Size | None
    digest: bytes
    plain: bool = False
    problem: str = ""


def by_folder(manifests: Sequence[Manifest]) -> dict[Path, list[Clip]]:
    """Clips by the folder or file that they are in."""
    folders: dict[Path, list[Clip]] = defaultdict(list)
    for manifest in manifests:
        for clip in manifest.clips:
            folders[manifest.path_of(clip)].append(clip)
    return folders


def inspect(job: Job) -> Inspected:
    """Check one folder or file; an error of one clip never hides another's."""
    seen = Inspected(subjects={key(clip): f"{clip.dataset}/{clip.subject}" for clip in job.clips})
    for clip in job.clips:
        seen.findings += _check_order(clip)
    try:
        numbers, read = _open_video(job) if job.folder.is_file() else _open_folder(job)
    except (DataError, MediaError) as error:
        seen.findings += _unreadable(job, str(error)).findings
        return seen
    frames: dict[int, _Frame] = {}
    for clip in job.clips:
        inside, problems = _check_frames(clip, numbers, job)
        seen.findings += problems
        if job.pictures and inside:
            frames.update({number: read(number) for number in inside if number not in frames})
            _check_pictures(clip, {number: frames[number] for number in inside}, seen)
    return seen


def _unreadable(job: Job, reason: str) -> Inspected:
    return Inspected([Finding("error", "unreadable", key(clip), reason) for clip in job.clips])


def _open_folder(job: Job) -> tuple[Sequence[int], Callable[[int], _Frame]]:
    paths = numbered_frames(job.folder)
    return list(paths), lambda number: _read_frame(paths[number])


def _open_video(job: Job) -> tuple[Sequence[int], Callable[[int], _Frame]]:
    """Frames of a video file, which must be decoded to be counted; without pictures the annotation is trusted."""
    if not job.pictures:
        return range(max(clip.offset for clip in job.clips) + 1), lambda number: _Frame(None, b"")
    frames = [_frame_of(frame) for frame in walk_video(job.folder)]
    return range(len(frames)), lambda number: frames[number]


def _read_frame(path: Path) -> _Frame:
    try:
        return _frame_of(read_picture(path))
    except MediaError as error:
        return _Frame(None, b"", problem=str(error))


def _frame_of(picture: np.ndarray) -> _Frame:
    # Of pixels, not of the file: a copy in another format without losses is the same picture.
    digest = hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
    return _Frame(picture.shape, digest, bool(picture.min() == picture.max()))


def _check_order(clip: Clip) -> Iterator[Finding]:
    if clip.onset > clip.offset:
        yield Finding(
            "error", "interval", key(clip), f"onset {clip.onset} is after offset {clip.offset} ({clip.source})"
        )
    elif clip.apex is not None and not clip.onset <= clip.apex <= clip.offset:
        outside = f"apex {clip.apex} is outside onset {clip.onset} – offset {clip.offset} ({clip.source})"
        yield Finding("error", "interval", key(clip), outside)


def _check_frames(clip: Clip, numbers: Sequence[int], job: Job) -> tuple[Sequence[int], list[Finding]]:
    """The frames of a clip, and whether those annotated exist and are enough, as `mol extract` decides."""
    if clip.onset > clip.offset:
        return (), []
    findings: list[Finding] = []
    severity: Severity = "warning"
    try:
        interval = existing_interval(clip.onset, None, clip.offset, numbers, job.folder)
        inside = frames_between(numbers, interval.onset, interval.offset)
    except DataError:
        inside, severity = frames_between(numbers, clip.onset, clip.offset), "error"
    if missing := missing_runs(numbers, clip.onset, clip.offset):
        what = f"{job.folder} lacks {count_of(missing)} of {clip.length} frames: {listed_runs(missing, _RUNS)}"
        findings.append(Finding(severity, "frames missing", key(clip), what))
    if (count := inside[-1] - inside[0] + 1 if isinstance(inside, range) and inside else len(inside)) < job.frames:
        what = f"{count} frames from onset to offset, {job.frames} are needed (mol extract --short interpolate)"
        findings.append(Finding("error" if job.reject_short else "warning", "too short", key(clip), what))
    return inside, findings


def _check_pictures(clip: Clip, frames: dict[int, _Frame], seen: Inspected) -> None:
    """Find unreadable pictures and differing sizes of one clip; keep its sizes and digests for later."""
    bad = [number for number, frame in frames.items() if frame.problem]
    if bad:
        what = f"{len(bad)} of {len(frames)} pictures ({ranges(bad)}); the first: {frames[bad[0]].problem}"
        seen.findings.append(Finding("error", "unreadable", key(clip), what))
    sizes: dict[Size, list[int]] = defaultdict(list)
    for number, frame in frames.items():
        if frame.size is not None:
            sizes[frame.size].append(number)
    if len(sizes) > 1:
        what = "; ".join(f"frames {ranges(numbers)} are {_extent(size)}" for size, numbers in sizes.items())
        seen.findings.append(
            Finding("error", "sizes differ", key(clip), f"{what}; the frames of a clip must have one size")
        )
    seen.sizes[key(clip)] = dict(sizes)
    numbers = list(frames)
    digests = [frames[numbers[at]].digest for at in (0, len(numbers) // 2, -1)]
    if all(digests):
        seen.prints[key(clip)] = b"".join(digests).hex()
    seen.pictures[key(clip)] = frozenset(frame.digest for frame in frames.values() if frame.digest and not frame.plain)


def check_copies(seen: Iterable[Inspected]) -> Iterator[Finding]:
    """Find clips with the same first, middle and last frame, and pictures that two people share."""
    copies: dict[str, list[str]] = defaultdict(list)
    subjects: dict[str, str] = {}
    seen = list(seen)
    for inspected in seen:
        subjects.update(inspected.subjects)
        for name, fingerprint in inspected.prints.items():
            copies[fingerprint].append(name)
    for names in copies.values():
        if len(set(names)) < 2:
            continue
        people = sorted({subjects[name] for name in names})
        what = f"first, middle and last frame are identical to those of {', '.join(names[1:])}"
        if len(people) > 1:
            yield Finding("error", "copies", names[0], f"{what}: one face as two people, in training and in test")
        else:
            yield Finding("warning", "copies", names[0], f"{what}: one video as several clips")
    alike = {name: fingerprint for fingerprint, names in copies.items() for name in names}
    yield from _shared_pictures(seen, subjects, alike)


def _shared_pictures(
    seen: Sequence[Inspected], subjects: Mapping[str, str], alike: Mapping[str, str]
) -> Iterator[Finding]:
    """Find clips of two people that have pictures in common but are not the same from first to last frame.

    Half of a clip's pictures or more are an error; fewer may be a title or a test picture.
    """
    pictures = {name: digests for inspected in seen for name, digests in inspected.pictures.items()}
    holders: dict[bytes, dict[str, str]] = defaultdict(dict)  # picture → person → first clip
    for name, digests in pictures.items():
        for digest in digests:
            holders[digest].setdefault(subjects[name], name)
    shared: Counter[tuple[str, str]] = Counter()
    for clips in holders.values():
        shared.update(pairwise(clips.values()))
    for (first, second), count in shared.items():
        if first in alike and alike[first] == alike.get(second):
            continue
        least = min(len(pictures[first]), len(pictures[second]))
        what = f"{count} of its {len(pictures[first])} pictures are also in {second}, of another person"
        if 2 * count >= least:
            yield Finding("error", "copies", first, f"{what}: one face as two people, in training and in test")
        else:
            yield Finding("warning", "copies", first, f"{what}: the same face, or a title")


def sizes_of_sets(seen: Iterable[Inspected]) -> Iterator[Finding]:
    """List the picture sizes of every set."""
    sets: dict[str, Counter[Size]] = defaultdict(Counter)
    for inspected in seen:
        for name, sizes in inspected.sizes.items():
            sets[name.split("/")[0]].update(list(sizes))
    for dataset, counts in sorted(sets.items()):
        shown = ", ".join(f"{_extent(size)} ({count} clips)" for size, count in counts.most_common(_SIZES))
        more = f", and {len(counts) - _SIZES} other sizes" if len(counts) > _SIZES else ""
        yield Finding("info", "picture size", dataset, shown + more)


def _extent(size: Size) -> str:
    return f"{size[1]}×{size[0]}"


def inspect_all(
    jobs: Sequence[Job], workers: int, progress: Callable[[int], object]
) -> Iterator[tuple[int, Inspected]]:
    """Check all folders and files.

    Args:
        jobs: one per folder or file.
        workers: number of processes.
        progress: called with the number of clips done, after every folder.
    Yields:
        (index of the job, what was found), in order of completion.
    """
    done = 0
    for index, inspected in _run_jobs(jobs, workers):
        done += len(jobs[index].clips)
        progress(done)
        yield index, inspected


def _run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Inspected]]:
    # Starting a process takes as long as reading the pictures of about 16 clips, and longer than reading names.
    workers = min(workers, len(jobs) // 16) if any(job.pictures for job in jobs) else 1
    return in_processes(
        inspect,
        ((job,) for job in jobs),
        max(1, workers),
        given_up=lambda index: _unreadable(jobs[index], WORKER_DIED),
    )
