"""A run folder that several processes share: locks, and a check that all work on the same run.

The locks are for the processes of one machine, and of machines whose common file system passes them on
(`mol.common.locks`): each fold is run by one, and the tables are written by one at a time. What crosses machines
otherwise, and must outlive them, belongs to `mol.loso.cluster`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mol.common.environment import describe_environment
from mol.common.errors import SettingsError
from mol.common.locks import LOCK, Other, lock
from mol.common.storage import write_json
from mol.loso.plan import Plan, is_planned, read_plan, write_plan
from mol.loso.settings import ENGINE, LosoConfig, without_engine
from mol.training.resume import WATCHING, changed_settings
from mol.training.settings import read_saved_config, save_config

# Settings that may differ between the processes of one run. Caches and starting weights must have the same content.
_FREE = (
    *(
        "caches",
        "videos",
        "init",
        "run",
        "folds",
        "resume",
        "device",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ),
    *ENGINE,
    *("devices", "num_nodes", "strategy", "requeue", "folds_at_once"),
)


def claim(config: LosoConfig, plan: Plan) -> None:
    """Create the run folder, or check that the existing one belongs to the same run.

    Raises:
        SettingsError: it may not be resumed, has other settings or data, or is not a run of `mol loso`.
        DataError: its files are damaged.
    """
    run = Path(config.run)
    if (run / "config.yaml").is_file():  # whose lock is held for long
        raise SettingsError(f"{run} holds a run of mol train; choose another --run")
    with locked(run, wait=True):
        if is_planned(run):
            _require_same_run(config, plan)
            write_json(run / "environment-resumed.json", describe_environment())
            return
        save_config(without_engine(dataclasses.replace(config, resume=False, folds=None)), run / "loso.yaml")
        write_json(run / "environment.json", describe_environment())
        write_plan(run, plan)


def _require_same_run(config: LosoConfig, plan: Plan) -> None:
    run = Path(config.run)
    if not config.resume:
        raise SettingsError(f"{run} already holds a run; resume it with --resume, or choose another --run")
    then = read_plan(run)
    free = (*_FREE, *(WATCHING if config.selection == "last" else ()))
    changed = changed_settings(read_saved_config(run / "loso.yaml"), config, free)
    for before, cache in zip(then.caches, plan.caches, strict=False):
        if before.fingerprint != cache.fingerprint:
            changed.append(f"the content of {cache.path} has changed")
    if len(then.caches) != len(plan.caches):
        changed.append(f"number of caches: {len(then.caches)} → {len(plan.caches)}")
    if then.starting_weights != plan.starting_weights:
        changed.append(f"starting weights: {then.starting_weights or 'none'} → {plan.starting_weights or 'none'}")
    if not changed and dataclasses.replace(then, caches=[]) != dataclasses.replace(plan, caches=[]):
        changed.append("this version of mol plans other classes or folds")
    if changed:
        raise SettingsError(
            f"{run} was started with different settings ({'; '.join(changed)}); use those, or choose another --run"
        )


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder; gives False at once if another process holds it and `wait` is false.

    Raises:
        SettingsError: this system has no such locks.
        StorageError: the lock can't be written.
    """
    with holding(folder, wait) as other:
        yield other is None


def holding(folder: Path, wait: bool = False) -> AbstractContextManager[Other | None]:
    """Hold the lock of a folder, or learn which process does.

    Raises:
        SettingsError, StorageError: as `locked`.
    """
    if sys.platform == "win32":
        raise SettingsError("mol loso needs the file locks of Linux or macOS; on Windows run it in WSL")
    return lock(folder / LOCK, "mol loso", wait)
