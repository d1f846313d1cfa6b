"""One example in a forked process: limits of memory, processor time and file size, and a watch on what it writes.

The process that forks must have imported what the example needs and must have no threads of its own.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torture.outcome import Outcome

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mol", "molkernels")


class InvalidResultError(Exception):
    """A reader returned what it must never return."""


@dataclass(frozen=True)
class Limits:
    """What an example may use.

    Attributes:
        memory: bytes of address space beyond those of the process that forks.
        processor: seconds of processor time.
        idle: seconds in which every thread sleeps, after which the example counts as stuck.
        file_size: bytes of a file that it writes.
    """

    memory: int = 1536 << 20
    processor: int = 8
    idle: float = 4.0
    file_size: int = 1 << 30


def run(
    action: Callable[[], object],
    box: Path,
    inside: Path,
    limits: Limits = Limits(),
    accepted: tuple[type[BaseException], ...] = (),
) -> Outcome:
    """Run one example.

    Args:
        action: the example; it may return, or raise.
        box: folder that must not change, apart from `inside`.
        inside: folder within it, where the example works.
        limits: what it may use.
        accepted: exceptions that are raised on purpose; the outcome is then "refused".
    """
    before = _listing(box, inside)
    answers, answer = os.pipe()
    log = box.parent / f"{box.name}.stderr"
    child = os.fork()
    if not child:
        os.close(answers)
        _work(action, inside, limits, accepted, answer, log)
    os.close(answer)
    outcome = _wait(child, answers, limits, log)
    os.close(answers)
    if (after := _listing(box, inside)) != before:
        changed = sorted({name for name, _ in set(before.items()) ^ set(after.items())})
        return Outcome("wrote outside", message=", ".join(changed[:5]), place=outcome.place)
    return outcome


def _work(
    action: Callable[[], object],
    inside: Path,
    limits: Limits,
    accepted: tuple[type[BaseException], ...],
    answer: int,
    log: Path,
) -> NoReturn:
    """In the child: the example, and one line of JSON about it."""
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        faulthandler.enable(output, all_threads=False)
        faulthandler.register(signal.SIGXCPU, output, all_threads=False, chain=True)
        _restrict(limits)
        os.chdir(inside)
        try:
            action()
            found: dict[str, Any] = {"kind": "result"}
        except InvalidResultError as error:
            found = {"kind": "wrong", "message": _brief(error)}
        except accepted as error:
            found = {"kind": "refused", "error": type(error).__name__, "message": _brief(error)}
        except BaseException as error:
            found = {"kind": "raised", "error": type(error).__name__, "message": _brief(error), "place": _place(error)}
        os.write(answer, json.dumps(found).encode())
    except BaseException:
        os._exit(70)
    os._exit(0)


def _restrict(limits: Limits) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, soft in (
        (resource.RLIMIT_AS, used + limits.memory),
        (resource.RLIMIT_FSIZE, limits.file_size),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (soft, soft))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.processor, limits.processor + 5))


def _wait(child: int, answers: int, limits: Limits, log: Path) -> Outcome:
    """Read the child's answer and its exit status; end it once it has slept too long."""
    said, slept, stuck = b"", time.monotonic(), False
    spent = _spent(child)
    while True:
        if select.select([answers], [], [], 0.25)[0]:
            piece = os.read(answers, 1 << 16)
            said += piece
            if not piece:
                break
            continue
        now = _spent(child)
        if now != spent or now is None:
            spent, slept = now, time.monotonic()
        elif time.monotonic() - slept > limits.idle:
            stuck = True
            os.kill(child, signal.SIGXCPU)  # its stack goes to the log
            time.sleep(0.2)
            os.kill(child, signal.SIGKILL)
            break
    _, status = os.waitpid(child, 0)
    if stuck:
        return Outcome("hung", "asleep", f"every thread slept for {limits.idle:g} s", _place_in(log))
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name in ("SIGXCPU", "SIGKILL"):
            return Outcome("hung", "busy", f"more than {limits.processor} s of processor time", _place_in(log))
        return Outcome("died", name, _last_line(log), _place_in(log))
    if not said:
        return Outcome("died", f"exit status {os.WEXITSTATUS(status)}", _last_line(log), _place_in(log))
    return Outcome(**json.loads(said))


def _spent(process: int) -> list[str] | None:
    """Processor time of every thread; None while one is running or waits for the disk."""
    found = []
    try:
        for thread in Path(f"/proc/{process}/task").iterdir():
            fields = (thread / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "SZ":
                return None
            found.append(f"{thread.name} {fields[11]} {fields[12]}")
    except OSError:  # it ended meanwhile
        return None
    return found


def _listing(box: Path, inside: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in the box but what is inside."""
    found: dict[str, tuple[int, int]] = {}
    for folder, folders, files in os.walk(box):
        if Path(folder) == inside.parent and inside.name in folders:
            folders.remove(inside.name)
        for name in (*folders, *files):
            path = Path(folder, name)
            state = path.lstat()
            found[str(path.relative_to(box))] = (state.st_size, 0 if path.is_dir() else state.st_mtime_ns)
    return found


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:200]} … {text[-90:]}"


def _place(error: BaseException) -> str:
    """The innermost function of the project in a traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_ours(frame.filename)]
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].name}" if frames else ""


def _place_in(log: Path) -> str:
    """The innermost function of the project on a stack that faulthandler wrote."""
    for file, name in re.findall(r'File "([^"]+)", line \d+ in (\S+)', log.read_text(errors="replace")):
        if _is_ours(file):
            return f"{Path(file).relative_to(ROOT)}:{name}"
    return ""


def _is_ours(file: str) -> bool:
    return any(Path(file).is_relative_to(ROOT / package) for package in PACKAGES)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1][:200] if lines else ""
