"""One process at a time: a lock in the file system that names its holder and ends with it.

The lock is that of the system (`flock`). It is released when its process ends, however it ends, so a lock file that was
left behind holds nobody up. The worker processes of a holder that was killed may share the lock; they have some seconds
to end. It holds between the processes of one machine, and between machines where the file system passes locks on: NFS
4, NFS 3 with its lock service, Lustre mounted with ``flock``, CephFS, GPFS. On NFS mounted with ``nolock`` or
``local_lock`` it holds within each machine only.

Where a file system has no such locks, the lock is a file that names process and machine. That of a process of this
machine which no longer runs is taken over; that of another machine has to be deleted by hand.

Windows has neither; there nothing is locked.

These locks are for the processes of one machine. Work that crosses machines is handed out by one driver
(`mol.common.cluster`), which holds them for all of its nodes.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from mol.common.errors import InUseError, StorageError
from mol.common.names import shortened

LOCK = ".lock"
"""Name of the lock file in a folder."""

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What a file system without locks answers.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

# Seconds between two tries where waiting is up to us.
_PATIENCE = 0.2

# Seconds that the processes of a holder which was killed have to end: they share its lock until then.
_AFTERLIFE = 5.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        command: what it runs.
        process: its id.
        machine: name of its machine.
        since: when it took the lock, in its local time.
        system: boot and process namespace, in which the id has its meaning; empty if unknown.
        born: start of the process in clock ticks after the boot; empty if unknown.
    """

    command: str
    process: int
    machine: str
    since: str
    system: str = ""
    born: str = ""

    def __str__(self) -> str:
        return f"process {self.process} on {self.machine} ({self.command}, since {self.since})"

    def has_ended(self) -> bool:
        """Whether the process is known to run no longer."""
        boot, _, space = self.system.partition(" ")
        own_boot, _, own_space = _system().partition(" ")
        if self.machine != socket.gethostname() or not boot or not own_boot:
            return False
        if boot != own_boot:  # the machine was started again
            return True
        if space != own_space:  # another container's numbers
            return False
        return not runs(self.process) or bool(self.born and self.born != _born(self.process))


@dataclass(frozen=True)
class Other:
    """Who has the lock instead of us.

    Attributes:
        holder: the process; None if its entry can't be read.
        by_hand: file to delete if that process has ended unnoticed; None where the system notices.
    """

    holder: Holder | None
    by_hand: Path | None = None

    def __str__(self) -> str:
        return str(self.holder or "another process")


@contextmanager
def lock(path: Path, command: str, wait: bool = False) -> Iterator[Other | None]:
    """Hold a lock, or learn who holds it.

    Args:
        path: the lock file; its folder is created, and removed again if nothing else was put there.
        command: what this process runs, for the others.
        wait: until it is free.
    Yields:
        None if the lock is held, otherwise who holds it.
    Raises:
        StorageError: the file can't be written.
    """
    if fcntl is None:
        yield None
        return
    made = _make_folder(path.parent)
    found = _acquire(path, command, wait)
    try:
        yield found if isinstance(found, Other) else None
    finally:
        if isinstance(found, _Held):
            found.release()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def only_one(path: Path, what: Path | str, command: str, remedy: str) -> Iterator[None]:
    """Hold a lock, or refuse to work.

    Args:
        path: the lock file.
        what: it protects, for the message.
        command: what this process runs.
        remedy: what to do other than wait, such as "choose another --run".
    Raises:
        InUseError: another process holds it; the message names process and machine.
        StorageError: the file can't be written.
    """
    with lock(path, command) as other:
        if other is not None:
            by_hand = f". If that process no longer runs, delete {other.by_hand}" if other.by_hand else ""
            raise InUseError(f"{what} is in use by {other}; wait until that has ended, or {remedy}{by_hand}")
        yield


def beside(folder: Path | str) -> Path:
    """The lock file of a folder that is replaced as a whole: hidden, and next to it."""
    whole = Path(os.path.abspath(folder))
    return whole.with_name(f".{shortened(whole.name, 200)}.lock")


class _Held:
    """A lock that this process holds.

    Args:
        path: the file.
        handle: descriptor on which the system's lock is; None if the file itself is the lock.
    """

    def __init__(self, path: Path, handle: int | None) -> None:
        self._path, self._handle = path, handle

    def release(self) -> None:
        # While the lock is held, so that the file is ours.
        with suppress(OSError):
            self._path.unlink()
        if self._handle is not None:
            os.close(self._handle)


def _acquire(path: Path, command: str, wait: bool) -> _Held | Other:
    record = json.dumps(asdict(_this_process(command))).encode() + b"\n"
    until = time.monotonic() + _AFTERLIFE
    while True:
        with _storage_errors(path):
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            holder = _holder(os.pread(handle, 1 << 16, 0))
            os.close(handle)
            if isinstance(error, BlockingIOError):
                if holder is not None and holder.has_ended() and time.monotonic() < until:
                    time.sleep(_PATIENCE)
                    continue
                return Other(holder)
            if error.errno in _UNSUPPORTED:
                return _acquire_without_system(path, record, wait)
            raise StorageError(f"could not lock {path}: {error.strerror}; choose another folder.") from error
        if not _is_still(path, handle):  # its last holder has removed the file meanwhile
            os.close(handle)
            continue
        with suppress(OSError):  # without it the others learn less, and that is all
            os.ftruncate(handle, 0)
            os.pwrite(handle, record, 0)
        return _Held(path, handle)


def _acquire_without_system(path: Path, record: bytes, wait: bool) -> _Held | Other:
    """The lock where the file system has none: it belongs to the one who made the file."""
    own = path.with_name(f"{path.name}.{socket.gethostname()[:40]}-{os.getpid()}")
    try:
        while True:
            with _storage_errors(path):
                own.write_bytes(record)
                try:
                    os.link(own, path)  # the file appears with its content, also on NFS
                    return _Held(path, None)
                except FileExistsError:
                    content = _content(path)
            holder = _holder(content)
            # An empty file was left by the attempt to get a lock of the system.
            if not content or (holder is not None and holder.has_ended()):
                _take_away(path, own, content)
            elif wait:
                time.sleep(_PATIENCE)
            else:
                return Other(holder, path)
    finally:
        own.unlink(missing_ok=True)


def _take_away(path: Path, aside: Path, content: bytes) -> None:
    """Remove a lock file with this content; another one, which somebody has made meanwhile, is put back."""
    with suppress(FileNotFoundError, FileExistsError):
        os.rename(path, aside)
        if _content(aside) != content:
            os.link(aside, path)


def _is_still(path: Path, handle: int) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _holder(content: bytes) -> Holder | None:
    """The process that wrote a lock file; None if it can't be read."""
    try:
        found = Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None
    kinds = [int if name == "process" else str for name in asdict(found)]
    return found if list(map(type, astuple(found))) == kinds else None


def _make_folder(folder: Path) -> list[Path]:
    """Create a folder with those that contain it; gives those that were missing, the innermost first."""
    with _storage_errors(folder):
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}; choose another folder.") from error


def _this_process(command: str) -> Holder:
    since = time.strftime("%Y-%m-%d %H:%M")
    return Holder(command, os.getpid(), socket.gethostname(), since, _system(), _born(os.getpid()))


def _system() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def runs(process: int) -> bool:
    """Whether a process of this machine runs; true if that can't be found out."""
    if os.name == "nt":  # where signal 0 is none
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def _born(process: int) -> str:
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    except (OSError, IndexError):
        return ""
