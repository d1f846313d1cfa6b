"""The pool of worker processes: every result arrives, a death costs at most one task, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import pytest
from places import environment
from worker_tasks import (
    announce,
    die_of,
    die_once,
    die_while_sending,
    double,
    process_and_threads,
    refuse,
    unpicklable,
)

from mol.common.errors import MOLError
from mol.common.workers import in_processes, one_thread

PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_gives_its_result_once(workers):
    results = list(in_processes(double, ((value,) for value in range(20)), workers))
    assert sorted(results) == [(value, 2 * value) for value in range(20)]


def test_results_come_as_they_are_ready():
    order = [index for index, _ in in_processes(double, [(0, 4.0), (1, 0.0), (2, 0.0)], 2)]
    assert order == [1, 2, 0]


def test_no_tasks_give_no_results():
    assert list(in_processes(double, [], 2)) == []


def test_one_worker_is_this_process_and_uses_one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        assert list(in_processes(process_and_threads, [()], 1)) == [(0, (os.getpid(), 1))]
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_a_single_worker_can_be_a_process_of_its_own():
    (result,) = in_processes(process_and_threads, [()], 1, apart=True)
    assert result[1][0] != os.getpid()
    assert result[1][1] == 1


def test_workers_are_other_processes_and_use_one_thread_each():
    results = [result for _, result in in_processes(process_and_threads, [()] * 6, 2)]
    assert {threads for _, threads in results} == {1}
    assert os.getpid() not in {pid for pid, _ in results}


def test_threads_are_restored_after_an_error():
    before = cv2.getNumThreads()
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert cv2.getNumThreads() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_work_pass_through(workers):
    with pytest.raises(ValueError, match="3 is refused") as caught:
        list(in_processes(refuse, ((value,) for value in range(30)), workers))
    if workers > 1:
        assert 'raise ValueError("3 is refused")' in str(caught.value.__cause__)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("what", "said"), [("result", "pickle"), ("error", "UnpicklableError: lost its lock")])
def test_what_cannot_travel_between_processes_is_an_error_and_not_a_hang(what, said):
    with pytest.raises((RuntimeError, TypeError), match=said):
        list(in_processes(unpicklable, [(what,)], 1, apart=True))
    assert multiprocessing.active_children() == []


def test_tasks_are_taken_only_as_workers_become_free():
    taken: list[int] = []

    def tasks() -> Iterator[tuple[int]]:
        for value in range(100):
            taken.append(value)
            yield (value,)

    with closing(in_processes(double, tasks(), 2)) as results:
        next(results)
        assert len(taken) <= 4
    assert multiprocessing.active_children() == []


# Workers that die


def test_killed_worker_costs_no_task(tmp_path):
    retried: list[list[int]] = []
    tasks = [(str(tmp_path), value) for value in range(10)]
    results = sorted(in_processes(die_once, tasks, 2, retried=retried.append))
    assert results == [(value, value) for value in range(10)]
    assert len(retried) == 1
    assert 4 in retried[0]
    assert len(retried[0]) <= 4


def test_a_worker_killed_while_it_sends_its_result_holds_nobody_up():
    """Half of a result in a pipe that all share would never be followed by the rest."""
    tasks = [(value,) for value in range(6)]
    results = dict(in_processes(die_while_sending, tasks, 2, given_up=lambda index: b""))
    assert {index: len(result) for index, result in results.items()} == {**dict.fromkeys(range(6), 1 << 24), 3: 0}


def test_a_worker_killed_between_two_tasks_costs_none():
    with closing(in_processes(double, ((value,) for value in range(9)), 1, apart=True)) as results:
        found = [next(results)]
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        found += results
    assert sorted(found) == [(value, 2 * value) for value in range(9)]


def test_only_the_task_that_kills_its_worker_twice_is_given_up():
    tasks = [((3, 7), value) for value in range(10)]
    results = dict(in_processes(die_of, tasks, 2, given_up=lambda index: -index))
    assert results == {**{value: value for value in range(10)}, 3: -3, 7: -7}


def test_task_that_cannot_be_given_up_is_an_error_with_the_remedy():
    with pytest.raises(
        MOLError,
        match=r"^a worker process died, probably out of memory\. The rows are kept\. "
        "Run the same command again with fewer workers",
    ):
        list(in_processes(die_of, [((2,), value) for value in range(6)], 2, kept="The rows are kept."))
    assert multiprocessing.active_children() == []


def test_workers_that_always_die_end_the_work_although_tasks_can_be_given_up():
    given_up: list[int] = []
    with pytest.raises(MOLError, match="a worker process died"):
        list(in_processes(die_of, [(tuple(range(9)), value) for value in range(9)], 2, given_up=given_up.append))
    assert len(given_up) == 2


# Interrupted and killed


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_run(folder: Path) -> subprocess.Popen:
    """A process that gives two workers long tasks; workers leave their ids as files in the folder."""
    script = folder.with_suffix(".py")
    script.write_text(
        "import sys\n"
        "from mol.common.workers import in_processes\n"
        "from worker_tasks import announce\n"
        "if __name__ == '__main__':\n"
        "    print('ready', flush=True)\n"
        "    try:\n"
        "        list(in_processes(announce, [(sys.argv[1], value) for value in range(4)], 2))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n"
    )
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_in(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def test_an_interrupt_between_results_leaves_no_process(tmp_path):
    def interrupt() -> None:
        with closing(in_processes(announce, [(str(tmp_path), value) for value in range(4)], 2)) as results:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            next(results)

    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert multiprocessing.active_children() == []


@PROC
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.4, 0.8, None])
def test_ctrl_c_in_the_terminal_ends_all_processes_without_a_traceback(tmp_path, delay):
    """A terminal interrupts the whole group: workers that are starting, and (None) workers that work."""
    folder = tmp_path / "workers"
    folder.mkdir()
    with start_run(folder) as process:
        assert process.stdout.readline() == "ready\n"
        if delay is None:
            wait_for(lambda: len(workers_in(folder)) == 2)
        else:
            time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    assert not any(runs(pid) for pid in workers_in(folder))


@PROC
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    with start_run(folder) as process:
        wait_for(lambda: len(workers_in(folder)) == 2)
        process.kill()
    wait_for(lambda: not any(runs(pid) for pid in workers_in(folder)))
