"""Build, test, sanitize and measure on a GPU in one run: `make gpu`, or `python -m bench.gpu [FOLDER]`.

Builds the extension for the machine's GPU with the torch of the running Python (without network or installation), then
runs `pytest -m gpu`, a short part of it under compute-sanitizer (memcheck and racecheck), and the benchmarks. Writes
<FOLDER>/<device>/<date>-<commit>-gpu.json, where FOLDER is bench/results by default. If a step failed, the exit status
is 1, and the JSON, which is written anyway, says which.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.record import FORMAT, RESULTS, save
from molkernels.triton import tuning

# Every operator on small shapes, forward and backward, and knn: what takes minutes under a sanitizer.
SANITIZED = "on-gpu and (agree_with_float64 or knn or f5c_inference or any_strides)"
SANITIZERS = ("memcheck", "racecheck")
# Every file with tests marked `gpu`; the others may import packages that a machine for measuring does not have.
FILES = (
    "tests/molkernels/test_ops.py",
    "tests/molkernels/test_properties.py",
    "tests/molkernels/test_gpu.py",
    "tests/mol/training/test_training_curves.py",
)
TAIL = 4000


def run(command: list[str], **environment: str) -> dict[str, Any]:
    """Run a step; returns its command, exit status, seconds and the end of its output."""
    print("$", " ".join(command), flush=True)
    begin = time.monotonic()
    done = subprocess.run(
        command,
        cwd=machine.ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout[-TAIL:], flush=True)
    return {
        "command": " ".join(command),
        "status": done.returncode,
        "seconds": round(time.monotonic() - begin, 1),
        "output": done.stdout[-TAIL:],
    }


def build() -> dict[str, Any]:
    """Compile for the first device's architecture, or for those in TORCH_CUDA_ARCH_LIST."""
    major, minor = torch.cuda.get_device_capability()
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or f"{major}.{minor}"
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    return run(command, MOLKERNELS_CUDA="1", TORCH_CUDA_ARCH_LIST=architectures)


def tests() -> dict[str, Any]:
    """Run `pytest -m gpu`; adds the counts of its last line."""
    step = run([sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *FILES])
    step["counts"] = {
        kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", step["output"])
    }
    return step


def sanitizer(tool: str) -> dict[str, Any]:
    """Run a selection of the tests under one of compute-sanitizer's tools."""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        return {"status": None, "output": "compute-sanitizer was not found; it is part of the CUDA toolkit"}
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-x", "-p", "no:cacheprovider", "-k", SANITIZED]
    # torch caches freed blocks; without the cache each out-of-bounds access crosses the edge of an allocation.
    command = [program, "--tool", tool, "--error-exitcode", "9", *pytest, "tests/molkernels/test_ops.py"]
    return run(command, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def benchmarks() -> dict[str, Any]:
    """Measure every group of operators and of the network, in the format of `pytest bench/ --save-results`."""
    from bench import memory, network, ops
    from bench.groups import measure

    limits = machine.measure_limits("cuda")
    rows = []
    for op, direction in itertools.product(ops.CASES, ops.DIRECTIONS):
        group = ops.group(op, direction, replace(ops.STANDARD, autotuned=True), "cuda")
        measured = measure(group, limits)
        for contender in group.contenders:
            measured[contender.key].peak_bytes = memory.peak_of(contender.run, "cuda")
        rows += measured.values()
    keys = network.contender_keys("cuda", compiled=True)
    for task in network.TOLERANCES:
        rows += measure(network.group(task, "cuda", network.BATCH, keys), limits).values()
    peaks = [memory.measure(key, "cuda", network.BATCH) for key in network.contender_keys("cuda")]
    return {"limits": limits, "rows": [asdict(row) for row in rows], "memory": peaks, "left_out": ops.left_out()}


def main(folder: Path) -> int:
    """Run the steps and write the JSON; returns the exit status."""
    if not torch.cuda.is_available():
        print("make gpu: PyTorch finds no CUDA device on this machine", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"format": FORMAT, "machine": machine.describe("cuda"), "steps": {"build": build()}}
    steps = result["steps"]
    if steps["build"]["status"] == 0:
        steps["tests"] = tests()
        for tool in SANITIZERS:
            steps[tool] = sanitizer(tool)
        try:
            result |= benchmarks()
            result["tuned"] = tuning.measured()  # tile sizes, with MOLKERNELS_AUTOTUNE=1
        except Exception as error:  # keep the other steps' results
            steps["benchmarks"] = {"status": 1, "output": repr(error)}
    path = save(result, folder, "-gpu")
    print(f"saved to {path}")
    return int(any(step["status"] not in (0, None) for step in steps.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))
