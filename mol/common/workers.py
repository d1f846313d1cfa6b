"""One pool of worker processes: spawned, one thread each, never left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from mol.common.errors import MOLError

Result = TypeVar("Result")
_NumberedTask = tuple[int, tuple[Any, ...]]

WORKER_DIED = "a worker process died, probably out of memory"

# Tasks that kill their worker before a first result arrives, until the run is given up.
_HOPELESS = 3


def in_processes(
    work: Callable[..., Result],
    tasks: Iterable[tuple[Any, ...]],
    workers: int,
    *,
    apart: bool = False,
    kept: str = "",
    retried: Callable[[list[int]], object] = lambda indices: None,
    given_up: Callable[[int], Result] | None = None,
) -> Generator[tuple[int, Result], None, None]:
    """Call ``work(*task)`` for every task in worker processes and yield the results as they arrive.

    When a worker dies, the tasks in progress are run again one at a time: the one whose worker dies again is to blame
    and is the only one lost. However the iteration ends, no process outlives it.

    Args:
        work: a function at the top level of a module, so that it can be pickled.
        tasks: its arguments, which must be picklable; consumed as workers become free.
        workers: number of processes; 1 runs everything in this process, unless `apart`.
        apart: start a process for a single worker too, because this one has other work to do.
        kept: sentence for the error message about what remains of the results so far.
        retried: called with the indices of the tasks that are run again.
        given_up: gives the result of a task whose worker died twice; without it such a task is an error.
    Yields:
        (index of the task, its result), in order of completion.
    Raises:
        MOLError: a worker died twice on a task that cannot be given up, or three times before the first result.
            Errors of `work` itself pass through.
    """
    waiting: Iterator[_NumberedTask] = enumerate(tasks)
    if workers == 1 and not apart:
        with one_thread():
            for index, task in waiting:
                yield index, work(*task)
        return
    results = deaths = 0
    while True:
        lost, count = yield from _run_until_death(work, waiting, workers, workers + 2)
        results += count
        if not lost:
            return
        retried([index for index, _ in lost])
        retry = iter(lost)
        while True:
            guilty, count = yield from _run_until_death(work, retry, workers=1, ahead=1)
            results += count
            if not guilty:
                break
            deaths += 1
            if given_up is None or (not results and deaths >= _HOPELESS):
                raise MOLError(
                    f"{WORKER_DIED}. {kept + ' ' if kept else ''}Run the same command again with fewer workers. "
                    'A script of your own needs `if __name__ == "__main__":` around its main part.'
                )
            for index, _ in guilty:
                yield index, given_up(index)


def _run_until_death(
    work: Callable[..., Result], waiting: Iterator[_NumberedTask], workers: int, ahead: int
) -> Generator[tuple[int, Result], None, tuple[list[_NumberedTask], int]]:
    """Run tasks, at most `ahead` of them submitted at a time; ends when a worker dies.

    Returns:
        The tasks whose results were lost, and the number of results that arrived.
    """
    others = set(multiprocessing.active_children())
    # Spawned, not forked: the parent may hold threads of PyTorch or OpenCV.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    submitted: dict[int, tuple[Any, ...]] = {}
    running: dict[Future[Result], int] = {}
    arrived = 0
    try:
        while True:
            for index, task in islice(waiting, ahead - len(submitted)):
                submitted[index] = task
                with _interrupts_held():
                    running[pool.submit(work, *task)] = index
            if not running:
                return [], arrived
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                index = running.pop(future)
                del submitted[index]
                arrived += 1
                yield index, result
    except BrokenProcessPool:
        return list(submitted.items()), arrived
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit OpenCV to one thread, as in worker processes, and restore its setting afterwards."""
    before = _limit_opencv(1)
    try:
        yield
    finally:
        _limit_opencv(before)


def _limit_opencv(threads: int) -> int:
    """Set the number of OpenCV's threads and return the previous one; nothing to do where OpenCV is not installed."""
    try:
        import cv2
    except ImportError:  # work that needs it says so itself
        return threads
    before: int = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    return before


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C while a worker may be spawned; the worker inherits the mask, so it cannot die while starting."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Prepare a new worker: it leaves Ctrl-C to its parent, uses one thread, and ends when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_opencv(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, which would wait for it for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
