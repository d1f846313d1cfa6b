"""``mol check-data``: whether manifests, folders and pictures are whole and are the clips of a protocol."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from mol.common.environment import available_cores
from mol.common.errors import DataError, MediaError, SettingsError
from mol.common.extras import require
from mol.common.storage import write_text
from mol.common.terminal import console, counting, say
from mol.common.workers import WORKER_DIED, in_processes
from mol.data.manifest import Clip, Manifest, key, numbered_frames, read_manifest
from mol.data.protocol import AS_LABELLED, Protocol, apply, count_differences, left_out
from mol.data.protocols import protocol_for
from mol.vision.integrity import truncation
from mol.vision.video import read_picture, read_video

Severity = Literal["error", "warning", "info"]
Size = tuple[int, int]
_ORDER: tuple[Severity, ...] = ("error", "warning", "info")
_STYLES = {"error": "red", "warning": "yellow", "info": "dim"}
# Findings of one kind that are printed; a broken disk has thousands.
_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, doubtful or worth knowing.

    Attributes:
        severity: with an ``"error"`` the data cannot be used as they are.
        kind: what it is about, in two or three words.
        where: the clip, folder or set.
        what: what was found.
    """

    severity: Severity
    kind: str
    where: str
    what: str


@dataclass
class CheckDataConfig:
    """Check data sets before they are used.

    Attributes:
        manifests: folders made by `mol prepare`, one for each set.
        protocol: also check that the clips are those of this protocol, such as megc2019 (docs/protocols.md).
        pictures: read every picture between onset and offset; without, only names are checked.
        frames: T, the frames of a clip of the network; a video needs at least as many.
        short: shorter videos are an error ("reject") or a warning ("interpolate"), as they are for mol extract.
        workers: processes; one for each core when 0.
        out: CSV file for all findings.
    """

    manifests: list[str]
    protocol: str | None = None
    pictures: bool = True
    frames: int = 8
    short: Literal["reject", "interpolate"] = "reject"
    workers: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        if not self.manifests:
            raise SettingsError("manifests: give at least one folder made by mol prepare.")
        if self.frames < 2 or self.workers < 0:
            raise SettingsError(f"frames={self.frames} must be at least 2 and workers={self.workers} not negative.")
        if self.short not in ("reject", "interpolate"):
            raise SettingsError(f"short={self.short!r} must be 'reject' or 'interpolate'")


def check_data(config: CheckDataConfig, progress: Callable[[int, int], object] | None = None) -> list[Finding]:
    """Check what `config` names.

    Args:
        config: manifests and protocol.
        progress: called with (clips done, clips in all).
    Returns:
        Errors first, then warnings, then what is merely worth knowing.
    Raises:
        DataError: a manifest cannot be read.
        SettingsError: there is no such protocol.
    """
    return check_manifests([read_manifest(Path(folder)) for folder in config.manifests], config, progress)


def run_check_data(config: CheckDataConfig) -> None:
    """Check, and print findings and counts.

    Raises:
        DataError: there are errors among the findings.
    """
    manifests = [read_manifest(Path(folder)) for folder in config.manifests]
    with counting("checking clips") as count:
        findings = check_manifests(manifests, config, count)
    clips = [clip for manifest in manifests for clip in manifest.clips]
    if findings:
        console().print(_findings_table(findings))
    if clips:
        console().print(_counts_table(clips, config.protocol))
    if config.out:
        _write_findings(Path(config.out), findings)
        say(f"all findings: {config.out}")
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(error.kind for error in errors).items())
        raise DataError(f"the data have {len(errors)} error{'s' * (len(errors) > 1)}, listed above ({kinds}).")
    say("no errors\n" + "\n".join(f"next: mol extract {folder}" for folder in config.manifests))


def check_manifests(
    manifests: Sequence[Manifest], config: CheckDataConfig, progress: Callable[[int, int], object] | None = None
) -> list[Finding]:
    """As `check_data`, of manifests that are read already."""
    clips = [clip for manifest in manifests for clip in manifest.clips]
    findings = list(_check_sets(manifests))
    if config.protocol:
        findings += _check_labels(protocol_for(config.protocol, clips), clips)
    jobs = [
        _Job(folder, tuple(sharing), config.pictures, config.frames, config.short == "reject")
        for folder, sharing in _by_folder(manifests).items()
    ]
    seen = list(_inspect_all(jobs, config.workers or available_cores(), progress or (lambda done, total: None)))
    # Results come in the order in which processes finish; findings are told in that of the manifests.
    seen.sort(key=lambda entry: entry[0])
    for _, inspected in seen:
        findings += inspected.findings
    findings += _check_copies([inspected for _, inspected in seen])
    findings += _sizes_of_sets([inspected for _, inspected in seen])
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


