"""Correlation of two maps over a square of displacements, with LeakyReLU and gradients.

The counterpart of `reference.cost_volume` and `reference.cost_volume_backward`. Both are matrix products over pairs of
pixels, summed in float32. N maps, C channels, H × W pixels, radii Ry and Rx, stride s, D = (2Ry + 1)(2Rx + 1)
displacements.

Rows that are s apart pair with the same rows of the other map, so a tile has rows of one phase: rows i = i0, i0 + 1 …
of phase f are at y = f + s·i, and a displacement by dy leads from row i to row i + dy of the same phase. There are no
atomic additions, so the same arguments give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from molkernels.triton.launch import ceil_div, launch, power_of_two, precision

PIXELS = 64  # per program, at most
# A program of the forward pass gathers ROWS_B·DX·PIXELS outputs, and ROWS_B ≤ PIXELS_B / LEAST_TILE: 16384 at most.
PIXELS_B = 128
MOST_DISPLACEMENTS = 32
PIXELS_SUMMED = 32  # of the other map, in a step of the backward pass


def cost_volume(a: Tensor, b: Tensor, radius_y: int, radius_x: int, stride: int, negative_slope: float) -> Tensor:
    """out[n, d, y, x] = LeakyReLU(1/C · Σ_c a[n, c, y, x] · b[n, c, y + s·dy, x + s·dx]), zero outside.

    (N, C, H, W) twice → (N, D, H, W),  d = (dy + Ry)(2Rx + 1) + (dx + Rx).
    """
    a, b = a.contiguous(), b.contiguous()
    n, c, height, width = a.shape
    rows, columns = tile_of(height, width, stride, PIXELS)
    blocks = blocks_of(height, width, stride, rows, columns)
    displacements = min(power_of_two(2 * radius_x + 1), MOST_DISPLACEMENTS)
    rows_b = min(PIXELS_B // columns, int(triton.next_power_of_2(2 * radius_y + rows)))
    blocks_bx = min(ceil_div(width, columns), 1 + 2 * ceil_div(stride * radius_x, columns))  # columns within reach
    blocks_by = ceil_div(2 * radius_y + rows, rows_b)
    out = a.new_empty(n, (2 * radius_y + 1) * (2 * radius_x + 1), height, width)
    launch(
        cost_volume_fwd_kernel,
        lambda t: (n * blocks, blocks_by * blocks_bx),
        *(a, b, out, c, height, width, radius_y, radius_x, blocks, blocks_bx, *scales(a), negative_slope),
        tiles={"BLOCK_C": c},
        STRIDE=stride,
        ROWS=rows,
        ROWS_B=rows_b,
        WIDTH=columns,
        DX=displacements,
        PRECISION=precision(a),
    )
    return out


def cost_volume_backward(
    grad_out: Tensor,
    a: Tensor,
    b: Tensor,
    out: Tensor,
    radius_y: int,
    radius_x: int,
    stride: int,
    negative_slope: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of a and b."""
    grad_out, a, b, out = (t.contiguous() for t in (grad_out, a, b, out))
    n, c, height, width = a.shape
    rows, columns = tile_of(height, width, stride, PIXELS)
    rows_summed, columns_summed = tile_of(height, width, stride, PIXELS_SUMMED)
    blocks = blocks_of(height, width, stride, rows, columns)
    grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
    for kernel, other, grad in (
        (cost_volume_bwd_kernel_da, b, grad_a),
        (cost_volume_bwd_kernel_db, a, grad_b),
    ):
        launch(
            kernel,
            lambda t: (n * blocks, ceil_div(c, t["BLOCK_C"])),
            *(grad_out, out, other, grad, c, height, width, radius_y, radius_x, blocks, *scales(a), negative_slope),
            tiles={"BLOCK_C": c},
            STRIDE=stride,
            ROWS=rows,
            WIDTH=columns,
            ROWS_Q=rows_summed,
            WIDTH_Q=columns_summed,
            PRECISION=precision(a),
        )
    return grad_a, grad_b


