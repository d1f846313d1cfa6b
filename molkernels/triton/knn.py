"""The cosine k-nearest-neighbour graph, exact, with the similarities on the chip.

The counterpart of `reference.knn`. N maps, M nodes, D components, k neighbours. Comparing everything in float64 would
leave the tensor cores idle, so there are three steps:

- tensor cores compute a fast similarity f of all pairs, with |f − s| ≤ bound (`error_bound` derives it);
- of each row, the best by f, twice as many as requested, are compared in float64;
- if f does not rule out that one of the others belongs to the neighbours, the block of rows is compared with all nodes
  in float64. This happens for duplicates, zero nodes and constant maps: slow, never wrong.

The order is that of `reference.knn`: a key that is unique in a row, the similarity in steps of 2⁻⁴⁰, NaN as −2 and the
node itself as 3, above the reversed index (below 2¹⁶).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from molkernels import reference
from molkernels.triton.launch import architecture_of, ceil_div, launch

LEAST_SLOTS = 8  # candidates per row that are compared in float64, at least

SMALLEST_NORM = tl.constexpr(2.0**-63)  # the square root of the smallest normal float32
STEPS = tl.constexpr(reference.SIMILARITY_STEPS)
INTEGER = tl.constexpr(1.5 * 2.0**52)  # adding this to a float64 below 2⁵¹ rounds it to an integer, half to even
NO_KEY, ANY_KEY = tl.constexpr(-(2**63)), tl.constexpr(2**63 - 1)  # below and above all keys
LAST_INDEX = tl.constexpr(2**16 - 1)  # q ^ LAST_INDEX is LAST_INDEX − q


def knn(nodes: Tensor, k: int) -> Tensor:
    """The k nearest nodes by cosine similarity, the node itself first.  (N, M, D) → int32 (N, M, k)."""
    n, m, d = nodes.shape
    idx = nodes.new_empty(n, m, k, dtype=torch.int32)
    inverse = nodes.new_empty(n, m, dtype=torch.float64)
    scales = nodes.new_empty(2, n, m, dtype=torch.float32)
    launch(
        knn_norms_kernel,
        lambda t: (n, ceil_div(m, t["BLOCK_M"])),
        *(nodes, inverse, scales[0], scales[1], *nodes.stride(), m, d),
        tiles={"BLOCK_M": m, "BLOCK_D": d},
    )
    launch(
        knn_fwd_kernel,
        lambda t: (n, ceil_div(m, t["BLOCK_M"])),
        *(nodes, inverse, scales[0], scales[1], idx, *nodes.stride(), m, d, k),
        tiles={"BLOCK_M": m, "BLOCK_N": m, "BLOCK_D": d},
        SLOTS=max(LEAST_SLOTS, 2 * int(triton.next_power_of_2(k))),
        PRECISION=split_precision(nodes),
    )
    return idx


def split_precision(x: Tensor) -> str:
    """`input_precision` of the fast products: for float32, three TF32 products if the chip has them."""
    split = x.dtype == torch.float32 and architecture_of(x.device).startswith("sm_")
    return "tf32x3" if split else "ieee"


@triton.jit
def knn_norms_kernel(
    x_ptr, inverse_ptr, coarse_ptr, fine_ptr, STRIDE_N, STRIDE_M, STRIDE_D, M, D,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """inverse[m] = 1 / max(‖x_m‖, 2⁻⁶³) in float64, NaN where x_m is not finite;  coarse[m] · fine[m] ≈ inverse[m].

    coarse is a power of two, so that coarse·x is exact and has a norm from ½ to 1: no product of two of them overflows
    or underflows float32, whatever the scale of the nodes. It is 1 for float16, whose products fit in float32 unscaled
    but which cannot be scaled exactly. fine is rounded to float32.

    A program holds BLOCK_M nodes. Traffic: x read once, 16 bytes per node written.
    """
    n = tl.program_id(0).to(tl.int64)
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    square = tl.zeros((BLOCK_M, BLOCK_D), tl.float64)
    for d0 in range(0, D, BLOCK_D):
        d = (d0 + tl.arange(0, BLOCK_D)).to(tl.int64)
        at = n * STRIDE_N + m[:, None] * STRIDE_M + d[None, :] * STRIDE_D
        x = tl.load(x_ptr + at, (m[:, None] < M) & (d[None, :] < D), 0.0).to(tl.float64)
        square += x * x
    norm = tl.sqrt(tl.sum(square, 1))
    finite = norm < float("inf")
    inverse = tl.where(finite, 1.0 / tl.where(norm > SMALLEST_NORM, norm, SMALLEST_NORM), float("nan"))
    if x_ptr.dtype.element_ty == tl.float16:
        coarse = tl.full((BLOCK_M,), 1.0, tl.float64)
    else:  # only the exponent: the greatest power of two ≤ inverse, but at least the smallest normal float32
        coarse = (inverse.to(tl.int64, bitcast=True) & 0x7FF0000000000000).to(tl.float64, bitcast=True)
        coarse = tl.where(finite, tl.where(coarse > 2.0**-126, coarse, 2.0**-126), 1.0)
    tl.store(inverse_ptr + n * M + m, inverse, m < M)
    tl.store(coarse_ptr + n * M + m, coarse.to(tl.float32), m < M)
    tl.store(fine_ptr + n * M + m, (inverse / coarse).to(tl.float32), m < M)


@triton.jit
def knn_fwd_kernel(
    x_ptr, inverse_ptr, coarse_ptr, fine_ptr, idx_ptr, STRIDE_N, STRIDE_M, STRIDE_D, M, D, K,
    SLOTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """idx[m, :] = the K nodes q of the greatest s[m, q] = ⟨x_m, x_q⟩ · inverse[m] · inverse[q], m itself first.

    A program holds BLOCK_M nodes of one map, the fast similarities of BLOCK_N others at a time, and the SLOTS best keys
    of each row. Work per map: M²·D products (three times in TF32), (BLOCK_N + SLOTS)·SLOTS comparisons of keys per row
    and tile, and SLOTS·M·D products in float64.
    Traffic per map: x read ⌈M / BLOCK_M⌉ times (once from memory) and SLOTS times by gathers of rows (from L2), M·K
    indices written.
    """
    EXACT_N: tl.constexpr = min(BLOCK_N, 64)
    n = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    x_ptr += n * STRIDE_N
    best = tl.full((BLOCK_M, SLOTS), NO_KEY, tl.int64)
    for q0 in range(0, M, BLOCK_N):
        q = q0 + tl.arange(0, BLOCK_N)
        keys = fast_keys(
            x_ptr, coarse_ptr + n * M, fine_ptr + n * M, m, q, STRIDE_M, STRIDE_D, M, D, BLOCK_D, PRECISION
        )
        best = largest(best, keys, SLOTS)

    left_out = tl.min(fast_similarity(best), 1).to(tl.float64)  # no omitted candidate has a greater f
    best = candidate_keys(x_ptr, inverse_ptr + n * M, m, best, STRIDE_M, STRIDE_D, M, D)
    best = largest(tl.full((BLOCK_M, SLOTS), NO_KEY, tl.int64), best, K)
    slot = tl.arange(0, SLOTS)
    last = tl.max(tl.where(slot[None, :] == K - 1, best >> 16, NO_KEY), 1).to(tl.float64) / STEPS
    sure = left_out + error_bound(x_ptr, D) < last - 2.0 / STEPS  # rounding to steps changes each by up to half a step
    doubtful = tl.sum(tl.where(sure | (m >= M), 0, 1), 0)
    if (doubtful > 0) & (M > SLOTS):
        best = tl.full((BLOCK_M, SLOTS), NO_KEY, tl.int64)
        for q0 in range(0, M, EXACT_N):
            q = q0 + tl.arange(0, EXACT_N)
            keys = exact_keys(x_ptr, inverse_ptr + n * M, m, q, STRIDE_M, STRIDE_D, M, D)
            best = largest(best, keys, K)

    index = ((best & LAST_INDEX) ^ LAST_INDEX).to(tl.int32)
    inside = (m[:, None] < M) & (slot[None, :] < K)
    tl.store(idx_ptr + (n * M + m)[:, None] * K + slot[None, :], index, inside)


@triton.jit
def error_bound(x_ptr, D):
    """A bound on |f − s|.

    With u = coarse·x, f = fl(Σ_d u_m u_q) · fine_m · fine_q, and Σ_d |u_m u_q| fine_m fine_q ≤ 1 + 2⁻²² (Cauchy and
    Schwarz), so that errors relative to Σ |u_m u_q| are errors of f. In units of 2⁻²²:

    - fine, rounded twice, and two products: 4 · 2⁻²⁴, which is 1. The rounding of s in float64 is negligible.
    - Products of 16-bit nodes are exact in float32. A float is split into two TF32, x = h + l + r: even if the chip
      truncates instead of rounding, |l| ≤ 2⁻¹⁰ |x| and |r| ≤ 2⁻²⁰ |x|. Of x x', h h' + h l' + l h' omits
      r x' + x r' + l l', 3 · 2⁻²⁰ at most, which is 12.
    - Sums: a tensor core adds 8 products, or 16 of 16 bits, to its accumulator with a common exponent and at least 24
      bits, truncating each addend and the sum: 10 · 2⁻²³ (18 · 2⁻²³) per step. That is 5/8 · D at most; in TF32 three
      times that, if all three products had full size. Plain float32 sums, D · 2⁻²⁴ at most, have a smaller error in
      any order.
    - Numbers below the smallest normal float32 may be flushed to 0: 2⁻¹²⁶ per product, which is negligible.

    So 15/8 · D + 13 in float32 and 5/8 · D + 1 in 16 bits; both are rounded up.
    """
    if x_ptr.dtype.element_ty == tl.float32:
        return (2 * D + 32) * 2.0**-22
    return (D + 32) * 2.0**-22


@triton.jit
def fast_keys(
    x_ptr, coarse_ptr, fine_ptr, m, q, STRIDE_M, STRIDE_D, M, D, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr
):
    """The keys of f[m, q]: high bits f in integer order, low bits the reversed index; NO_KEY past the last node."""
    coarse_m = tl.load(coarse_ptr + m, m < M, 0.0)
    coarse_q = tl.load(coarse_ptr + q, q < M, 0.0)
    rows, columns = m.to(tl.int64) * STRIDE_M, q.to(tl.int64) * STRIDE_M
    f = tl.zeros((m.shape[0], q.shape[0]), tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        depth = d.to(tl.int64) * STRIDE_D
        x_m = tl.load(x_ptr + rows[:, None] + depth[None, :], (m[:, None] < M) & (d[None, :] < D), 0.0)
        x_q = tl.load(x_ptr + columns[None, :] + depth[:, None], (q[None, :] < M) & (d[:, None] < D), 0.0)
        if x_ptr.dtype.element_ty != tl.float16:
            x_m = (x_m * coarse_m[:, None]).to(x_ptr.dtype.element_ty)
            x_q = (x_q * coarse_q[None, :]).to(x_ptr.dtype.element_ty)
        f = tl.dot(x_m, x_q, f, input_precision=PRECISION)
    f = f * tl.load(fine_ptr + m, m < M, 0.0)[:, None] * tl.load(fine_ptr + q, q < M, 0.0)[None, :]
    f = order_special(f, m, q[None, :])
    keys = (ordered_bits(f.to(tl.int32, bitcast=True)).to(tl.int64) << 32) | (q ^ LAST_INDEX)[None, :].to(tl.int64)
    return tl.where(q[None, :] < M, keys, NO_KEY)


@triton.jit
def fast_similarity(keys):
    """f, from its key."""
    return ordered_bits((keys >> 32).to(tl.int32)).to(tl.float32, bitcast=True)


@triton.jit
def ordered_bits(bits):
    """The bits of a float32 as an int32 with the same order; and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def candidate_keys(x_ptr, inverse_ptr, m, best, STRIDE_M, STRIDE_D, M, D):
    """The keys of s[m, q] for the nodes q of the keys of f in `best`."""
    CHUNK: tl.constexpr = 64 // best.shape[1] if best.shape[1] < 64 else 1  # components at a time
    q = ((best & LAST_INDEX) ^ LAST_INDEX).to(tl.int32)
    q = tl.where(best > NO_KEY, q, M)  # not a node
    rows = m.to(tl.int64)[:, None, None] * STRIDE_M
    columns = q.to(tl.int64)[:, :, None] * STRIDE_M
    total = tl.zeros((m.shape[0], best.shape[1], CHUNK), tl.float64)
    for d0 in range(0, D, CHUNK):
        d = (d0 + tl.arange(0, CHUNK))[None, None, :]
        depth = d.to(tl.int64) * STRIDE_D
        x_m = tl.load(x_ptr + rows + depth, (m[:, None, None] < M) & (d < D), 0.0).to(tl.float64)
        x_q = tl.load(x_ptr + columns + depth, (q[:, :, None] < M) & (d < D), 0.0).to(tl.float64)
        total += x_m * x_q
    s = tl.sum(total, 2) * tl.load(inverse_ptr + m, m < M, 0.0)[:, None] * tl.load(inverse_ptr + q, q < M, 0.0)
    return similarity_keys(s, m, q, M)