# --- Manifests and labels -------------------------------------------------------------------------------------------


def _check_sets(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """Every set from one manifest, every clip once."""
    roots: dict[str, list[Path]] = defaultdict(list)
    names: Counter[str] = Counter()
    for manifest in manifests:
        for dataset in sorted({clip.dataset for clip in manifest.clips}):
            roots[dataset].append(manifest.root)
        names.update(key(clip) for clip in manifest.clips)
    for dataset, where in roots.items():
        if len(where) > 1:
            came = " and ".join(map(str, where))
            yield Finding(
                "error", "set twice", dataset, f"comes from {len(where)} manifests ({came}); give one of them."
            )
    for name, count in names.items():
        if count > 1:
            yield Finding(
                "error", "clip twice", name, f"stands {count} times in the manifests; it would be counted twice."
            )
    for manifest in manifests:
        if not manifest.root.is_dir():
            yield Finding(
                "error", "root missing", manifest.dataset, f"{manifest.root} does not exist; make the manifest again."
            )
        if not manifest.clips:
            yield Finding("error", "no clips", manifest.dataset, "the manifest is empty.")


def _check_labels(protocol: Protocol, clips: Sequence[Clip]) -> Iterator[Finding]:
    """People, emotions and counts against the protocol."""
    known = []
    for clip in clips:
        try:
            apply(protocol, [clip])
        except DataError as error:
            yield Finding("error", "not in protocol", key(clip), str(error))
        else:
            known.append(clip)
    for difference in count_differences(protocol, known):
        yield Finding("error", "counts", protocol.name, difference)
    reasons = Counter((clip.dataset, left_out(protocol, clip)) for clip in known)
    for (dataset, reason), count in reasons.items():
        if reason:
            yield Finding("info", "left out", dataset, f"{reason}: {count} clips take no part in {protocol.name}")


# --- Folders and pictures -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """A folder of frames or a video file, and the clips that lie in it."""

    folder: Path
    clips: tuple[Clip, ...]
    pictures: bool
    frames: int
    reject_short: bool


@dataclass
class _Inspected:
    """What one folder showed.

    Attributes:
        findings: what is wrong.
        sizes: clip → (height, width) → frame numbers.
        prints: clip → digest of its first, middle and last frame.
        subjects: clip → the person, as dataset/subject.
    """

    findings: list[Finding] = field(default_factory=list)
    sizes: dict[str, dict[Size, list[int]]] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Frame:
    """One picture: its size and digest, or what is wrong with it."""

    size: Size | None
    digest: str
    problem: str = ""


def _by_folder(manifests: Sequence[Manifest]) -> dict[Path, list[Clip]]:
    folders: dict[Path, list[Clip]] = defaultdict(list)
    for manifest in manifests:
        for clip in manifest.clips:
            folders[manifest.path_of(clip)].append(clip)
    return folders


def _inspect(job: _Job) -> _Inspected:
    """Everything about one folder or file; an error of one clip never hides another's."""
    seen = _Inspected(subjects={key(clip): f"{clip.dataset}/{clip.subject}" for clip in job.clips})
    for clip in job.clips:
        seen.findings += _check_order(clip)
    try:
        numbers, read = _open_video(job) if job.folder.is_file() else _open_folder(job)
    except (DataError, MediaError) as error:
        seen.findings += _unreadable(job, str(error)).findings
        return seen
    frames: dict[int, _Frame] = {}
    for clip in job.clips:
        inside = [number for number in numbers if clip.onset <= number <= clip.offset]
        seen.findings += _check_frames(clip, numbers, inside, job)
        if job.pictures and inside:
            frames.update({number: read(number) for number in inside if number not in frames})
            _check_pictures(clip, {number: frames[number] for number in inside}, seen)
    return seen


def _unreadable(job: _Job, reason: str) -> _Inspected:
    return _Inspected([Finding("error", "unreadable", key(clip), reason) for clip in job.clips])


def _open_folder(job: _Job) -> tuple[Sequence[int], Callable[[int], _Frame]]:
    paths = numbered_frames(job.folder)
    return list(paths), lambda number: _read_frame(paths[number])


def _open_video(job: _Job) -> tuple[Sequence[int], Callable[[int], _Frame]]:
    """Frames of a video file, which must be decoded to be counted: without pictures it is taken as annotated."""
    if not job.pictures:
        return range(max(clip.offset for clip in job.clips) + 1), lambda number: _Frame(None, "")
    video = read_video(job.folder).frames

    def read(number: int) -> _Frame:
        return _Frame(video[number].shape, hashlib.sha256(video[number].tobytes()).hexdigest())

    return range(len(video)), read


def _read_frame(path: Path) -> _Frame:
    try:
        data = path.read_bytes()
        if lacking := truncation(data):
            return _Frame(None, "", f"{path.name}: {lacking}")
        height, width = read_picture(path).shape
    except (MediaError, OSError) as error:
        return _Frame(None, "", str(error))
    return _Frame((height, width), hashlib.sha256(data).hexdigest())


def _check_order(clip: Clip) -> Iterator[Finding]:
    if clip.onset > clip.offset:
        yield Finding(
            "error", "interval", key(clip), f"onset {clip.onset} lies after offset {clip.offset} ({clip.source})"
        )
    elif clip.apex is not None and not clip.onset <= clip.apex <= clip.offset:
        outside = f"apex {clip.apex} lies outside onset {clip.onset} – offset {clip.offset} ({clip.source})"
        yield Finding("error", "interval", key(clip), outside)


def _check_frames(clip: Clip, numbers: Sequence[int], inside: Sequence[int], job: _Job) -> Iterator[Finding]:
    """Whether the frames that the annotation asks for are there, and are enough."""
    if clip.onset > clip.offset:
        return
    missing = sorted(set(range(clip.onset, clip.offset + 1)) - set(inside))
    if missing:
        cut = clip.onset < numbers[0] or clip.offset > numbers[-1]
        what = f"{job.folder} lacks {len(missing)} of {clip.length} frames: {ranges(missing)}"
        yield Finding("error" if cut else "warning", "frames missing", key(clip), what)
    if len(inside) < job.frames:
        what = f"{len(inside)} frames from onset to offset, {job.frames} are needed (mol extract --short interpolate)"
        yield Finding("error" if job.reject_short else "warning", "too short", key(clip), what)


def _check_pictures(clip: Clip, frames: dict[int, _Frame], seen: _Inspected) -> None:
    """Unreadable pictures and differing sizes of one clip; its sizes and fingerprint for later."""
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
        seen.findings.append(Finding("error", "sizes differ", key(clip), f"{what}; a clip has one size"))
    seen.sizes[key(clip)] = dict(sizes)
    numbers = list(frames)
    digests = [frames[numbers[at]].digest for at in (0, len(numbers) // 2, -1)]
    if all(digests):
        seen.prints[key(clip)] = " ".join(digests)


def _check_copies(seen: Iterable[_Inspected]) -> Iterator[Finding]:
    """Clips whose first, middle and last frame are the same to the byte."""
    copies: dict[str, list[str]] = defaultdict(list)
    subjects: dict[str, str] = {}
    for inspected in seen:
        subjects.update(inspected.subjects)
        for name, fingerprint in inspected.prints.items():
            copies[fingerprint].append(name)
    for names in copies.values():
        if len(set(names)) < 2:
            continue
        people = sorted({subjects[name] for name in names})
        what = f"first, middle and last frame are those of {', '.join(names[1:])}"
        if len(people) > 1:
            yield Finding("error", "copies", names[0], f"{what}: the same face as two people, in training and in test")
        else:
            yield Finding("warning", "copies", names[0], f"{what}: one video as several clips")


def _sizes_of_sets(seen: Iterable[_Inspected]) -> Iterator[Finding]:
    sets: dict[str, Counter[Size]] = defaultdict(Counter)
    for inspected in seen:
        for name, sizes in inspected.sizes.items():
            sets[name.split("/")[0]].update(list(sizes))
    for dataset, counts in sorted(sets.items()):
        shown = ", ".join(f"{_extent(size)} ({count} clips)" for size, count in counts.most_common(_SHOWN))
        more = f", and {len(counts) - _SHOWN} more sizes" if len(counts) > _SHOWN else ""
        yield Finding("info", "picture size", dataset, shown + more)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in short: ``17–19, 23``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][-1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def _extent(size: Size) -> str:
    return f"{size[1]}×{size[0]}"


# --- Processes ------------------------------------------------------------------------------------------------------


def _inspect_all(
    jobs: Sequence[_Job], workers: int, progress: Callable[[int, int], object]
) -> Iterator[tuple[int, _Inspected]]:
    """(index of the job, what it showed) in the order in which they come."""
    done, total = 0, sum(len(job.clips) for job in jobs)
    progress(done, total)
    for index, inspected in _run_jobs(jobs, workers):
        done += len(jobs[index].clips)
        progress(done, total)
        yield index, inspected


def _run_jobs(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[int, _Inspected]]:
    # Starting a process takes as long as reading the pictures of some 16 clips, and longer than reading names.
    workers = min(workers, len(jobs) // 16) if any(job.pictures for job in jobs) else 1
    return in_processes(
        _inspect,
        ((job,) for job in jobs),
        max(1, workers),
        given_up=lambda index: _unreadable(jobs[index], WORKER_DIED),
    )


# --- What is printed and written ------------------------------------------------------------------------------------


def _findings_table(findings: Sequence[Finding]) -> Any:
    """A `rich.table.Table` of the findings, the first of each kind."""
    escape = require("rich.markup", extra="train").escape
    table = require("rich.table", extra="train").Table(title="findings", box=None, padding=(0, 2, 0, 0))
    for column in ("", "kind", "where", "what"):
        table.add_column(column, overflow="fold")
    groups: dict[tuple[Severity, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.kind].append(finding)
    for (severity, kind), group in groups.items():
        style = _STYLES[severity]
        for finding in group[:_SHOWN]:
            table.add_row(f"[{style}]{severity}[/]", kind, escape(finding.where), escape(finding.what))
        if len(group) > _SHOWN:
            table.add_row("", kind, "…", f"and {len(group) - _SHOWN} more; --out findings.csv lists all")
    return table


def _counts_table(clips: Sequence[Clip], protocol_name: str | None) -> Any:
    """A `rich.table.Table` of clips and people per set, beside what the protocol asserts."""
    table = require("rich.table", extra="train").Table(title=protocol_name or AS_LABELLED)
    table.add_column("set")
    table.add_column("")
    table.add_column("found", justify="right")
    table.add_column("expected", justify="right")
    for row in _counts_rows(clips, protocol_for(protocol_name or AS_LABELLED, clips)):
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    return table


def _counts_rows(clips: Sequence[Clip], protocol: Protocol) -> Iterator[tuple[str, str, str, str] | None]:
    """(set, class, found, expected) for each class, then clips and people of the set; None between sets."""
    for dataset in sorted({clip.dataset for clip in clips} & set(protocol.datasets)):
        taken = [clip for clip in clips if clip.dataset == dataset and not _foreign(protocol, clip)]
        labels = apply(protocol, taken)
        found = Counter(protocol.classes[label] for label in labels if label is not None)
        expected = (protocol.counts or {}).get(dataset, {})
        for name in protocol.classes:
            if found[name] or name in expected or name in protocol.emotions[dataset].values():
                yield dataset, name, str(found[name]), str(expected.get(name, "–"))
        people = {clip.subject for clip, label in zip(taken, labels, strict=True) if label is not None}
        people_expected = (protocol.subject_counts or {}).get(dataset, "–")
        yield dataset, "clips", str(sum(found.values())), str(sum(expected.values()) if expected else "–")
        yield dataset, "subjects", str(len(people)), str(people_expected)
        yield None


def _foreign(protocol: Protocol, clip: Clip) -> bool:
    """Whether the clip cannot be of its set, which is a finding already."""
    try:
        left_out(protocol, clip)
    except DataError:
        return True
    return False


def _write_findings(path: Path, findings: Sequence[Finding]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([item.name for item in fields(Finding)])
    writer.writerows(astuple(finding) for finding in findings)
    write_text(path, text.getvalue())
