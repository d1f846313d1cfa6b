"""What was found out about a device, kept between processes in the user's cache folder.

A file holds JSON: what was found, by a key that names the device, its driver, PyTorch and the build of the kernels. A
cache that cannot be read or written is no error: what it would have said is found out again.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger("molkernels")


def folder() -> Path:
    """MOLKERNELS_CACHE; without it, ``molkernels`` in XDG_CACHE_HOME or in ``~/.cache``."""
    own = os.environ.get("MOLKERNELS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "molkernels"


def key(device: torch.device, build: str) -> str:
    """Device, driver, PyTorch and build, as one string."""
    driver = f"driver {_driver()}, " if device.type == "cuda" else ""
    return f"{device_name(device)}, {driver}torch {torch.__version__}, {build}"


@functools.cache
def device_name(device: torch.device) -> str:
    """The model of a GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


@functools.cache
def _driver() -> str:
    """NVIDIA's or AMD's, where Linux tells it."""
    for path in (Path("/proc/driver/nvidia/version"), Path("/sys/module/amdgpu/version")):
        try:
            return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
        except OSError:
            continue
    return "unknown"


def load(file: str) -> dict[str, dict[str, Any]]:
    """All that the file holds, by key; nothing if there is no such file or it is damaged."""
    try:
        content = json.loads((folder() / file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: the user has no home
        log.debug("no cache: %s", error)
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: entry for name, entry in content.items() if isinstance(entry, dict)}


def save(file: str, key: str, entry: dict[str, Any]) -> None:
    """Add to what the file holds for `key`. Readers find the old file or the new one, never half of one."""
    content = load(file)
    content[key] = {**content.get(key, {}), **entry}
    temporary = None
    try:
        folder().mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder(), prefix=file, suffix=".new")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)
        os.replace(temporary, folder() / file)
    except (OSError, RuntimeError) as error:
        log.debug("%s was not saved: %s", file, error)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
