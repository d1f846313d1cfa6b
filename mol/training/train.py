"""Training on one split of the people of a cache: one loop, which can be interrupted and resumed bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mol.common.devices import cpu_threads
from mol.common.environment import describe_environment, versions
from mol.common.errors import SettingsError
from mol.common.locks import LOCK, only_one
from mol.common.storage import write_json
from mol.common.terminal import console, say
from mol.data.action_units import describe_units, learned_units
from mol.data.cache import ClipSet
from mol.data.clips import ResidentClips
from mol.data.pool import open_clips
from mol.data.split import Split, person, split_by_subject
from mol.network.checkpoint import find_checkpoint, finish_replacing, load_checkpoint, save_checkpoint
from mol.network.estimates import LANDMARKS
from mol.network.layout import lay_out_channels_last
from mol.network.units import LearnedUnits
from mol.networks.interface import Batch, HeldClips, Loss, Network, Part, TrainingClips
from mol.networks.registry import find_network
from mol.scoring.estimate import absent_classes, validation_scores
from mol.training.launch import Launched, launched
from mol.training.ranks import ALONE, Ranks
from mol.training.requeue import REQUEUED, requeue
from mol.training.resume import StopSignal, TrainingInterrupted, as_it_began, checkpoint_to_resume
from mol.training.runlog import RunLog, Timing
from mol.training.settings import RunSettings, TrainConfig, save_config
from mol.training.starting import (
    StartingWeights,
    describe_start,
    read_starting_weights,
    require_network,
    require_strangers,
    start_from,
)
from mol.training.step import DividedStep, LearningRates, StepResult, make_step
from mol.training.temperature import calibration_facts, too_few_videos

# Which validation score chooses the checkpoint in checkpoints/best, and whether lower is better.
_CHOOSES = {"inner-val": ("loss", True), "test-peek": ("accuracy", False)}
# Streams of random numbers that must be independent of each other.
_INITIAL, _STEP = 11, 12


class TrainResult(NamedTuple):
    """A finished run.

    Attributes:
        run: its folder.
        checkpoint: the checkpoint to use: the last, or the one that the selection chose.
        step: steps done.
        split: rows of the cache and people on each side.
        timing: of the steps that this process did.
    """

    run: Path
    checkpoint: Path
    step: int
    split: Split
    timing: Timing


Steps = Generator[None, None, TrainResult]
"""A training, step by step; its value is the result."""


class TakeRows(Protocol):
    """Gives rows of a cache as clips on the device."""

    def __call__(self, rows: np.ndarray, *, augmentation: Any = None, balanced: bool = False) -> HeldClips: ...


def run_train(config: TrainConfig) -> None:
    """Train the network."""
    result = train(config)
    say(f"checkpoint: {result.checkpoint}\nnext: mol evaluate --weights {result.run}")


def train(config: TrainConfig) -> TrainResult:
    """Train a network and leave a run folder: configuration, environment, curves and checkpoints.

    AdamW on the network's losses over randomly varied clips; the checkpoint to use is the last one unless
    `config.selection` says otherwise; people held out never choose anything.

    Args:
        config: everything that shapes the run.
    Raises:
        SettingsError: settings that cannot work, a run folder that holds a run, a resumed run with other settings, a
            training that diverges.
        InUseError: another process trains in the run folder.
        TrainingInterrupted: after a stop signal (`mol.common.signals`), once everything is saved.
        CacheError, ClipError, CheckpointError, StorageError: data, checkpoint or disk fail; the message says which.
    """
    if (Path(config.run) / "loso.yaml").is_file():
        raise SettingsError(f"{config.run} holds a run of mol loso; choose another --run")
    with launched(as_it_began(config)) as (device, config), sole_writer(config, device.ranks):
        return device.ranks.together(partial(_open_data, config, device))()


def _open_data(config: TrainConfig, device: Launched) -> Callable[[], TrainResult]:
    """Open what a run needs; gives the training."""
    start = starting_weights(config)  # before the data is read, which takes longer
    cache = open_clips(config.cache, config.protocol, config.counts)
    network = find_network(config.network)
    for note in network.notes(cache):
        say(f"note: {note}")
    take = partial(network.hold, cache, device=device.fabric.device, normalisation=config.normalisation)
    return partial(train_on, config, device, cache, take, start=start)


@contextmanager
def sole_writer(config: RunSettings, ranks: Ranks | None = None) -> Iterator[None]:
    """Keep other programs from writing the run folder meanwhile; of several processes the first holds the lock.

    Raises:
        InUseError: another program writes it.
    """
    ranks = ranks or ALONE
    with ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(only_one(Path(config.run) / LOCK, config.run, config.command, "choose another --run"))

        ranks.first(hold)
        yield


def starting_weights(config: RunSettings) -> StartingWeights | None:
    """The weights that a run starts from; None if it has none or goes on from its checkpoint.

    Raises:
        SettingsError: as `checkpoint_to_resume`.
        CheckpointError: they cannot be read, or are of another kind of network.
    """
    if checkpoint_to_resume(config) or config.init is None:
        return None
    start = read_starting_weights(config.init)
    require_network(start, config.network)
    return start


def train_on(
    config: TrainConfig,
    device: Launched,
    cache: ClipSet,
    take: TakeRows,
    open_log: Callable[..., RunLog] = RunLog,
    start: StartingWeights | None = None,
) -> TrainResult:
    """`train` on data that is already open, so that several runs can share it.

    Args:
        config: as for `train`.
        device: of the configuration.
        cache: what the configuration names.
        take: gives its rows on the device.
        open_log: makes the log of the run; called as `RunLog`.
        start: the weights that the configuration starts from, if any.
    Raises:
        MOLError, TrainingInterrupted: as `train`.
    """
    checkpoint_to_resume(config)  # before the data is loaded
    data = device.ranks.together(lambda: _load_data(config, cache, take))
    return fit(config, device, data, open_log, start)


def steps_on(
    config: TrainConfig,
    device: Launched,
    cache: ClipSet,
    take: TakeRows,
    open_log: Callable[..., RunLog],
    start: StartingWeights | None,
    stop: StopSignal,
) -> Steps:
    """`train_on` step by step, so that trainings can go on side by side.

    The caller sets the number of threads (`Network.threads`), restores random numbers, and keeps each training's to
    itself on a GPU; on a CPU every step begins with a seed of its own.

    Args:
        config, device, cache, take, open_log, start: as for `train_on`.
        stop: open; once it is requested the training saves and ends.
    """
    checkpoint_to_resume(config)  # before the data is loaded
    data = device.ranks.together(lambda: _load_data(config, cache, take))
    return _steps(config, device, data, open_log, start, stop)


def fit(
    config: RunSettings,
    device: Launched,
    data: Data,
    open_log: Callable[..., RunLog] = RunLog,
    start: StartingWeights | None = None,
) -> TrainResult:
    """Train on clips wherever they come from, or resume that: the one loop of all runs.

    Args:
        config, device, open_log, start: as for `train_on`.
        data: what to train and validate on.
    Raises:
        MOLError, TrainingInterrupted: as `train`.
    """
    fabric, network = device.fabric, find_network(config.network)
    # The caller's random numbers are not affected.
    own_numbers = torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else [])
    with StopSignal() as stop, own_numbers, cpu_threads(network.threads):
        return last_of(_steps(config, device, data, open_log, start, stop))


def last_of(steps: Steps) -> TrainResult:
    """Do all steps of a training."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(TrainResult, end.value)


