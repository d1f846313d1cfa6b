"""Peak memory, measured in a process that does nothing else.

    python -m bench.memory network CONTENDER [--batch 2]        # training steps; CONTENDER such as reference-float32
    python -m bench.memory operators f5c:forward fcc:forward-backward ...

with `--threads N` and `--device cpu|cuda`. The peak is that of the resident set on the CPU, and of torch's allocator on
a GPU. Prints one line of JSON per contender.
"""

import argparse
import ctypes
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.machine import ROOT

STEPS = 2


def measure(key: str, device: str, batch: int) -> dict[str, Any]:
    """Measure the peak of a training step of the network's contender `key` in a separate process.

    Returns:
        {"contender", "dtype", "batch", "peak_bytes", "imports_bytes"}: the peak of the child, and its peak before it
        created the model.
    """
    return _child("network", key, "--batch", str(batch), "--device", device)[0]


def measure_operators(operators: Sequence[tuple[str, str]], device: str) -> dict[tuple[str, str, str], int]:
    """Bytes that one call of each contender of the operators (name, direction) needs above what was held before."""
    lines = _child("operators", *(f"{op}:{direction}" for op, direction in operators), "--device", device)
    return {(line["op"], line["direction"], line["contender"]): line["peak_bytes"] for line in lines}


def _child(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "bench.memory", *arguments, "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def resident_peak() -> int:
    """Bytes of this process's resident-set peak since it started its program.

    On Linux this is VmHWM of the address space, because `getrusage` includes the process that it was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        match = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        if match:
            return int(match.group(1)) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_of(run: Callable[[], object], device: str) -> int:
    """Bytes that `run` needs at its peak above what was held before; at least 0.

    On Linux the kernel's peak is reset first. Elsewhere only memory beyond the highest peak so far is counted.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    _give_back()
    before = resident_peak()
    run()
    return resident_peak() - before


def _give_back() -> None:
    """Return freed memory to the system, and reset the peak."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def network_peak(key: str, device: str, batch: int) -> None:
    """Do two training steps of the contender `key`, then print its figures."""
    from bench import network

    peak = resident_peak if device == "cpu" else torch.cuda.max_memory_allocated
    imports = peak()
    state, data = network.random_state(), network.random_batch(batch).to(device)
    contender = network.Network(key, state, device)
    del state
    for _ in range(STEPS):
        contender.step(data)
    about = {"contender": contender.backend, "dtype": contender.dtype, "batch": batch}
    print(json.dumps({**about, "peak_bytes": peak(), "imports_bytes": imports}))


def operator_peaks(op: str, direction: str, device: str) -> None:
    """Measure the second call of every contender of an operator at the standard point; prints one line each."""
    from bench import ops

    for contender in ops.group(op, direction, ops.STANDARD, device).contenders:
        contender.run()
        peak = peak_of(contender.run, device)
        print(json.dumps({"op": op, "direction": direction, "contender": contender.key, "peak_bytes": peak}))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("network", "operators"))
    parser.add_argument("names", nargs="+", help="contenders, or operators as NAME:DIRECTION")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.names:
        if given.kind == "network":
            network_peak(name, given.device, given.batch)
        else:
            operator_peaks(*name.split(":"), given.device)


if __name__ == "__main__":
    main()
