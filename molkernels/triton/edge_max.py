"""Edge convolution with the maximum over the neighbours, on either graph, with gradients.

The counterpart of `reference.edge_max_channel`, `reference.edge_max_position` and their backward functions, in the same
order and with the same names. N maps, C channels, P positions, k neighbours; every product is a `tl.dot`, summed in
float32.

Gradients are gathered by the nodes: the graph is reversed (`reverse_graph_kernel`), each node sums over its incoming
edges in order, and sums over samples take two passes. There are no atomic additions, so the same arguments give the
same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from molkernels import reference
from molkernels.triton.launch import ceil_div, launch, power_of_two, precision, resident_programs

MOST_CHANNELS_ON_CHIP = 256
# On the position graph the messages' gradients are computed for as many samples at a time as fit in this (part of L2).
WORKSPACE_BYTES = 32 << 20


def edge_max(
    x: Tensor, idx: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, graph: str
) -> tuple[Tensor, Tensor]:
    """`edge_max_channel` or `edge_max_position`."""
    forward = edge_max_channel if graph == "channel" else edge_max_position
    tensors = (x, idx.to(torch.int32), weight1, bias1, weight2, bias2)
    return forward(*(t.contiguous() for t in tensors))


def edge_max_backward(
    grad_y: Tensor, x: Tensor, idx: Tensor, weight1: Tensor, weight2: Tensor, y: Tensor, winner: Tensor, graph: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`edge_max_channel_backward` or `edge_max_position_backward`."""
    backward = edge_max_channel_backward if graph == "channel" else edge_max_position_backward
    tensors = (grad_y, x, idx.to(torch.int32), weight1, weight2, y, winner)
    return backward(*(t.contiguous() for t in tensors))


# --------------------------------------------------------------------------------------------------------------
# channel graph, forward


