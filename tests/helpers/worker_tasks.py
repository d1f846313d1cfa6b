"""What the workers of tests/mol/common/test_workers.py do; a module of its own, so that they can import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import cv2


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


def announce(folder: str, value: int) -> int:
    """Leave this worker's process id as a file, then take long."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)
    return value
