"""Work spread over processes: one thread each, spawned, never left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from mol.common.errors import MOLError
from mol.common.extras import require

Result = TypeVar("Result")


def in_processes(
    work: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], workers: int, remedy: str = ""
) -> Generator[tuple[int, Result], None, None]:
    """``work(*job)`` for every job, in as many processes; a few jobs a process are under way at any time.

    Args:
        work: a function of a module, so that a process can find it.
        jobs: its arguments, which can be pickled.
        workers: processes; with 1 everything runs in this one.
        remedy: what the message says when a process ends by itself: what is kept, what to do.
    Yields:
        (index of the job, what its work returned), in the order in which they come.
    Raises:
        MOLError: a process ended by itself, often for want of memory. Errors of the work itself pass through.
    """
    waiting = enumerate(jobs)
    if workers == 1:
        yield from ((index, work(*job)) for index, job in waiting)
        return
    # Spawned, not forked: the parent may hold threads of PyTorch or OpenCV.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool:
        try:
            running: dict[Future[Result], int] = {}
            while True:
                for index, job in islice(waiting, 4 * workers - len(running)):
                    running[pool.submit(work, *job)] = index
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise MOLError(
                f"a process ended by itself, often for want of memory. {remedy} Run the same command again, with "
                'workers=1 where it happens again. A script of your own needs `if __name__ == "__main__":` around its '
                "main part."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def start_worker() -> None:
    """Make ready a new process: one thread, no interrupts of its own, and an end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    require("cv2", extra="data").setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, which would wait for it for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
