"""Everything that only a GPU can show, in one run: `make gpu`, or `python -m bench.gpu [FOLDER]`.

Builds the extension for the GPU at hand with the torch of the Python that runs this (no network, nothing installed),
runs `pytest -m gpu`, a short part of it under compute-sanitizer (memcheck and racecheck), and the benchmarks there.
Writes <FOLDER>/<device>/<date>-<commit>-gpu.json; FOLDER is bench/results unless given. Exit status 1 if a step
failed; the JSON is written all the same and says which.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.report import FORMAT
from molkernels.triton import tuning

RESULTS = Path(__file__).parent / "results"
# Small shapes, every operator forward and backward, and knn: what runs under a sanitizer in minutes.
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
    """Run a step; its exit status, seconds and the end of what it printed."""
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
    """Compile for the first device's architecture, unless TORCH_CUDA_ARCH_LIST asks for others."""
    major, minor = torch.cuda.get_device_capability()
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or f"{major}.{minor}"
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    return run(command, MOLKERNELS_CUDA="1", TORCH_CUDA_ARCH_LIST=architectures)


def tests() -> dict[str, Any]:
    """`pytest -m gpu`, with the counts of its last line."""
    step = run([sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *FILES])
    step["counts"] = {
        kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", step["output"])
    }
    return step


def sanitizer(tool: str) -> dict[str, Any]:
    """A selection of the tests under one of compute-sanitizer's tools."""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        return {"status": None, "output": "compute-sanitizer (CUDA toolkit) is not here"}
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-x", "-p", "no:cacheprovider", "-k", SANITIZED]
    # torch keeps freed blocks; without that each out-of-bounds access meets the edge of an allocation.
    command = [program, "--tool", tool, "--error-exitcode", "9", *pytest, "tests/molkernels/test_ops.py"]
    return run(command, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def benchmarks() -> dict[str, Any]:
    """Every group of operators and of the network on the device, in the format of `pytest bench/ --save-results`."""
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
    """Run the steps, write the JSON."""
    if not torch.cuda.is_available():
        print("make gpu: torch finds no CUDA device on this machine", file=sys.stderr)
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
        except Exception as error:  # the other steps' results are worth keeping
            steps["benchmarks"] = {"status": 1, "output": repr(error)}
    path = write(result, folder)
    print(f"saved to {path}")
    return int(any(step["status"] not in (0, None) for step in steps.values()))


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Save as JSON under the device's name."""
    about = result["machine"]
    name = f"{about['date'][:10]}-{about['commit']}-gpu.json"
    path = folder / machine.slug(str(about["device"])) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))
