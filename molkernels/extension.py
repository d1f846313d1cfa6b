"""What this installation holds beside the reference: its compiled libraries, and why one is missing."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

_MISSING = {
    "cpu": "this release holds no compiled CPU kernels",
    "cuda": "this release holds no compiled CUDA kernels",
    "triton": "this release holds no Triton kernels",
}


def missing(name: str) -> str | None:
    """Why the kernels of backend `name` are not here."""
    return _MISSING[name]


def kernel(name: str, op: str) -> Callable[..., Any]:
    """The compiled kernel of `op`.

    Raises:
        RuntimeError: the library is not here.
    """
    raise RuntimeError(f"{op} on backend {name!r}: {missing(name)}")


def build_info() -> dict[str, Any]:
    """Versions, and what was built or why not: JSON-able."""
    from molkernels import __version__

    return {
        "molkernels": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "backends": {"reference": "plain PyTorch", **{name: f"not built: {why}" for name, why in _MISSING.items()}},
    }
