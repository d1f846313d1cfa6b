"""Leave-one-subject-out: one training and one test per person, pooled into one table of scores.

    loso.yaml, environment.json, folds.json        what the run is
    folds/seed0/<dataset>-<subject>/               a run folder of `mol train`, then predictions.csv and fold.json
    predictions.csv, subjects.csv, scores.*, …     made of all folds that are done (`mol.loso.scores`)

The data is loaded onto the device once for all folds. With ``--engine ray`` they are tasks on a cluster instead
(`mol.loso.cluster`).
"""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mol.common.cluster import connected
from mol.common.errors import MOLError, SettingsError
from mol.common.terminal import console, duration, say
from mol.data.pool import Pool
from mol.data.split import person
from mol.loso.at_once import Taken, run_at_once
from mol.loso.cluster import find_room, run_on_cluster, sole_driver
from mol.loso.folds import Fold, choose_folds, plan_folds
from mol.loso.plan import FoldRecord, Plan, make_plan, record_fold
from mol.loso.progress import describe_fold, finish_tables, note_fold, place_of
from mol.loso.results import is_done, read_results
from mol.loso.scores import describe_scores, score_table
from mol.loso.settings import LosoConfig, resume_command
from mol.loso.sharing import claim, holding, locked
from mol.loso.spot_fold import SPOTTING, long_videos, require_people
from mol.loso.spot_scores import spotting_lines
from mol.loso.train_fold import OpenRun, tidy, train_and_test
from mol.networks.registry import find_network
from mol.training.launch import launched
from mol.training.ranks import ALONE, Ranks
from mol.training.resume import TrainingInterrupted, as_begun
from mol.training.runlog import describe_busy_share
from mol.training.settings import read_saved_config
from mol.training.starting import StartingWeights, read_starting_weights, require_network, require_strangers
from mol.training.train import TrainResult


class LosoResult(NamedTuple):
    """What `loso` returns.

    Attributes:
        run: the run folder.
        scores: content of scores.json; None if no fold is done yet.
        done, total: folds, over all seeds.
        busy_share: share of the time of this process's steps in which the network was at work; None if it did none.
        failed: a line for each fold that failed while others went on.
    """

    run: Path
    scores: dict[str, Any] | None
    done: int
    total: int
    busy_share: float | None
    failed: tuple[str, ...] = ()


def run_loso(config: LosoConfig) -> None:
    """Run the folds and print the scores; exits with code 1 if folds failed while others went on."""
    result = loso(config)
    if result.scores is not None:
        console().print(score_table(result.scores))
        say(describe_scores(result.scores))
    if (result.run / SPOTTING).is_file():
        for line in spotting_lines(result.run):
            console().print(line)
    if result.busy_share is not None:
        say(describe_busy_share(result.busy_share))
    if result.done < result.total:
        others = dataclasses.replace(config, folds=None)
        say(f"{result.total - result.done} of {result.total} folds are left: {resume_command(others)}")
    say(f"written to {result.run}\nnext: mol report {result.run}")
    if result.failed:
        say("\n  ".join([f"error: {len(result.failed)} of {result.total} folds failed", *result.failed]))
        raise SystemExit(1)


def loso(config: LosoConfig) -> LosoResult:
    """Train and test every fold that is neither done nor being run by another process; write the tables after each.

    Args:
        config: everything that shapes the run.
    Raises:
        SettingsError: settings that cannot work, a run folder already in use, or a resumed run with other settings.
        TrainingInterrupted: after a stop signal (`mol.common.signals`), once everything is saved.
        CacheError, DataError, CheckpointError, StorageError: data, checkpoint or disk fail; the message says which.
        NodeError, InUseError, MissingExtraError: with engine "ray", no node can be used, another driver runs the
            folder, or Ray is not installed. A fold that fails there is in the result.
    """
    if config.resume and (Path(config.run) / "loso.yaml").is_file():
        config = as_begun(config, read_saved_config(Path(config.run) / "loso.yaml"))
    return _on_cluster(config) if config.engine == "ray" else _here(config)


def _here(config: LosoConfig) -> LosoResult:
    """Folds in this process, one after another or some at once; or in several that train each fold together."""
    with launched(config) as (device, config):
        begun = device.ranks.together(partial(_begin, config, device.ranks))
        pool = begun.pool
        clips = find_network(config.network).hold(pool, range(len(pool)), device.fabric.device, config.normalisation)
        opened = OpenRun(config, device, pool, clips, begun.plan, begun.start)
        _greet(begun, str(device.fabric.device))
        run_folds = _run_folds_at_once if config.folds_at_once > 1 else _run_folds
        with _saying_how_to_resume(config):
            busy = run_folds(opened, begun.chosen)
        return _result(begun, busy, ranks=device.ranks)