def _steps(
    config: RunSettings,
    device: Launched,
    data: Data,
    open_log: Callable[..., RunLog],
    start: StartingWeights | None,
    stop: StopSignal,
) -> Steps:
    run, (fabric, ranks) = Path(config.run), device
    with ranks.guard(config.resume_command()):
        ranks.first(lambda: finish_replacing(run / "checkpoints"))
        resumed = checkpoint_to_resume(config)
        network = network_of(config, data)
        model, optimizer, started = _build(config, data, fabric.device, None if resumed else start)
        state = {**_facts(config, data), "starting_weights": started, "step": 0, "best": None}
        if resumed:
            saved = load_checkpoint(resumed, model, optimizer)
            state |= {name: saved.get(name) for name in ("starting_weights", "step", "best")}
        ranks.first(lambda: _describe_run(run, config, resumed is not None))
        about = (run, network, config.steps, state["step"], config.batch_size, console())
        with open_log(*about, ranks) as log:
            log.say(_greeting(config, data, state["step"], fabric.device))
            if data.action_units is not None:
                log.say(f"the network also learns to tell {describe_units(data.action_units.units)}")
            if start is not None and started is not None:
                log.say(describe_start(start, started["new_parameters"], data.classes, data.action_units))
            elif config.init is not None:
                log.say(f"the run goes on from its checkpoint; the starting weights {config.init} are not read again")
            for note in [*absent_classes(state["classes"], state["training_videos"]), *data.notes]:
                log.note(note)
            if note := too_few_videos(data.set_aside):
                log.say(note)
            yield from _fit(config, device, data, model, optimizer, state, log, stop)
        return TrainResult(run, find_checkpoint(run), config.steps, data.split, log.timing)