@triton.jit
def exact_keys(x_ptr, inverse_ptr, m, q, STRIDE_M, STRIDE_D, M, D):
    """The keys of s[m, q] for a tile of all pairs."""
    rows, columns = m.to(tl.int64) * STRIDE_M, q.to(tl.int64) * STRIDE_M
    s = tl.zeros((m.shape[0], q.shape[0]), tl.float64)
    for _ in range(D):
        x_m = tl.load(x_ptr + rows, m < M, 0.0).to(tl.float64)
        x_q = tl.load(x_ptr + columns, q < M, 0.0).to(tl.float64)
        s += x_m[:, None] * x_q[None, :]
        x_ptr += STRIDE_D
    s = s * tl.load(inverse_ptr + m, m < M, 0.0)[:, None] * tl.load(inverse_ptr + q, q < M, 0.0)[None, :]
    return similarity_keys(s, m, tl.broadcast_to(q[None, :], s.shape), M)


@triton.jit
def similarity_keys(s, m, q, M):
    """The keys of s[m, q], rounded to steps, for nodes q in the shape of s; NO_KEY past the last node."""
    steps = (order_special(s, m, q) * STEPS + INTEGER) - INTEGER
    return tl.where(q < M, steps.to(tl.int64) * 65536 + (q ^ LAST_INDEX), NO_KEY)


@triton.jit
def order_special(s, m, q):
    """NaN below all similarities, the node itself above them."""
    return tl.where(m[:, None] == q, 3.0, tl.where(s == s, s, -2.0))


@triton.jit
def largest(kept, keys, COUNT):
    """The COUNT largest of the keys in both, row by row, in descending order from slot 0; NO_KEY in the other slots."""
    slot = tl.arange(0, kept.shape[1])
    last = tl.full((kept.shape[0],), ANY_KEY, tl.int64)
    merged = tl.full(kept.shape, NO_KEY, tl.int64)
    for i in range(COUNT):
        below = last[:, None]
        of_kept = tl.max(tl.where(kept < below, kept, NO_KEY), 1)
        of_keys = tl.max(tl.where(keys < below, keys, NO_KEY), 1)
        last = tl.maximum(of_kept, of_keys)
        merged = tl.where(slot[None, :] == i, last[:, None], merged)
    return merged