def _on_cluster(config: LosoConfig) -> LosoResult:
    """Folds at once on the nodes of a Ray cluster."""
    with connected(config.ray_address) as cluster:
        room = find_room(cluster, config)
        with sole_driver(config):
            begun = _begin(room.config, ALONE)
            _greet(begun, f"{room.config.device} of {len(room.nodes)} nodes, {room.need} a fold")
            with _saying_how_to_resume(config):
                failed = run_on_cluster(cluster, room, begun.pool, begun.plan, begun.chosen, begun.start)
    return _result(begun, None, tuple(f"{place_of(fold, begun.plan)}: {error}" for fold, error in failed.items()))


class _Begun(NamedTuple):
    """A run whose folder is claimed.

    Attributes:
        config: the settings.
        pool: the data.
        plan: of the run.
        chosen: the folds of this process.
        start: the weights that every fold starts from, if any.
        done: number of folds that are done, of all.
    """

    config: LosoConfig
    pool: Pool
    plan: Plan
    chosen: list[Fold]
    start: StartingWeights | None
    done: int


def _begin(config: LosoConfig, ranks: Ranks) -> _Begun:
    """Open the data, plan the folds; the first process claims the run folder."""
    start = _starting_weights(config)
    pool = Pool.load(config.caches, config.protocol, config.counts)
    _check_sets(config, pool)
    if start is not None:
        require_strangers(start, map(person, pool.rows))
    if config.task == "spot":
        require_people(long_videos(config), list(dict.fromkeys(map(person, pool.rows))))
    folds = plan_folds(pool, config.seeds)
    chosen = choose_folds(folds, config.folds)
    plan = make_plan(config, pool, folds, start.name if start is not None else None)
    if not ranks.is_first:
        return _Begun(config, pool, plan, chosen, start, 0)
    claim(config, plan)
    # Before the data is loaded: a damaged fold is named at once.
    return _Begun(config, pool, plan, chosen, start, len(read_results(Path(config.run), plan)))


def _greet(begun: _Begun, where: str) -> None:
    say(_greeting(begun, where))
    pool, start = begun.pool, begun.start
    if start is not None:
        new = "" if start.classes == list(pool.classes) else "; the last layer of the emotion head is new"
        if begun.config.action_units != start.model.get("action_units"):
            told = begun.config.action_units is not None
            new += "; the head for action units is new" if told else "; their head for action units is left out"
        say(f"every fold begins with the starting weights {start.name}{new}")
    for note in find_network(begun.config.network).notes(pool):
        say(f"note: {note}")


@contextmanager
def _saying_how_to_resume(config: LosoConfig) -> Iterator[None]:
    try:
        yield
    except (TrainingInterrupted, KeyboardInterrupt):
        say(f"stopped; everything is saved. Resume with:\n  {resume_command(config)}")
        raise


def _result(begun: _Begun, busy: float | None, failed: tuple[str, ...] = (), ranks: Ranks = ALONE) -> LosoResult:
    run, folds = Path(begun.config.run), begun.plan.folds

    def tables() -> tuple[int, dict[str, Any] | None]:
        return sum(is_done(run, fold) for fold in folds), finish_tables(run, begun.plan)

    done, scores = ranks.first(tables)
    return LosoResult(run, scores, done, len(folds), busy, failed)


def _starting_weights(config: LosoConfig) -> StartingWeights | None:
    if config.init is None:
        return None
    start = read_starting_weights(config.init)
    require_network(start, config.network)
    return start


