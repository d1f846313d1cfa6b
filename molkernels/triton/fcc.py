"""Fully-connected convolution: two circular correlations per channel, each as long as its axis, with gradients.

The counterpart of `reference.fcc`, `reference.fcc_train` and `reference.fcc_backward`. The second half of the channels
is like the first with the axes exchanged, so each kernel is launched once per branch, with the axes i (first) and j
(second), their lengths I and J and their strides: rows and columns in branch A, columns and rows in branch B. Together,
both launches read a map once.

A correlation is a product with a circulant matrix that is built on the chip from the weights (`load_circulant`), so
that tensor cores do the work. Sums over samples take two passes, without atomics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from molkernels.triton.launch import ceil_div, launch, on_matrix_cores, power_of_two, precision, resident_programs

# A program's tile of samples has this many elements, or one sample if that is larger: then the other data of the
# gradient, five more tiles and five matrices, stay in registers. Products without tensor cores need more.
TILE_ELEMENTS, PLAIN_TILE_ELEMENTS = 1024, 512
WARP_ELEMENTS, PLAIN_WARP_ELEMENTS = 256, 128  # of a tile, per warp
STATISTICS_TILE = 4096


def fcc(
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
    eps: float,
    residual: bool,
) -> Tensor:
    """Fully-connected convolution with given statistics (G, C).  (N, C, H, W) → (N, C, H, W)."""
    x, mean, var, *parameters = (
        t.contiguous() for t in (x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w)
    )
    y = torch.empty_like(x)
    for branch in branches(x, *parameters):
        _branch_forward(x, mean, var, branch, y, eps, residual)
    return y


def fcc_train(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    pe_h: Tensor,
    pe_w: Tensor,
    weight_h: Tensor,
    weight_w: Tensor,
    bias_h: Tensor,
    bias_w: Tensor,
    groups: int,
    eps: float,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fully-connected convolution with batch statistics: (y, mean (G, C), biased variance (G, C))."""
    mean, var = fcc_statistics(x.contiguous(), pe_h.contiguous(), pe_w.contiguous(), groups)
    y = fcc(x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w, eps, residual)
    return y, mean, var