def edge_max_channel(
    x: Tensor, idx: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> tuple[Tensor, Tensor]:
    """y_c = ReLU((W1 − W2) x_c + b1 + b2 + max_j W2 x_j), and the winning j.  (N, C, P) → (N, C, P) twice."""
    n, c, p = x.shape
    k = idx.shape[2]
    y, winner = torch.empty_like(x), torch.empty_like(x, dtype=torch.uint8)
    if c > MOST_CHANNELS_ON_CHIP:  # a map's messages do not fit in one program: they go through memory
        own, messages = x @ (weight1 - weight2).mT, x @ weight2.mT
        arguments = (own, messages, idx, bias1, bias2, y, winner, p, c, k)
        launch(edge_max_gather_kernel, lambda t: (n * c, ceil_div(p, t["BLOCK_P"])), *arguments, tiles={"BLOCK_P": p})
        return y, winner
    launch(
        edge_max_channel_fwd_kernel,
        lambda t: (n, ceil_div(p, t["BLOCK_P"])),
        *(x, idx, weight1, bias1, weight2, bias2, y, winner, c, p, k),
        tiles={"BLOCK_P": p, "BLOCK_Q": p},
        CHANNELS=power_of_two(c),
        PRECISION=precision(x),
    )
    return y, winner


@triton.jit
def edge_max_channel_fwd_kernel(
    x_ptr, idx_ptr, weight1_ptr, bias1_ptr, weight2_ptr, bias2_ptr, y_ptr, winner_ptr, C, P, K,
    CHANNELS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """m[c, p] = Σ_q W2[p, q] x[c, q]
    y[c, p] = ReLU(Σ_q (W1 − W2)[p, q] x[c, q] + b1[p] + b2[p] + max_j m[idx[c, j], p])

    A program holds all C channels of one map for BLOCK_P outputs: their messages never leave the chip, so the maximum
    over the neighbours is a gather of rows of its own tile.
    Traffic per map: x read ⌈P / BLOCK_P⌉ times (once from memory), y and winner written; both weights from L2.
    """
    n = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    own = tl.zeros((CHANNELS, BLOCK_P), tl.float32)
    messages = tl.zeros((CHANNELS, BLOCK_P), tl.float32)
    for q0 in range(0, P, BLOCK_Q):
        q = q0 + tl.arange(0, BLOCK_Q)
        x = tl.load(x_ptr + n * C * P + c[:, None] * P + q[None, :], (c[:, None] < C) & (q[None, :] < P), 0.0)
        inside = (q[:, None] < P) & (p[None, :] < P)
        weight1 = tl.load(weight1_ptr + p[None, :] * P + q[:, None], inside, 0.0)  # transposed: (BLOCK_Q, BLOCK_P)
        weight2 = tl.load(weight2_ptr + p[None, :] * P + q[:, None], inside, 0.0)
        own = tl.dot(x, weight1 - weight2, own, input_precision=PRECISION)
        messages = tl.dot(x, weight2, messages, input_precision=PRECISION)

    best = tl.full((CHANNELS, BLOCK_P), float("-inf"), tl.float32)
    winner = tl.zeros((CHANNELS, BLOCK_P), tl.int32)
    for j in range(K):
        neighbour = tl.load(idx_ptr + (n * C + c) * K + j, c < C, 0)
        candidate = tl.gather(messages, tl.broadcast_to(neighbour[:, None], (CHANNELS, BLOCK_P)), 0)
        best, winner = better_of(best, winner, candidate, j)
    bias = load_bias(bias1_ptr, bias2_ptr, p, P)
    store_output(y_ptr, winner_ptr, n * C, c, p, own + bias[None, :] + best, winner, C, P)


@triton.jit
def edge_max_gather_kernel(
    own_ptr, messages_ptr, idx_ptr, bias1_ptr, bias2_ptr, y_ptr, winner_ptr, P, C, K, BLOCK_P: tl.constexpr
):
    """y[c, p] = ReLU(own[c, p] + b1[p] + b2[p] + max_j messages[idx[c, j], p]): the channel graph with many channels.

    A program holds BLOCK_P outputs of one channel. Traffic: own read, messages read k times (from L2 mostly), y and
    winner written.
    """
    row = tl.program_id(0).to(tl.int64)  # n·C + c
    n = row // C
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    best = tl.full((BLOCK_P,), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK_P,), tl.int32)
    for j in range(K):
        neighbour = tl.load(idx_ptr + row * K + j)
        candidate = tl.load(messages_ptr + (n * C + neighbour) * P + p, p < P, 0.0).to(tl.float32)
        best, winner = better_of(best, winner, candidate, j)
    total = tl.load(own_ptr + row * P + p, p < P, 0.0).to(tl.float32) + load_bias(bias1_ptr, bias2_ptr, p, P) + best
    y = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y_ptr + row * P + p, y.to(y_ptr.dtype.element_ty), p < P)
    tl.store(winner_ptr + row * P + p, winner.to(tl.uint8), p < P)


@triton.jit
def better_of(best, winner, candidate, j):
    """The running maximum and its neighbour: the first of equals, and NaN above everything."""
    better = (candidate > best) | ((candidate != candidate) & (best == best))
    return tl.where(better, candidate, best), tl.where(better, j, winner)


@triton.jit
def load_bias(bias1_ptr, bias2_ptr, p, P):
    """b1 + b2 in float32."""
    bias1 = tl.load(bias1_ptr + p, p < P, 0.0).to(tl.float32)
    return bias1 + tl.load(bias2_ptr + p, p < P, 0.0).to(tl.float32)


@triton.jit
def store_output(y_ptr, winner_ptr, first_row, c, p, total, winner, C, P):
    """y = ReLU(total), NaN kept, and the winners: rows first_row + c of (N·C, P)."""
    at = (first_row + c)[:, None] * P + p[None, :]
    inside = (c[:, None] < C) & (p[None, :] < P)
    y = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), inside)
    tl.store(winner_ptr + at, winner.to(tl.uint8), inside)


# --------------------------------------------------------------------------------------------------------------
# channel graph, backward


