"""Commands that a signal stops: a training is saved, everything else leaves nothing half written."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import environment
from tiny_cache import write_tiny_cache

from mol.network.checkpoint import read_state

MOL = [sys.executable, "-m", "mol"]


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """`mol` in a session of its own, as a terminal, a batch system or a service manager starts it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    more = pipes.pop("preexec_fn", None)

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup, which ignores it
        if more:
            more()

    return subprocess.Popen(
        [*MOL, *arguments], env=environment(), text=True, start_new_session=True, preexec_fn=prepare, **pipes
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training(folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A training without end, in whose log there are a few steps."""
    cache = write_tiny_cache(folder / "cache", marked=True)
    given = {"network": "flow-cnn", "cache": cache.path, "run": folder / "run", "held-out": "[s4]", "steps": 10**6}
    given |= {"batch-size": 2, "validate-every": 0, "checkpoint-every": 10**6, "log-every": 1, "device": "cpu"}
    process = start("train", *(f"--{name}={value}" for name, value in given.items()), **options)
    log = folder / "run" / "log.csv"
    wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) > 3, process)
    return process


def saved_step(folder: Path) -> int:
    return read_state(folder / "run" / "checkpoints" / "last")["step"]


def test_the_warning_of_a_batch_system_saves_a_training(tmp_path: Path):
    """Slurm sends SIGUSR1 to all processes of a job, then SIGTERM."""
    process = training(tmp_path)
    os.killpg(process.pid, signal.SIGUSR1)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert f": stopped after step {saved_step(tmp_path)}, everything is saved" in output
    assert "Traceback" not in output


def test_a_terminal_that_is_closed_saves_a_training(tmp_path: Path):
    """The system sends SIGHUP, and from then on nothing can be written to the terminal."""
    ours, theirs = pty.openpty()

    def control() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = training(tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=control)
    os.close(theirs)
    os.close(ours)
    assert process.wait(300) == 130
    assert saved_step(tmp_path) > 0


def test_stopped_work_in_processes_is_kept_and_told_in_one_line(tmp_path: Path):
    process = start("synth", f"--out={tmp_path / 'cache'}", "--sources=[astronaut]", "--clips=3000", "--workers=2")
    checksums = tmp_path / "cache.partial" / "checksums.npy"
    wait_for(lambda: checksums.is_file() and any(checksums.read_bytes()[128:]), process)
    os.killpg(process.pid, signal.SIGHUP)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGHUP
    assert "the rendered clips are kept. Run the same command again" in output
    assert output.splitlines()[-1] == "error: stopped by SIGHUP"
    assert "Traceback" not in output


def test_a_command_that_only_writes_leaves_nothing_half_written(tmp_path: Path):
    """All commands share what this one does at a signal."""
    program = f"""
import os, sys, time
from pathlib import Path
from mol import commands, info
from mol.common.storage import write_atomic
def write(path):
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(300)
commands.RUNNERS["info"] = (info.InfoConfig, lambda _: write_atomic(Path({str(tmp_path)!r}, "table.csv"), write))
sys.argv = ["mol", "info"]
from mol.__main__ import main
sys.exit(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, "error: stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
