"""What a run was made with: versions, hardware, command. Without these, figures can't be compared."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

# Distributions that affect results or files; the ones that are not installed are omitted.
_DISTRIBUTIONS = (
    "molkernels",
    "lightning-fabric",
    "safetensors",
    "tensorboard",
    "scikit-learn",
    "jsonargparse",
    "opencv-contrib-python-headless",
    "dlib-bin",
    "av",
    "openpyxl",
    "matplotlib",
)


def describe_environment() -> dict[str, Any]:
    """Versions, hardware, threads, time and command line of this process, as JSON; no host or user name."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "hardware": hardware(),
    }


def versions(pytorch: bool = True) -> dict[str, str]:
    """Versions of Python, torch, numpy and the distributions that affect results.

    Args:
        pytorch: whether PyTorch takes part; it is imported for its version.
    """
    found = {"python": platform.python_version(), "numpy": np.__version__}
    if pytorch:
        found |= _pytorch()
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _pytorch() -> dict[str, str]:
    import torch  # here, so that processes that only count cores don't import it

    return {"torch": torch.__version__} | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Versions of distributions; ``"other distribution"`` if the module was installed by another one."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "other distribution"
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, threads, memory and accelerators of this machine."""
    import torch

    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "accelerators": [_accelerator(i) for i in range(torch.cuda.device_count())],
    }


def available_cores() -> int:
    """Cores that this process may use; in a container often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _accelerator(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
    }
