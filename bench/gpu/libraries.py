"""The CUDA library for this device: one that was carried along if it fits, else built here, for this device alone.

python -m bench.gpu.libraries [--no-build]      # MOLKERNELS_GPU_FOLDER: where one is built, and looked for first
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from bench.gpu import worker
from bench.machine import ROOT

sys.path.insert(0, str(ROOT / "csrc"))

import build

FOLDER = "MOLKERNELS_GPU_FOLDER"
CARRIED = ROOT / "molkernels"


def why_not(folder: Path, library: str, architecture: str | None) -> list[str]:
    """Why the library in `folder` cannot be used here; empty if it can. Loads it in another process."""
    reasons = build.misfits(folder, library, architecture, torch.__version__)
    if reasons:
        return reasons
    code = f"from molkernels import extension; print(extension.missing({library!r}) or '', end='')"
    variables = {**os.environ, "MOLKERNELS_LIBRARIES": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        return [f"a process that loads it ends with status {done.returncode}: {done.stderr[-2000:]}"]
    return [done.stdout] if done.stdout else []


def build_into(folder: Path, library: str, architecture: str | None) -> None:
    """Compile the one library into `folder`, in parallel.

    Raises:
        RuntimeError: it was not built; the compiler's message is in the output.
    """
    kinds = {"MOLKERNELS_CPU": "0", "MOLKERNELS_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture or ""}
    if library == "cpu":
        kinds = {"MOLKERNELS_CPU": "1", "MOLKERNELS_CUDA": "0"}
    command = [sys.executable, str(ROOT / "csrc" / "build.py"), "--into", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **kinds})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}; its output is in the log")


def main() -> None:
    """Find or build the library, and report its folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-build", action="store_true")
    given = parser.parse_args()
    own = Path(os.environ[FOLDER])
    library = "cpu" if worker.pretended() else "cuda"
    architecture = None if worker.pretended() else ".".join(map(str, torch.cuda.get_device_capability()))
    for name in worker.plan([f"a {library} library that fits"]):
        with worker.task(name):
            reasons = {}
            for folder in (own, CARRIED):
                reasons[str(folder)] = why_not(folder, library, architecture)
                if not reasons[str(folder)]:
                    worker.report("library", folder=str(folder), built_here=folder == own, why_not=reasons)
                    break
            else:
                print(reasons, flush=True)
                if given.no_build:
                    raise RuntimeError(f"none fits, and --no-build was given: {reasons}")
                build_into(own, library, architecture)
                left = why_not(own, library, architecture)
                if left:
                    raise RuntimeError(f"what was built here does not fit: {left}")
                worker.report("library", folder=str(own), built_here=True, why_not=reasons)


if __name__ == "__main__":
    main()