def edge_max_channel_backward(
    grad_y: Tensor, x: Tensor, idx: Tensor, weight1: Tensor, weight2: Tensor, y: Tensor, winner: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight1, weight2 and of either bias (they are equal)."""
    n, c, p = x.shape
    k = idx.shape[2]
    edges, first = reverse_graph(idx)
    grad_messages = torch.empty_like(x)
    launch(
        edge_max_channel_bwd_kernel_messages,
        lambda t: (n * c, ceil_div(p, t["BLOCK_P"])),
        *(grad_y, y, winner, edges, first, grad_messages, c, p, k),
        tiles={"BLOCK_P": p},
    )
    grad_x = torch.empty_like(x)
    launch(
        edge_max_channel_bwd_kernel_dx,
        lambda t: (ceil_div(n * c, t["BLOCK_R"]), ceil_div(p, t["BLOCK_Q"])),
        *(grad_y, y, grad_messages, weight1, weight2, grad_x, n * c, p),
        tiles={"BLOCK_R": n * c, "BLOCK_P": p, "BLOCK_Q": p},
        PRECISION=precision(x),
    )
    splits, per_split = split_sum(n * c, p, x)
    sums, bias_sums = partial_sums(splits, p, x)
    launch(
        edge_max_channel_bwd_kernel_dw,
        lambda t: (ceil_div(p, t["BLOCK_P"]), ceil_div(p, t["BLOCK_Q"]), splits),
        *(grad_y, y, grad_messages, x, sums, bias_sums, n * c, per_split, p),
        tiles={"BLOCK_P": p, "BLOCK_Q": p, "BLOCK_R": per_split},
        PRECISION=precision(x),
    )
    return grad_x, *finish_sums(sums, bias_sums, x.dtype)


@triton.jit
def edge_max_channel_bwd_kernel_messages(
    grad_y_ptr, y_ptr, winner_ptr, edges_ptr, first_ptr, grad_messages_ptr, C, P, K, BLOCK_P: tl.constexpr
):
    """grad = grad_y·(y > 0)
    grad_messages[c', p] = Σ grad[c, p] over the edges (c, j) with idx[c, j] = c' that won at p

    A program holds BLOCK_P positions of one channel c' and walks its incoming edges (k on average) in order.
    Traffic: grad_y, y and winner k times (from L2 mostly), grad_messages written.
    """
    row = tl.program_id(0).to(tl.int64)  # n·C + c'
    n = row // C
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    total = tl.zeros((BLOCK_P,), tl.float32)
    begin = tl.load(first_ptr + row + n)  # (N, C + 1)
    end = tl.load(first_ptr + row + n + 1)
    for e in range(begin, end):
        edge = tl.load(edges_ptr + n * C * K + e)
        at = (n * C + edge // K) * P + p
        won = tl.load(winner_ptr + at, p < P, 255).to(tl.int32) == edge % K
        total += tl.where(won, load_grad(grad_y_ptr, y_ptr, at, p < P).to(tl.float32), 0.0)
    tl.store(grad_messages_ptr + row * P + p, total.to(grad_messages_ptr.dtype.element_ty), p < P)


@triton.jit
def edge_max_channel_bwd_kernel_dx(
    grad_y_ptr, y_ptr, grad_messages_ptr, weight1_ptr, weight2_ptr, grad_x_ptr, ROWS, P,
    BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_x[r, q] = Σ_p grad[r, p] (W1 − W2)[p, q] + grad_messages[r, p] W2[p, q],  r = n·C + c.

    A program holds a tile (BLOCK_R, BLOCK_Q). Traffic: grad_y, y and grad_messages ⌈P / BLOCK_Q⌉ times, grad_x once.
    """
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    grad_x = tl.zeros((BLOCK_R, BLOCK_Q), tl.float32)
    for p0 in range(0, P, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at = r[:, None] * P + p[None, :]
        inside = (r[:, None] < ROWS) & (p[None, :] < P)
        weight_inside = (p[:, None] < P) & (q[None, :] < P)
        weight1 = tl.load(weight1_ptr + p[:, None] * P + q[None, :], weight_inside, 0.0)
        weight2 = tl.load(weight2_ptr + p[:, None] * P + q[None, :], weight_inside, 0.0)
        grad = load_grad(grad_y_ptr, y_ptr, at, inside)
        grad_x = tl.dot(grad, weight1 - weight2, grad_x, input_precision=PRECISION)
        grad_messages = tl.load(grad_messages_ptr + at, inside, 0.0)
        grad_x = tl.dot(grad_messages, weight2, grad_x, input_precision=PRECISION)
    inside = (r[:, None] < ROWS) & (q[None, :] < P)
    tl.store(grad_x_ptr + r[:, None] * P + q[None, :], grad_x.to(grad_x_ptr.dtype.element_ty), inside)


@triton.jit
def edge_max_channel_bwd_kernel_dw(
    grad_y_ptr, y_ptr, grad_messages_ptr, x_ptr, sums_ptr, bias_sums_ptr, ROWS, PER_SPLIT, P,
    BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_R: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The partial sums over rows [s·PER_SPLIT, (s + 1)·PER_SPLIT) of

        grad_W1[p, q] = Σ_r grad[r, p] x[r, q]        grad_W2[p, q] = Σ_r (grad_messages − grad)[r, p] x[r, q]

    and grad_b[p] = Σ_r grad[r, p], in float32. sums is (splits, 2, P, P), bias_sums (splits, P).
    Traffic: x ⌈P / BLOCK_P⌉ times, grad_y, y and grad_messages ⌈P / BLOCK_Q⌉ times.
    """
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    split = tl.program_id(2).to(tl.int64)
    grad_weight1 = tl.zeros((BLOCK_P, BLOCK_Q), tl.float32)
    grad_weight2 = tl.zeros((BLOCK_P, BLOCK_Q), tl.float32)
    grad_bias = tl.zeros((BLOCK_P,), tl.float32)
    end = tl.minimum((split + 1) * PER_SPLIT, ROWS)
    for r0 in range(split * PER_SPLIT, end, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        at = r[None, :] * P + p[:, None]  # transposed: (BLOCK_P, BLOCK_R)
        inside = (r[None, :] < end) & (p[:, None] < P)
        x = tl.load(x_ptr + r[:, None] * P + q[None, :], (r[:, None] < end) & (q[None, :] < P), 0.0)
        grad = load_grad(grad_y_ptr, y_ptr, at, inside)
        grad_weight1 = tl.dot(grad, x, grad_weight1, input_precision=PRECISION)
        grad_messages = tl.load(grad_messages_ptr + at, inside, 0.0)
        grad_weight2 = tl.dot(grad_messages, x, grad_weight2, input_precision=PRECISION)
        grad_bias += tl.sum(grad.to(tl.float32), 1)
    store_sums(sums_ptr, bias_sums_ptr, split, p, q, grad_weight1, grad_weight2 - grad_weight1, grad_bias, P)


# --------------------------------------------------------------------------------------------------------------
# position graph, forward


def edge_max_position(
    x: Tensor, idx: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> tuple[Tensor, Tensor]:
    """y_c = max_j ReLU(W1 x_c + b1 + W2 (x_c[idx[·, j]] − 2 x_c) + b2), and the winning j.  (N, C, P) → twice that."""
    n, c, p = x.shape
    y, winner = torch.empty_like(x), torch.empty_like(x, dtype=torch.uint8)
    launch(
        edge_max_position_fwd_kernel,
        lambda t: (n, ceil_div(c, t["BLOCK_C"]), ceil_div(p, t["BLOCK_P"])),
        *(x, idx, weight1, bias1, weight2, bias2, y, winner, c, p, idx.shape[2]),
        tiles={"BLOCK_C": c, "BLOCK_P": p, "BLOCK_Q": p},
        PRECISION=precision(x),
    )
    return y, winner


@triton.jit
def edge_max_position_fwd_kernel(
    x_ptr, idx_ptr, weight1_ptr, bias1_ptr, weight2_ptr, bias2_ptr, y_ptr, winner_ptr, C, P, K,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y[c, p] = ReLU(Σ_q (W1 − 2 W2)[p, q] x[c, q] + b1[p] + b2[p] + max_j Σ_q W2[p, q] x[c, idx[q, j]])

    A program holds a tile (BLOCK_C, BLOCK_P) of one map. For each neighbour j it computes a product of the gathered map
    and keeps the better one: maximum and winner stay in registers.
    Traffic per map: x read (k + 1)·⌈P / BLOCK_P⌉ times (once from memory), y and winner written; weights from L2.
    """
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    x_rows = x_ptr + (n * C + c)[:, None] * P
    best = tl.full((BLOCK_C, BLOCK_P), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK_C, BLOCK_P), tl.int32)
    for j in range(K):
        message = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
        for q0 in range(0, P, BLOCK_Q):
            q = q0 + tl.arange(0, BLOCK_Q)
            neighbour = tl.load(idx_ptr + (n * P + q) * K + j, q < P, 0)
            gathered = tl.load(x_rows + neighbour[None, :], (c[:, None] < C) & (q[None, :] < P), 0.0)
            inside = (q[:, None] < P) & (p[None, :] < P)
            weight2 = tl.load(weight2_ptr + p[None, :] * P + q[:, None], inside, 0.0)  # transposed
            message = tl.dot(gathered, weight2, message, input_precision=PRECISION)
        best, winner = better_of(best, winner, message, j)

    own = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for q0 in range(0, P, BLOCK_Q):
        q = q0 + tl.arange(0, BLOCK_Q)
        x = tl.load(x_rows + q[None, :], (c[:, None] < C) & (q[None, :] < P), 0.0)
        inside = (q[:, None] < P) & (p[None, :] < P)
        weight1 = tl.load(weight1_ptr + p[None, :] * P + q[:, None], inside, 0.0)
        weight2 = tl.load(weight2_ptr + p[None, :] * P + q[:, None], inside, 0.0)
        own = tl.dot(x, own_weight(weight1, weight2), own, input_precision=PRECISION)
    bias = load_bias(bias1_ptr, bias2_ptr, p, P)
    store_output(y_ptr, winner_ptr, n * C, c, p, own + bias[None, :] + best, winner, C, P)


@triton.jit
def own_weight(weight1, weight2):
    """W1 − 2 W2 in the dtype of the weights: the factor of the node itself on the position graph."""
    return (weight1.to(tl.float32) - 2 * weight2.to(tl.float32)).to(weight1.dtype)


# --------------------------------------------------------------------------------------------------------------
# position graph, backward


def edge_max_position_backward(
    grad_y: Tensor, x: Tensor, idx: Tensor, weight1: Tensor, weight2: Tensor, y: Tensor, winner: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight1, weight2 and of either bias (they are equal)."""
    n, c, p = x.shape
    k = idx.shape[2]
    edges, first = reverse_graph(idx)
    grad_x = torch.empty_like(x)
    at_once = max(1, WORKSPACE_BYTES // max(1, (k + 1) * c * p * x.element_size()))
    for begin in range(0, n, at_once):
        some = slice(begin, begin + at_once)
        _position_grad_x(
            grad_y[some], y[some], winner[some], edges[some], first[some], grad_x[some], weight1, weight2, k
        )
    splits, per_split = split_sum(n, p, x)
    sums, bias_sums = partial_sums(splits, p, x)
    launch(
        edge_max_position_bwd_kernel_dw,
        lambda t: (ceil_div(p, t["BLOCK_P"]), ceil_div(p, t["BLOCK_Q"]), splits),
        *(grad_y, y, winner, x, idx, sums, bias_sums, n, per_split, c, p, k),
        tiles={"BLOCK_P": p, "BLOCK_Q": p, "BLOCK_C": c},
        PRECISION=precision(x),
    )
    return grad_x, *finish_sums(sums, bias_sums, x.dtype)


def _position_grad_x(
    grad_y: Tensor,
    y: Tensor,
    winner: Tensor,
    edges: Tensor,
    first: Tensor,
    grad_x: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    k: int,
) -> None:
    """Write grad_x of some maps, through the gradients of all their messages."""
    n, c, p = grad_x.shape
    grad_edges = grad_x.new_empty(n, k + 1, p, c)
    launch(
        edge_max_position_bwd_kernel_edges,
        lambda t: (n * (k + 1), ceil_div(p, t["BLOCK_Q"]), ceil_div(c, t["BLOCK_C"])),
        *(grad_y, y, winner, weight1, weight2, grad_edges, c, p, k),
        tiles={"BLOCK_C": c, "BLOCK_P": p, "BLOCK_Q": p},
        PRECISION=precision(grad_x),
    )
    launch(
        edge_max_position_bwd_kernel_dx,
        lambda t: (n * ceil_div(p, t["BLOCK_P"]), ceil_div(c, t["BLOCK_C"])),
        *(grad_edges, edges, first, grad_x, c, p, k),
        tiles={"BLOCK_C": c, "BLOCK_P": p},
    )


@triton.jit
def edge_max_position_bwd_kernel_edges(
    grad_y_ptr, y_ptr, winner_ptr, weight1_ptr, weight2_ptr, grad_edges_ptr, C, P, K,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_edges[j, q, c] = Σ_p grad[c, p] (winner[c, p] = j) W2[p, q]  for j < k
    grad_edges[k, q, c] = Σ_p grad[c, p] (W1 − 2 W2)[p, q]

    A program holds a tile (BLOCK_Q, BLOCK_C) of one map and one j. Channels come last, so that the next kernel adds
    whole rows. Traffic: grad_y, y and winner (k + 1)·⌈P / BLOCK_Q⌉ times (once from memory), grad_edges written.
    """
    n = (tl.program_id(0) // (K + 1)).to(tl.int64)
    j = tl.program_id(0) % (K + 1)
    q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    itself = j == K
    total = tl.zeros((BLOCK_Q, BLOCK_C), tl.float32)
    for p0 in range(0, P, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        weight_at = p[None, :] * P + q[:, None]  # transposed: (BLOCK_Q, BLOCK_P)
        weight_inside = (p[None, :] < P) & (q[:, None] < P)
        weight = tl.load(weight2_ptr + weight_at, weight_inside, 0.0)
        if itself:
            weight = own_weight(tl.load(weight1_ptr + weight_at, weight_inside, 0.0), weight)
        at = (n * C + c)[None, :] * P + p[:, None]  # transposed: (BLOCK_P, BLOCK_C)
        inside = (c[None, :] < C) & (p[:, None] < P)
        grad = load_grad(grad_y_ptr, y_ptr, at, inside)
        won = tl.load(winner_ptr + at, inside, 255).to(tl.int32) == j
        total = tl.dot(weight, tl.where(won | itself, grad, 0.0), total, input_precision=PRECISION)
    at = ((n * (K + 1) + j) * P + q)[:, None] * C + c[None, :]
    tl.store(grad_edges_ptr + at, total.to(grad_edges_ptr.dtype.element_ty), (q[:, None] < P) & (c[None, :] < C))


@triton.jit
def edge_max_position_bwd_kernel_dx(
    grad_edges_ptr, edges_ptr, first_ptr, grad_x_ptr, C, P, K, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr
):
    """grad_x[c, q] = grad_edges[k, q, c] + Σ grad_edges[j, q', c] over the edges (q', j) with idx[q', j] = q.

    A program holds a tile (BLOCK_P, BLOCK_C) of one map, one node after another, so that its rows are written in pieces
    of BLOCK_P. Traffic: grad_edges read once, grad_x written.
    """
    blocks = tl.cdiv(P, BLOCK_P)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    q0 = (tl.program_id(0) % blocks) * BLOCK_P
    q = q0 + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    map_ptr = grad_edges_ptr + n * (K + 1) * P * C
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for node in range(q0, tl.minimum(q0 + BLOCK_P, P)):
        row = tl.load(map_ptr + (K * P + node) * C + c, c < C, 0.0).to(tl.float32)
        begin = tl.load(first_ptr + n * (P + 1) + node)
        end = tl.load(first_ptr + n * (P + 1) + node + 1)
        for e in range(begin, end):
            edge = tl.load(edges_ptr + n * P * K + e)
            row += tl.load(map_ptr + ((edge % K) * P + edge // K) * C + c, c < C, 0.0).to(tl.float32)
        total = tl.where((q == node)[:, None], row[None, :], total)
    at = (n * C + c)[None, :] * P + q[:, None]
    tl.store(grad_x_ptr + at, total.to(grad_x_ptr.dtype.element_ty), (c[None, :] < C) & (q[:, None] < P))


@triton.jit
def edge_max_position_bwd_kernel_dw(
    grad_y_ptr, y_ptr, winner_ptr, x_ptr, idx_ptr, sums_ptr, bias_sums_ptr, N, PER_SPLIT, C, P, K,
    BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The partial sums over maps [s·PER_SPLIT, (s + 1)·PER_SPLIT) of

        grad_W1[p, q] = Σ_nc grad[c, p] x[c, q]
        grad_W2[p, q] = Σ_ncj grad[c, p] (winner[c, p] = j) x[c, idx[q, j]] − 2 grad_W1[p, q]

    and grad_b[p] = Σ_nc grad[c, p], in float32. sums is (splits, 2, P, P), bias_sums (splits, P).
    Traffic: x (k + 1)·⌈P / BLOCK_P⌉ times, grad_y, y and winner ⌈P / BLOCK_Q⌉ times.
    """
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    q = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    split = tl.program_id(2).to(tl.int64)
    grad_weight1 = tl.zeros((BLOCK_P, BLOCK_Q), tl.float32)
    grad_weight2 = tl.zeros((BLOCK_P, BLOCK_Q), tl.float32)
    grad_bias = tl.zeros((BLOCK_P,), tl.float32)
    for n in range(split * PER_SPLIT, tl.minimum((split + 1) * PER_SPLIT, N)):
        for c0 in range(0, C, BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            at = (n * C + c)[None, :] * P + p[:, None]  # transposed: (BLOCK_P, BLOCK_C)
            inside = (c[None, :] < C) & (p[:, None] < P)
            grad = load_grad(grad_y_ptr, y_ptr, at, inside)
            winner = tl.load(winner_ptr + at, inside, 255).to(tl.int32)
            x_rows = x_ptr + (n * C + c)[:, None] * P
            x_inside = (c[:, None] < C) & (q[None, :] < P)
            x = tl.load(x_rows + q[None, :], x_inside, 0.0)
            grad_weight1 = tl.dot(grad, x, grad_weight1, input_precision=PRECISION)
            grad_bias += tl.sum(grad.to(tl.float32), 1)
            for j in range(K):
                neighbour = tl.load(idx_ptr + (n * P + q) * K + j, q < P, 0)
                gathered = tl.load(x_rows + neighbour[None, :], x_inside, 0.0)
                grad_edge = tl.where(winner == j, grad, 0.0)
                grad_weight2 = tl.dot(grad_edge, gathered, grad_weight2, input_precision=PRECISION)
    store_sums(sums_ptr, bias_sums_ptr, split, p, q, grad_weight1, grad_weight2 - 2 * grad_weight1, grad_bias, P)


# --------------------------------------------------------------------------------------------------------------
# Shared by both graphs


@triton.jit
def load_grad(grad_y_ptr, y_ptr, at, inside):
    """grad_y·(y > 0), 0 outside: the gradient below the ReLU."""
    grad_y = tl.load(grad_y_ptr + at, inside, 0.0)
    return tl.where(tl.load(y_ptr + at, inside, 0.0) > 0, grad_y, 0.0)


@triton.jit
def store_sums(sums_ptr, bias_sums_ptr, split, p, q, grad_weight1, grad_weight2, grad_bias, P):
    """One program's tile of the partial sums."""
    at = p[:, None].to(tl.int64) * P + q[None, :]
    inside = (p[:, None] < P) & (q[None, :] < P)
    size = tl.cast(P, tl.int64) * P
    tl.store(sums_ptr + split * 2 * size + at, grad_weight1, inside)
    tl.store(sums_ptr + (split * 2 + 1) * size + at, grad_weight2, inside)
    if tl.program_id(1) == 0:
        tl.store(bias_sums_ptr + split * P + p, grad_bias, p < P)


def split_sum(length: int, p: int, x: Tensor) -> tuple[int, int]:
    """The number of parts of a sum over `length` rows or maps with a (P, P) result, and the length of a part."""
    tiles = ceil_div(p, 64) ** 2
    per_split = max(1, ceil_div(length, max(1, resident_programs(x) // tiles)))
    return ceil_div(length, per_split), per_split


def partial_sums(splits: int, p: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Buffers for the partial sums of the two weights (splits, 2, P, P) and of the bias (splits, P)."""
    wide = reference.statistics_dtype(x.dtype)
    return x.new_empty(splits, 2, p, p, dtype=wide), x.new_empty(splits, p, dtype=wide)


def finish_sums(sums: Tensor, bias_sums: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The second pass: gradients of weight1, weight2 and the bias."""
    grad_weight1, grad_weight2 = sums.sum(0).to(dtype)
    return grad_weight1, grad_weight2, bias_sums.sum(0).to(dtype)


def reverse_graph(idx: Tensor) -> tuple[Tensor, Tensor]:
    """The edges, sorted by the node that they point to.

    Args:
        idx: (N, M, k) int32, the neighbours of M nodes; edge e = m·k + j points from node m to idx[m, j].
    Returns:
        edges (N, M·k) int32, ordered by target, then by number; first (N, M + 1) int32: the edges to node t are
        edges[first[t] : first[t + 1]].
    """
    n, m, k = idx.shape
    edges, first = torch.empty_like(idx).view(n, m * k), idx.new_empty(n, m + 1)
    launch(
        reverse_graph_kernel,
        lambda t: (n, ceil_div(max(m * k, m + 1), t["BLOCK_E"])),
        *(idx, edges, first, m, m * k),
        tiles={"BLOCK_E": m * k, "BLOCK_F": m * k},
    )
    return edges, first


@triton.jit
def reverse_graph_kernel(idx_ptr, edges_ptr, first_ptr, M, EDGES, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr):
    """A counting sort by comparison: rank[e] = #{f : target_f < target_e, or equal and f < e};  edges[rank[e]] = e.

    A program holds BLOCK_E edges (and as many entries of `first`) and loops over all edges of the map, BLOCK_F at a
    time. EDGES² comparisons per map: 10⁶ at 256 nodes with 4 neighbours. Traffic: idx from L1.
    """
    n = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    target = tl.load(idx_ptr + n * EDGES + e, e < EDGES, 0)
    rank = tl.zeros((BLOCK_E,), tl.int32)
    first = tl.zeros((BLOCK_E,), tl.int32)
    for f0 in range(0, EDGES, BLOCK_F):
        f = f0 + tl.arange(0, BLOCK_F)
        other = tl.load(idx_ptr + n * EDGES + f, f < EDGES, M)  # beyond the last: below no target
        before = (other[None, :] < target[:, None]) | ((other[None, :] == target[:, None]) & (f[None, :] < e[:, None]))
        rank += tl.sum(before.to(tl.int32), 1)
        first += tl.sum(((other[None, :] < e[:, None]) & (f[None, :] < EDGES)).to(tl.int32), 1)
    tl.store(edges_ptr + n * EDGES + rank, e, e < EDGES)
    tl.store(first_ptr + n * (M + 1) + e, first, e <= M)
