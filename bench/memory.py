"""Peak memory of a training step, as a program of its own: `python -m bench.memory CONTENDER [THREADS [DEVICE]]`.

CONTENDER is such as reference-float32, DEVICE "cpu" or "cuda".
On the CPU the resident-set peak, on a GPU the peak of torch's allocator. The former belongs to a whole process, so each
contender gets a fresh one. Prints one line of JSON.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bench.machine import ROOT

STEPS = 2


def measure(key: str, device: str) -> dict[str, Any]:
    """Run the contender `key` in a child process.

    Returns:
        {"contender", "dtype", "peak_bytes", "imports_bytes"}: the peak of the child, and its peak up to the moment
        before it made the model.
    """
    command = [sys.executable, "-m", "bench.memory", key, str(torch.get_num_threads()), device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def resident_peak() -> int:
    """Bytes of this process's resident-set peak since it began to run its program.

    Linux's own figure for the address space is taken, because `getrusage` also remembers the process that it was
    forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        match = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        if match:
            return int(match.group(1)) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(key: str, threads: int, device: str) -> None:
    """Two training steps of the contender `key`, then its figures on standard output."""
    torch.set_num_threads(threads)
    from bench import network

    peak = resident_peak if device == "cpu" else torch.cuda.max_memory_allocated
    imports = peak()
    state, batch = network.random_state(), network.random_batch().to(device)
    contender = network.Network(key, state, device)
    del state
    for _ in range(STEPS):
        contender.step(batch)
    figures = {"peak_bytes": peak(), "imports_bytes": imports}
    print(json.dumps({"contender": contender.backend, "dtype": contender.dtype, **figures}))


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]) if len(sys.argv) > 2 else torch.get_num_threads(),
        sys.argv[3] if len(sys.argv) > 3 else "cpu",
    )