def scales(a: Tensor) -> tuple[float, float]:
    """1/C as two factors: a power of two, which is exact, before the sum, so that it stays in range; the rest after it.

    float16 would lose small values to the first, and its sums stay in the range of float32 without it.
    """
    c = max(a.shape[1], 1)
    power = 1 if a.dtype == torch.float16 else int(triton.next_power_of_2(c))
    return 1 / power, power / c


def tile_of(height: int, width: int, stride: int, pixels: int) -> tuple[int, int]:
    """Rows (of one phase) and columns of a tile with so many pixels, both powers of two."""
    columns = min(power_of_two(width), pixels)
    return min(pixels // columns, int(triton.next_power_of_2(max(1, ceil_div(height, stride))))), columns


def blocks_of(height: int, width: int, stride: int, rows: int, columns: int) -> int:
    """The number of tiles that cover the map, each within a phase."""
    return min(height, stride) * ceil_div(ceil_div(height, stride), rows) * ceil_div(width, columns)


# --------------------------------------------------------------------------------------------------------------
# Forward


@triton.jit
def cost_volume_fwd_kernel(
    a_ptr, b_ptr, out_ptr, C, H, W, RY, RX, BLOCKS, BLOCKS_BX, before, after, negative_slope,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, ROWS_B: tl.constexpr, WIDTH: tl.constexpr, DX: tl.constexpr,
    BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[(dy + Ry)(2Rx + 1) + dx + Rx, pa] = LeakyReLU(1/C · Σ_c a[c, pa] b[c, pb]),  pb = pa + s·(dy, dx)

    A program holds the products of (ROWS_B, WIDTH) pixels of b with (ROWS, WIDTH) pixels of a, all of one phase of the
    rows. A gather along the columns of b turns them into (ROWS_B, DX, ROWS·WIDTH) outputs, whose columns of a are
    contiguous in memory. Displacements that leave the map are written too; a program without a row of b in the map
    writes zeros and computes no products.
    Traffic: a and b about ⌈(2Ry + ROWS) / ROWS_B⌉ times (once from memory, the rest from L2), out written once.
    """
    n = tl.program_id(0).to(tl.int64) // BLOCKS
    phase, rows, i0, xa0 = tile_at(tl.program_id(0) % BLOCKS, H, W, STRIDE, ROWS, WIDTH)
    r0 = tl.program_id(1) // BLOCKS_BX * ROWS_B - RY  # rows of b are counted from i0
    begin, end = reach(xa0, W, STRIDE * RX, WIDTH)
    xb0 = begin + tl.program_id(1) % BLOCKS_BX * WIDTH

    i, xa = rows_and_columns(i0, xa0, ROWS, WIDTH)
    r = r0 + tl.arange(0, ROWS_B)
    products = tl.zeros((ROWS_B, WIDTH, ROWS * WIDTH), tl.float32)
    if (i0 + r0 < rows) & (i0 + r0 + ROWS_B > 0):
        j, xb = rows_and_columns(i0 + r0, xb0, ROWS_B, WIDTH)
        pa, pb = (phase + STRIDE * i) * W + xa, (phase + STRIDE * j) * W + xb
        inside_a, inside_b = (i < rows) & (xa < W), (j >= 0) & (j < rows) & (xb < W)
        sums = tl.zeros((ROWS_B * WIDTH, ROWS * WIDTH), tl.float32)
        for c0 in range(0, C, BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            channel = (n * C + c) * H * W
            b = tl.load(b_ptr + channel[None, :] + pb[:, None], (c[None, :] < C) & inside_b[:, None], 0.0)
            a = tl.load(a_ptr + channel[:, None] + pa[None, :], (c[:, None] < C) & inside_a[None, :], 0.0)
            if b.dtype != tl.float16:
                b = (b.to(tl.float32) * before).to(a.dtype)
            sums = tl.dot(b, a, sums, input_precision=PRECISION)
        sums *= after
        sums = tl.where(sums > 0, sums, sums * negative_slope)
        products = tl.reshape(sums, (ROWS_B, WIDTH, ROWS * WIDTH))

    i, xa = i[None, None, :], xa[None, None, :]
    j, ey = i0 + r[:, None, None], i0 + r[:, None, None] - i + RY  # ey = dy + Ry
    first = (n * (2 * RY + 1) + ey) * (2 * RX + 1) * H * W + (phase + STRIDE * i) * W + xa
    for d in range(0, 2 * RX + 1, DX):
        ex = d + tl.arange(0, DX)[None, :, None]  # dx + Rx
        xb = xa + STRIDE * (ex - RX)
        # A column outside the map belongs to the outermost tile of b within reach.
        own = tl.minimum(tl.maximum(xb, begin), end - 1) - xb0
        column = tl.minimum(tl.maximum(own, 0), WIDTH - 1)
        outputs = tl.gather(products, tl.broadcast_to(column, (ROWS_B, DX, ROWS * WIDTH)), 1)
        outputs = tl.where((j >= 0) & (j < rows) & (xb >= 0) & (xb < W), outputs, 0.0)
        at = first + ex.to(tl.int64) * (H * W)
        written = (i < rows) & (xa < W) & (ey >= 0) & (ey <= 2 * RY) & (ex <= 2 * RX) & (own >= 0) & (own < WIDTH)
        tl.store(out_ptr + at, outputs.to(out_ptr.dtype.element_ty), written)


@triton.jit
def tile_at(block, H, W, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The place of a tile: its phase, the number of rows of that phase, its first row within it, its first column."""
    blocks_x = tl.cdiv(W, WIDTH)
    phases = tl.minimum(H, STRIDE)
    phase = block // blocks_x % phases
    rows = (H - phase + STRIDE - 1) // STRIDE
    return phase, rows, block // blocks_x // phases * ROWS, block % blocks_x * WIDTH


@triton.jit
def rows_and_columns(row, column, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The row and the column of each pixel of a tile: (ROWS·WIDTH,) twice."""
    pixel = tl.arange(0, ROWS * WIDTH)
    return row + pixel // WIDTH, column + pixel % WIDTH


@triton.jit
def reach(column, W, DISTANCE, WIDTH: tl.constexpr):
    """The columns [begin, end) of the map within DISTANCE of a tile; begin is a multiple of WIDTH."""
    return tl.maximum(column - DISTANCE, 0) // WIDTH * WIDTH, tl.minimum(column + WIDTH + DISTANCE, W)


# --------------------------------------------------------------------------------------------------------------
# Backward


@triton.jit
def cost_volume_bwd_kernel_da(
    grad_out_ptr, out_ptr, b_ptr, grad_a_ptr, C, H, W, RY, RX, BLOCKS, before, after, negative_slope,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROWS_Q: tl.constexpr, WIDTH_Q: tl.constexpr,
    BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_a[c, pa] = 1/C · Σ_pb b[c, pb] G[pb, pa],  G[pb, pa] = grad_out[d, pa] · (out[d, pa] > 0 ? 1 : slope)

    where d leads from pa to pb, and G is 0 if no d does. See `sum_pairs`.
    """
    sum_pairs(
        grad_out_ptr, out_ptr, b_ptr, grad_a_ptr, C, H, W, RY, RX, BLOCKS, before, after, negative_slope,
        True, STRIDE, ROWS, WIDTH, ROWS_Q, WIDTH_Q, BLOCK_C, PRECISION,
    )  # fmt: skip


@triton.jit
def cost_volume_bwd_kernel_db(
    grad_out_ptr, out_ptr, a_ptr, grad_b_ptr, C, H, W, RY, RX, BLOCKS, before, after, negative_slope,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROWS_Q: tl.constexpr, WIDTH_Q: tl.constexpr,
    BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_b[c, pb] = 1/C · Σ_pa a[c, pa] G[pb, pa], with G of `cost_volume_bwd_kernel_da`. See `sum_pairs`."""
    sum_pairs(
        grad_out_ptr, out_ptr, a_ptr, grad_b_ptr, C, H, W, RY, RX, BLOCKS, before, after, negative_slope,
        False, STRIDE, ROWS, WIDTH, ROWS_Q, WIDTH_Q, BLOCK_C, PRECISION,
    )  # fmt: skip


@triton.jit
def sum_pairs(
    grad_out_ptr, out_ptr, other_ptr, grad_ptr, C, H, W, RY, RX, BLOCKS, before, after, negative_slope,
    OF_A: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, ROWS_Q: tl.constexpr,
    WIDTH_Q: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad[c, p] = 1/C · Σ_q other[c, q] G of the pair of p and q: p of a and q of b (OF_A), or the other way round.

    A program holds BLOCK_C channels of (ROWS, WIDTH) pixels p of one phase, and sums over the pixels q of that phase
    within reach, (ROWS_Q, WIDTH_Q) at a time.
    Traffic: grad_out and out ⌈C / BLOCK_C⌉ times, other about (2Ry + ROWS) / ROWS times, each once from memory and
    from L2 after that; grad written once.
    """
    n = tl.program_id(0).to(tl.int64) // BLOCKS
    phase, rows, i0, x0 = tile_at(tl.program_id(0) % BLOCKS, H, W, STRIDE, ROWS, WIDTH)
    begin, end = reach(x0, W, STRIDE * RX, WIDTH)
    i, x = rows_and_columns(i0, x0, ROWS, WIDTH)
    p, inside_p = (phase + STRIDE * i) * W + x, (i < rows) & (x < W)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = ((n * C + c) * H * W)[:, None]
    grad_out_ptr += n * (2 * RY + 1) * (2 * RX + 1) * H * W
    out_ptr += n * (2 * RY + 1) * (2 * RX + 1) * H * W
    sums = tl.zeros((BLOCK_C, ROWS * WIDTH), tl.float32)
    for j0 in range(tl.maximum(i0 - RY, 0), tl.minimum(i0 + ROWS + RY, rows), ROWS_Q):
        for u0 in range(begin, end, WIDTH_Q):
            j, u = rows_and_columns(j0, u0, ROWS_Q, WIDTH_Q)
            q, inside_q = (phase + STRIDE * j) * W + u, (j < rows) & (u < W)
            inside = inside_q[:, None] & inside_p[None, :]
            if OF_A:
                ey, shift = j[:, None] - i[None, :] + RY, u[:, None] - x[None, :] + STRIDE * RX
                pixel = p[None, :]
            else:
                ey, shift = i[None, :] - j[:, None] + RY, x[None, :] - u[:, None] + STRIDE * RX
                pixel = q[:, None]
            ex = shift // STRIDE  # ey = dy + Ry and ex = dx + Rx
            inside &= (ey >= 0) & (ey <= 2 * RY) & (shift >= 0) & (shift % STRIDE == 0) & (ex <= 2 * RX)
            at = (ey * (2 * RX + 1) + ex).to(tl.int64) * (H * W) + pixel
            grad = tl.load(grad_out_ptr + at, inside, 0.0)
            out = tl.load(out_ptr + at, inside, 0.0)
            other = tl.load(other_ptr + channel + q[None, :], (c[:, None] < C) & inside_q[None, :], 0.0)
            grad = tl.where(out > 0, grad, grad * negative_slope)
            if other.dtype != tl.float16:
                grad *= before
            sums = tl.dot(other, grad.to(other.dtype), sums, input_precision=PRECISION)
    at = channel + p[None, :]
    tl.store(grad_ptr + at, (sums * after).to(grad_ptr.dtype.element_ty), (c[:, None] < C) & inside_p[None, :])