def fcc_backward(
    grad_y: Tensor,
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
    eps: float,
    residual: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w, in this order.

    Two passes over x and grad_y: first the sums for the statistics' gradients, then grad_x.
    """
    grad_y, x, mean, var, *parameters = (
        t.contiguous() for t in (grad_y, x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w)
    )
    grad_x = torch.empty_like(x)
    a, b = (
        _branch_backward(grad_y, x, mean, var, branch, grad_x, eps, residual, training)
        for branch in branches(x, *parameters)
    )
    return (
        grad_x,
        *(
            torch.cat(halves).to(x.dtype)
            for halves in (
                (a.gamma, b.gamma),
                (a.beta, b.beta),
                (a.pe1, b.pe2),
                (a.pe2, b.pe1),
                (a.weight1, b.weight2),
                (a.weight2, b.weight1),
                (a.bias1, b.bias2),
                (a.bias2, b.bias1),
            )
        ),
    )  # type: ignore[return-value]


# --------------------------------------------------------------------------------------------------------------
# The two branches


@dataclass(frozen=True)
class Branch:
    """One half of the channels as the kernels see it: first axis i, second axis j."""

    first_channel: int
    parameters: tuple[Tensor, ...]  # gamma, beta, pe1, pe2, weight1, weight2, bias1, bias2
    lengths: tuple[int, int]  # I, J
    axes: tuple[int, ...]  # first channel, I, J, stride of i, stride of j
    samples: int  # in a tile
    warps: int
    constants: dict[str, Any]


def branches(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    pe_h: Tensor,
    pe_w: Tensor,
    weight_h: Tensor,
    weight_w: Tensor,
    bias_h: Tensor,
    bias_w: Tensor,
) -> tuple[Branch, Branch]:
    """Branch A, then B with the axes exchanged."""
    c, height, width = x.shape[1:]
    rows_first = (gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w)
    columns_first = (gamma, beta, pe_w, pe_h, weight_w, weight_h, bias_w, bias_h)
    return (
        _branch(x, 0, rows_first, (height, width), (width, 1)),
        _branch(x, c // 2, columns_first, (width, height), (1, width)),
    )


def _branch(
    x: Tensor, first_channel: int, parameters: tuple[Tensor, ...], lengths: tuple[int, int], strides: tuple[int, int]
) -> Branch:
    tile = power_of_two(lengths[0]), power_of_two(lengths[1])
    most, share = (TILE_ELEMENTS, WARP_ELEMENTS) if on_matrix_cores(x) else (PLAIN_TILE_ELEMENTS, PLAIN_WARP_ELEMENTS)
    samples = max(1, most // (tile[0] * tile[1]))
    warps = max(4, samples * tile[0] * tile[1] // share)
    constants = {"BLOCK_N": samples, "BLOCK_I": tile[0], "BLOCK_J": tile[1], "PRECISION": precision(x)}
    return Branch(first_channel, parameters, lengths, (first_channel, *lengths, *strides), samples, warps, constants)


# --------------------------------------------------------------------------------------------------------------
# Pieces of the kernels


@triton.jit
def load_circulant(weight_ptr, L, BLOCK: tl.constexpr, TRANSPOSED: tl.constexpr):
    """M[i, m] = weight[(m − i) mod L], or its transpose; (BLOCK, BLOCK), 0 outside (L, L)."""
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    lag = row - column if TRANSPOSED else column - row
    lag = tl.where(lag < 0, lag + L, lag)
    return tl.load(weight_ptr + lag, (row < L) & (column < L), 0.0)


@triton.jit
def sum_lags(matrix, L, BLOCK: tl.constexpr):
    """grad_weight[t] = Σ_i grad_M[i, (i + t) mod L]: the gradient of `load_circulant`; (BLOCK,), 0 beyond L."""
    i = tl.arange(0, BLOCK)[:, None]
    t = tl.arange(0, BLOCK)[None, :]
    column = i + t
    column = tl.where(column >= L, column - L, column)
    inside = (i < L) & (t < L)
    return tl.sum(tl.where(inside, tl.gather(matrix, tl.where(inside, column, 0), 1), 0.0), 0)


@triton.jit
def along_second(
    u, matrix, BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, PRECISION: tl.constexpr
):
    """Σ_m u[n, i, m] matrix[m, j]: all lines of the tile in one product."""
    lines = tl.reshape(u, (BLOCK_N * BLOCK_I, BLOCK_J))
    return tl.reshape(tl.dot(lines, matrix, input_precision=PRECISION), (BLOCK_N, BLOCK_I, BLOCK_J))


@triton.jit
def along_first(matrix, u, BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr):
    """Σ_m matrix[i, m] u[n, m, j]: one product per sample."""
    matrices = tl.broadcast_to(matrix[None, :, :], (BLOCK_N, BLOCK_I, BLOCK_I))
    return tl.dot(matrices, u, input_precision=PRECISION)


@triton.jit
def load_normalised(x, pe1_ptr, c, i, I, mean, rstd, inside):
    """v̂ = (x + pe1[c, i] − mean) · rstd in float32, 0 outside; mean and rstd are (BLOCK_N,) or numbers."""
    pe1 = tl.load(pe1_ptr + c * I + i, i < I, 0.0).to(tl.float32)
    return tl.where(inside, (x.to(tl.float32) + pe1[None, :, None] - mean) * rstd, 0.0)


# --------------------------------------------------------------------------------------------------------------
# Forward


def _branch_forward(
    x: Tensor, mean: Tensor, var: Tensor, branch: Branch, y: Tensor, eps: float, residual: bool
) -> None:
    """Writes the branch's half of y."""
    n, c, _, _ = x.shape
    launch(
        fcc_fwd_kernel,
        lambda t: (ceil_div(n, branch.samples), c // 2),
        *(x, mean, var, *branch.parameters, y, n, c, mean.shape[0], eps, *branch.axes),
        tiles={},
        warps=branch.warps,
        RESIDUAL=residual,
        **branch.constants,
    )


@triton.jit
def fcc_fwd_kernel(
    x_ptr, mean_ptr, var_ptr, gamma_ptr, beta_ptr, pe1_ptr, pe2_ptr, weight1_ptr, weight2_ptr, bias1_ptr, bias2_ptr,
    y_ptr, N, C, GROUPS, eps, FIRST, I, J, stride_i, stride_j, RESIDUAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """u0 = v̂·γ + β;  u1[i, j] = Σ_t weight1[t] u0[(i + t) mod I, j] + bias1 + pe2[j];
    y[i, j] = Σ_t weight2[t] u1[i, (j + t) mod J] + bias2  (+ x)

    A program holds one channel of BLOCK_N samples, (BLOCK_N, BLOCK_I, BLOCK_J). Traffic: x read, y written.
    """
    c = FIRST + tl.program_id(1)
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    i = tl.arange(0, BLOCK_I)
    j = tl.arange(0, BLOCK_J)
    at = ((n * C + c) * I * J)[:, None, None] + (i * stride_i)[None, :, None] + (j * stride_j)[None, None, :]
    inside = (n < N)[:, None, None] & (i < I)[None, :, None] & (j < J)[None, None, :]
    x = tl.load(x_ptr + at, inside, 0.0)
    statistic = (n % GROUPS) * C + c
    mean = tl.load(mean_ptr + statistic, n < N, 0.0)[:, None, None]
    rstd = tl.rsqrt(tl.load(var_ptr + statistic, n < N, 1.0) + eps)[:, None, None]
    gamma = tl.load(gamma_ptr + c).to(tl.float32)
    beta = tl.load(beta_ptr + c).to(tl.float32)
    u0 = load_normalised(x, pe1_ptr, c, i, I, mean, rstd, inside) * gamma + beta
    u0 = tl.where(inside, u0, 0.0).to(x.dtype)

    matrix1 = load_circulant(weight1_ptr + c * I, I, BLOCK_I, False)
    pe2 = tl.load(pe2_ptr + c * J + j, j < J, 0.0).to(tl.float32)
    u1 = along_first(matrix1, u0, BLOCK_N, BLOCK_I, PRECISION)
    u1 = (u1 + tl.load(bias1_ptr + c).to(tl.float32) + pe2[None, None, :]).to(x.dtype)
    matrix2 = load_circulant(weight2_ptr + c * J, J, BLOCK_J, True)
    y = along_second(u1, matrix2, BLOCK_N, BLOCK_I, BLOCK_J, PRECISION) + tl.load(bias2_ptr + c).to(tl.float32)
    if RESIDUAL:
        y += x.to(tl.float32)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), inside)


# --------------------------------------------------------------------------------------------------------------
# Statistics


def fcc_statistics(x: Tensor, pe_h: Tensor, pe_w: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (G, C) of x plus position embedding, over the samples of a group and all pixels."""
    n, c, height, width = x.shape
    if n == 0:
        zero = x.new_zeros(groups, c, dtype=torch.float32)
        return zero, zero.clone()
    splits, per_split = split_samples(x, groups, c)
    partial = x.new_empty(2, splits, groups, c, dtype=torch.float32)
    pixels = min(power_of_two(height * width), STATISTICS_TILE)
    launch(
        fcc_statistics_kernel,
        lambda t: (c, groups, splits),
        *(x, pe_h, pe_w, partial[0], partial[1], n // groups, per_split, c, groups, height, width),
        tiles={},
        BLOCK_N=STATISTICS_TILE // pixels,
        BLOCK_P=pixels,
    )
    mean, var = torch.empty_like(partial[0, 0]), torch.empty_like(partial[1, 0])
    launch(
        fcc_statistics_merge_kernel,
        lambda t: (ceil_div(groups * c, t["BLOCK"]),),
        *(partial[0], partial[1], mean, var, n // groups, per_split, splits, groups * c, height * width),
        tiles={"BLOCK": groups * c},
    )
    return mean, var


@triton.jit
def fcc_statistics_kernel(
    x_ptr, pe_h_ptr, pe_w_ptr, mean_ptr, square_ptr, SAMPLES, PER_SPLIT, C, GROUPS, H, W,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Mean and Σ (v − mean)² of v = x + pe, over one channel of samples [s·PER_SPLIT, (s + 1)·PER_SPLIT) of a group.

    Each tile is summed about its own mean, and `merge` combines the tiles: no cancellation for |mean| ≫ spread.
    Traffic: x read once.
    """
    c = tl.program_id(0)
    g = tl.program_id(1)
    split = tl.program_id(2)
    count = 0.0
    mean = 0.0
    square = 0.0
    end = tl.minimum((split + 1) * PER_SPLIT, SAMPLES)
    for m0 in range(split * PER_SPLIT, end, BLOCK_N):
        m = m0 + tl.arange(0, BLOCK_N)
        n = m.to(tl.int64) * GROUPS + g
        for p0 in range(0, H * W, BLOCK_P):
            p = p0 + tl.arange(0, BLOCK_P)
            if c < C // 2:
                pe = tl.load(pe_h_ptr + c * H + p // W, p < H * W, 0.0).to(tl.float32)
            else:
                pe = tl.load(pe_w_ptr + c * W + p % W, p < H * W, 0.0).to(tl.float32)
            inside = (m < end)[:, None] & (p < H * W)[None, :]
            x = tl.load(x_ptr + ((n * C + c) * H * W)[:, None] + p[None, :], inside, 0.0).to(tl.float32)
            v = tl.where(inside, x + pe[None, :], 0.0)
            tile_count = tl.sum(tl.sum(inside.to(tl.float32), 1), 0)
            tile_mean = tl.sum(tl.sum(v, 1), 0) / tile_count
            distance = tl.where(inside, v - tile_mean, 0.0)
            tile_square = tl.sum(tl.sum(distance * distance, 1), 0)
            count, mean, square = merge(count, mean, square, tile_count, tile_mean, tile_square)
    at = (split.to(tl.int64) * GROUPS + g) * C + c
    tl.store(mean_ptr + at, mean)
    tl.store(square_ptr + at, square)


@triton.jit
def fcc_statistics_merge_kernel(
    part_mean_ptr, part_square_ptr, mean_ptr, var_ptr, SAMPLES, PER_SPLIT, SPLITS, SIZE, PIXELS, BLOCK: tl.constexpr
):
    """Merge the parts (SPLITS, SIZE) in order; var = Σ (v − mean)² / count."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.zeros((BLOCK,), tl.float32)
    mean = tl.zeros((BLOCK,), tl.float32)
    square = tl.zeros((BLOCK,), tl.float32)
    for split in range(SPLITS):
        samples = tl.minimum((split + 1) * PER_SPLIT, SAMPLES) - split * PER_SPLIT
        part_count = tl.full((BLOCK,), 1.0, tl.float32) * (samples * PIXELS)
        part_mean = tl.load(part_mean_ptr + split * SIZE + at, at < SIZE, 0.0)
        part_square = tl.load(part_square_ptr + split * SIZE + at, at < SIZE, 0.0)
        count, mean, square = merge(count, mean, square, part_count, part_mean, part_square)
    tl.store(mean_ptr + at, mean, at < SIZE)
    tl.store(var_ptr + at, square / count, at < SIZE)


@triton.jit
def merge(count, mean, square, more, more_mean, more_square):
    """Count, mean and Σ (v − mean)² of the union of two sets (Chan, Golub, LeVeque 1983)."""
    total = count + more
    distance = more_mean - mean
    share = more / total
    return total, mean + distance * share, square + more_square + distance * (distance * count * share)


# --------------------------------------------------------------------------------------------------------------
# Backward


@dataclass(frozen=True)
class BranchGradients:
    """Float32 gradients of a branch's parameters: (C/2,) or (C/2, length)."""

    gamma: Tensor
    beta: Tensor
    pe1: Tensor
    pe2: Tensor
    weight1: Tensor
    weight2: Tensor
    bias1: Tensor
    bias2: Tensor


def _branch_backward(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    branch: Branch,
    grad_x: Tensor,
    eps: float,
    residual: bool,
    training: bool,
) -> BranchGradients:
    """Writes the branch's half of grad_x."""
    n, c, _, _ = x.shape
    groups, half = mean.shape[0], c // 2
    length1, length2 = branch.lengths
    splits, per_split = split_samples(x, groups, half)
    fields = 4 + length1 + 2 * length2
    sums = x.new_empty(groups, splits, half, fields, dtype=torch.float32)
    shape = (n // groups, per_split, splits, c, groups, eps, *branch.axes)
    launch(
        fcc_bwd_kernel_sums,
        lambda t: (half, groups, splits),
        *(grad_y, x, mean, var, *branch.parameters, sums, *shape, fields),
        tiles={},
        warps=branch.warps,
        **branch.constants,
    )
    group_sums = sums.sum(1)  # the second pass of the sums: over parts, then over groups
    pe1_sums = x.new_empty(groups * splits, half, length1, dtype=torch.float32)
    gamma, _, pe1, _, weight1, weight2, _, _ = branch.parameters
    launch(
        fcc_bwd_kernel_dx,
        lambda t: (half, groups, splits),
        *(grad_y, x, mean, var, gamma, pe1, weight1, weight2, group_sums, grad_x, pe1_sums, *shape, fields),
        tiles={},
        warps=branch.warps,
        RESIDUAL=residual,
        TRAINING=training,
        **branch.constants,
    )
    scalars, grad_weight1, grad_weight2, grad_pe2 = group_sums.sum(0).split([4, length1, length2, length2], 1)
    grad_beta, grad_gamma, grad_bias1, grad_bias2 = scalars.unbind(1)
    grad_pe1 = pe1_sums.sum(0)
    return BranchGradients(
        grad_gamma, grad_beta, grad_pe1, grad_pe2, grad_weight1, grad_weight2, grad_bias1, grad_bias2
    )


@triton.jit
def fcc_bwd_kernel_sums(
    grad_y_ptr, x_ptr, mean_ptr, var_ptr, gamma_ptr, beta_ptr, pe1_ptr, pe2_ptr, weight1_ptr, weight2_ptr,
    bias1_ptr, bias2_ptr, sums_ptr, SAMPLES, PER_SPLIT, SPLITS, C, GROUPS, eps, FIRST, I, J, stride_i, stride_j, FIELDS,
    BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One part's sums over samples, with M1, M2 the circulant matrices and grad_u1 = grad_y M2, grad_u0 = M1ᵀ grad_u1:

        beta   Σ grad_u0          gamma  Σ grad_u0·v̂       bias1  Σ grad_u1          bias2  Σ grad_y
        M1     Σ grad_u1 u0ᵀ      M2     Σ grad_yᵀ u1       pe2[j] Σ grad_u1[·, j]

    sums is (GROUPS, SPLITS, C/2, FIELDS): beta, gamma, bias1, bias2, weight1 (I), weight2 (J), pe2 (J).
    A program holds one channel and loops over its samples of one group, BLOCK_N at a time. Traffic: x and grad_y once.
    """
    c = FIRST + tl.program_id(0)
    g = tl.program_id(1)
    split = tl.program_id(2)
    i = tl.arange(0, BLOCK_I)
    j = tl.arange(0, BLOCK_J)
    mean = tl.load(mean_ptr + g * C + c)
    rstd = tl.rsqrt(tl.load(var_ptr + g * C + c) + eps)
    gamma = tl.load(gamma_ptr + c).to(tl.float32)
    beta = tl.load(beta_ptr + c).to(tl.float32)
    pe2 = tl.load(pe2_ptr + c * J + j, j < J, 0.0).to(tl.float32)
    bias1 = tl.load(bias1_ptr + c).to(tl.float32)
    matrix1 = load_circulant(weight1_ptr + c * I, I, BLOCK_I, False)
    matrix1_t = load_circulant(weight1_ptr + c * I, I, BLOCK_I, True)
    matrix2 = load_circulant(weight2_ptr + c * J, J, BLOCK_J, False)

    grad_beta = 0.0
    grad_gamma = 0.0
    grad_bias1 = 0.0
    grad_bias2 = 0.0
    grad_pe2 = tl.zeros((BLOCK_J,), tl.float32)
    grad_matrix1 = tl.zeros((BLOCK_I, BLOCK_I), tl.float32)
    grad_matrix2 = tl.zeros((BLOCK_J, BLOCK_J), tl.float32)
    end = tl.minimum((split + 1) * PER_SPLIT, SAMPLES)
    for m0 in range(split * PER_SPLIT, end, BLOCK_N):
        m = m0 + tl.arange(0, BLOCK_N)
        n = m.to(tl.int64) * GROUPS + g
        at = ((n * C + c) * I * J)[:, None, None] + (i * stride_i)[None, :, None] + (j * stride_j)[None, None, :]
        inside = (m < end)[:, None, None] & (i < I)[None, :, None] & (j < J)[None, None, :]
        grad_y = tl.load(grad_y_ptr + at, inside, 0.0)
        x = tl.load(x_ptr + at, inside, 0.0)
        normalised = load_normalised(x, pe1_ptr, c, i, I, mean, rstd, inside)
        u0 = tl.where(inside, normalised * gamma + beta, 0.0).to(x.dtype)
        u1 = along_first(matrix1, u0, BLOCK_N, BLOCK_I, PRECISION) + bias1 + pe2[None, None, :]

        lines = tl.reshape(grad_y, (BLOCK_N * BLOCK_I, BLOCK_J))
        u1_lines = tl.reshape(u1.to(x.dtype), (BLOCK_N * BLOCK_I, BLOCK_J))
        grad_matrix2 = tl.dot(tl.trans(lines), u1_lines, grad_matrix2, input_precision=PRECISION)
        grad_u1 = along_second(grad_y, matrix2, BLOCK_N, BLOCK_I, BLOCK_J, PRECISION)
        grad_bias2 += tl.sum(tl.sum(lines.to(tl.float32), 1), 0)
        columns = tl.sum(tl.sum(grad_u1, 1), 0)
        grad_pe2 += columns
        grad_bias1 += tl.sum(columns, 0)

        grad_u1 = grad_u1.to(x.dtype)
        outer = tl.dot(grad_u1, tl.permute(u0, (0, 2, 1)), input_precision=PRECISION)
        grad_matrix1 += tl.sum(outer, 0)
        grad_u0 = along_first(matrix1_t, grad_u1, BLOCK_N, BLOCK_I, PRECISION)
        grad_beta += tl.sum(tl.sum(tl.sum(grad_u0, 2), 1), 0)
        grad_gamma += tl.sum(tl.sum(tl.sum(grad_u0 * normalised, 2), 1), 0)

    row_ptr = sums_ptr + ((g * SPLITS + split).to(tl.int64) * (C // 2) + c - FIRST) * FIELDS
    tl.store(row_ptr, grad_beta)
    tl.store(row_ptr + 1, grad_gamma)
    tl.store(row_ptr + 2, grad_bias1)
    tl.store(row_ptr + 3, grad_bias2)
    tl.store(row_ptr + 4 + i, sum_lags(grad_matrix1, I, BLOCK_I), i < I)
    tl.store(row_ptr + 4 + I + j, sum_lags(grad_matrix2, J, BLOCK_J), j < J)
    tl.store(row_ptr + 4 + I + J + j, grad_pe2, j < J)


@triton.jit
def fcc_bwd_kernel_dx(
    grad_y_ptr, x_ptr, mean_ptr, var_ptr, gamma_ptr, pe1_ptr, weight1_ptr, weight2_ptr, group_sums_ptr,
    grad_x_ptr, pe1_sums_ptr, SAMPLES, PER_SPLIT, SPLITS, C, GROUPS, eps, FIRST, I, J, stride_i, stride_j, FIELDS,
    RESIDUAL: tl.constexpr, TRAINING: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_v = rstd·γ·(grad_u0 − E_g[grad_u0] − v̂·E_g[grad_u0·v̂]), the means in training only;
    grad_x = grad_v (+ grad_y);  the part's pe1[i] = Σ grad_v[i, ·]

    group_sums (GROUPS, C/2, FIELDS) holds Σ grad_u0 and Σ grad_u0·v̂ of a group; pe1_sums is (GROUPS·SPLITS, C/2, I).
    Programs as in `fcc_bwd_kernel_sums`. Traffic: grad_y once, x once (in training), grad_x written.
    """
    c = FIRST + tl.program_id(0)
    g = tl.program_id(1)
    split = tl.program_id(2)
    i = tl.arange(0, BLOCK_I)
    j = tl.arange(0, BLOCK_J)
    rstd = tl.rsqrt(tl.load(var_ptr + g * C + c) + eps)
    scale = rstd * tl.load(gamma_ptr + c).to(tl.float32)
    matrix1_t = load_circulant(weight1_ptr + c * I, I, BLOCK_I, True)
    matrix2 = load_circulant(weight2_ptr + c * J, J, BLOCK_J, False)
    if TRAINING:
        mean = tl.load(mean_ptr + g * C + c)
        group_ptr = group_sums_ptr + (g * (C // 2) + c - FIRST) * FIELDS
        size = tl.maximum(tl.cast(SAMPLES, tl.float32) * (I * J), 1.0)  # 1: an empty batch
        mean_grad = tl.load(group_ptr) / size
        mean_product = tl.load(group_ptr + 1) / size

    grad_pe1 = tl.zeros((BLOCK_I,), tl.float32)
    end = tl.minimum((split + 1) * PER_SPLIT, SAMPLES)
    for m0 in range(split * PER_SPLIT, end, BLOCK_N):
        m = m0 + tl.arange(0, BLOCK_N)
        n = m.to(tl.int64) * GROUPS + g
        at = ((n * C + c) * I * J)[:, None, None] + (i * stride_i)[None, :, None] + (j * stride_j)[None, None, :]
        inside = (m < end)[:, None, None] & (i < I)[None, :, None] & (j < J)[None, None, :]
        grad_y = tl.load(grad_y_ptr + at, inside, 0.0)
        grad_u1 = along_second(grad_y, matrix2, BLOCK_N, BLOCK_I, BLOCK_J, PRECISION).to(grad_y.dtype)
        grad_v = along_first(matrix1_t, grad_u1, BLOCK_N, BLOCK_I, PRECISION)
        if TRAINING:
            x = tl.load(x_ptr + at, inside, 0.0)
            normalised = load_normalised(x, pe1_ptr, c, i, I, mean, rstd, inside)
            grad_v = grad_v - mean_grad - normalised * mean_product
        grad_v = tl.where(inside, grad_v * scale, 0.0)
        grad_pe1 += tl.sum(tl.sum(grad_v, 2), 0)
        if RESIDUAL:
            grad_v += grad_y.to(tl.float32)
        tl.store(grad_x_ptr + at, grad_v.to(grad_x_ptr.dtype.element_ty), inside)
    row = (g * SPLITS + split).to(tl.int64) * (C // 2) + c - FIRST
    tl.store(pe1_sums_ptr + row * I + i, grad_pe1, i < I)


def split_samples(x: Tensor, groups: int, channels: int) -> tuple[int, int]:
    """The number of parts into which the samples of a group are split, and the number of samples per part."""
    samples = x.shape[0] // groups
    per_split = max(1, ceil_div(samples, max(1, resident_programs(x) // (groups * channels))))
    return max(1, ceil_div(samples, per_split)), per_split
