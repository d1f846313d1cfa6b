"""A run folder that several processes share: locks, and a check that all work on the same run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mol.common.environment import describe_environment
from mol.common.errors import SettingsError, StorageError
from mol.common.storage import write_json
from mol.loso.plan import Plan, is_planned, read_plan, write_plan
from mol.loso.settings import LosoConfig
from mol.training.resume import WATCHING, changed_settings
from mol.training.settings import read_saved_config, save_config

# Settings that may differ between the processes of one run. Caches and starting weights must have the same content.
_FREE = ("caches", "init", "run", "folds", "resume", "device", "log_every", "checkpoint_every", "keep_checkpoints")


def claim(config: LosoConfig, plan: Plan) -> None:
    """Create the run folder, or check that the existing one belongs to the same run.

    Raises:
        SettingsError: it may not be resumed, has other settings or data, or is not a run of `mol loso`.
        DataError: its files are damaged.
    """
    run = Path(config.run)
    with locked(run, wait=True):
        if is_planned(run):
            _require_same_run(config, plan)
            write_json(run / "environment-resumed.json", describe_environment())
            return
        if (run / "config.yaml").is_file():
            raise SettingsError(f"{run} holds a run of mol train; choose another --run")
        save_config(dataclasses.replace(config, resume=False, folds=None), run / "loso.yaml")
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

    The system releases it when the process ends, however it ends.
    """
    path = folder / ".lock"
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
