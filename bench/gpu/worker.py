"""The side of a step's process: it names its tasks, then says of each when it starts and how it ends.

The lines go to the process that runs the steps, which keeps them and starts another process for what is left if this
one dies. Started by hand, without that process, it prints them.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

CHANNEL = "MOLKERNELS_GPU_CHANNEL"  # the named pipe for the lines
OVER = "MOLKERNELS_GPU_OVER"  # the tasks that an earlier process has ended, or died of, as a JSON list
SHARD = "MOLKERNELS_GPU_SHARD"  # "3/12": every twelfth task, from the fourth on
PRETEND = "MOLKERNELS_GPU_PRETEND"  # "1": on the CPU, with small shapes
DEVICE_LOST = 3  # exit status: CUDA answers only with errors, so the other tasks need another process


def pretended() -> bool:
    """Whether the steps only pretend to have a GPU."""
    return os.environ.get(PRETEND) == "1"


def device() -> str:
    """Where to compute: "cuda", or "cpu" where a GPU is pretended."""
    return "cpu" if pretended() else "cuda"


def report(kind: str, **fields: Any) -> None:
    """Send a line."""
    with open(os.environ.get(CHANNEL, "/dev/stdout"), "ab", buffering=0) as channel:
        left = json.dumps({"kind": kind, **fields}, default=str).encode() + b"\n"
        while left:
            left = left[channel.write(left) :]


def plan(tasks: Sequence[str]) -> list[str]:
    """Those of all the step's tasks that are this process's to do; reports them."""
    number, count = map(int, os.environ.get(SHARD, "0/1").split("/"))
    over = set(json.loads(os.environ.get(OVER, "[]")))
    mine = [task for i, task in enumerate(tasks) if i % count == number and task not in over]
    report("plan", tasks=mine)
    return mine


@contextmanager
def task(name: str) -> Iterator[None]:
    """Do a task in the block and report its outcome; its errors end with it, unless the device is lost."""
    report("started", task=name)
    begin, outcome, text = time.monotonic(), "passed", ""
    try:
        yield
        synchronize()
    except Exception:  # whatever it is, the other tasks go on
        outcome, text = "failed", traceback.format_exc()
    finish(name, outcome, time.monotonic() - begin, text)
    print(f"{outcome}: {name}{f': {text}' if text else ''}", flush=True)
    if outcome == "failed" and device_is_lost():
        sys.exit(DEVICE_LOST)


def finish(name: str, outcome: str, seconds: float, text: str = "") -> None:
    """Report how a task ended: "passed", "failed", "skipped", "xfailed" or "xpassed", with what there is to say."""
    report("task", task=name, outcome=outcome, seconds=round(seconds, 3), text=text)


def synchronize() -> None:
    """Wait for the device, so that an error of its kernels is raised here."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def device_is_lost() -> bool:
    """Whether CUDA answers only with errors, as after an access out of bounds; only a new process recovers."""
    try:
        synchronize()
    except RuntimeError:
        return True
    return False