def _fit(
    config: RunSettings,
    device: Launched,
    data: Data,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    log: RunLog,
    stop: StopSignal,
) -> Iterator[None]:
    """The loop: from ``state["step"]`` to the last step or a signal; `state` is kept up to date for checkpoints."""
    fabric, ranks = device
    network = network_of(config, data)
    loss = network.loss(dataclasses.asdict(config.loss))
    if ranks.world > 1:
        trial = (data.training, 0, config.seed, min(2, config.batch_size), config.flow_pairs)
        freeze_unused(module, network, loss, network.training_batch(*trial))
    module = ranks.synchronise(module)
    model = fabric.setup_module(torch.compile(module) if config.compile else module)
    calibrate = partial(calibration_facts, model, data.set_aside, loss, data.mean_shape, config.batch_size)
    for method in ("recognise", "recognise_units"):
        if hasattr(module, method):
            model.mark_forward_method(method)
    rates = LearningRates(optimizer, fabric.device)
    # Fabric's own autocast is of `forward` only.
    step_of = (model, optimizer, loss, config.clip_norm, fabric.autocast, fabric.backward)
    train_step: Callable[..., StepResult]
    if ranks.world > 1 or config.accumulate > 1:
        unsynchronised = partial(fabric.no_backward_sync, model) if ranks.world > 1 else nullcontext
        train_step = DividedStep(network, *step_of, ranks=ranks, unsynchronised=unsynchronised)
    else:
        train_step = make_step(config.graph, network, fabric.device, *step_of)
    parts = ranks.parts(config.batch_size, config.accumulate)
    checkpoints = Path(config.run) / "checkpoints"
    for step in range(state["step"], config.steps):
        # At every step, because validation leaves the network in evaluation mode.
        model.train()
        torch.manual_seed(_random_seed(config.seed, _STEP, step))
        rate = learning_rate(config, step)
        rates.set(rate)

        def take(part: Part | None = None, step: int = step) -> Batch:
            with log.preparing(fabric.device):
                of_step = (data.training, step, config.seed, config.batch_size, config.flow_pairs)
                return network.training_batch(*of_step, *([] if part is None else [part]))

        log.add(*(train_step(parts, take) if isinstance(train_step, DividedStep) else train_step(take())))

        done = state["step"] = step + 1
        # Read once per step: a signal that arrives later is for the next step, which then saves.
        stopped = ranks.stopped_by(stop.requested)
        saving = done % config.checkpoint_every == 0 or done == config.steps or stopped is not None
        if done % config.log_every == 0 or saving:
            log.write_training(done, rate, communication_share(model))

        def validate_and_save(done: int = done, saving: bool = saving) -> None:
            if data.watched and (done % config.validate_every == 0 or done == config.steps):
                scores = validation_scores(model, data.watched, loss, data.mean_shape, config.batch_size)
                log.write_validation(done, data.watched_name, scores)
                if _is_better(config.selection, scores, state["best"]):
                    score, _ = _CHOOSES[config.selection]
                    state["best"] = {"step": done, score: scores[score]}
                    save_checkpoint(checkpoints / "best", module, None, state | calibrate())
            if saving:
                last = calibrate() if done == config.steps else {}
                save_checkpoint(checkpoints / "last", module, optimizer, state | last)

        if saving or (data.watched and (done % config.validate_every == 0 or done == config.steps)):
            with log.pause():
                ranks.first(validate_and_save)
        if stopped:
            raise _interrupted(config, log, stopped, done, ranks)
        yield
    if stopped := ranks.stopped_by(stop.requested):
        raise _interrupted(config, log, stopped, config.steps, ranks)


