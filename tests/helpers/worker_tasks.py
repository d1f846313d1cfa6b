"""What workers do in tests/mol/common, here and on a cluster; a module of its own, so that they can import it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import cv2

from mol.common.cluster import fetch
from mol.common.errors import StorageError


def double(value: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return 2 * value


def process_and_threads() -> tuple[int, int]:
    """Id of the process and the number of threads that OpenCV uses in it."""
    return os.getpid(), cv2.getNumThreads()


def refuse(value: int) -> int:
    if value == 3:
        raise ValueError("3 is refused")
    return value


def die_once(folder: str, value: int) -> int:
    """Kill this worker the first time that the value is 4."""
    marker = Path(folder) / "died"
    if value == 4 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def die_of(fatal: tuple[int, ...], value: int) -> int:
    """Kill this worker every time that the value is a fatal one."""
    if value in fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def die_while_sending(value: int) -> Any:
    """A result of 16 MiB; after the value 3 this worker is killed when half of it has been pickled and sent."""
    return Fatal() if value == 3 else bytes(1 << 24)


class Fatal:
    """Sends much, and kills the process that still sends it."""

    def __reduce__(self) -> Any:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        # More than any pipe takes at once; the reader of half a message waits for the rest.
        os.write(_only_pipe(), (1 << 24).to_bytes(4, "big") + bytes(1 << 10))
        time.sleep(60)
        return bytes, ()


def _only_pipe() -> int:
    """The descriptor of the pipe to the parent: the socket that this process has."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
        except FileNotFoundError:
            continue
    raise RuntimeError("no pipe to the parent")


class UnpicklableError(Exception):
    """Holds something that can't be pickled."""

    def __init__(self) -> None:
        super().__init__("lost its lock")
        self.lock = threading.Lock()


def unpicklable(what: str) -> Any:
    """Give, or raise, what can't be sent to another process."""
    if what == "error":
        raise UnpicklableError
    return threading.Lock()


def announce(folder: str, value: int) -> int:
    """Leave this worker's process id as a file, then take long."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)
    return value


def refuse_here(folder: str, times: int) -> str:
    """As a node with a full disk, as often as is said."""
    before = len(list(Path(folder).glob(f"{times}-*")))
    (Path(folder) / f"{times}-{before}").touch()
    if before < times:
        raise StorageError("the disk is full")
    return "done"


def sum_of_shared(shared: tuple[Any]) -> tuple[float, bool]:
    """The sum of a shared array, and whether it can be written to."""
    array = fetch(shared[0])["array"]
    return float(array.sum()), array.flags.writeable
