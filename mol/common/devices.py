"""Device and precision by name, through lightning-fabric."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mol.common.errors import SettingsError
from mol.common.extras import require

PRECISIONS = {"32": "32-true", "bf16-mixed": "bf16-mixed"}
_CPUINFO = Path("/proc/cpuinfo")


def start_fabric(device: str, precision: str, several: Mapping[str, Any] | None = None) -> Any:
    """A `lightning_fabric.Fabric` on one device, or on several.

    Args:
        device: "auto" (CUDA if there is a device), "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed", or "auto" (`automatic_precision`).
        several: arguments of Fabric for several devices, with "devices".
    Raises:
        SettingsError: an unknown name, or a device that this machine does not have.
    """
    if precision not in (*PRECISIONS, "auto"):
        raise SettingsError(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}, auto")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise SettingsError(f'device={device!r} must be "auto", "cpu", "cuda" or "cuda:N"')
    count = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if count else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= count:
        has = f"this machine has {count} CUDA device(s)" if count else "PyTorch finds no CUDA device"
        raise SettingsError(f"device={device!r} is not available: {has}; use --device cpu or another number")
    if precision == "auto":
        precision = automatic_precision(torch.device(kind))
    fabric = require("lightning_fabric", "train")
    one = {"devices": 1 if kind == "cpu" else [int(index or 0)]}
    with no_hints():
        return fabric.Fabric(accelerator=kind, precision=PRECISIONS[precision], **(several or one))


@contextmanager
def no_hints() -> Iterator[None]:
    """Leave out what Fabric says on every machine that has Slurm."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*command is available on your system but is not used")
        yield


def fastest_precision(device: str) -> str:
    """ "bf16-mixed" if the device, also a processor, computes in bfloat16, else "32".

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N", as for `start_fabric`.

    On a processor without bfloat16 instructions it is emulated, and slower than float32.
    """
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return automatic_precision(torch.device("cuda"))
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.is_file() else ""
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return "bf16-mixed" if {"avx512_bf16", "amx_bf16"} & set(flags) else "32"


def automatic_precision(device: torch.device) -> str:
    """ "bf16-mixed" on a GPU that computes in bfloat16, else "32"."""
    bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if bfloat16 else "32"


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the program does not wait until it is there, and neither does the device."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch compute with this many threads, and restore its setting afterwards; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
