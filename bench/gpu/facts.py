"""What is on the machine: device, driver, versions, programs and packages."""

import importlib.util
import os
import shutil
from importlib import metadata

import torch

from bench import machine
from bench.gpu import worker

PROGRAMS = ("nvcc", "ninja", "g++", "compute-sanitizer", "cuobjdump", "ncu", "nvidia-smi")
# Packages, and the modules that they are imported by. `mol train` and the data need the first five.
PACKAGES = {
    "jsonargparse": "jsonargparse",
    "lightning-fabric": "lightning_fabric",
    "msgspec": "msgspec",
    "av": "av",
    "dlib-bin": "dlib",
    "opencv-python-headless": "cv2",
    "numpy": "numpy",
    "triton": "triton",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "localcorr": "localcorr",
    "spatial-correlation-sampler": "spatial_correlation_sampler",
}


def device_facts() -> dict[str, object]:
    """The GPU in numbers; its compute capability is in `bench.machine.describe`."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "devices": torch.cuda.device_count(),
    }


def packages() -> dict[str, str | None]:
    """The version of each package; None if it cannot be imported, "?" if it has no version."""
    return {name: _version(module, name) for name, module in PACKAGES.items()}


def _version(module: str, distribution: str) -> str | None:
    try:
        if importlib.util.find_spec(module) is None:
            return None
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # also a ModuleNotFoundError
        return "?"
    except ModuleNotFoundError:
        return None


def main() -> None:
    """Report the facts."""
    for name in worker.plan(["machine"]):
        with worker.task(name):
            common = {
                "cuda": torch.version.cuda,
                "cores": os.cpu_count(),
                "programs": {program: shutil.which(program) for program in PROGRAMS},
                "packages": packages(),
                "pretended": worker.pretended(),
            }
            if not worker.pretended() and not torch.cuda.is_available():
                worker.report("facts", **common, device=None)
                raise RuntimeError("PyTorch finds no CUDA device on this machine")
            about = machine.describe(worker.device()) | common
            if worker.pretended():
                about["device"] = f"pretended GPU on {about['device']}"
            else:
                about |= device_facts()
            worker.report("facts", **about)


if __name__ == "__main__":
    main()
