"""The processes that train one network together, each on a device of its own with a part of the batch.

Whatever their number, the network learns the same: the clips of a step and how they vary follow from (seed, step)
alone, batch norms take the statistics of the whole batch, dropout draws for the whole batch, and gradients are summed.
The first process reads and writes the run folder; the others say nothing.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mol.common.errors import MOLError, RankLostError, SettingsError
from mol.common.terminal import be_quiet
from mol.networks.interface import Part
from molkernels.batch_norm import SyncBatchNorm

Result = TypeVar("Result")

# Longer than rank 0 takes to validate and to save, during which the others wait for it.
_PATIENCE = timedelta(hours=1)
# How long the survivors look for what ended another process, and how long it may take them to notice by themselves.
_ASKING, _NOTICING = 5.0, 20.0
_QUIET_EXIT = 2


class EndedByAnother(SystemExit):
    """Ends a process other than the first, quietly, because the training can't go on."""

    def __init__(self) -> None:
        super().__init__(_QUIET_EXIT)


class Ranks:
    """The processes of a training, seen from one of them.

    Args:
        fabric: a `lightning_fabric.Fabric`, launched; None for one process.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
        part: what this process computes at the moment.
    """

    def __init__(self, fabric: Any = None) -> None:
        self.rank = 0 if fabric is None else int(fabric.global_rank)
        self.world = 1 if fabric is None else int(fabric.world_size)
        self.part: Part | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        if self.world == 1:
            return
        self._control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._store = dist.PrefixStore("mol", dist.distributed_c10d._get_default_store())
        self._store.set(f"place/{self.rank}", f"on {socket.gethostname()}, process {os.getpid()}")
        started: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
        if started:
            # Fabric's own observer ends this process without a word; taking its list away ends the observer.
            self._started = list(started)
            started.clear()
            threading.Thread(target=self._observe_started, daemon=True).start()
        elif self.rank and not _started_from_outside():
            threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        if self.rank:
            be_quiet()

    @property
    def is_first(self) -> bool:
        """Whether this process reads and writes the run folder."""
        return self.rank == 0

    def first(self, work: Callable[[], Result]) -> Result:
        """Do something in the first process only; every process gets the result, or ends with its error."""
        if self.world == 1:
            return work()
        outcome: list[Any] = [None]
        if self.is_first:
            try:
                outcome = [(work(), None)]
            except MOLError as error:
                dist.broadcast_object_list([(None, str(error))], 0, self._control)
                raise
        dist.broadcast_object_list(outcome, 0, self._control)
        result, error_text = outcome[0]
        if error_text is not None:
            raise EndedByAnother
        return cast(Result, result)

    def together(self, work: Callable[[], Result]) -> Result:
        """Do something in every process; if it fails in one of them, all end, and the first says where and why."""
        if self.world == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except MOLError as raised:
            error = raised
        errors: list[str | None] = [None] * self.world
        dist.all_gather_object(errors, None if error is None else str(error), self._control)
        failed = [rank for rank, text in enumerate(errors) if text is not None]
        if not failed:
            return cast(Result, result)
        if not self.is_first:
            raise EndedByAnother
        if error is not None:
            raise error
        raise MOLError(f"rank {failed[0]} ({self._place(failed[0])}): {errors[failed[0]]}")

    def stopped_by(self, name: str | None) -> str | None:
        """The signal that asks to stop, if any process has got one; `name` is that of this process."""
        if self.world == 1:
            return name
        number = torch.tensor(signal.Signals[name] if name else 0)
        dist.all_reduce(number, dist.ReduceOp.MAX, self._control)
        return signal.Signals(int(number)).name if number else None

    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def least(self, values: Tensor) -> Tensor:
        """The elementwise minimum of a tensor over the processes."""
        return self._reduced(values, dist.ReduceOp.MIN)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.world == 1:
            return values
        whole = values.clone()
        dist.all_reduce(whole, operation)
        return whole

    def parts(self, batch_size: int, accumulate: int) -> list[Part]:
        """What this process computes of every step: a part of each of `accumulate` parts of the batch."""
        wholes = tuple(_divided(0, batch_size, accumulate))
        return [
            Part(*_divided(first, last, self.world)[self.rank], wholes, place)
            for place, (first, last) in enumerate(wholes)
        ]

    def synchronise(self, module: nn.Module) -> nn.Module:
        """Let the batch norms and the dropout of a module be those of the whole batch.

        Raises:
            SettingsError: it has a kind of dropout that can't be shared.
        """
        if self.world == 1:
            return module
        odd = {
            type(layer).__name__
            for layer in module.modules()
            if isinstance(layer, nn.modules.dropout._DropoutNd) and type(layer) is not nn.Dropout
        }
        if odd:
            raise SettingsError(
                f"this network has {', '.join(sorted(odd))}, which several devices can't share; train it on one: "
                "--devices 1"
            )
        return self._share_dropout(SyncBatchNorm.convert(module))

    def _share_dropout(self, module: nn.Module) -> nn.Module:
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, _SharedDropout(child.p, self).train(child.training))
            else:
                self._share_dropout(child)
        return module

    @contextmanager
    def guard(self, resume: str) -> Iterator[None]:
        """While open, a process that fails ends the others, and the error names it.

        Args:
            resume: the command that goes on with the run.
        Raises:
            RankLostError: another process has ended.
        """
        try:
            yield
        except Exception as error:
            if self.world == 1:
                raise
            if _is_lost_connection(error):
                raise self._lost(resume) from error
            with suppress(Exception):
                self._store.set(f"failed/{self.rank}", str(error) or type(error).__name__)
            if self.is_first or not isinstance(error, MOLError):
                raise
            # The first process fails in the same way, or loses the connection; either way it says so.
            raise EndedByAnother from error

    def _lost(self, resume: str) -> BaseException:
        who = self._who_failed()
        if not self.is_first and who is not None and not who.startswith("rank 0 "):
            return EndedByAnother()
        return RankLostError(
            f"{who or 'the connection to another process of the training broke'}; the training has stopped. "
            f"The last checkpoint is kept. Go on with:\n  {resume}"
        )

    def _who_failed(self) -> str | None:
        until = time.monotonic() + _ASKING
        while time.monotonic() < until:
            if ended := self._ended():
                return ended
            for rank in range(self.world):
                try:
                    if self._store.check([f"failed/{rank}"]):
                        return f"rank {rank} ({self._place(rank)}) failed: {self._store.get(f'failed/{rank}').decode()}"
                except Exception:  # the store is in the first process
                    return "rank 0 has ended"
            time.sleep(0.2)
        return None

    def _ended(self) -> str | None:
        """The process started here that a signal or an error has ended, in words."""
        for rank, process in enumerate(self._started, 1):
            code = process.poll()
            if code is not None and code < 0:
                return f"rank {rank} (process {process.pid}) was ended by {signal.Signals(-code).name}"
        return None

    def _place(self, rank: int) -> str:
        return self._store.get(f"place/{rank}").decode()

    def _observe_started(self) -> None:
        """End everything if a process started here is gone and nobody has noticed, as in a collective of a GPU."""
        while all(process.poll() in (None, 0) for process in self._started):
            time.sleep(0.5)
        time.sleep(_NOTICING)
        if ended := self._ended():
            print(f"error: {ended}; the training has stopped. The last checkpoint is kept", file=sys.stderr, flush=True)
            self.end_started(0)
            os._exit(_QUIET_EXIT)

    def end_started(self, patience: float = 10.0) -> None:
        """Wait for the processes started here, and kill those that don't end by themselves."""
        until = time.monotonic() + patience
        for process in self._started:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


