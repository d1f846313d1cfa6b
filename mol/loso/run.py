"""Leave-one-subject-out: a training and a test for every person, pooled into one table of scores.

    loso.yaml, environment.json, folds.json        what the run is
    folds/seed0/<dataset>-<subject>/               a run folder of `mol train`, then predictions.csv and fold.json
    predictions.csv, subjects.csv, scores.*, …     made of all folds that are done (`mol.loso.scores`)

A fold is done when its fold.json is there, which is written last. The data lies on the device once for all folds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mol.common.devices import start_fabric
from mol.common.environment import describe_environment
from mol.common.errors import SettingsError, StorageError
from mol.common.extras import require
from mol.common.storage import write_csv, write_json
from mol.common.terminal import console, duration, say
from mol.data.clips import ResidentClips, ResidentPart
from mol.data.pool import Pool, fingerprint
from mol.data.split import person
from mol.loso.folds import COMPOSITE, Fold, choose_folds, names_of, plan_folds, read_result, read_results
from mol.loso.scores import describe_scores, score_table, write_tables
from mol.network.checkpoint import OPTIMIZER, STATE, find_checkpoint, load_model
from mol.network.losses import MOLLoss
from mol.scoring.estimate import FAILURE_THRESHOLD, by_video, estimate, notes, predictions_table
from mol.scoring.metrics import failure_rate, recognition_scores
from mol.training.ablation import apply_ablation
from mol.training.resume import WATCHING, TrainingInterrupted, changed_settings
from mol.training.runlog import FoldLog
from mol.training.settings import TrainConfig, TrainingSettings, save_config
from mol.training.train import TrainResult, train_on

# Settings that may differ between the processes of one run. Of the caches it is the content that counts.
_FREE = {"caches", "run", "folds", "resume", "device", "log_every", "checkpoint_every", "keep_checkpoints"}


@dataclass
class LosoConfig(TrainingSettings):
    """Leave-one-subject-out under a protocol; how each fold trains is in `TrainingSettings`.

    Attributes:
        caches: folders made by `mol extract` (or `mol synth`), one a data set.
        protocol: classes, people and counts: "megc2019", "casme2-5", …, or "as-labelled".
        run: folder to write. Processes that share it (all with --resume) take different folds.
        sets: data sets of the protocol to run on; all of them when empty.
        folds: people to hold out in this process, with commas between: names (subject or dataset/subject), numbers
            from 1 in the order of the folds, or ranges of them ("1-10"); everybody when empty.
        seeds: a run of all folds for each; scores are given as mean and standard deviation over them.
        ablation: a named change of the network or its losses, such as "no-fcc"; none when empty.
        keep_checkpoints: keep the weights of each fold's chosen checkpoint, 177 MB a fold (12 GB for 68). While a fold
            trains, its checkpoint holds the optimizer too, 530 MB.
        validate_every: steps between two looks at the held-out person; 0 never looks.
    """

    caches: list[str] = field(kw_only=True)
    protocol: str = field(kw_only=True)
    run: str = "runs/loso"
    sets: list[str] | None = None
    folds: str | list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    ablation: str | None = None
    keep_checkpoints: bool = True
    validate_every: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise SettingsError(f"seeds={self.seeds} must be different numbers, none negative, at least one")
        if self.ablation is not None:
            self.model, self.loss = apply_ablation(self.model, self.loss, self.ablation)


class LosoResult(NamedTuple):
    """What `loso` leaves.

    Attributes:
        run: the run folder.
        scores: content of scores.json; None where no fold is done yet.
        done, total: folds, over all seeds.
        busy_share: share of the time of this process's steps in which the network was at work; None where it did none.
    """

    run: Path
    scores: dict[str, Any] | None
    done: int
    total: int
    busy_share: float | None


class _Open(NamedTuple):
    """What stays loaded from fold to fold."""

    config: LosoConfig
    fabric: Any
    pool: Pool
    clips: ResidentClips
    head: dict[str, Any]
    folds: list[Fold]


def run_loso(config: LosoConfig) -> None:
    """Run the folds and print the scores."""
    result = loso(config)
    if result.scores is not None:
        console().print(score_table(result.scores))
        say(describe_scores(result.scores))
    if result.busy_share is not None:
        say(f"the network was at work in {result.busy_share:.1%} of the time of the steps; the rest went into batches")
    if result.done < result.total:
        others = dataclasses.replace(config, folds=None)
        say(f"{result.total - result.done} of {result.total} folds are still to be done: {resume_command(others)}")
    say(f"written to {result.run}\nnext: mol report {result.run}")


def loso(config: LosoConfig) -> LosoResult:
    """Train and test every fold that is not done and not in another process's hands; write the tables after each.

    Args:
        config: everything that shapes the run.
    Raises:
        SettingsError: settings that cannot work, a run folder that is taken, or a resumed run with other settings.
        TrainingInterrupted: after SIGINT or SIGTERM, when all is saved.
        CacheError, DataError, CheckpointError, StorageError: data, checkpoint or disk fail; the message says which.
    """
    fabric = start_fabric(config.device, config.precision)
    pool = Pool.load(config.caches, config.protocol, config.counts)
    _check_sets(config, pool)
    folds = plan_folds(pool, config.seeds)
    chosen = choose_folds(folds, config.folds)
    head = _head(config, pool, folds)
    _claim(config, head)
    clips = ResidentClips(pool, range(len(pool)), fabric.device, config.normalisation)
    opened = _Open(config, fabric, pool, clips, head, folds)
    say(_greeting(opened, chosen))
    try:
        busy = _run_folds(opened, chosen)
    except (TrainingInterrupted, KeyboardInterrupt):
        say(f"stopped; all is saved. Go on with:\n  {resume_command(config)}")
        raise
    results = read_results(Path(config.run), folds)
    scores = write_tables_together(opened) if results else None
    return LosoResult(Path(config.run), scores, len(results), len(folds), busy)


def resume_command(config: LosoConfig) -> str:
    """The command that goes on with a run, to be typed in the same folder."""
    chosen = f" --folds {shlex.quote(','.join(names_of(config.folds)))}" if config.folds else ""
    return f"mol loso --config {shlex.quote(str(Path(config.run) / 'loso.yaml'))} --resume{chosen}"


def write_tables_together(opened: _Open) -> dict[str, Any]:
    """Write the tables of all folds that are done, one process at a time, so that the last to write knows all."""
    run = Path(opened.config.run)
    with _locked(run / ".lock", wait=True):
        return write_tables(run, opened.head, read_results(run, opened.folds))


def _run_folds(opened: _Open, chosen: Sequence[Fold]) -> float | None:
    """Run what is left of the folds; the busy share of all steps, or None where there were none."""
    config, run = opened.config, Path(opened.config.run)
    seconds, data_seconds, spent = 0.0, 0.0, list[float]()
    for place, fold in enumerate(chosen):
        folder = run / fold.folder
        with _locked(folder / ".lock", wait=False) as ours:
            if not ours:
                say(f"{_place(fold, opened)}: another process is at it")
                continue
            if read_result(run, fold) is not None:
                _tidy(folder, config.keep_checkpoints)
                continue
            started = time.monotonic()
            result = _train_and_test(opened, fold)
            seconds, data_seconds = seconds + result.timing.seconds, data_seconds + result.timing.data_seconds
            spent.append(time.monotonic() - started)
            _tidy(folder, config.keep_checkpoints)
        scores = write_tables_together(opened)
        left = sum(read_result(run, other) is None for other in chosen[place + 1 :])
        say(_fold_line(opened, fold, scores, spent, left))
    return 1 - data_seconds / seconds if seconds else None


def _train_and_test(opened: _Open, fold: Fold) -> TrainResult:
    config, started = opened.config, time.monotonic()
    training = _train_config(config, fold)
    try:
        result = train_on(training, opened.fabric, opened.pool, partial(ResidentPart, opened.clips), FoldLog)
    except SettingsError as error:
        raise SettingsError(f"fold {fold.person}, seed {fold.seed}: {error}") from error
    # From the file and not from memory, so that a fold that was interrupted here gives the same numbers.
    trained = load_model(result.checkpoint, opened.fabric.device)
    clips = ResidentPart(opened.clips, result.split.held_out)
    model = opened.fabric.setup_module(trained.model)
    mean_shape = torch.tensor(trained.state["mean_shape"])
    found = estimate(model, clips, MOLLoss(**dataclasses.asdict(config.loss)), mean_shape, config.batch_size)
    videos = by_video(clips.rows, clips.labels, found.probabilities.numpy())
    recognition = recognition_scores(videos.labels, videos.predictions, len(opened.pool.classes))
    folder = Path(training.run)
    write_csv(folder / "predictions.csv", *predictions_table(videos, opened.pool.classes))
    facts = {
        "seed": fold.seed,
        "dataset": fold.dataset,
        "subject": fold.subject,
        "selection": config.selection,
        "checkpoint": str(result.checkpoint.relative_to(folder)) if config.keep_checkpoints else None,
        "step": trained.state["step"],
        "videos": len(videos.names),
        "clips": len(clips),
        "correct": int((videos.labels == videos.predictions).sum()),
        **dataclasses.asdict(recognition),
        "epe_px": float(found.epe.mean()),
        "zero_flow_epe_px": float(found.zero_flow_epe.mean()),
        "nme": float(found.nme.mean()),
        "mean_shape_nme": float(found.mean_shape_nme.mean()),
        "failure_rate": failure_rate(found.nme, FAILURE_THRESHOLD),
        "seconds": round(time.monotonic() - started, 3),
        "timing": {**result.timing._asdict(), "busy_share": result.timing.busy_share},
    }
    write_json(folder / "fold.json", facts)
    return result


def _train_config(config: LosoConfig, fold: Fold) -> TrainConfig:
    """What `mol train` would need to do this fold."""
    common = {item.name: getattr(config, item.name) for item in dataclasses.fields(TrainingSettings)}
    return TrainConfig(
        **{**common, "resume": True},
        cache=list(config.caches),
        protocol=config.protocol,
        run=str(Path(config.run) / fold.folder),
        held_out=[fold.person],
        seed=fold.seed,
    )


def _tidy(folder: Path, keep: bool) -> None:
    """Of a finished fold leave the weights of the chosen checkpoint, or nothing; safe to be killed and repeated."""
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_dir():
        return
    if not keep:
        shutil.rmtree(checkpoints, ignore_errors=True)
        return
    chosen = find_checkpoint(folder)
    for other in checkpoints.iterdir():
        if other != chosen:
            shutil.rmtree(other, ignore_errors=True)
    if (chosen / OPTIMIZER).is_file():
        state = json.loads((chosen / STATE).read_text(encoding="utf-8"))
        state["files"].pop(OPTIMIZER, None)
        # First the list, then the file: in between the checkpoint has a file too many, which nobody minds.
        write_json(chosen / STATE, state)
        (chosen / OPTIMIZER).unlink()


def _head(config: LosoConfig, pool: Pool, folds: Sequence[Fold]) -> dict[str, Any]:
    """Content of folds.json: what every process of the run must agree on."""
    videos = {(row["dataset"], row["subject"], row["clip"]): pool.classes[row["label"]] for row in pool.rows}
    counts = {
        dataset: dict(Counter(label for (owner, *_), label in videos.items() if owner == dataset))
        for dataset in pool.datasets
    }
    return {
        "format": 1,
        "protocol": pool.protocol.name,
        "classes": list(pool.classes),
        "datasets": pool.datasets,
        "kind": pool.settings.kind,
        "caches": [
            {
                "path": str(cache.path),
                "datasets": sorted({str(row["dataset"]) for row in cache.rows}),
                "fingerprint": fingerprint(cache),
            }
            for cache in pool.caches
        ],
        "counts": {dataset: {name: found.get(name, 0) for name in pool.classes} for dataset, found in counts.items()},
        "seeds": list(config.seeds),
        "selection": config.selection,
        "normalisation": config.normalisation,
        "ablation": config.ablation,
        "not_reportable": [
            *notes(pool.settings, config.selection),
            *(f"counts differ from the protocol's: {difference}" for difference in pool.count_differences),
        ],
        "notes": [*_setting_notes(config, pool), *pool.notes],
        "folds": [{name: getattr(fold, name) for name in ("seed", "dataset", "subject", "folder")} for fold in folds],
    }


def _setting_notes(config: LosoConfig, pool: Pool) -> list[str]:
    """Settings that are not the usual ones and that a reader of the scores must know."""
    found = []
    if config.normalisation != "clip":
        found.append(f"normalisation {config.normalisation}: every person's clips by that person's own statistics")
    if pool.missing_datasets:
        found.append(f"without {', '.join(pool.missing_datasets)} of the protocol's sets")
    if config.ablation:
        found.append(f"ablation {config.ablation}")
    return found


def _check_sets(config: LosoConfig, pool: Pool) -> None:
    """Refuse a run on other data sets than those that are meant."""
    wanted = list(pool.protocol.datasets if config.sets is None else config.sets)
    if missing := [name for name in wanted if name not in pool.datasets]:
        raise SettingsError(
            f"protocol {pool.protocol.name} is to run on {', '.join(wanted)}, and no cache holds {', '.join(missing)}; "
            f"add theirs to --caches, or run on the others alone: --sets '{json.dumps(pool.datasets)}'"
        )
    if extra := [name for name in pool.datasets if name not in wanted]:
        raise SettingsError(f"the caches hold {', '.join(extra)}, which --sets does not name; leave their caches out")


def _claim(config: LosoConfig, head: dict[str, Any]) -> None:
    """Start the run folder, or make sure that the one that is there is of the same run.

    Raises:
        SettingsError: it is not to be resumed, of other settings or data, or no run of this command.
    """
    run = Path(config.run)
    with _locked(run / ".lock", wait=True):
        if (run / "folds.json").is_file():
            _check_same_run(config, head)
            write_json(run / "environment-resumed.json", describe_environment())
            return
        if (run / "config.yaml").is_file():
            raise SettingsError(f"{run} holds a run of mol train; choose another --run")
        save_config(dataclasses.replace(config, resume=False, folds=None), run / "loso.yaml")
        write_json(run / "environment.json", describe_environment())
        write_json(run / "folds.json", head)


def _check_same_run(config: LosoConfig, head: dict[str, Any]) -> None:
    run = Path(config.run)
    if not config.resume:
        raise SettingsError(f"{run} already holds a run; resume it with --resume, or choose another --run")
    try:
        then = json.loads((run / "folds.json").read_text(encoding="utf-8"))
        settings = require("yaml", "train").safe_load((run / "loso.yaml").read_text(encoding="utf-8"))
        before = [cache["fingerprint"] for cache in then["caches"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{run} is damaged ({error}); choose another --run") from error
    free = _FREE | (set(WATCHING) if config.selection == "last" else set())
    changed = changed_settings(settings, config, free)
    for old, cache in zip(before, head["caches"], strict=False):
        if old != cache["fingerprint"]:
            changed.append(f"the content of {cache['path']} has changed")
    if len(before) != len(head["caches"]):
        changed.append(f"number of caches: {len(before)} → {len(head['caches'])}")
    if not changed and {**then, "caches": None} != {**head, "caches": None}:
        changed.append("another version of this program gives the protocol other classes or folds")
    if changed:
        raise SettingsError(f"{run} was started with different settings ({'; '.join(changed)}); choose another --run")


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file; gives False at once where another process holds it and `wait` is false.

    The system lets go of it when the process ends, however it ends.
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        raise SettingsError("mol loso needs the file locks of Linux or macOS; on Windows run it in WSL") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror}; choose another --run") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def _greeting(opened: _Open, chosen: Sequence[Fold]) -> str:
    pool, config = opened.pool, opened.config
    people = len({person(row) for row in pool.rows})
    videos = len({(person(row), row["clip"]) for row in pool.rows})
    done = sum(read_result(Path(config.run), fold) is not None for fold in chosen)
    which = f"{len(chosen)} of {len(opened.folds)} folds" if len(chosen) < len(opened.folds) else f"{len(chosen)} folds"
    return (
        f"{pool.protocol.name}: {people} people, {videos} videos, {len(pool)} clips of {', '.join(pool.datasets)} on "
        f"{opened.fabric.device}; {which} of {config.steps} steps, {done} already done"
    )


def _place(fold: Fold, opened: _Open) -> str:
    people = len(opened.folds) // len(opened.config.seeds)
    seed = f"seed {fold.seed}  " if len(opened.config.seeds) > 1 else ""
    return f"{seed}{fold.number}/{people}  {fold.person}"


def _fold_line(opened: _Open, fold: Fold, scores: Mapping[str, Any], spent: Sequence[float], left: int) -> str:
    result = read_result(Path(opened.config.run), fold)
    facts = result.facts if result else {}
    so_far = scores["seeds"][str(fold.seed)][COMPOSITE]
    rest = f", {duration(left * sum(spent) / len(spent))} left" if left else ""
    scored = f"so far UF1 {so_far['uf1']:.3f}, UAR {so_far['uar']:.3f} over {so_far['videos']} videos"
    return (
        f"{_place(fold, opened)}: {facts['correct']} of {facts['videos']} videos right; "
        f"{scored}; {duration(spent[-1])}{rest}"
    )
