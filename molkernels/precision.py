"""Whether float32 products on a GPU may round their factors to TF32 (10 bits of mantissa), by PyTorch's settings.

A fused operator is as precise as PyTorch's operators would be in its place, under the same settings:

- its matrix products (FCC's circulants, the edge convolution, the cost volume) follow
  `torch.set_float32_matmul_precision`, alias `torch.backends.cuda.matmul.allow_tf32`: IEEE by default;
- the block's mixing 1×1 convolutions follow `torch.backends.cudnn.allow_tf32`, as `nn.Conv2d` does: TF32 by default;
- the similarities of `knn`, whose result is discrete, never are in TF32 alone: they are exact.

The newer settings count as well (``torch.backends.fp32_precision`` and those of a backend and an operator). PyTorch's
older getters raise an error after a use of the newer ones, so only the newer are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MATMUL, _CONV = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]


def matmul_tf32() -> bool:
    """Whether matrix products may use TF32."""
    return bool(_MATMUL.fp32_precision == "tf32")


def conv_tf32() -> bool:
    """Whether convolutions may use TF32."""
    return bool(_CONV.fp32_precision == "tf32")


def uses_tf32(op: str) -> bool:
    """Whether a part of an operator of `molkernels.dispatch` may use TF32 for float32 tensors on a GPU."""
    return op != "knn" and (matmul_tf32() or (op == "f5c" and conv_tf32()))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let all float32 products of the block use TF32, or none, whatever kind they are."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
