"""mol: joint recognition of micro-expressions, optical flow and facial landmarks (MOL, IEEE TPAMI 2025)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mol.network.model import MOL, MOLOutput

__all__ = ["MOL", "MOLOutput"]


def __getattr__(name: str) -> Any:
    # Processes that read pictures start without PyTorch.
    if name in __all__:
        return getattr(import_module("mol.network.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
