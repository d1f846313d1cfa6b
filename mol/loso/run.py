"""Leave-one-subject-out: one training and one test per person, pooled into one table of scores.

    loso.yaml, environment.json, folds.json        what the run is
    folds/seed0/<dataset>-<subject>/               a run folder of `mol train`, then predictions.csv and fold.json
    predictions.csv, subjects.csv, scores.*, …     made of all folds that are done (`mol.loso.scores`)

The data is loaded onto the device once for all folds.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mol.common.errors import SettingsError
from mol.common.terminal import console, duration, say
from mol.data.pool import Pool
from mol.data.split import person
from mol.loso.folds import Fold, choose_folds, plan_folds
from mol.loso.plan import make_plan
from mol.loso.results import is_done, read_result, read_results
from mol.loso.scores import COMPOSITE, describe_scores, score_table, write_tables
from mol.loso.settings import LosoConfig, resume_command
from mol.loso.sharing import claim, holding, locked
from mol.loso.train_fold import OpenRun, tidy, train_and_test
from mol.networks.registry import find_network
from mol.training.launch import Launched
from mol.training.ranks import ALONE
from mol.training.resume import TrainingInterrupted, as_begun
from mol.training.runlog import describe_busy_share
from mol.training.settings import read_saved_config
from mol.training.starting import StartingWeights, read_starting_weights, require_network, require_strangers
from mol.training.step import open_device


class LosoResult(NamedTuple):
    """What `loso` returns.

    Attributes:
        run: the run folder.
        scores: content of scores.json; None if no fold is done yet.
        done, total: folds, over all seeds.
        busy_share: share of the time of this process's steps in which the network was at work; None if it did none.
    """

    run: Path
    scores: dict[str, Any] | None
    done: int
    total: int
    busy_share: float | None


def run_loso(config: LosoConfig) -> None:
    """Run the folds and print the scores."""
    result = loso(config)
    if result.scores is not None:
        console().print(score_table(result.scores))
        say(describe_scores(result.scores))
    if result.busy_share is not None:
        say(describe_busy_share(result.busy_share))
    if result.done < result.total:
        others = dataclasses.replace(config, folds=None)
        say(f"{result.total - result.done} of {result.total} folds are left: {resume_command(others)}")
    say(f"written to {result.run}\nnext: mol report {result.run}")


def loso(config: LosoConfig) -> LosoResult:
    """Train and test every fold that is neither done nor being run by another process; write the tables after each.

    Args:
        config: everything that shapes the run.
    Raises:
        SettingsError: settings that cannot work, a run folder already in use, or a resumed run with other settings.
        TrainingInterrupted: after a stop signal (`mol.common.signals`), once everything is saved.
        CacheError, DataError, CheckpointError, StorageError: data, checkpoint or disk fail; the message says which.
    """
    if config.resume and (Path(config.run) / "loso.yaml").is_file():
        config = as_begun(config, read_saved_config(Path(config.run) / "loso.yaml"))
    fabric, config = open_device(config)
    device = Launched(fabric, ALONE)
    start = _starting_weights(config)
    pool = Pool.load(config.caches, config.protocol, config.counts)
    _check_sets(config, pool)
    if start is not None:
        require_strangers(start, map(person, pool.rows))
    folds = plan_folds(pool, config.seeds)
    chosen = choose_folds(folds, config.folds)
    plan = make_plan(config, pool, folds, start.name if start is not None else None)
    claim(config, plan)
    # Before the data is loaded: a damaged fold is named at once.
    done = len(read_results(Path(config.run), plan))
    network = find_network(config.network)
    clips = network.hold(pool, range(len(pool)), fabric.device, config.normalisation)
    opened = OpenRun(config, device, pool, clips, plan, start)
    say(_greeting(opened, chosen, done))
    if start is not None:
        new = "" if start.classes == list(pool.classes) else "; the last layer of the emotion head is new"
        say(f"every fold begins with the starting weights {start.name}{new}")
    for note in network.notes(pool):
        say(f"note: {note}")
    try:
        busy = _run_folds(opened, chosen)
    except (TrainingInterrupted, KeyboardInterrupt):
        say(f"stopped; everything is saved. Resume with:\n  {resume_command(config)}")
        raise
    done = sum(is_done(Path(config.run), fold) for fold in folds)
    scores = _write_tables(opened) if done else None
    return LosoResult(Path(config.run), scores, done, len(folds), busy)


def _starting_weights(config: LosoConfig) -> StartingWeights | None:
    if config.init is None:
        return None
    start = read_starting_weights(config.init)
    require_network(start, config.network)
    return start


def _write_tables(opened: OpenRun) -> dict[str, Any]:
    """Write the tables of all folds that are done, one process at a time, so that the last to write knows all."""
    run = Path(opened.config.run)
    with locked(run, wait=True):
        return write_tables(run, opened.plan, read_results(run, opened.plan))


def _run_folds(opened: OpenRun, chosen: Sequence[Fold]) -> float | None:
    """Run the folds that are not done; returns the busy share of all steps, or None if there were none."""
    config, run = opened.config, Path(opened.config.run)
    seconds, data_seconds, spent = 0.0, 0.0, list[float]()
    for place, fold in enumerate(chosen):
        folder = run / fold.folder
        with holding(folder) as other:
            if other is not None:
                say(f"{_place(fold, opened)}: {other} is running it")
                continue
            if is_done(run, fold):
                tidy(folder, config.keep_checkpoints)
                continue
            started = time.monotonic()
            result = train_and_test(opened, fold)
            seconds, data_seconds = seconds + result.timing.seconds, data_seconds + result.timing.data_seconds
            spent.append(time.monotonic() - started)
            tidy(folder, config.keep_checkpoints)
        scores = _write_tables(opened)
        left = sum(not is_done(run, other) for other in chosen[place + 1 :])
        say(_fold_line(opened, fold, scores, spent, left))
    return 1 - data_seconds / seconds if seconds else None


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


def _greeting(opened: OpenRun, chosen: Sequence[Fold], done: int) -> str:
    pool, total = opened.pool, len(opened.plan.folds)
    people = len({person(row) for row in pool.rows})
    videos = len({(person(row), row["clip"]) for row in pool.rows})
    which = f"{len(chosen)} of {total} folds" if len(chosen) < total else f"{total} folds"
    return (
        f"{pool.protocol.name}: {people} people, {videos} videos, {len(pool)} clips of {', '.join(pool.datasets)} on "
        f"{opened.device.fabric.device}; {which} of {opened.config.steps} steps to run, {done} of {total} already done"
    )


def _place(fold: Fold, opened: OpenRun) -> str:
    people = len(opened.plan.folds) // len(opened.config.seeds)
    seed = f"seed {fold.seed}  " if len(opened.config.seeds) > 1 else ""
    return f"{seed}{fold.number}/{people}  {fold.person}"


def _fold_line(opened: OpenRun, fold: Fold, scores: Mapping[str, Any], spent: Sequence[float], left: int) -> str:
    facts = read_result(Path(opened.config.run), fold, opened.plan.classes).facts
    so_far = scores["seeds"][str(fold.seed)][COMPOSITE]
    rest = f", {duration(left * sum(spent) / len(spent))} left" if left else ""
    scored = f"so far UF1 {so_far['uf1']:.3f}, UAR {so_far['uar']:.3f} over {so_far['videos']} videos"
    return (
        f"{_place(fold, opened)}: {facts['correct']} of {facts['videos']} videos right; "
        f"{scored}; {duration(spent[-1])}{rest}"
    )
