"""Finds what makes the host wait for the device in a block of code, or copies data between them; runs without a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {
    "_local_scalar_dense": "a number read from a tensor",
    "equal": "a comparison that the host reads",
    "is_nonzero": "a truth value that the host reads",
    "nonzero": "a shape that depends on data",
    "masked_select": "a shape that depends on data",
    "_unique2": "a shape that depends on data",
    "unique_dim": "a shape that depends on data",
    "lift_fresh": "a tensor made from Python's numbers",
    "lift_fresh_copy": "a tensor made from Python's numbers",
}
COPIES = ("_to_copy", "copy_")


class NoHost(TorchDispatchMode):
    """Raises AssertionError at the first operation that waits for the device, or copies from one device to another.

    An operator of molkernels counts as one operation: its kernels are not looked into.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITS, f"{func}: {WAITS[name]}"
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        masks = name == "index" and any(leaf.dtype == torch.bool for leaf in given[1:])
        assert not masks, f"{func}: a shape that depends on data"
        result = func(*args, **(kwargs or {}))
        # A number in a tensor on the CPU is an argument of the kernel, unless it is copied.
        tensors = [leaf for leaf in (*given, *tree_leaves(result)) if isinstance(leaf, torch.Tensor)]
        devices = {t.device for t in tensors if t.ndim > 0 or t.device.type != "cpu" or name in COPIES}
        assert len(devices) <= 1, f"{func}: a copy between {', '.join(sorted(map(str, devices)))}"
        return result
