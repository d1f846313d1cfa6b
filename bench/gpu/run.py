"""Runs a step: in its own processes, to its deadline, on from where one died.

A step has tasks, divided among its processes. A process that dies, or says nothing for too long, loses the task it was
at; another process goes on with the rest. At the deadline all are killed.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu import worker
from bench.gpu.journal import Journal
from bench.machine import ROOT

STOPPED = threading.Event()  # by a signal: every step ends now
TAIL = 4000  # bytes of output that a death is reported with
_POLL = 0.2  # seconds
_SANITIZER = re.compile(rb"=========.*")
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")


@dataclass(frozen=True)
class Step:
    """A step of the run.

    Attributes:
        name: names it in results and for ``--only``.
        limit: the most seconds that it may take.
        command: the arguments of Python.
        processes: how many of them run at a time.
        patience: seconds without a line after which the current task is taken to hang.
        prefix: a program to run Python under.
        needs: a reason why the step cannot run here; None if it can.
        on_request: whether it runs only if ``--only`` names it.
        environment: variables, in addition to those of the run.
    """

    name: str
    limit: float
    command: Sequence[str]
    processes: int = 1
    patience: float = 60.0
    prefix: Sequence[str] = ()
    needs: str | None = None
    on_request: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def run_step(step: Step, journal: Journal, deadline: float, environment: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Run a step until it is done, but no longer than its limit or the deadline of all.

    Args:
        deadline: in the time of `time.monotonic`.
        environment: of its processes.
    Returns:
        What its tasks reported, after each line was written.
    """
    begin = time.monotonic()
    deadline = min(deadline, begin + step.limit)
    if step.needs is not None or begin >= deadline or STOPPED.is_set():
        status = "left out" if step.needs is not None else "no time left"
        journal.line("step", step=step.name, status=status, seconds=0.0, text=step.needs or "")
        print(f"{step.name}: {step.needs or status}", flush=True)
        return []
    print(f"{step.name} ...", flush=True)
    journal.output(f"\n===== {step.name} =====\n".encode())
    shards = [_Shard(step, number, journal, deadline, environment) for number in range(step.processes)]
    for shard in shards:
        shard.start()
    for shard in shards:
        shard.join()
    counts = Counter(outcome for shard in shards for outcome in shard.outcomes.values())
    unfinished = [task for shard in shards for task in shard.left()]
    problems = [shard.problem for shard in shards if shard.problem]
    bad = problems or unfinished or counts.keys() & {"failed", "died", "hung"}
    status = "out of time" if any(shard.out_of_time for shard in shards) else "failed" if bad else "done"
    seconds, text = round(time.monotonic() - begin, 1), "\n".join(problems)
    about = {"status": status, "seconds": seconds, "counts": counts, "unfinished": unfinished, "text": text}
    journal.line("step", step=step.name, **about)
    found = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(f"{step.name}: {status} after {seconds} s: {found}; {len(unfinished)} unfinished", flush=True)
    return [line for shard in shards for line in shard.lines]