def freeze_unused(module: nn.Module, network: Network, loss: Loss, batch: Batch) -> None:
    """Take parameters without a gradient, such as those of a head whose loss weighs nothing, out of the exchange.

    On one device, too, the optimizer leaves them as they are. A copy of the network finds out which they are.

    Args:
        module: on the device of the batch.
        network, loss: of it.
        batch: to try it on; a few clips do.
    """
    with torch.random.fork_rng(devices=[batch.inputs.device] if batch.inputs.is_cuda else []):
        trial = copy.deepcopy(module).train()
        loss(network.run(trial, batch, loss), batch).total.backward()
    used = {name for name, parameter in trial.named_parameters() if parameter.grad is not None}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in used)


def communication_share(model: Any) -> float | None:
    """Share of the steps' time in which gradients were waited for, as DDP has measured it; None on one device."""
    exchanging = next((layer for layer in model.modules() if isinstance(layer, DistributedDataParallel)), None)
    if exchanging is None:
        return None
    measured = exchanging._get_ddp_logging_data()
    waiting = measured.get("avg_backward_comm_time", 0) - measured.get("avg_backward_compute_comm_overlap_time", 0)
    computing = measured.get("avg_forward_compute_time", 0) + measured.get("avg_backward_compute_time", 0)
    return max(waiting, 0) / (waiting + computing) if waiting + computing > 0 else None


def _interrupted(config: RunSettings, log: RunLog, name: str, step: int, ranks: Ranks) -> BaseException:
    interrupted = TrainingInterrupted(Path(config.run), step, config.resume_command())
    log.say(f"{name}: stopped after step {step}, everything is saved. Resume with:\n  {interrupted.command}")
    if config.requeue and name in REQUEUED:
        ranks.first(lambda: log.say(requeue()))
    return interrupted


