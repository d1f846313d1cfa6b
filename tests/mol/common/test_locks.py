"""Locks: one process at a time, named to the others, gone with the process; with and without locks of the system."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from places import environment

from mol.common import locks
from mol.common.errors import InUseError, StorageError
from mol.common.locks import beside, lock, only_one

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


def refuse_system_locks(patch: pytest.MonkeyPatch) -> None:
    """Answer as a Lustre file system that is mounted without ``flock``."""

    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    patch.setattr(locks.fcntl, "flock", flock)


@pytest.fixture(params=["locks of the system", "no locks of the system"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param.startswith("no"):
        refuse_system_locks(monkeypatch)
    return request.param


@contextmanager
def another_process(path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until the end of the block, if it isn't killed before."""
    program = f"""
import errno, sys
from pathlib import Path
from mol.common import locks
def refuse(*_):
    raise OSError(errno.ENOSYS, "")
if {kind.startswith("no")}:
    locks.fcntl.flock = refuse
with locks.lock(Path(sys.argv[1]), "mol train") as other:
    print(other, flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", program, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        yield process


def test_another_process_is_refused_and_told_who_holds_it_and_a_killed_one_holds_nobody_up(tmp_path: Path, kind: str):
    path = tmp_path / "run" / ".lock"
    with another_process(path, kind) as process:
        with (
            pytest.raises(InUseError, match=rf"^run is in use by process {process.pid} on .*choose another") as refused,
            only_one(path, "run", "mol train", "choose another --run"),
        ):
            pytest.fail("let in")
        assert f"on {socket.gethostname()} (mol train, since 2" in str(refused.value)
        assert ("delete" in str(refused.value)) == kind.startswith("no")
        process.kill()
        process.wait()
    assert path.exists()
    with only_one(path, "run", "mol train", ""):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


@pytest.mark.parametrize(("lives", "let_in"), [(1.0, True), (60.0, False)])
def test_processes_of_a_killed_holder_have_some_seconds_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: float, let_in: bool
):
    monkeypatch.setattr(locks, "_AFTERLIFE", 5.0 if let_in else 0.5)
    program = f"""
import os, signal, sys, time
from pathlib import Path
from mol.common import locks
with locks.lock(Path(sys.argv[1]), "mol extract"):
    child = os.fork()
    if child == 0:  # shares the lock, and outlives its holder
        time.sleep({lives})
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, env=environment(), text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait()
        try:
            with lock(path, "mol extract") as other:
                assert (other is None) == let_in
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_a_free_lock_is_had_again_and_again_and_leaves_nothing(tmp_path: Path, kind: str):
    for wait in (False, True, False):
        with lock(tmp_path / "new" / "folder" / ".lock", "mol train", wait) as other:
            assert other is None
    assert list(tmp_path.iterdir()) == []


def test_one_process_is_refused_by_itself(tmp_path: Path, kind: str):
    with lock(tmp_path / ".lock", "first") as first, lock(tmp_path / ".lock", "second") as second:
        assert first is None
        assert f"process {os.getpid()} on" in str(second)


def test_who_waits_gets_it_when_it_is_free(tmp_path: Path, kind: str):
    with another_process(tmp_path / ".lock", kind) as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        with lock(tmp_path / ".lock", "mol loso", wait=True) as other:
            assert other is None


def test_a_folder_with_results_stays(tmp_path: Path):
    with lock(tmp_path / "run" / ".lock", "mol train"):
        (tmp_path / "run" / "log.csv").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.csv"]


def left_behind(path: Path, **changes: Any) -> None:
    """A lock file as this process would write it, changed."""
    entry = {**locks.asdict(locks._this_process("mol train")), **changes}
    path.write_text(json.dumps(entry), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "taken_over"),
    [
        ({}, False),
        ({"born": "1"}, True),  # another process has its number by now
        ({"process": 2**22 + 1}, True),
        ({"system": "00000000-0000-0000-0000-000000000000 pid:[1]"}, True),  # the machine was started again
        ({"machine": "elsewhere", "process": 2**22 + 1}, False),
        ({"system": "", "process": 2**22 + 1}, False),
    ],
    ids=["runs", "number given again", "ended", "earlier boot", "other machine", "unknown system"],
)
def test_without_locks_of_the_system_only_what_is_known_to_have_ended_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], taken_over: bool
):
    refuse_system_locks(monkeypatch)
    path = tmp_path / ".lock"
    left_behind(path, **changes)
    with lock(path, "mol train") as other:
        assert (other is None) == taken_over
    assert path.exists() != taken_over


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 1}', '{"command": 1, "process": "x"}', "null", "\0"])
def test_an_entry_that_cannot_be_read_is_of_another_process(tmp_path: Path, content: str):
    with another_process(tmp_path / ".lock", "locks of the system"):
        (tmp_path / ".lock").write_text(content)
        with lock(tmp_path / ".lock", "mol train") as other:
            assert str(other) == "another process"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), lock(tmp_path / "file" / ".lock", "mol train"):
        pytest.fail("let in")


def test_the_lock_of_a_folder_that_is_replaced_is_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert beside(tmp_path / "cache") == tmp_path / ".cache.lock"
    assert beside(f"{tmp_path}/cache/") == beside(tmp_path / "x" / ".." / "cache") == beside(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert beside(".") == tmp_path.parent / f".{tmp_path.name}.lock"
    assert len(os.fsencode(beside(tmp_path / ("ü" * 120)).name)) <= 255
