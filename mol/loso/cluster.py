"""Folds as tasks on a Ray cluster: ``mol loso --engine ray``.

A node that sees the run folder trains right there, so that a fold goes on from its checkpoint after its worker or node
was lost. Elsewhere a fold is trained in a temporary folder and sent back, and the driver puts it in place. Which it is
each task finds out for itself, by a file with a random content that the driver leaves in the run folder. Caches are
read where a node sees them, and are sent to the others through the object store, once a node. The driver alone writes
tables and folds.json.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mol.common.cluster import (
    Cluster,
    Done,
    Need,
    Node,
    TaskStoppedError,
    answering,
    fetch,
    on_cluster,
    require_room,
    require_versions,
    version_differences,
)
from mol.common.devices import automatic_precision, cpu_threads, start_fabric
from mol.common.environment import versions
from mol.common.errors import (
    CacheError,
    InUseError,
    MOLError,
    NodeError,
    NotEnoughMemoryError,
    SettingsError,
    StorageError,
)
from mol.common.locks import lock, only_one
from mol.common.storage import write_atomic, write_text
from mol.common.terminal import say
from mol.common.watch import Watch
from mol.data.cache import Cache
from mol.data.pool import Pool, fingerprint
from mol.data.protocols import protocol_for
from mol.loso.folds import Fold
from mol.loso.plan import FoldRecord, Plan
from mol.loso.progress import describe_fold, note_fold, place_of
from mol.loso.results import FACTS, is_done, read_result
from mol.loso.settings import LosoConfig, resume_command
from mol.loso.sharing import holding
from mol.loso.train_fold import OpenRun, tidy, train_and_test
from mol.networks.registry import find_network
from mol.training.launch import Launched
from mol.training.ranks import ALONE
from mol.training.resume import StopSignal, TrainingInterrupted
from mol.training.starting import StartingWeights

# What must be the same everywhere: another version may give other numbers.
_SAME = ("python", "torch", "molkernels")
# Where the disk or the memory of a node is full, or its cache damaged, another may do better.
_ELSEWHERE = (StorageError, NotEnoughMemoryError, InUseError, CacheError)
# In the run folder: the lock of the driver, and the file by which a node knows the folder. In a fold's: the worker's.
_DRIVER, _SEEN, _WORKER = ".driver.lock", ".seen", ".worker.lock"
# Seconds until a worker that is being ended has let go of its fold, and until a network file system shows a new file.
_LET_GO, _VISIBLE = 60.0, 60.0


class _Cache(NamedTuple):
    """A cache as a node finds it.

    Attributes:
        path: of its folder, absolute.
        fingerprint: of its content.
        sent: Ray's reference of it in the object store; None if all nodes see it.
    """

    path: str
    fingerprint: str
    sent: Any = None


class _Job(NamedTuple):
    """What is common to all folds.

    Attributes:
        config: with absolute paths, device and precision.
        plan: of the run.
        token: content of the file by which a node knows the run folder.
        versions: of the driver.
        threads: of PyTorch.
        caches: where the clips are.
        start: Ray's reference of the starting weights, if there are any.
    """

    config: LosoConfig
    plan: Plan
    token: str
    versions: Mapping[str, str]
    threads: int
    caches: tuple[_Cache, ...]
    start: Any = None


class _Ended(NamedTuple):
    """How a fold ended on a node.

    Attributes:
        seconds: that it took there.
        error: why it failed; empty if it did not.
        files: the fold's folder by relative path, if the driver's is not seen there.
    """

    seconds: float = 0.0
    error: str = ""
    files: Mapping[str, np.ndarray] | None = None


def sole_driver(config: LosoConfig) -> Any:
    """Keep other drivers from the run folder meanwhile.

    Raises:
        InUseError: another driver runs it.
    """
    return only_one(Path(config.run) / _DRIVER, config.run, "mol loso --engine ray", "choose another --run")


class Room(NamedTuple):
    """Where folds can run.

    Attributes:
        config: the settings with what "auto" means there: device, precision, order of maps.
        nodes: that can run a fold.
        need: of a fold.
        threads: of PyTorch in a fold.
    """

    config: LosoConfig
    nodes: list[Node]
    need: Need
    threads: int


def find_room(cluster: Cluster, config: LosoConfig) -> Room:
    """The nodes that can run folds, and how, checked before any work.

    Raises:
        SettingsError: versions differ, no node has what a fold needs, or GPUs differ in the precision they compute in.
        NodeError: a node does not answer or can't run mol.
    """
    nodes = cluster.nodes()
    gpus = config.gpus_per_fold
    if gpus is None:
        gpus = float(config.device != "cpu" and any(node.gpus >= 1 for node in nodes))
    if config.device == "cuda" and not gpus:
        raise SettingsError("device='cuda' needs a GPU, or a share of one, for each fold: --gpus-per-fold 1")
    device = ("cuda" if gpus else "cpu") if config.device == "auto" else config.device
    threads = config.cpus_per_fold or (torch.get_num_threads() if device == "cpu" else 1)
    cpus = config.cpus_per_fold or (find_network(config.network).threads or threads if device == "cpu" else 1)
    require_room(nodes, Need(0, gpus), f"gpus_per_fold={gpus:g}")
    able = require_room(nodes, Need(cpus, gpus), f"cpus_per_fold={cpus}")
    able, answers = answering(able, cluster.ask(able, look_at_versions))
    require_versions(able, answers, look_at_versions())
    precision, last = config.precision, config.channels_last
    if precision == "auto":
        precision = _common_precision(cluster, able, gpus) if device == "cuda" else "32"
    if last == "auto":
        last = device == "cuda"
    resolved = dataclasses.replace(config, device=device, precision=precision, channels_last=last)
    return Room(resolved, able, Need(cpus, gpus), threads)


def look_at_versions() -> dict[str, str]:
    """On a node: the versions that must be the same everywhere."""
    return {name: version for name, version in versions().items() if name in _SAME}


def _common_precision(cluster: Cluster, nodes: Sequence[Node], gpus: float) -> str:
    answers = cluster.ask(nodes, _precision_of_gpu, need=Need(0, min(gpus, 0.01)))
    for answer in answers:
        if isinstance(answer, MOLError):
            raise answer
    if len(set(answers)) > 1:
        found = "; ".join(f"{node.name} {answer}" for node, answer in zip(nodes, answers, strict=True))
        raise SettingsError(f"the GPUs of the nodes compute in different precisions ({found}); give --precision 32")
    return str(answers[0])


def _precision_of_gpu() -> str:
    return automatic_precision(torch.device("cuda"))


def run_on_cluster(
    cluster: Cluster, room: Room, pool: Pool, plan: Plan, chosen: Sequence[Fold], start: StartingWeights | None
) -> dict[Fold, str]:
    """Run the folds that are neither done nor being run by another process; write the tables after each.

    Args:
        cluster: the connection.
        room: where folds can run.
        pool: the data.
        plan: of the run, whose folder is claimed.
        chosen: the folds.
        start: the weights that every fold starts from, if any.
    Returns:
        The folds that failed, and why; the others went on.
    Raises:
        TrainingInterrupted: after a stop signal (`mol.common.signals`), once the folds that run have saved.
        CacheError: a node has another cache under the same path.
        NodeError: no node is left, or a node does not answer.
        DataError, StorageError: the driver can't read or write the run folder.
    """
    run = Path(room.config.run).absolute()
    job = _make_job(cluster, room, pool, plan, start)
    if cluster.dashboard:
        say(f"dashboard: {cluster.dashboard}")
    failed: dict[Fold, str] = {}
    with ExitStack() as stack, StopSignal() as stop:
        stack.callback((run / _SEEN).unlink, missing_ok=True)
        write_text(run / _SEEN, job.token)
        common, mine = cluster.share(job), list[Fold]()
        watch = stack.enter_context(Watch("folds", len(chosen), sum(is_done(run, fold) for fold in chosen)))
        held = stack.enter_context(_Held(run, plan, room.config.keep_checkpoints))

        def tasks() -> Iterator[tuple[Any, Fold]]:
            for fold in chosen:
                if held.take(fold):
                    mine.append(fold)
                    yield common, fold

        ended = on_cluster(
            cluster,
            room.nodes,
            room.need,
            run_fold,
            tasks(),
            watch=watch,
            name=lambda index: _name(mine[index], plan),
            given_up=lambda index, reason: _Ended(error=reason),
            admit=(_admit, common),
            elsewhere=_ELSEWHERE,
            stopped=lambda: stop.requested is not None,
        )
        for index, done in stack.enter_context(closing(ended)):
            if error := _finish(run, plan, mine[index], done, watch):
                failed[mine[index]] = error
            held.release(mine[index])
        if stop.requested:
            raise TrainingInterrupted(run, 0, resume_command(room.config))
    return failed


def _make_job(cluster: Cluster, room: Room, pool: Pool, plan: Plan, start: StartingWeights | None) -> _Job:
    """What is common to all folds, with the caches that some nodes do not see put into the object store."""
    config = room.config
    caches = [_Cache(str(cache.path.absolute()), fingerprint(cache)) for cache in pool.caches]
    looked = cluster.ask(room.nodes, look_at_caches, [(cache.path, cache.fingerprint) for cache in caches])
    absent: set[str] = set()
    for node, answer in zip(*answering(room.nodes, looked), strict=True):
        if isinstance(answer, CacheError):
            raise CacheError(f"node {node.name}: {answer}")
        if isinstance(answer, MOLError):
            raise answer
        absent |= set(answer)
        if answer:
            say(f"{node.name} does not see {', '.join(answer)}, which is sent there")
    sent = [
        cache._replace(sent=cluster.share(opened.packed())) if cache.path in absent else cache
        for cache, opened in zip(caches, pool.caches, strict=True)
    ]
    return _Job(
        dataclasses.replace(
            config, run=str(Path(config.run).absolute()), caches=[cache.path for cache in caches], resume=True
        ),
        plan,
        secrets.token_hex(16),
        look_at_versions(),
        room.threads,
        tuple(sent),
        None if start is None else cluster.share(start),
    )


class _Held(ExitStack):
    """The locks of the folds that are under way.

    Args:
        run, plan, keep: the run folder, its plan, whether checkpoints are kept.
    """

    def __init__(self, run: Path, plan: Plan, keep: bool) -> None:
        super().__init__()
        self._run, self._plan, self._keep = run, plan, keep
        self._locks: dict[Fold, ExitStack] = {}

    def take(self, fold: Fold) -> bool:
        """Lock a fold that is neither done nor being run by another process."""
        own = self.enter_context(ExitStack())
        other = own.enter_context(holding(self._run / fold.folder))
        if other is None and not is_done(self._run, fold):
            self._locks[fold] = own
            return True
        if other is None:
            tidy(self._run / fold.folder, self._keep)
        else:
            say(f"{place_of(fold, self._plan)}: {other} is running it")
        own.close()
        return False

    def release(self, fold: Fold) -> None:
        """Let others see that it has ended."""
        self._locks.pop(fold).close()


def _name(fold: Fold, plan: Plan) -> str:
    return fold.person if len(plan.seeds) == 1 else f"{fold.person} (seed {fold.seed})"


def _finish(run: Path, plan: Plan, fold: Fold, done: Done, watch: Watch) -> str:
    """Put a fold that has ended in place, note it and say so; gives why it failed, or nothing."""
    ended: _Ended = done.result
    error = ended.error
    if not error and ended.files is not None:
        _put_in_place(run / fold.folder, ended.files)
    if not error and not _appears(run, fold):
        error = f"node {done.node} has trained it, but its result does not appear in {run / fold.folder}"
    record = FoldRecord(done.node, round(ended.seconds, 3), done.retries, error)
    scores = note_fold(run, plan, fold, record)
    if error:
        watch.failed()
        watch.say(f"{place_of(fold, plan)}: failed on {done.node}: {error}")
    elif scores is not None:
        for note in read_result(run, fold, plan.classes).facts.get("notes", []):
            watch.say(f"note: fold {Path(fold.folder).name}: {note}")
        tried = f", run again {done.retries} times" if done.retries else ""
        rest = f" on {done.node}{tried}{watch.left}"
        watch.say(describe_fold(run, plan, fold, scores, ended.seconds, rest))
    return error


def _put_in_place(folder: Path, files: Mapping[str, np.ndarray]) -> None:
    """Write what a node has sent, fold.json last: until then the fold is not done."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in sorted(files, key=lambda name: name == FACTS):
        write_atomic(folder / name, files[name].tofile)