def _is_better(selection: str, scores: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Whether the selection prefers the current network to the best so far; of equal ones the first is kept."""
    if selection not in _CHOOSES:
        return False
    score, less = _CHOOSES[selection]
    if best is None:
        return True
    return scores[score] < best[score] if less else scores[score] > best[score]


class Data(NamedTuple):
    """What a run trains, validates and is calibrated on.

    Attributes:
        cache: path of the cache, or caches, on which it is evaluated unless another is named.
        classes: names in the order of the labels.
        split: rows of the cache and people on each side.
        training: clips to train on.
        about: what they are, in words.
        watched: clips to validate on, if any.
        watched_name: which people these are of.
        set_aside: all clips of the people of ``inner_validation``, if there are any.
        inner_people: these people.
        mean_shape: of the training clips; None for a network that estimates no landmarks.
        action_units: that the network learns to tell, if any.
        notes: what must be known of the run's scores.
    """

    cache: str | list[str]
    classes: list[str]
    split: Split
    training: TrainingClips
    about: str
    watched: HeldClips | None
    watched_name: str
    set_aside: HeldClips | None = None
    inner_people: Sequence[str] = ()
    mean_shape: torch.Tensor | None = None
    action_units: LearnedUnits | None = None
    notes: Sequence[str] = ()


def network_of(config: RunSettings, data: Data) -> Network:
    """The network of the settings, with the action units that it learns."""
    network = find_network(config.network)
    return network if data.action_units is None else network.with_action_units(data.action_units)


def _load_data(config: TrainConfig, cache: ClipSet, take: TakeRows) -> Data:
    held_out = config.held_out if isinstance(config.held_out, (int, float)) else list(config.held_out)
    split = split_by_subject(cache.rows, held_out, config.seed)
    training_rows, watched_rows, name, inner = split.train, split.held_out, "held_out", list[str]()
    if config.inner_validation:
        within = split_by_subject([cache.rows[i] for i in split.train], config.inner_validation, config.seed)
        training_rows, watched_rows = split.train[within.train], split.train[within.held_out]
        name, inner = "inner_validation", within.held_out_people
    if config.batch_size > len(training_rows):
        raise SettingsError(
            f"batch_size={config.batch_size} is larger than the data set: {len(training_rows)} training clips"
        )
    units, notes = None, list[str]()
    if config.action_units is not None:
        trained_on = [cache.rows[int(i)] for i in training_rows]
        units, notes = learned_units(config.action_units, cache.path, cache.rows, trained_on)
    training = take(training_rows, augmentation=config.augment, balanced=config.balanced)
    watched = None
    if config.validate_every:
        # test-peek chooses by the votes of whole videos.
        most = len(watched_rows) if config.selection == "test-peek" else config.validation_clips
        watched = take(evenly(watched_rows, most))
    set_aside = None
    if inner:
        set_aside = watched if watched and len(watched) == len(watched_rows) else take(watched_rows)
    estimates = find_network(config.network).estimates
    mean_shape = cast(ResidentClips, training).mean_shape() if LANDMARKS in estimates else None
    about = f"{len(training)} clips"
    classes = list(cache.classes)
    shown = (mean_shape, units, notes)
    return Data(config.cache, classes, split, training, about, watched, name, set_aside, inner, *shown)


def _build(
    config: RunSettings, data: Data, device: torch.device, start: StartingWeights | None
) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Any] | None]:
    """The network, its optimizer, and what is to be recorded of the weights that it starts from."""
    if start is not None:
        require_strangers(start, data.split.held_out_people)
    torch.manual_seed(_random_seed(config.seed, _INITIAL, 0))
    network = network_of(config, data)
    module = network.build(len(data.classes), dataclasses.asdict(config.model), data.training)
    started = None if start is None else start.facts(start_from(start, module, network, data.classes))
    module = module.to(device)
    if config.channels_last:
        lay_out_channels_last(module)
    groups = network.parameter_groups(module, dataclasses.asdict(config.rates))
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return module, optimizer, started


def _facts(config: RunSettings, data: Data) -> dict[str, Any]:
    """What every checkpoint of the run holds besides its step; enough to evaluate and predict without the cache."""
    videos = {(person(row), row["clip"]): row["label"] for row in data.training.rows}
    counts = Counter(videos.values())
    inner = set(data.inner_people)
    return {
        "network": config.network,
        "classes": data.classes,
        "mean_shape": None if data.mean_shape is None else data.mean_shape.tolist(),
        "seed": config.seed,
        "normalisation": config.normalisation,
        "selection": config.selection,
        "train_people": [name for name in data.split.train_people if name not in inner],
        "inner_validation_people": list(data.inner_people),
        "held_out_people": data.split.held_out_people,
        "training_videos": [counts[i] for i in range(len(data.classes))],
        "config": {**dataclasses.asdict(config), "cache": data.cache},
        "versions": versions(),
        **({} if data.action_units is None else {"action_units": dataclasses.asdict(data.action_units)}),
    }


def _describe_run(run: Path, config: RunSettings, resumed: bool) -> None:
    save_config(dataclasses.replace(config, resume=False), run / config.file)
    name = "environment-resumed.json" if resumed else "environment.json"
    write_json(run / name, describe_environment())


def learning_rate(config: RunSettings, step: int) -> float:
    """Learning rate of a step (from 0): a linear rise over the warm-up, then constant or half a cosine down to 0."""
    rate = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "cosine":
        span = max(1, config.steps - config.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * max(0, step - config.warmup_steps) / span))
    return rate


def _greeting(config: RunSettings, data: Data, first: int, device: torch.device) -> str:
    start = f"continuing after step {first}" if first else "starting"
    return (
        f"{start}: {data.about} of {len(data.split.train_people) - len(data.inner_people)} people to "
        f"train on, {len(data.split.held_out_people)} people held out; {config.steps} steps of {config.batch_size} "
        f"clips on {device}, precision {config.precision}"
    )


def _random_seed(seed: int, stream: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, stream, step)).generate_state(1, np.uint64)[0])


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of some rows, at equal intervals."""
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