ALONE = Ranks()
"""One process."""


class _SharedDropout(nn.Module):
    """Dropout that draws for the clips of all processes and keeps those of this one."""

    def __init__(self, probability: float, ranks: Ranks) -> None:
        super().__init__()
        self.p, self._ranks = probability, ranks

    def forward(self, x: Tensor) -> Tensor:
        """x (B · m, …), the rows of B clips one after another."""
        if not self.training or not self.p:
            return x
        part = cast(Part, self._ranks.part)
        begin, end = part.whole
        rows = x.shape[0] // (part.last - part.first)
        mask = F.dropout(x.new_ones((end - begin) * rows, *x.shape[1:]), self.p, True)
        return x * mask[(part.first - begin) * rows : (part.last - begin) * rows]


def _divided(first: int, last: int, count: int) -> list[tuple[int, int]]:
    """A range in `count` parts of almost equal size, the larger ones first."""
    size, rest = divmod(last - first, count)
    ends = [first + place * size + min(place, rest) for place in range(count + 1)]
    return list(itertools.pairwise(ends))


def require_divisible(batch_size: int, accumulate: int, world: int) -> None:
    """Refuse a batch of which some process would get nothing.

    Raises:
        SettingsError: it is smaller than processes times parts.
    """
    if batch_size < accumulate * world:
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise SettingsError(
            f"batch_size={batch_size}{parts} is too small for {world} devices: each needs at least one clip; use "
            f"--batch-size {accumulate * world} or more, or fewer devices"
        )


def _is_lost_connection(error: BaseException) -> bool:
    kinds = tuple(getattr(dist, name) for name in ("DistBackendError", "DistNetworkError", "DistStoreError"))
    text = str(error)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text))


def _started_from_outside() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ


def _end_with_parent(parent: int) -> None:
    """A parent that was killed can't stop the processes that it started, which might wait for it for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(_NOTICING)  # a collective on a CPU notices by itself, and the error says more
    os._exit(_QUIET_EXIT)
