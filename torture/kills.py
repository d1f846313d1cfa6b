"""Commands that are stopped by a signal at a random moment and run again.

The moment is a share of the processor time that the undisturbed command takes, so that it means the same on a busy
machine. Afterwards the same command, run again, must complete, and its result must be the undisturbed one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torture.commands import Command, commands, complaint, differences, lay_out, remove, said, start
from torture.outcome import Outcome
from torture.unit import Session, Unit

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
# Kills in half an hour, and seconds of processor time that they take.
_TARGETS = {
    "train": (28, 190), "train-mol": (8, 230), "extract": (16, 200), "synth": (16, 150), "synth-set": (12, 120),
    "synth-long": (8, 100),
    "loso": (20, 190), "predict": (16, 160), "pretrain": (14, 180),
}  # fmt: skip
# A command that goes on for this long (seconds of its own processor time, and asleep) never ends.
_SPENT, _ASLEEP = 300.0, 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Undisturbed:
    """A command that nobody disturbed.

    Attributes:
        out: its result.
        seconds: of processor time, all its processes together.
        first: of them until the first file was there.
    """

    out: Path
    seconds: float
    first: float


def units() -> list[Unit]:
    """One unit per command."""
    return [
        Unit("kills", one.name, *_TARGETS[one.name], partial(_run, one), partial(_repeat, one)) for one in commands()
    ]


def _run(command: Command, session: Session) -> None:
    generator = random.Random(f"{session.seed} {command.name}")
    reference = _undisturbed(command, session)
    session.begin()
    signals: list[str] = []
    while session.goes_on():
        # About two kills per completion, which takes the most time.
        kills = []
        for _ in range(generator.choice((1, 2, 2, 3))):
            signals = signals or generator.sample(SIGNALS, len(SIGNALS))  # each as often as the others
            kills.append((signals.pop(), _moment(generator, reference)))
        for outcome, case in _tried(command, session, reference, kills):
            if session.count(outcome):
                session.keep(outcome, case, session.work / "evidence")


def _moment(generator: random.Random, reference: Undisturbed) -> float:
    """Seconds of processor time: seldom while the command starts, mostly while it writes."""
    early = generator.random() < 0.2
    low, high = (0.0, reference.first) if early else (0.9 * reference.first, 1.02 * reference.seconds)
    return generator.uniform(low, high)


def _undisturbed(command: Command, session: Session) -> Undisturbed:
    folder = session.work / "undisturbed"
    lay_out(folder, session.materials)
    process = start(command.line, folder)
    first = None
    spent = 0.0
    while process.poll() is None:
        spent = max(spent, _processor_time(process.pid))
        if first is None and any((folder / "out").iterdir()):
            first = spent
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"mol {command.line} ended with status {process.returncode}: {said(folder)[-1500:]}")
    return Undisturbed(folder / "out", spent, spent if first is None else first)


def _tried(
    command: Command, session: Session, reference: Undisturbed, kills: list[tuple[str, float]]
) -> list[tuple[Outcome, dict[str, Any]]]:
    """Kill a command several times, each time started again, then let it complete.

    Returns:
        An outcome per kill; what is wrong with the result in the end belongs to the last.
    """
    folder = session.work / "killed"
    remove(folder)
    lay_out(folder, session.materials)
    case = {"command": command.line, "kills": [list(kill) for kill in kills]}
    outcomes = []
    for number, (name, moment) in enumerate(kills, 1):
        outcome = _kill(command, folder, name, moment)
        outcomes.append((outcome, {**case, "after": number}))
        if outcome.is_fault:
            _keep_evidence(session, folder)
            return outcomes
    outcome = _completed(command, folder, reference)
    if outcome.is_fault:
        _keep_evidence(session, folder)
        outcomes[-1] = (outcome, {**case, "after": len(kills) + 1})
    return outcomes


def _kill(command: Command, folder: Path, name: str, moment: float) -> Outcome:
    """Start a command, send it a signal once it has used as much processor time, and look at how it ends."""
    process = start(command.line, folder)
    while process.poll() is None and _processor_time(process.pid) < moment:
        time.sleep(0.005)
    begun = command.trains and _has_begun(folder)
    sent = process.poll() is None
    if sent:
        os.kill(process.pid, getattr(signal, name))
    if (ended := _wait(process)) is not None:
        return Outcome("hung", name, f"after {name}: {ended}", command.name)
    if left := _others(process.pid):
        _end(process.pid)
        return Outcome("wrong", "processes left", f"{len(left)} went on after {name}", command.name)
    if "Traceback (most recent call last)" in said(folder):
        return Outcome("raised", name, complaint(folder), command.name)
    if process.returncode < 0 and -process.returncode != getattr(signal, name):
        return Outcome("died", signal.Signals(-process.returncode).name, f"after {name}", command.name)
    if sent and begun and name != "SIGKILL" and process.returncode and not _has_finished(folder):
        if not list(folder.glob("out/checkpoints/last/state.json")):
            return Outcome("wrong", f"{name} loses the training", f"status {process.returncode}", command.name)
        if process.returncode < 0:
            return Outcome("wrong", f"{name} ends it unsaved", f"status {process.returncode}", command.name)
    return Outcome("result")


def _has_begun(folder: Path) -> bool:
    """Whether a training has said that its steps begin."""
    words = said(folder, "stdout")
    return "starting:" in words or "continuing after" in words


def _has_finished(folder: Path) -> bool:
    """Whether a training has said what comes after it; a signal can still hit the end of its process."""
    return "\nnext: " in said(folder, "stdout")


def _completed(command: Command, folder: Path, reference: Undisturbed) -> Outcome:
    """Run the command to its end and compare."""
    process = start(command.line, folder)
    if (ended := _wait(process)) is not None:
        return Outcome("hung", "run again", ended, command.name)
    if process.returncode:
        return Outcome("wrong", "does not complete", complaint(folder), command.name)
    if found := differences(reference.out, folder / "out"):
        return Outcome("wrong", "another result", "; ".join(found[:6]), f"{command.name}: {_kind(found[0])}")
    return Outcome("result")


def _kind(difference: str) -> str:
    """A difference without the numbers in its names, which tell processes and folds apart."""
    return "".join("0" if letter.isdigit() else letter for letter in difference)


def _keep_evidence(session: Session, folder: Path) -> None:
    """What the command printed, and the names of its files."""
    evidence = session.work / "evidence"
    shutil.rmtree(evidence, ignore_errors=True)
    evidence.mkdir()
    for stream in ("stdout", "stderr"):
        (evidence / stream).write_text(said(folder, stream)[-20_000:])
    names = sorted(f"{path.relative_to(folder)} {path.stat().st_size}" for path in (folder / "out").rglob("*"))
    (evidence / "files").write_text("\n".join(names))


def _repeat(command: Command, session: Session, case: Mapping[str, Any], files: Path | None) -> Outcome:
    """The same signals at the same processor times; where exactly they hit is up to the machine."""
    reference = _undisturbed(command, session)
    kills = [(str(name), float(moment)) for name, moment in case["kills"]]
    for outcome, _ in _tried(command, session, reference, kills):
        if outcome.is_fault:
            return outcome
    return Outcome("result")


# --- Processes ------------------------------------------------------------------------------------------------------


def _wait(process: subprocess.Popen[bytes]) -> str | None:
    """Wait for a command; one that never ends is ended, and why is returned."""
    spent, since = 0.0, time.monotonic()
    while process.poll() is None:
        now = _processor_time(process.pid)
        if now > spent:
            spent, since = now, time.monotonic()
        if spent > _SPENT or (time.monotonic() - since > _ASLEEP and not _is_busy(process.pid)):
            _end(process.pid)
            process.wait()
            return f"still there after {spent:.0f} s of processor time and {time.monotonic() - since:.0f} s asleep"
        time.sleep(0.02)
    return None


def _others(session: int) -> list[int]:
    """Processes of a session that are still there some time after its leader has ended."""
    for _ in range(200):
        left = [process for process, fields in _session(session).items() if fields[0] != "Z"]
        if not left:
            return []
        time.sleep(0.1)
    return left


def _end(session: int) -> None:
    for process in _session(session):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _is_busy(session: int) -> bool:
    """Whether a process runs, waits for a core or for the disk."""
    return any(fields[0] in "RD" for fields in _session(session).values())


def _processor_time(process: int) -> float:
    """Seconds of processor time of a process and its descendants, with those that have ended."""
    ticks, waiting = 0, [process]
    while waiting:
        entry = Path("/proc", str(waiting.pop()))
        try:
            ticks += sum(map(int, (entry / "stat").read_text().rpartition(")")[2].split()[11:15]))
            for children in entry.glob("task/*/children"):
                waiting += map(int, children.read_text().split())
        except OSError:  # it ended meanwhile
            continue
    return ticks / _TICKS


def _session(session: int) -> dict[int, list[str]]:
    """Fields of /proc/<pid>/stat, from the state on, of every process of a session."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == session:
            found[int(entry)] = fields
    return found
