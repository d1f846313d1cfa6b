"""One fold: train without a person, test on that person, and keep only what is needed of the training."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from mol.common.errors import SettingsError
from mol.common.storage import write_json
from mol.data.action_units import absent_units
from mol.data.pool import Pool
from mol.loso.folds import Fold
from mol.loso.plan import Plan
from mol.loso.results import FACTS
from mol.loso.settings import LosoConfig
from mol.loso.spot_fold import spot_fold
from mol.network.checkpoint import OPTIMIZER, STATE, find_checkpoint, read_state
from mol.networks.interface import HeldClips
from mol.networks.trained import load_model
from mol.scoring.action_units import unit_votes, write_unit_votes
from mol.scoring.calibration import temperature_of
from mol.scoring.estimate import absent_classes, by_video, estimate, fold_errors, write_predictions
from mol.scoring.metrics import recognition_scores
from mol.training.launch import Launched, in_precision
from mol.training.resume import StopSignal
from mol.training.runlog import BarelessFoldLog, FoldLog
from mol.training.settings import TrainConfig, TrainingSettings
from mol.training.starting import StartingWeights
from mol.training.train import Steps, TrainResult, steps_on, train_on


class OpenRun(NamedTuple):
    """What stays loaded from fold to fold.

    Attributes:
        config: the settings.
        device: of the settings.
        pool: the data.
        clips: all of it, on the device.
        plan: of the run.
        start: the weights that every fold starts from, if any.
    """

    config: LosoConfig
    device: Launched
    pool: Pool
    clips: HeldClips
    plan: Plan
    start: StartingWeights | None = None


def train_and_test(opened: OpenRun, fold: Fold) -> TrainResult:
    """Train and test one fold, or resume it; leaves its predictions.csv, then its fold.json.

    Raises:
        SettingsError: the settings do not work for this fold, or its training diverges.
        TrainingInterrupted: after a stop signal (`mol.common.signals`), once everything is saved.
    """
    started = time.monotonic()
    with _naming(fold):
        training = _train_config(opened.config, fold)
        result = train_on(training, opened.device, opened.pool, opened.clips.part, FoldLog, opened.start)
    opened.device.ranks.first(lambda: _test(opened, fold, result, started))
    return result


def training_and_testing(opened: OpenRun, fold: Fold, stop: StopSignal) -> Steps:
    """`train_and_test` step by step, so that folds can go on side by side; see `mol.training.train.steps_on`."""
    started = time.monotonic()
    with _naming(fold):
        training = _train_config(opened.config, fold)
        result = yield from steps_on(
            training, opened.device, opened.pool, opened.clips.part, BarelessFoldLog, opened.start, stop
        )
    _test(opened, fold, result, started)
    return result


@contextmanager
def _naming(fold: Fold) -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"fold {fold.person}, seed {fold.seed}: {error}") from error


def _test(opened: OpenRun, fold: Fold, result: TrainResult, started: float) -> None:
    config, fabric = opened.config, opened.device.fabric
    # From the file and not from memory, so that a fold that was interrupted here gives the same numbers.
    trained = load_model(result.checkpoint, fabric.device)
    state = trained.state
    clips = opened.clips.part(result.split.held_out)
    model = in_precision(opened.device, trained.model)
    mean_shape = None if state["mean_shape"] is None else torch.tensor(state["mean_shape"])
    loss = trained.network.loss(dataclasses.asdict(config.loss))
    found = estimate(model, clips, loss, mean_shape, config.batch_size)
    temperature = temperature_of(state)
    videos = by_video(clips.rows, clips.labels, found.probabilities.numpy()).at(temperature.value)
    recognition = recognition_scores(videos.labels, videos.predictions, len(opened.pool.classes))
    folder = result.run
    write_predictions(folder, videos, opened.pool.classes)
    units = trained.network.action_units
    if units is not None and found.action_units is not None:
        write_unit_votes(folder, unit_votes(clips.rows, found.action_units, units))
    if config.task == "spot":
        # Those set aside have taught the network nothing.
        people = state["inner_validation_people"] or state["train_people"]
        spot_fold(config, fold, trained, people, folder)
    facts = {
        "seed": fold.seed,
        "dataset": fold.dataset,
        "subject": fold.subject,
        "selection": config.selection,
        "checkpoint": str(result.checkpoint.relative_to(folder)) if config.keep_checkpoints else None,
        "step": state["step"],
        "videos": len(videos.names),
        "clips": len(clips),
        "correct": int((videos.labels == videos.predictions).sum()),
        **dataclasses.asdict(recognition),
        **fold_errors(found),
        **({} if units is None else {"action_units": {"units": units.units, "frequencies": units.frequencies}}),
        "notes": [
            *absent_classes(trained.classes, state["training_videos"]),
            *([] if units is None else absent_units(units)),
        ],
        "calibration": dataclasses.asdict(temperature),
        "seconds": round(time.monotonic() - started, 3),
        "timing": {**result.timing._asdict(), "busy_share": result.timing.busy_share},
    }
    write_json(folder / FACTS, facts)


def _train_config(config: LosoConfig, fold: Fold) -> TrainConfig:
    """The settings with which `mol train` would train this fold."""
    common = {item.name: getattr(config, item.name) for item in dataclasses.fields(TrainingSettings)}
    return TrainConfig(
        **{**common, "resume": True},
        cache=list(config.caches),
        protocol=config.protocol,
        run=str(Path(config.run) / fold.folder),
        held_out=[fold.person],
        seed=fold.seed,
    )


def tidy(folder: Path, keep: bool) -> None:
    """Remove the checkpoints of a finished fold, all but the weights of the chosen one if `keep`.

    It can be killed at any time and repeated.
    """
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
        state = read_state(chosen)
        state["files"].pop(OPTIMIZER, None)
        # First the list, then the file: a file too many does no harm, a missing one makes a checkpoint unreadable.
        write_json(chosen / STATE, state)
        (chosen / OPTIMIZER).unlink()
