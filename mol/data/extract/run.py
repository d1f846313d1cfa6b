"""Run an extraction: from a manifest to a cache, in processes or on a cluster, continued after any interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing

from mol.common.environment import available_cores
from mol.common.errors import DataError
from mol.common.terminal import counting, say, saying_when_stopped
from mol.common.workers import WORKER_DIED, in_processes
from mol.data.cache import Cache, CacheWriter, sole_cache_writer
from mol.data.extract.clip import Extracted, Failed, Stopwatch, attempt_clip
from mol.data.extract.cluster import crew_for, extract_on
from mol.data.extract.estimate import plan_extraction
from mol.data.extract.frames import Job
from mol.data.extract.report import command_of, describe_plan, describe_result
from mol.data.extract.result import ExtractResult
from mol.data.extract.settings import ExtractConfig
from mol.data.extract.work import Work, listing, plan_work
from mol.data.manifest import key


def extract(config: ExtractConfig, progress: Callable[[int, int], object] | None = None) -> ExtractResult:
    """Extract the clips of a manifest into a cache; an interrupted run is continued, a finished cache is kept.

    Args:
        config: see `ExtractConfig`.
        progress: called with (clips done, total), once before the first clip and after every one.
    Raises:
        DataError: the manifest cannot be used, or clips failed (with on_error="raise"); the others are kept.
        CacheSettingsError: `out` was made with other settings or from another manifest; the differences are shown.
        InUseError: another process fills the cache.
        StorageError: the disk is full or failed; the extracted clips are kept.
        MissingExtraError: dlib, OpenCV or the landmark predictor is not installed, or Ray for engine "ray".
        SettingsError, NodeError: with engine "ray", no cluster answers, or none of its nodes can extract.
    """
    with sole_cache_writer(config.out, "mol extract"):
        return _extract(config, progress or (lambda done, total: None))


def _extract(config: ExtractConfig, report: Callable[[int, int], object]) -> ExtractResult:
    started = time.perf_counter()
    work = plan_work(config)
    stage, failures, outside = Stopwatch(), work.known_failures(), {}
    warnings, noted = work.warnings(), {}
    extracted = 0
    with ExitStack() as stack:
        crew = stack.enter_context(crew_for(config, work)) if config.engine == "ray" else None
        workers = crew.workers if crew else config.workers or available_cores()
        writer = stack.enter_context(CacheWriter(config.out, work.cache_settings, work.rows))
        pending = set(writer.pending())
        todo = [
            index for index, rows in enumerate(work.rows_of) if index not in failures and not pending.isdisjoint(rows)
        ]
        done, total = len(work.jobs) - len(todo), len(work.jobs)
        report(done, total)
        if crew:
            outcomes = extract_on(crew, config, work, todo, warnings.append)
        else:
            outcomes = _extract_here(config, work, todo, workers, warnings.append)
        with closing(outcomes):
            for place, outcome in outcomes:
                index = todo[place]
                if isinstance(outcome, Failed):
                    failures[index] = outcome.reason
                else:
                    with stage("write"):
                        writer.note_interpolated(work.jobs[index].clip, outcome.interpolated)
                        _write(writer, work.rows_of[index], outcome)
                    stage.add(outcome.seconds)
                    outside[index] = outcome.outside
                    noted[index] = outcome.notes
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
        [
            *warnings,
            *work.grey_levels(noted),
            *work.interpolated(cache.interpolated),
            *work.far_outside(outside),
        ],
        stage.seconds,
        time.perf_counter() - started,
        workers,
    )


def _extract_here(
    config: ExtractConfig, work: Work, todo: Sequence[int], workers: int, warn: Callable[[str], object]
) -> Generator[tuple[int, Extracted | Failed], None, None]:
    """`attempt_clip` for some clips in processes of this machine; arguments and results as of `extract_on`."""
    return in_processes(
        attempt_clip,
        ((work.jobs[index], config.settings(), work.given(index)) for index in todo),
        workers,
        kept="The extracted clips are kept.",
        retried=lambda places: warn(_retry_warning([work.jobs[todo[place]] for place in places])),
        given_up=lambda place: Failed(f"{WORKER_DIED}; try fewer workers."),
    )


def run_extract(config: ExtractConfig) -> None:
    """Extract a manifest and print the result, or with ``plan`` an estimate of time and space."""
    if config.plan:
        say(describe_plan(plan_extraction(config)))
        return
    how = f"stopped; the extracted clips are kept. To continue: {command_of(config)}"
    with saying_when_stopped(how):
        if config.engine == "ray":  # which has a display of its own
            result = extract(config)
        else:
            with counting("extracting clips") as count:
                result = extract(config, count)
    say(describe_result(result, config))


def _write(writer: CacheWriter, rows: Sequence[int], clip: Extracted) -> None:
    for place, row in enumerate(rows):
        writer.write(row, clip.frames[place], clip.flow[place], clip.landmarks[place])


def _retry_warning(jobs: Sequence[Job]) -> str:
    return f"{WORKER_DIED}; extracted again: {', '.join(key(job.clip) for job in jobs)}"


def _require_usable(skipped: list[dict[str, str]], config: ExtractConfig, work: Work) -> None:
    """Raise for failed clips with on_error="raise", and in any case if no clip is left for the cache."""
    whole = len(work.jobs)
    if config.on_error == "raise":
        raise DataError(
            f"{len(skipped)} of {whole} clips cannot be extracted; the others are kept. Repair these and run the same "
            f"command again, or finish without them: --on-error skip.{listing(skipped)}"
        )
    failed = {(clip["subject"], clip["clip"]) for clip in skipped}
    if all((row["subject"], row["clip"]) in failed for row in work.rows):
        raise DataError(f"none of the {whole} clips can be extracted.{listing(skipped)}")