def _appears(run: Path, fold: Fold) -> bool:
    """Whether a fold is done, as soon as a network file system shows it."""
    end = time.monotonic() + _VISIBLE
    while not is_done(run, fold):
        if time.monotonic() > end:
            return False
        with suppress(OSError):
            os.listdir(run / fold.folder)  # which makes it look
        time.sleep(0.1)
    return True


# What runs on a node.


def look_at_caches(caches: Sequence[tuple[str, str]]) -> list[str]:
    """On a node: those of some caches (path, fingerprint) that it does not see.

    Raises:
        CacheError: it sees another one there.
    """
    absent = []
    for path, expected in caches:
        if not Path(path).is_dir():
            absent.append(path)
            continue
        try:
            found = fingerprint(Cache.open(path))
        except CacheError as error:
            raise CacheError(f"the cache {path} is not the driver's ({error})") from error
        if found != expected:
            raise CacheError(
                f"the cache {path} holds something else than the driver's (fingerprint {found[:12]}, not "
                f"{expected[:12]}); copy the driver's there, or remove it and the driver's is sent"
            )
    return absent


def _admit(job: _Job) -> None:
    """On a node that joined later: whether it can run folds.

    Raises:
        MOLError: why not.
    """
    if differences := version_differences(look_at_versions(), job.versions):
        raise NodeError("; ".join(differences))
    absent = look_at_caches([(cache.path, cache.fingerprint) for cache in job.caches if cache.sent is None])
    if absent:
        raise NodeError(f"it does not see {', '.join(absent)}, as all nodes did at the start")


