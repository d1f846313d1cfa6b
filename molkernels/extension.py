"""The compiled libraries of this installation, and why one is missing.

Importing this module loads nothing: a library is loaded when one of its kernels is first requested.
"""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from molkernels import precision, triton
from molkernels.installation import install_command
from molkernels.version import __version__

# Where the libraries are: beside this file, or in a folder with another build of them (`make sanitize` has one).
FOLDER = Path(os.environ.get("MOLKERNELS_LIBRARIES") or Path(__file__).resolve().parent)
INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_bf16")

# The dtypes that a library has kernels for; on a GPU the reference computes float64.
DTYPES = {
    "cpu": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}


@functools.cache
def record() -> dict[str, Any]:
    """The content of `_build.json`: what was built, and why something was left out."""
    path = FOLDER / "_build.json"
    if not path.exists():
        reason = f"molkernels runs from a source tree that was not built (build it with: {install_command()})"
        return {"built": {}, "left_out": {"cpu": reason, "cuda": reason}}
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@functools.cache
def missing(name: str) -> str | None:
    """Why the kernels of backend `name` ("cpu" or "cuda") are not available; None if they are."""
    if name not in record()["built"]:
        return str(record()["left_out"].get(name, "it was not built"))
    if name == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        _load(name)
    except OSError as error:
        return f"{_library(name).name} cannot be loaded ({error.__cause__ or error}); install molkernels again"
    return None


def refuses(name: str, dtype: torch.dtype | None) -> str | None:
    """Why the kernels of backend `name` do not support this dtype; None if they do."""
    if dtype is None or dtype in DTYPES[name]:
        return None
    return f"it has no kernels for {dtype}"


def kernel(name: str, op: str) -> Callable[..., Any]:
    """The compiled kernel of `op`: takes the arguments of the function of this name in `molkernels.reference`.

    Raises:
        RuntimeError: the library is not available.
    """
    reason = missing(name)
    if reason is not None:
        raise RuntimeError(f"{op} on backend {name!r}: {reason}")
    compiled = getattr(getattr(torch.ops, f"molkernels_{name}"), op).default
    return with_precision(op, compiled) if name == "cuda" else compiled


def with_precision(op: str, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A CUDA kernel without its last arguments: whether its products, and f5c's convolutions, may use TF32."""
    if op == "f5c":
        return lambda *args: compiled(*args, precision.matmul_tf32(), precision.conv_tf32())
    return lambda *args: compiled(*args, precision.matmul_tf32())


def identity(name: str) -> str:
    """Which build of the library this is: its version, size and time."""
    try:
        found = _library(name).stat()
    except OSError:
        return __version__
    return f"{__version__}-{found.st_size}-{found.st_mtime_ns}"


def _library(name: str) -> Path:
    return FOLDER / f"_{name}.so"


@functools.cache
def _load(name: str) -> None:
    torch.ops.load_library(str(_library(name)))


def instruction_set() -> str:
    """The instruction set that the CPU library has chosen on this machine.

    Raises:
        RuntimeError: MOLKERNELS_CPU_ISA names one that this machine lacks.
    """
    return INSTRUCTION_SETS[torch.ops.molkernels_cpu.isa()]


def build_info() -> dict[str, Any]:
    """Versions, and for each backend how it was built or why it is missing; serialisable as JSON."""
    backends: dict[str, Any] = {"reference": "plain PyTorch"}
    for name in ("cpu", "cuda"):
        reason = missing(name)
        built = record()["built"].get(name)
        backends[name] = {**built, "usable": reason or True} if built else f"not built: {reason}"
    backends["triton"] = triton.info()
    if isinstance(backends["cpu"], dict) and backends["cpu"]["usable"] is True:
        backends["cpu"]["instruction_set_in_use"] = instruction_set()
    return {
        "molkernels": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "backends": backends,
    }
