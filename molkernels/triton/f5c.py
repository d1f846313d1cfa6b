"""The F5C block in evaluation: the operators one after the other, and the mixing convolutions with their residuals.

The counterpart of `reference.f5c` and `reference.mix`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from molkernels import reference
from molkernels.triton.edge_max import edge_max
from molkernels.triton.fcc import fcc
from molkernels.triton.knn import knn
from molkernels.triton.launch import ceil_div, launch, precision


def f5c(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor,
    beta: Tensor,
    pe_h: Tensor,
    pe_w: Tensor,
    weight_h: Tensor,
    weight_w: Tensor,
    bias_h: Tensor,
    bias_w: Tensor,
    fcc_mix: Tensor | None,
    fcc_mix_bias: Tensor | None,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    ccc_mix: Tensor | None,
    ccc_mix_bias: Tensor | None,
    k: int,
    graph: str,
    eps: float,
) -> Tensor:
    """z = x + mix1(FCC(x));  y = z + mix2(CCC(z)), a mix without a weight is left out.  (N, C, H, W) → the same."""
    x = x.contiguous()
    f = fcc(x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w, eps, fcc_mix is None)
    z = (f if fcc_mix is None else mix(f.flatten(2), fcc_mix, fcc_mix_bias, x.flatten(2))).flatten(2)
    idx = knn(reference.graph_nodes(z, graph), k)
    edges, _ = edge_max(z, idx, weight1, bias1, weight2, bias2, graph)
    y = z + edges if ccc_mix is None else mix(edges, ccc_mix, ccc_mix_bias, z)
    return y.view_as(x)


def mix(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """A 1×1 convolution with a residual: y[n, d, p] = residual[n, d, p] + Σ_c weight[d, c] x[n, c, p] + bias[d]."""
    n, c, p = x.shape
    y = torch.empty_like(x)
    launch(
        mix_fwd_kernel,
        lambda t: (n, ceil_div(c, t["BLOCK_D"]), ceil_div(p, t["BLOCK_P"])),
        *(x, weight.contiguous(), weight if bias is None else bias, residual, y, c, p),
        tiles={"BLOCK_C": c, "BLOCK_D": c, "BLOCK_P": p},
        BIAS=bias is not None,
        PRECISION=precision(x, convolution=True),
    )
    return y


@triton.jit
def mix_fwd_kernel(
    x_ptr, weight_ptr, bias_ptr, residual_ptr, y_ptr, C, P, BIAS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y[d, p] = residual[d, p] + Σ_c weight[d, c] x[c, p] + bias[d]

    A program holds a tile (BLOCK_D, BLOCK_P) of one map. Traffic: x ⌈C / BLOCK_D⌉ times (once from memory), residual
    read, y written.
    """
    n = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    total = tl.zeros((BLOCK_D, BLOCK_P), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        weight = tl.load(weight_ptr + d[:, None] * C + c[None, :], (d[:, None] < C) & (c[None, :] < C), 0.0)
        x = tl.load(x_ptr + (n * C + c)[:, None] * P + p[None, :], (c[:, None] < C) & (p[None, :] < P), 0.0)
        total = tl.dot(weight, x, total, input_precision=PRECISION)
    if BIAS:
        total += tl.load(bias_ptr + d, d < C, 0.0).to(tl.float32)[:, None]
    at = (n * C + d)[:, None] * P + p[None, :]
    inside = (d[:, None] < C) & (p[None, :] < P)
    total += tl.load(residual_ptr + at, inside, 0.0).to(tl.float32)
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), inside)