def run_fold(job: _Job, fold: Fold) -> _Ended:
    """On a node: train and test a fold, or go on with it.

    Raises:
        NodeError, StorageError, NotEnoughMemoryError, InUseError, CacheError: another node may be able to.
        TaskStoppedError: after a stop signal.
    """
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            config, folder = stack.enter_context(_workplace(job, fold))
            if not (folder / FACTS).is_file():  # else an earlier worker had done it before it was lost
                opened = _open_run(job)._replace(config=config)
                with cpu_threads(job.threads):
                    train_and_test(opened, fold)
            tidy(folder, config.keep_checkpoints)
            files = None if config.run == job.config.run else _read_files(folder)
    except TrainingInterrupted as stopped:
        kept = "" if _sees(Path(job.config.run), job.token) else " on a node that does not see the run folder"
        raise TaskStoppedError(f"it was stopped after step {stopped.step} and has saved{kept}") from stopped
    except (*_ELSEWHERE, NodeError, TaskStoppedError):
        raise
    except MOLError as error:
        return _Ended(time.monotonic() - started, str(error))
    except Exception as error:  # one fold must not cost the others
        traceback.print_exc()
        return _Ended(time.monotonic() - started, f"unexpected {type(error).__name__}: {error}")
    return _Ended(time.monotonic() - started, files=files)


