"""How a run is stopped and resumed: signals, the command to resume, and a check that it is still the same run."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from mol.common.differences import differences, flat
from mol.common.errors import CheckpointError, SettingsError
from mol.common.signals import handle_stop_signals
from mol.network.checkpoint import find_checkpoint, read_state
from mol.networks.registry import DEFAULT
from mol.training.settings import RunSettings, TrainingSettings

_Settings = TypeVar("_Settings", bound=TrainingSettings)
_Run = TypeVar("_Run", bound=RunSettings)

# Settings that may change when a run is resumed: they do not affect the weights. The second line is `mol pretrain`'s.
_FREE = (
    *("cache", "run", "resume", "log_every", "checkpoint_every", "device"),
    *("out", "workers", "ahead", "tvl1_pairs"),
    *("graph", "devices", "num_nodes", "strategy", "requeue"),
)
# What runs did that were begun before these settings existed.
_BEFORE: dict[str, Any] = {"model.meeting": "side-by-side", "rates.predictors": None, "flow_pairs": "all"}
WATCHING = ("validate_every", "validation_clips")
"""Settings that only affect the weights if the selection chooses by the people who are watched."""


class TrainingInterrupted(SystemExit):
    """A stop signal arrived; the step was finished and saved. Uncaught, it ends the process with code 130.

    Attributes:
        run: the run folder.
        step: number of steps done.
        command: the command that resumes the run.
    """

    def __init__(self, run: Path, step: int, command: str) -> None:
        super().__init__(130)
        self.run, self.step, self.command = run, step, command


class StopSignal:
    """While open, the first stop signal only sets `requested` to its name.

    A second Ctrl-C acts as usual. Other signals do not: a closed terminal and a batch system send theirs several times,
    and the program is about to end. Signals are those of `mol.common.signals.STOP_SIGNALS` that are not ignored.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        # Python delivers signals to the main thread only and lets no other thread set handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = handle_stop_signals(self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number in list(self._before):
            self._restore(number)

    def request(self, reason: str) -> None:
        """Ask for the stop without a signal."""
        self.requested = self.requested or reason

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = self.requested or signal.Signals(number).name
        self._restore(signal.SIGINT)

    def _restore(self, number: signal.Signals) -> None:
        if number in self._before:
            signal.signal(number, self._before.pop(number))


def checkpoint_to_resume(config: RunSettings) -> Path | None:
    """The last checkpoint of the run folder, checked against the settings; None if there is none.

    Raises:
        SettingsError: the folder holds a run that is not to be resumed, or one with different settings.
    """
    run = Path(config.run)
    try:
        last = find_checkpoint(run / "checkpoints" / "last")
    except CheckpointError:
        return None
    state = read_state(last)
    if not config.resume:
        raise SettingsError(
            f"{run} already holds a run, at step {state['step']}; resume it with --resume, or choose another --run"
        )
    trained = state.get("network", DEFAULT)
    if trained != config.network:
        raise SettingsError(
            f"{run} holds a run of the network {trained}, not of {config.network}; resume it with --network {trained}, "
            "or choose another --run"
        )
    free = {
        *_FREE,
        *(("steps",) if config.schedule == "constant" else ()),
        *(WATCHING if config.selection == "last" else ()),
    }
    if changed := changed_settings(state.get("config", {}), config, free):
        raise SettingsError(
            f"{run} was trained with different settings ({'; '.join(changed)}); use those, or choose another --run"
        )
    return last


def as_it_began(config: _Run) -> _Run:
    """The settings of a run to resume: those that are "auto", or that it did not know when it began, continue it.

    Raises:
        CheckpointError: the run's checkpoint is damaged.
    """
    if not config.resume:
        return config
    try:
        last = find_checkpoint(Path(config.run) / "checkpoints" / "last")
    except CheckpointError:
        return config
    return as_begun(config, read_state(last).get("config", {}))


def as_begun(config: _Settings, saved: Mapping[str, Any]) -> _Settings:
    """A configuration that continues a saved one in what is "auto" and in every setting that that one did not know.

    Args:
        config: of today.
        saved: the configuration with which a run was begun, as JSON or YAML gave it.
    """
    known = dict(flat(saved))
    chosen = {
        name: known[name]
        for name in ("precision", "channels_last")
        if getattr(config, name) == "auto" and name in known
    }
    config = dataclasses.replace(config, **chosen)
    if config.network != DEFAULT or not known:
        return config
    for name in (name for name in _BEFORE if name not in known):  # the network first: other defaults follow from it
        section, _, setting = name.rpartition(".")
        if section:
            part = dataclasses.replace(getattr(config, section), **{setting: _BEFORE[name]})
            config = dataclasses.replace(config, **{section: part})
        else:
            config = dataclasses.replace(config, **{setting: _BEFORE[name]})
    return config


def changed_settings(saved: Mapping[str, Any], config: Any, free: Collection[str]) -> list[str]:
    """Lines ``name: saved → now`` for every setting in which a saved configuration and one of today differ.

    Args:
        saved: as JSON or YAML gave it; a setting that an older version did not know has the value that continues what
            the run did (`as_begun`), or today's default.
        config: the configuration, a dataclass.
        free: dotted names of settings that may differ.
    """
    old = dict(flat(_defaults(type(config)))) | _BEFORE | dict(flat(saved))
    return differences(old, _as_json(config), free)


def _defaults(config_class: type) -> dict[str, Any]:
    """Every setting of a configuration that has a default, with it."""
    needed = {
        item.name: ""
        for item in dataclasses.fields(config_class)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    values = _as_json(config_class(**needed))
    return {name: value for name, value in values.items() if name not in needed}


def _as_json(config: Any) -> dict[str, Any]:
    """A dataclass as a file gives it back: lists in the place of tuples."""
    return dict(json.loads(json.dumps(dataclasses.asdict(config))))
