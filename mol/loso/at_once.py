"""Several folds side by side in one process, on one device: what one leaves idle, another uses.

A step of a small network leaves most of a GPU idle, and so does the time in which a program prepares the next. Here K
networks take their steps in turn, each on a CUDA stream of its own; the data is on the device once. Each training draws
the random numbers that it draws alone, so the weights are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple

import torch

from mol.common.devices import cpu_threads
from mol.common.errors import MOLError
from mol.loso.folds import Fold
from mol.loso.train_fold import OpenRun, training_and_testing
from mol.networks.registry import find_network
from mol.training.resume import StopSignal, TrainingInterrupted
from mol.training.train import Steps, TrainResult

Taken = tuple[Fold, AbstractContextManager[object]]
"""A fold to run, and what is open while it runs, such as its lock."""


class _Running(NamedTuple):
    fold: Fold
    lane: _Lane
    steps: Steps
    held: ExitStack


def run_at_once(
    opened: OpenRun,
    count: int,
    take: Callable[[], Taken | None],
    done: Callable[[Fold, TrainResult], None],
    failed: Callable[[Fold, MOLError], None],
) -> None:
    """Run folds, up to `count` of them at a time.

    Args:
        opened: the run.
        count: K.
        take: gives the next fold, None if none is left.
        done: called after each fold.
        failed: called for a fold that failed.
    Raises:
        TrainingInterrupted: after a stop signal, once every fold that was running has saved.
        MOLError: a fold failed; the others that were running have saved.
    """
    device = opened.device.fabric.device
    own_numbers = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    threads = cpu_threads(find_network(opened.config.network).threads)
    running: list[_Running] = []
    ending: BaseException | None = None
    with ExitStack() as everything, own_numbers, threads, StopSignal() as stop:
        while True:
            while ending is None and len(running) < count and (taken := take()) is not None:
                fold, held = taken
                stack = everything.enter_context(ExitStack())
                stack.enter_context(held)
                running.append(_Running(fold, _Lane(device), training_and_testing(opened, fold, stop), stack))
            if not running:
                break
            for one in list(running):
                try:
                    with one.lane.entered():
                        next(one.steps)
                except StopIteration as end:
                    running.remove(one)
                    one.held.close()
                    done(one.fold, end.value)
                except (TrainingInterrupted, MOLError) as error:
                    running.remove(one)
                    one.held.close()
                    # The others save at their next step.
                    stop.request("the end of another fold")
                    if isinstance(error, MOLError):
                        failed(one.fold, error)
                    if ending is None or isinstance(ending, TrainingInterrupted):
                        ending = error
    if ending is not None:
        raise ending


class _Lane:
    """A stream of a GPU and a state of its random numbers; nothing on a CPU, where every step begins with a seed."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))
            self._generator = torch.cuda.default_generators[self._stream.device.index]
            self._numbers = self._generator.clone_state()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this training's work go to its stream, with its numbers."""
        if self._stream is None:
            yield
            return
        # A captured graph reads seed and offset where the state keeps them, when it runs and not when it is launched.
        before = self._generator.graphsafe_get_state()
        self._generator.graphsafe_set_state(self._numbers)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._generator.graphsafe_set_state(before)