class _Shard(threading.Thread):
    """One of a step's processes and its successors."""

    def __init__(
        self, step: Step, number: int, journal: Journal, deadline: float, environment: Mapping[str, str]
    ) -> None:
        super().__init__(daemon=True)
        self.step, self.number, self.journal, self.deadline = step, number, journal, deadline
        self.environment = environment
        self.planned: list[str] | None = None
        self.outcomes: dict[str, str] = {}
        self.lines: list[Mapping[str, Any]] = []
        self.current: str | None = None
        self.problem = ""
        self.out_of_time = False

    def left(self) -> list[str]:
        """The tasks that have no outcome."""
        return [task for task in self.planned or () if task not in self.outcomes]

    def run(self) -> None:
        """Start processes until every task has an outcome, time is up, or a process gets nothing done."""
        while not self.out_of_time:
            before = len(self.outcomes)
            try:
                with tempfile.TemporaryDirectory() as scratch:
                    ended, tail = self._process(Path(scratch) / "channel")
            except Exception:  # such as no room for the channel; the other processes go on
                self.problem = traceback.format_exc()
                return
            if self.out_of_time or (self.planned is not None and not self.left()):
                return
            if len(self.outcomes) == before:
                self.problem = f"a process {ended} before it had done anything. The end of its output:\n{tail}"
                return

    def _process(self, channel: Path) -> tuple[str, str]:
        """One process from start to end; returns how it ended in words, and the end of its output."""
        os.mkfifo(channel)  # a name reaches the process through any program that it runs under
        reading = os.open(channel, os.O_RDWR | os.O_NONBLOCK)  # for writing too: it then has no end
        variables = {
            worker.CHANNEL: str(channel),
            worker.OVER: json.dumps(list(self.outcomes)),
            worker.SHARD: f"{self.number}/{self.step.processes}",
        }
        process = subprocess.Popen(
            [*self.step.prefix, sys.executable, *self.step.command],
            cwd=ROOT, env={**self.environment, **self.step.environment, **variables},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        pump = _Pump(process, self.journal)
        pump.start()
        hung = self._listen(process, reading)
        status = _end(process)
        os.close(reading)
        pump.join(timeout=5)
        ended = (
            f"said nothing for {self.step.patience:.0f} s" if hung
            else f"died by {signal.Signals(-status).name}" if status < 0
            else f"ended with status {status}"
        )  # fmt: skip
        tail = pump.tail.decode(errors="replace")
        if self.current is not None:  # at the deadline it stays without an outcome
            if not self.out_of_time:
                self._take({"kind": "task", "task": self.current, "outcome": "hung" if hung else "died",
                            "text": f"the process {ended}; the end of its output:\n{tail}"})  # fmt: skip
            self.current = None
        if status < 0 and not hung and not self.out_of_time:
            self.problem = f"a process {ended}"
        if self.step.prefix:
            marks = b"\n".join(pump.marked).decode(errors="replace")
            errors = [int(count) for count in _SUMMARY.findall(marks)]
            self.journal.line("sanitizer", step=self.step.name, shard=self.number,
                              errors=sum(errors) if errors else None, text=marks[:100_000])  # fmt: skip
        return ended, tail

    def _listen(self, process: subprocess.Popen[bytes], reading: int) -> bool:
        """Take the process's lines until it ends, hangs (returns True) or time is up."""
        heard, rest = time.monotonic(), b""
        while True:
            now, running = time.monotonic(), process.poll() is None
            if now > self.deadline or STOPPED.is_set():
                self.out_of_time = True
                return False
            if now - heard > self.step.patience:
                return True
            if select.select([reading], [], [], _POLL if running else 0)[0]:
                heard = now
                *whole, rest = (rest + os.read(reading, 2**16)).split(b"\n")
                for line in whole:
                    self._take(json.loads(line))
            elif not running:
                return False

    def _take(self, line: Mapping[str, Any]) -> None:
        kind, fields = line["kind"], {key: value for key, value in line.items() if key != "kind"}
        if kind == "plan":
            self.planned = self.planned if self.planned is not None else list(line["tasks"])
            return
        if kind == "started":
            self.current = line["task"]
        elif kind == "task":
            self.outcomes[line["task"]] = line["outcome"]
            self.current = None
            if line["outcome"] in ("failed", "died", "hung"):
                print(f"  {line['outcome']}: {line['task']}", flush=True)
        self.lines.append(line)
        self.journal.line(kind, step=self.step.name, **fields)


class _Pump(threading.Thread):
    """Copies a process's output to the log; keeps its end, and what a sanitizer has to say."""

    def __init__(self, process: subprocess.Popen[bytes], journal: Journal) -> None:
        super().__init__(daemon=True)
        self.process, self.journal = process, journal
        self.tail = b""
        self.marked: list[bytes] = []

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.journal.output(line)
            self.tail = (self.tail + line)[-TAIL:]
            self.marked += _SANITIZER.findall(line)


def _end(process: subprocess.Popen[bytes]) -> int:
    """The exit status; whatever is left of the process and its children is killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