@contextmanager
def _workplace(job: _Job, fold: Fold) -> Iterator[tuple[LosoConfig, Path]]:
    """The settings and the fold's folder: the driver's where it is seen, else a temporary one."""
    run = Path(job.config.run)
    if _sees(run, job.token):
        folder = run / fold.folder
        with _sole_worker(folder):
            yield job.config, folder
        return
    # The same for every attempt on this machine, so that a fold whose worker was killed goes on.
    temporary = Path(tempfile.gettempdir()) / f"mol-{job.token}-{fold.seed}-{fold.number}"
    folder = temporary / fold.folder
    with _sole_worker(folder):
        yield dataclasses.replace(job.config, run=str(temporary)), folder
    shutil.rmtree(temporary, ignore_errors=True)


def _sees(run: Path, token: str) -> bool:
    try:
        return (run / _SEEN).read_text(encoding="utf-8") == token
    except OSError:
        return False


@contextmanager
def _sole_worker(folder: Path) -> Iterator[None]:
    """Wait until a worker that is being ended has let go of the fold, and keep others from it.

    Raises:
        InUseError: it does not.
    """
    end = time.monotonic() + _LET_GO
    while True:
        with lock(folder / _WORKER, "a fold of mol loso") as other:
            if other is None:
                yield
                return
            if time.monotonic() > end:
                by_hand = f"; if that no longer runs, delete {other.by_hand}" if other.by_hand else ""
                raise InUseError(f"{folder} is in use by {other}{by_hand}")
        time.sleep(0.5)


def _read_files(folder: Path) -> dict[str, np.ndarray]:
    """All files of a fold by relative path, as bytes."""
    return {
        str(path.relative_to(folder)): np.fromfile(path, np.uint8)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _WORKER
    }


# The data of the last run that this worker process has worked for.
_kept: dict[str, OpenRun] = {}


def _open_run(job: _Job) -> OpenRun:
    """What stays loaded from fold to fold in a worker process."""
    if job.token not in _kept:
        _kept.clear()
        config = job.config
        fabric = start_fabric(config.device, config.precision)
        caches = [_open_cache(cache) for cache in job.caches]
        videos = [video for cache in caches for video in cache.videos]
        pool = Pool.join(caches, protocol_for(config.protocol, videos), config.counts)
        clips = find_network(config.network).hold(pool, range(len(pool)), fabric.device, config.normalisation)
        start = None if job.start is None else fetch(job.start)
        _kept[job.token] = OpenRun(config, Launched(fabric, ALONE), pool, clips, job.plan, start)
    return _kept[job.token]


def _open_cache(cache: _Cache) -> Cache:
    if absent := look_at_caches([(cache.path, cache.fingerprint)]):
        if cache.sent is None:
            raise NodeError(f"{socket.gethostname()} does not see {absent[0]}")
        return Cache.unpacked(fetch(cache.sent))
    return Cache.open(cache.path)