class _Tally:
    """The folds that this process has run, and what it says of each."""

    def __init__(self, opened: OpenRun, chosen: Sequence[Fold]) -> None:
        self._opened, self._chosen = opened, chosen
        self._run, self._ranks = Path(opened.config.run), opened.device.ranks
        self._seconds, self._data_seconds, self._begun = 0.0, 0.0, time.monotonic()
        self._finished = 0

    @property
    def busy_share(self) -> float | None:
        """Of all steps; None if there were none."""
        return 1 - self._data_seconds / self._seconds if self._seconds else None

    def take(self, fold: Fold, held: ExitStack) -> bool:
        """Hold the lock of a fold in the first process; False if the fold is done, or another process runs it."""
        return self._ranks.first(partial(self._take, fold, held))

    def _take(self, fold: Fold, held: ExitStack) -> bool:
        folder, plan = self._run / fold.folder, self._opened.plan
        with ExitStack() as stack:
            other = stack.enter_context(holding(folder))
            if other is not None:
                say(f"{place_of(fold, plan)}: {other} is running it")
                return False
            if is_done(self._run, fold):
                tidy(folder, self._opened.config.keep_checkpoints)
                return False
            held.push(stack.pop_all())
        return True

    def done(self, fold: Fold, result: TrainResult, started: float) -> None:
        """Note a fold that is done, and say so."""
        self._seconds += result.timing.seconds
        self._data_seconds += result.timing.data_seconds
        self._finished += 1
        self._ranks.first(partial(self._note, fold, started))

    def _note(self, fold: Fold, started: float) -> None:
        run, plan = self._run, self._opened.plan
        scores = note_fold(run, plan, fold, _record(started))
        place = self._chosen.index(fold)
        left = sum(not is_done(run, other) for other in self._chosen[place + 1 :])
        each = (time.monotonic() - self._begun) / self._finished
        rest = f", {duration(left * each)} left" if left else ""
        if scores is not None:
            say(describe_fold(run, plan, fold, scores, time.monotonic() - started, rest))

    def failed(self, fold: Fold, error: MOLError, started: float) -> None:
        """Keep on record why a fold failed."""
        if self._ranks.is_first:
            with locked(self._run, wait=True):
                record_fold(self._run, fold, _record(started, str(error)))


def _run_folds(opened: OpenRun, chosen: Sequence[Fold]) -> float | None:
    """Run the folds that are not done; returns the busy share of all steps, or None if there were none."""
    tally, run = _Tally(opened, chosen), Path(opened.config.run)
    for fold in chosen:
        with ExitStack() as held:
            if not tally.take(fold, held):
                continue
            started = time.monotonic()
            try:
                result = train_and_test(opened, fold)
            except MOLError as error:
                tally.failed(fold, error, started)
                raise
            opened.device.ranks.first(partial(tidy, run / fold.folder, opened.config.keep_checkpoints))
        tally.done(fold, result, started)
    return tally.busy_share


def _run_folds_at_once(opened: OpenRun, chosen: Sequence[Fold]) -> float | None:
    """`_run_folds`, some at a time."""
    tally, waiting, started = _Tally(opened, chosen), iter(chosen), dict[Fold, float]()

    def take() -> Taken | None:
        for fold in waiting:
            held = ExitStack()
            if tally.take(fold, held):
                started[fold] = time.monotonic()
                return fold, held
        return None

    def done(fold: Fold, result: TrainResult) -> None:
        tidy(Path(opened.config.run) / fold.folder, opened.config.keep_checkpoints)
        tally.done(fold, result, started[fold])

    def failed(fold: Fold, error: MOLError) -> None:
        tally.failed(fold, error, started[fold])

    run_at_once(opened, opened.config.folds_at_once, take, done, failed)
    return tally.busy_share


def _record(started: float, error: str = "") -> FoldRecord:
    return FoldRecord(socket.gethostname(), round(time.monotonic() - started, 3), error=error)


def _check_sets(config: LosoConfig, pool: Pool) -> None:
    """Refuse a run on other data sets than the settings name."""
    wanted = list(pool.protocol.datasets if config.sets is None else config.sets)
    if missing := [name for name in wanted if name not in pool.datasets]:
        raise SettingsError(
            f"protocol {pool.protocol.name} runs on {', '.join(wanted)}, and no cache holds {', '.join(missing)}; "
            f"add theirs to --caches, or run on the others alone: --sets '{json.dumps(pool.datasets)}'"
        )
    if extra := [name for name in pool.datasets if name not in wanted]:
        raise SettingsError(f"the caches hold {', '.join(extra)}, which --sets does not name; leave their caches out")


def _greeting(begun: _Begun, where: str) -> str:
    pool, chosen, total = begun.pool, begun.chosen, len(begun.plan.folds)
    people = len({person(row) for row in pool.rows})
    videos = len({(person(row), row["clip"]) for row in pool.rows})
    which = f"{len(chosen)} of {total} folds" if len(chosen) < total else f"{total} folds"
    return (
        f"{pool.protocol.name}: {people} people, {videos} videos, {len(pool)} clips of {', '.join(pool.datasets)} on "
        f"{where}; {which} of {begun.config.steps} steps to run, {begun.done} of {total} already done"
    )
