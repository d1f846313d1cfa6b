"""Commands on a file system that fills up while they write: a tmpfs of its own, made as large as the trial wants.

Mounting needs root, or a user namespace (``unshare -Urm``), in which the whole unit is then run. Where neither is to be
had, the size of every file is limited instead, and the table says so.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import subprocess
import threading
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from torture.commands import Command, commands, complaint, differences, lay_out, remove, said, short_commands, start
from torture.outcome import Outcome
from torture.unit import Session, Unit

_PAGE = 4096
_LARGE = 3 << 30
# Trials in half an hour, and seconds of processor time that they take.
_TARGETS = {
    "train": (5, 50), "extract": (5, 60), "synth": (5, 50), "synth-set": (5, 50), "loso": (5, 60), "predict": (5, 60),
    "prepare": (5, 30), "check-data": (5, 30), "evaluate": (5, 50), "report": (5, 60), "pretrain": (5, 60),
}  # fmt: skip


def units() -> list[Unit]:
    """One unit per command that writes; the largest network writes as the smallest does."""
    return [
        Unit("disk", one.name, *_TARGETS[one.name], partial(_run, one), partial(_repeat, one))
        for one in (*commands(), *short_commands())
        if one.name in _TARGETS
    ]


# --- The file system ------------------------------------------------------------------------------------------------


@cache
def namespace() -> list[str]:
    """What stands before a command so that it may mount: nothing for root, ``unshare -Urm`` where that works."""
    for prefix in ([], ["unshare", "-Urm"]):
        test = 'd=$(mktemp -d) && mount -t tmpfs -o size=64k none "$d" && umount "$d"; s=$?; rmdir "$d"; exit $s'
        if not subprocess.run([*prefix, "sh", "-c", test], capture_output=True, check=False).returncode:
            return list(prefix)
    return []


class SmallDisk:
    """A tmpfs; or a plain folder with a limit on the size of each file, if nothing can be mounted.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.mounted = not _mount(folder, "tmpfs", f"size={_LARGE},nr_inodes=0")
        self.limit: int | None = None

    def shrink(self, free: int) -> None:
        """Leave this many bytes free, or let no file grow beyond them."""
        if self.mounted:
            used = _used(self.folder)
            _mount(self.folder, "tmpfs", f"remount,size={max(_PAGE, (used + free) // _PAGE * _PAGE)}")
        self.limit = None if self.mounted else free

    def grow(self) -> None:
        """Give it all the space again."""
        if self.mounted:
            _mount(self.folder, "tmpfs", f"remount,size={_LARGE}")
        self.limit = None

    def close(self) -> None:
        """Unmount it."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _mount(folder: Path, kind: str, options: str) -> int:
    command = ["mount", "-t", kind, "-o", options, "none", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def _used(folder: Path) -> int:
    state = os.statvfs(folder)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


class _Peak:
    """The most bytes that were in use on a file system while this was open."""

    def __init__(self, folder: Path) -> None:
        self.bytes, self._folder, self._stop = 0, folder, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, _used(self._folder))


# --- A trial --------------------------------------------------------------------------------------------------------


def _run(command: Command, session: Session) -> None:
    generator = random.Random(f"{session.seed} {command.name}")
    disk = SmallDisk(session.work / "disk")
    try:
        if not disk.mounted:
            session.note("no tmpfs can be mounted: the size of each file is limited instead (RLIMIT_FSIZE)")
        need = _undisturbed(command, session, disk)
        session.begin()
        outcome = _device_full(command, session)
        if session.count(outcome):
            session.keep(outcome, {"command": command.line, "share": -1.0}, session.work / "evidence")
        while session.goes_on():
            share = generator.choice((0.0, generator.random(), generator.random(), generator.uniform(0.9, 1.0)))
            outcome = _tried(command, session, disk, share, need)
            if session.count(outcome):
                session.keep(outcome, {"command": command.line, "share": share}, session.work / "evidence")
    finally:
        disk.close()


def _undisturbed(command: Command, session: Session, disk: SmallDisk) -> int:
    """Run the command with space enough; keep its result, and what stood there before.

    Returns:
        Bytes that it needs beyond those in use before, at its peak.
    """
    folder = disk.folder / "here"
    lay_out(folder, session.materials)
    if command.earlier or command.replaces:
        _must(command.earlier or command.line, folder)
    shutil.copytree(folder / "out", session.work / "before")
    before = _used(disk.folder)
    with _Peak(disk.folder) as peak:
        _must(command.line, folder)
    shutil.copytree(folder / "out", session.work / "undisturbed")
    if not disk.mounted:
        sizes = [path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file()]
        return max(sizes)
    return max(peak.bytes - before, _PAGE)


def _must(line: str, folder: Path) -> None:
    if status := start(line, folder).wait():
        raise RuntimeError(f"mol {line} ended with status {status}: {said(folder)[-1500:]}")


def _tried(command: Command, session: Session, disk: SmallDisk, share: float, need: int) -> Outcome:
    """Leave a share of the space that is needed, run the command, look, give it space, run it again."""
    folder = disk.folder / "here"
    disk.grow()
    remove(folder)
    lay_out(folder, session.materials)
    shutil.copytree(session.work / "before", folder / "out", dirs_exist_ok=True)
    disk.shrink(int(share * need))
    status = _starved(command.line, folder, disk.limit)
    outcome = _judged(command, session, folder, status)
    if not outcome.is_fault:
        disk.grow()
        outcome = _again(command, session, folder)
    if outcome.is_fault:
        _keep_evidence(session, folder)
    return outcome


def _starved(line: str, folder: Path, limit: int | None) -> int:
    """Run a command; with a limit, no file of it may grow beyond it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 1), before[1]))
    try:
        process = start(line, folder, stdout=subprocess.DEVNULL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return process.wait()


def _judged(command: Command, session: Session, folder: Path, status: int) -> Outcome:
    """An error of the program's own, or success; and what was there before is there still."""
    words = said(folder)
    if status < 0:
        return Outcome("died", f"signal {-status}", complaint(folder), command.name)
    if "Traceback (most recent call last)" in words:
        return Outcome("raised", complaint(folder).partition(":")[0], complaint(folder), command.name)
    if status and "error:" not in words:
        return Outcome("wrong", "no named error", f"status {status}: {complaint(folder)}", command.name)
    if lost := _lost(session, folder / "out"):
        return Outcome("wrong", "lost what was there", "; ".join(lost[:5]), command.name)
    return Outcome("refused", message=complaint(folder)) if status else Outcome("result")


def _lost(session: Session, out: Path) -> list[str]:
    """Files from before that are neither as they were nor as the command would have left them."""
    found = []
    for path in sorted((session.work / "before").rglob("*")):
        name = path.relative_to(session.work / "before")
        if not path.is_file() or "tensorboard" in str(name) or "environment" in path.name:
            continue
        if not (out / name).is_file():
            found.append(f"{name} is gone")
        elif path.suffix in (".safetensors", ".npy", ".npz", ".csv") and not (out / name).stat().st_size:
            found.append(f"{name} is empty")
    checkpoint = out / "checkpoints" / "last"
    if (session.work / "before" / "checkpoints").is_dir() and not _is_whole(checkpoint):
        found.append("the checkpoint cannot be read")
    return found


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint (or its predecessor, which loading finds) has all that its state promises."""
    from mol.common.errors import CheckpointError
    from mol.network.checkpoint import find_checkpoint, read_state

    try:
        read_state(find_checkpoint(checkpoint))
    except CheckpointError:
        return False
    return True


def _again(command: Command, session: Session, folder: Path) -> Outcome:
    """With space enough the same command completes, and its result is the undisturbed one."""
    if status := start(command.line, folder).wait():
        return Outcome("wrong", "does not complete", f"status {status}: {complaint(folder)}", command.name)
    if found := differences(session.work / "undisturbed", folder / "out"):
        return Outcome("wrong", "another result", "; ".join(found[:6]), command.name)
    return Outcome("result")


def _device_full(command: Command, session: Session) -> Outcome:
    """Standard output on /dev/full: an error of the program's own, or none, but no traceback."""
    folder = session.work / "printing"
    remove(folder)
    lay_out(folder, session.materials)
    with open("/dev/full", "wb") as full:
        status = start(command.line, folder, stdout=full).wait()
    words = said(folder)
    if status < 0 or "Traceback (most recent call last)" in words or "Exception ignored" in words:
        _keep_evidence(session, folder)
        return Outcome("raised", "stdout is full", complaint(folder), command.name)
    return Outcome("result")


def _keep_evidence(session: Session, folder: Path) -> None:
    evidence = session.work / "evidence"
    shutil.rmtree(evidence, ignore_errors=True)
    evidence.mkdir()
    (evidence / "stderr").write_text(said(folder)[-20_000:])
    lines = []
    for path in sorted((folder / "out").rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            lines.append(f"{path.relative_to(folder)} {path.stat().st_size} {digest}")
    (evidence / "files").write_text("\n".join(lines))


def _repeat(command: Command, session: Session, case: Mapping[str, Any], files: Path | None) -> Outcome:
    disk = SmallDisk(session.work / "disk")
    try:
        if case["share"] < 0:
            return _device_full(command, session)
        need = _undisturbed(command, session, disk)
        return _tried(command, session, disk, float(case["share"]), need)
    finally:
        disk.close()
