"""A step's processes: what hangs, dies or takes too long loses its own task and nothing else."""

import os
import sys
import time
from collections.abc import Iterator

import pytest
from places import environment

from bench.gpu import run
from bench.gpu.journal import Journal, read_lines
from bench.gpu.run import Step, run_step

# A step of six tasks; `{what}` happens in the task "c".
TASKS = """
import os, signal, subprocess, sys, time
from bench.gpu import worker
for name in worker.plan(list("abcdef")):
    with worker.task(name):
        print("at", name)
        if name == "c":
            {what}
"""


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path)


@pytest.fixture(autouse=True)
def not_stopped() -> Iterator[None]:
    run.STOPPED.clear()
    yield
    run.STOPPED.clear()


def step(what: str = "pass", limit: float = 30, **options) -> Step:
    return Step("toy", limit, ["-c", TASKS.format(what=what)], **options)


def go(one: Step, journal: Journal, seconds: float = 60) -> dict[str, str]:
    """Run the step; returns the outcome of every task."""
    lines = run_step(one, journal, time.monotonic() + seconds, environment())
    return {line["task"]: line["outcome"] for line in lines if line["kind"] == "task"}


def summary(journal: Journal) -> dict:
    return next(line for line in read_lines(journal.folder)[0] if line["kind"] == "step")


def text_of(journal: Journal, task: str) -> str:
    lines = read_lines(journal.folder)[0]
    return next(line["text"] for line in lines if line["kind"] == "task" and line["task"] == task)


def test_every_task_of_a_step_is_a_line(journal):
    assert go(step(), journal) == dict.fromkeys("abcdef", "passed")
    assert summary(journal)["status"] == "done"
    assert "at f" in (journal.folder / "log-1.txt").read_text()


def test_an_error_fails_its_task_alone(journal):
    assert go(step("raise ValueError('off by one')"), journal) == {**dict.fromkeys("abdef", "passed"), "c": "failed"}
    assert "ValueError: off by one" in text_of(journal, "c")
    assert summary(journal)["status"] == "failed"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_after_a_death_by_a_signal_the_other_tasks_go_on(journal, name):
    outcomes = go(step(f"os.kill(os.getpid(), signal.{name})"), journal)
    assert outcomes == {**dict.fromkeys("abdef", "passed"), "c": "died"}
    assert f"died by {name}" in text_of(journal, "c")
    assert "at c" in text_of(journal, "c")
    assert f"died by {name}" in summary(journal)["text"]


def test_a_process_that_gives_up_is_followed_by_another(journal):
    """As after an error that only a new process recovers from; `sys.exit` is no `Exception`."""
    outcomes = go(step("sys.exit(3)"), journal)
    assert outcomes == {**dict.fromkeys("abdef", "passed"), "c": "died"}
    assert "ended with status 3" in text_of(journal, "c")


def test_a_task_that_hangs_is_given_up(journal):
    outcomes = go(step("time.sleep(60)", patience=2), journal)
    assert outcomes == {**dict.fromkeys("abdef", "passed"), "c": "hung"}
    assert "said nothing for 2 s" in text_of(journal, "c")


def test_a_step_ends_at_its_limit_with_its_grandchildren(journal, tmp_path):
    child = tmp_path / "child"
    what = f"""
            sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            open({str(child)!r}, "w").write(str(sleeper.pid))
            sleeper.wait()"""
    begin = time.monotonic()
    outcomes = go(step(what, limit=4), journal)
    assert time.monotonic() - begin < 8
    assert outcomes == dict.fromkeys("ab", "passed")
    assert summary(journal)["status"] == "out of time"
    assert summary(journal)["unfinished"] == list("cdef")
    time.sleep(0.2)
    with pytest.raises(ProcessLookupError):
        _running(int(child.read_text()))


def _running(pid: int) -> None:
    os.kill(pid, 0)
    if sys.platform == "linux":  # a zombie that nobody has waited for is not running
        with open(f"/proc/{pid}/stat") as file:
            if file.read().split()[2] == "Z":
                raise ProcessLookupError


def test_the_deadline_of_all_comes_before_a_steps_limit(journal):
    begin = time.monotonic()
    go(step("time.sleep(60)", limit=60), journal, seconds=3)
    assert time.monotonic() - begin < 7
    assert summary(journal)["status"] == "out of time"


def test_a_step_without_time_is_not_started(journal):
    assert go(step(), journal, seconds=-1) == {}
    assert summary(journal)["status"] == "no time left"


def test_a_step_that_lacks_its_program_says_so(journal):
    assert go(step(needs="compute-sanitizer was not found"), journal) == {}
    assert summary(journal)["status"] == "left out"
    assert summary(journal)["text"] == "compute-sanitizer was not found"


def test_a_step_that_dies_before_its_first_task_is_not_repeated(journal):
    broken = Step("toy", 30, ["-c", "import no_such_module"])
    begin = time.monotonic()
    assert go(broken, journal) == {}
    assert time.monotonic() - begin < 10
    assert "No module named 'no_such_module'" in summary(journal)["text"]
    assert summary(journal)["status"] == "failed"


def test_processes_share_the_tasks(journal):
    assert go(step(processes=3), journal) == dict.fromkeys("abcdef", "passed")
    started = [line["task"] for line in read_lines(journal.folder)[0] if line["kind"] == "started"]
    assert sorted(started) == list("abcdef")


def test_a_child_that_outlives_the_process_does_not_hold_the_step_up(journal):
    what = 'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)'
    begin = time.monotonic()
    assert go(step(what), journal) == dict.fromkeys("abcdef", "passed")
    assert time.monotonic() - begin < 10


def test_a_full_disk_stops_no_step(journal, capsys):
    for name in ("results.jsonl", "log-1.txt"):
        (journal.folder / name).symlink_to("/dev/full")
    assert go(step(), journal) == dict.fromkeys("abcdef", "passed")
    assert journal.lost == 13  # six begin, six end, and the step itself
    assert capsys.readouterr().err.count("The line is only here") == 13


def test_a_signal_ends_the_step(journal):
    run.STOPPED.set()
    assert go(step(), journal) == {}
    assert summary(journal)["status"] == "no time left"


def test_what_a_sanitizer_finds_is_a_line(journal, tmp_path):
    checker = tmp_path / "checker.py"
    checker.write_text(
        "import subprocess, sys\n"
        "print('..========= Invalid __global__ write of size 4 bytes', flush=True)\n"
        "subprocess.run(sys.argv[1:], close_fds=False)\n"
        "print('========= ERROR SUMMARY: 2 errors')\n"
    )
    go(step(prefix=[sys.executable, str(checker)]), journal)
    found = next(line for line in read_lines(journal.folder)[0] if line["kind"] == "sanitizer")
    assert found["errors"] == 2
    assert "Invalid __global__ write" in found["text"]
