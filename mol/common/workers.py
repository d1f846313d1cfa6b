"""One pool of worker processes: spawned, one thread each, never left behind."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar, cast

from mol.common.errors import MOLError
from mol.common.signals import STOP_SIGNALS, ignore_stop_signals

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

    When a worker dies, its task is run again once the others are done: alone, in case memory was short. If its worker
    dies again, the task is lost, and only that one. However the iteration ends, no process outlives it.

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
            Errors of `work` itself pass through, with the worker's traceback as their cause.
    """
    waiting: Iterator[_NumberedTask] = enumerate(tasks)
    if workers == 1 and not apart:
        with one_thread():
            for index, task in waiting:
                yield index, work(*task)
        return
    results = deaths = 0
    with _Pool(work, workers) as pool:
        while True:
            lost = yield from pool.run(waiting)
            if not lost:
                return
            retried([index for index, _ in lost])
            for numbered in lost:
                if not (yield from pool.run(iter([numbered]))):
                    continue
                results, deaths = pool.results, deaths + 1
                if given_up is None or (not results and deaths >= _HOPELESS):
                    raise MOLError(
                        f"{WORKER_DIED}. {kept + ' ' if kept else ''}Run the same command again with fewer workers. "
                        'A script of your own needs `if __name__ == "__main__":` around its main part.'
                    )
                yield numbered[0], given_up(numbered[0])


class _Pool:
    """Processes that each do one task at a time, and each with a pipe of its own.

    With a pipe that all share, as in `concurrent.futures`, a worker that is killed while it sends a result leaves half
    of it in the pipe, and everyone waits for the rest for ever.

    Attributes:
        results: number of those that have arrived.
    """

    def __init__(self, work: Callable[..., Any], size: int) -> None:
        self.results = 0
        self._work, self._size = work, size
        # Spawned, not forked: the parent may hold threads of PyTorch or OpenCV.
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, SpawnProcess] = {}
        # What multiprocessing does at exit would wait for them for ever.
        atexit.register(self.kill)

    def __enter__(self) -> _Pool:
        return self

    def kill(self) -> None:
        """Kill the workers that there are."""
        for process in self._workers.values():
            process.kill()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        atexit.unregister(self.kill)
        for connection, process in self._workers.items():
            if kind is not None:
                process.kill()  # it ignores the gentler signals
            connection.close()
        for process in self._workers.values():
            process.join()

    def run(self, waiting: Iterator[_NumberedTask]) -> Generator[tuple[int, Any], None, list[_NumberedTask]]:
        """Run tasks until all are done or a worker has died; those in progress are finished first.

        Returns:
            The tasks whose workers died.
        """
        idle = list(self._workers)
        running: dict[Connection, _NumberedTask] = {}
        lost: list[_NumberedTask] = []
        while True:
            while not lost and len(running) < self._size and (numbered := next(waiting, None)) is not None:
                running[self._assign(numbered[1], idle)] = numbered
            if not running:
                return lost
            for connection in cast("list[Connection]", wait(list(running))):
                numbered = running.pop(connection)
                try:
                    error, result = connection.recv()
                except (EOFError, OSError):
                    self._bury(connection)
                    lost.append(numbered)
                    continue
                if error is not None:
                    raise error from _RemoteTraceback(result)
                self.results += 1
                idle.append(connection)
                if not lost and (following := next(waiting, None)) is not None:  # before the result is looked at
                    running[self._assign(following[1], idle)] = following
                yield numbered[0], result

    def _assign(self, task: tuple[Any, ...], idle: list[Connection]) -> Connection:
        """Give a task to an idle worker, or to a new one; one that has died since is noticed when it should answer."""
        connection = idle.pop() if idle else self._start()
        with suppress(OSError):
            connection.send(task)
        return connection

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs), daemon=True)
        with _stops_held():
            process.start()
            self._workers[ours] = process
        theirs.close()
        return ours

    def _bury(self, connection: Connection) -> None:
        process = self._workers.pop(connection)
        connection.close()
        process.kill()
        process.join()


class _RemoteTraceback(Exception):  # noqa: N818 - shown as the cause of an error, never raised
    """The traceback of an error in a worker, as text."""

    def __str__(self) -> str:
        return f"in a worker process:\n{self.args[0]}"


def _serve(work: Callable[..., Any], connection: Connection) -> None:
    """What a worker does: answer every task with (None, result) or (error, its traceback)."""
    _start_worker()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Exception | None, Any]
        try:
            answer = None, work(*task)
        except Exception as error:
            answer = picklable(error), traceback.format_exc()
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
        except Exception as error:  # the result can't be pickled
            connection.send((picklable(error), traceback.format_exc()))


def picklable(error: Exception) -> Exception:
    """The error, or if it can't travel between processes one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


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
def _stops_held() -> Iterator[None]:
    """Hold back stop signals while a worker may be spawned; it inherits the mask, so it cannot die while starting."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Its start, which would be part of that of the first process, lets interrupts through.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Prepare a new worker: it leaves stop signals to its parent, uses one thread, and ends when its parent ends.

    Terminals, batch systems and service managers send their signals to all processes of a job.
    """
    ignore_stop_signals()
    _limit_opencv(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, which would wait for it for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
