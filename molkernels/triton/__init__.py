"""The operators as Triton kernels, for every GPU that Triton supports: no compiler is needed to install them.

One file per operator, with functions named as in `molkernels.reference`, and one kernel per function:

    fcc.py  knn.py  edge_max.py  f5c.py  cost_volume.py
    launch.py   starts a kernel with its tile sizes
    tuning.py   the tile sizes per architecture; measures others on request
    report.py   registers, shared memory and tensor-core use of every kernel, from the compiled code

Importing this package does not import triton; requesting a kernel does. With TRITON_INTERPRET=1 in the environment the
same kernels run on CPU tensors, slowly, in Triton's interpreter.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_FILES = {
    "fcc": "fcc",
    "fcc_train": "fcc",
    "fcc_backward": "fcc",
    "knn": "knn",
    "edge_max": "edge_max",
    "edge_max_backward": "edge_max",
    "f5c": "f5c",
    "cost_volume": "cost_volume",
    "cost_volume_backward": "cost_volume",
}


def interpreted() -> bool:
    """Whether Triton's interpreter was requested (TRITON_INTERPRET)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def missing(device_type: str, dtype: torch.dtype | None) -> str | None:
    """Why the kernels cannot run on tensors of this kind of device and dtype; None if they can."""
    if not installed():
        return "triton is not installed (pip install triton)"
    if dtype is not None and dtype not in DTYPES:
        return f"it has no kernels for {dtype}"
    if interpreted():
        if device_type == "cpu" and dtype == torch.bfloat16:
            return "Triton's interpreter gives wrong results for bfloat16"
        return None if device_type == "cpu" else "TRITON_INTERPRET is set: it runs on cpu tensors only"
    if device_type != "cuda":
        return "it runs on cuda tensors only (on cpu tensors with TRITON_INTERPRET=1)"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return None


@functools.cache
def installed() -> bool:
    """Whether triton can be imported; does not import it."""
    return importlib.util.find_spec("triton") is not None


def info() -> dict[str, Any] | str:
    """For `molkernels.build_info`: triton's version and whether its kernels can run here, or why it is missing."""
    if not installed():
        return f"not installed: {missing('cuda', None)}"
    device_type = "cpu" if interpreted() else "cuda"
    return {"version": importlib.metadata.version("triton"), "usable": missing(device_type, None) or True}


def identity() -> str:
    """Which kernels and which compiler: the newest file of this package, and triton's version."""
    newest = max(path.stat().st_mtime_ns for path in Path(__file__).parent.glob("*.py"))
    return f"{importlib.metadata.version('triton') if installed() else 'missing'}-{newest}"


def kernel(op: str) -> Callable[..., Any]:
    """The function of `op`: takes the arguments of the function of this name in `molkernels.reference`.

    Raises:
        RuntimeError: triton is not installed.
    """
    if not installed():
        raise RuntimeError(f"{op} on backend 'triton': triton is not installed (pip install triton)")
    return getattr(importlib.import_module(f"molkernels.triton.{_FILES[op]}"), op)  # type: ignore[no-any-return]
