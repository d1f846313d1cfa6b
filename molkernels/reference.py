"""Every operator as its formula in plain PyTorch, forward and backward, to be read beside the paper.

The other backends are tested against these functions in float64. Autograd can differentiate the forward functions; the
explicit backward functions are what the operators of `molkernels.ops` run, and are tested against autograd.

Notation: N maps, C channels, H × W pixels, P = H·W positions, k neighbours, G groups of samples that share batch
statistics (sample n is in group n mod G). Index sums along an axis are circular.

Source: Shao et al., "MOL", IEEE TPAMI 2025, arXiv 2506.14511; EdgeConv: Wang et al., "DGCNN", ACM TOG 2019;
cost volume: Dosovitskiy et al., "FlowNet", ICCV 2015.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# --------------------------------------------------------------------------------------------------------------
# fcc: fully-connected convolution


def circulant(weight: Tensor) -> Tensor:
    """Circular correlation as a matrix: M[c, i, m] = weight[c, (m − i) mod L].  (C, L) → (C, L, L).

    (M u)[i] = Σ_t weight[t] · u[(i + t) mod L]
    """
    axis = torch.arange(weight.shape[1], device=weight.device)
    return weight[:, (axis[None, :] - axis[:, None]) % weight.shape[1]]


def circulant_backward(grad_matrix: Tensor) -> Tensor:
    """Gradient of `circulant`: grad_weight[c, t] = Σ_i grad_M[c, i, (i + t) mod L].  (C, L, L) → (C, L)."""
    length = grad_matrix.shape[1]
    axis = torch.arange(length, device=grad_matrix.device)
    lags = (axis[:, None] + axis[None, :]) % length
    return grad_matrix.gather(2, lags.expand_as(grad_matrix)).sum(1)


def add_position(x: Tensor, pe_h: Tensor, pe_w: Tensor) -> Tensor:
    """Add the position embedding of each branch's first axis: rows for the first C/2 channels, columns for the rest."""
    half = x.shape[1] // 2
    return torch.cat([x[:, :half] + pe_h[:half, :, None], x[:, half:] + pe_w[half:, None, :]], 1)


def fcc_statistics(x: Tensor, pe_h: Tensor, pe_w: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (G, C) of x plus position embedding, over the samples of a group and all pixels."""
    wide = x.to(statistics_dtype(x.dtype))
    if x.shape[0] == 0:
        return wide.new_zeros(groups, x.shape[1]), wide.new_zeros(groups, x.shape[1])
    placed = add_position(wide, pe_h.to(wide.dtype), pe_w.to(wide.dtype))
    var, mean = torch.var_mean(placed.unflatten(0, (-1, groups)), (0, 3, 4), correction=0)
    return mean, var


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
    """Fully-connected convolution with given statistics.

    Branch A, the first C/2 channels (columns, then rows)::

        u0 = (a + pe_h[c, i] − mean) / √(var + eps) · gamma + beta
        u1[i, j] = Σ_t weight_h[c, t] · u0[(i + t) mod H, j] + bias_h[c] + pe_w[c, j]
        u2[i, j] = Σ_t weight_w[c, t] · u1[i, (j + t) mod W] + bias_w[c]

    Branch B, the other channels: the same with the axes exchanged. ``residual`` adds x.

    Args:
        x: (N, C, H, W), C even.
        mean, var: (G, C), the statistics of sample n in row n mod G.
        gamma, beta, bias_h, bias_w: (C,).
        pe_h, weight_h: (C, H).
        pe_w, weight_w: (C, W).
    Returns:
        (N, C, H, W).
    """
    half = x.shape[1] // 2
    u0 = normalised_input(x, mean, var, pe_h, pe_w, eps) * gamma[:, None, None] + beta[:, None, None]
    u0 = u0.to(x.dtype)
    branch_a = fcc_branch(u0[:, :half], weight_h[:half], bias_h[:half], pe_w[:half], weight_w[:half], bias_w[:half])
    branch_b = fcc_branch(
        u0[:, half:].transpose(2, 3), weight_w[half:], bias_w[half:], pe_h[half:], weight_h[half:], bias_h[half:]
    )
    y = torch.cat([branch_a, branch_b.transpose(2, 3)], 1)
    return x + y if residual else y


def fcc_branch(u0: Tensor, weight1: Tensor, bias1: Tensor, pe2: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Correlate along the second to last axis, add bias and embedding, correlate along the last.  (N, C/2, ·, ·)."""
    u1 = circulant(weight1) @ u0 + bias1[:, None, None] + pe2[:, None, :]
    return u1 @ circulant(weight2).transpose(1, 2) + bias2[:, None, None]


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
    mean, var = fcc_statistics(x, pe_h, pe_w, groups)
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

    With ``training`` the statistics are functions of x, and with v = x + pe, v̂ = (v − mean) · rstd::

        grad_v = rstd · (γ·grad_u0 − E_g[γ·grad_u0] − v̂ · E_g[γ·grad_u0 · v̂])

    where E_g is the mean over the samples of a group and all pixels; without it the two means are left out.
    """
    half = x.shape[1] // 2
    normalised = normalised_input(x, mean, var, pe_h, pe_w, eps)
    u0 = (normalised * gamma[:, None, None] + beta[:, None, None]).to(x.dtype)
    grad_a = fcc_branch_backward(
        grad_y[:, :half], u0[:, :half], weight_h[:half], bias_h[:half], pe_w[:half], weight_w[:half]
    )
    grad_b = fcc_branch_backward(
        grad_y[:, half:].mT, u0[:, half:].mT, weight_w[half:], bias_w[half:], pe_h[half:], weight_h[half:]
    )
    grad_u0 = torch.cat([grad_a[0], grad_b[0].mT], 1).to(normalised.dtype)

    grad_gamma, grad_beta = (grad_u0 * normalised).sum((0, 2, 3)), grad_u0.sum((0, 2, 3))
    grad_v = grad_u0 * gamma[:, None, None]
    if training and x.shape[0]:
        grad_v = grad_v - group_mean(grad_v, mean) - normalised * group_mean(grad_v * normalised, mean)
    grad_v = grad_v * per_sample(torch.rsqrt(var + eps), x)
    grad_x = grad_v + grad_y if residual else grad_v
    to = x.dtype
    return (
        grad_x.to(to),
        grad_gamma.to(to),
        grad_beta.to(to),
        torch.cat([grad_v[:, :half].sum((0, 3)).to(to), grad_b[3]]),
        torch.cat([grad_a[3], grad_v[:, half:].sum((0, 2)).to(to)]),
        torch.cat([grad_a[1], grad_b[4]]),
        torch.cat([grad_a[4], grad_b[1]]),
        torch.cat([grad_a[2], grad_b[5]]),
        torch.cat([grad_a[5], grad_b[2]]),
    )


def fcc_branch_backward(
    grad: Tensor, u0: Tensor, weight1: Tensor, bias1: Tensor, pe2: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u0, weight1, bias1, pe2, weight2, bias2 of `fcc_branch`."""
    matrix1, matrix2 = circulant(weight1), circulant(weight2)
    u1 = matrix1 @ u0 + bias1[:, None, None] + pe2[:, None, :]
    grad_weight2 = circulant_backward(torch.einsum("ncij,ncim->cjm", grad, u1))
    grad_u1 = grad @ matrix2
    grad_weight1 = circulant_backward(torch.einsum("ncij,ncmj->cim", grad_u1, u0))
    return (
        matrix1.mT @ grad_u1,
        grad_weight1,
        grad_u1.sum((0, 2, 3)),
        grad_u1.sum((0, 2)),
        grad_weight2,
        grad.sum((0, 2, 3)),
    )


def normalised_input(x: Tensor, mean: Tensor, var: Tensor, pe_h: Tensor, pe_w: Tensor, eps: float) -> Tensor:
    """(x + pe − mean) / √(var + eps) in the statistics' precision."""
    placed = add_position(x.to(mean.dtype), pe_h.to(mean.dtype), pe_w.to(mean.dtype))
    return (placed - per_sample(mean, x)) * per_sample(torch.rsqrt(var + eps), x)


def per_sample(statistic: Tensor, x: Tensor) -> Tensor:
    """(G, C) → (N, C, 1, 1): the row of sample n is n mod G; (1, C, 1, 1) if all share one."""
    if statistic.shape[0] == 1:
        return statistic[:, :, None, None]
    return statistic.repeat(x.shape[0] // statistic.shape[0], 1)[:, :, None, None]


def group_mean(values: Tensor, statistic: Tensor) -> Tensor:
    """The mean of (N, C, H, W) over each group and all pixels, spread back to (N, C, 1, 1) as `per_sample` does."""
    return per_sample(values.unflatten(0, (-1, statistic.shape[0])).mean((0, 3, 4)), values)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Statistics and accumulations: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# --------------------------------------------------------------------------------------------------------------
# knn: the cosine k-nearest-neighbour graph


SIMILARITY_STEPS = 2.0**40


def knn(nodes: Tensor, k: int) -> Tensor:
    """The k nearest nodes by cosine similarity; each node is its own first neighbour.

    s[m, q] = ⟨x_m, x_q⟩ / (‖x_m‖ ‖x_q‖), rounded to a multiple of 2⁻⁴⁰ before ranking. Of equal similarities the lowest
    index wins; an all-zero node has similarity 0 to all others; NaN ranks last.

    Nodes of any dtype are compared in float64: neighbours can be closer to each other than float32 resolves, and which
    of them is chosen changes the output by far more than rounding does.

    Args:
        nodes: (N, M, D), M nodes of D components.
        k: 1 ≤ k ≤ M.
    Returns:
        int32 (N, M, k).
    """
    exact = nodes.cpu().double() if nodes.device.type == "mps" else nodes.double()  # Apple's GPUs have no float64
    unit = F.normalize(exact, dim=2, eps=math.sqrt(torch.finfo(torch.float32).tiny))
    similarity = unit @ unit.transpose(1, 2)
    similarity = torch.where(similarity.isnan(), -2.0, similarity)
    index = torch.arange(nodes.shape[1], device=similarity.device)
    itself = index[:, None] == index
    similarity = torch.where(itself, 3.0, similarity)  # first, even among equals
    return _top_k(similarity, k).to(nodes.device, torch.int32)


def _top_k(similarity: Tensor, k: int) -> Tensor:
    """Indices of the k largest values in a row, lowest index first among equals.

    torch.topk leaves the order of equal values open, and a stable sort of whole rows takes many times as long. So
    each value becomes an int64 key that is unique: the rounded similarity above the reversed index.
    """
    count = similarity.shape[-1]
    reversed_index = torch.arange(count - 1, -1, -1, device=similarity.device)
    keys = (similarity * SIMILARITY_STEPS).round().long() * 2**16 + reversed_index
    return keys.topk(k, dim=-1).indices


# --------------------------------------------------------------------------------------------------------------
# edge_max: edge convolution, the maximum over the neighbours


def edge_max_channel(
    x: Tensor, idx: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> tuple[Tensor, Tensor]:
    """Edge convolution on the graph of the channels.

    y_c = max_{j∈N(c)} ReLU(W1 x_c + b1 + W2 (x_j − x_c) + b2) = ReLU((W1 − W2) x_c + b1 + b2 + max_j W2 x_j)

    Args:
        x: (N, C, P).
        idx: (N, C, k) integer, neighbours among the C channels.
        weight1, weight2: (P, P).
        bias1, bias2: (P,).
    Returns:
        y (N, C, P) and the winning neighbour j < k (N, C, P) uint8, the lowest of equals.
    """
    n, c, p = x.shape
    messages = product(x, weight2.t())
    k = idx.shape[2]
    chosen = messages.gather(1, idx.long().reshape(n, c * k, 1).expand(n, c * k, p)).view(n, c, k, p)
    best, winner = chosen.max(2)
    y = F.relu(product(x, (weight1 - weight2).t()) + (bias1 + bias2) + best)
    return y, winner.to(torch.uint8)


def edge_max_channel_backward(
    grad_y: Tensor, x: Tensor, idx: Tensor, weight1: Tensor, weight2: Tensor, y: Tensor, winner: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight1, weight2 and of either bias (they are equal)."""
    grad = grad_y.where(y > 0, 0)
    source = idx.long().gather(2, winner.long())  # (N, C, P): the channel that each output took its message from
    grad_messages = torch.zeros_like(grad).scatter_add_(1, source, grad)
    grad_x = product(grad, weight1 - weight2) + product(grad_messages, weight2)
    grad_weight1 = torch.einsum("ncp,ncq->pq", grad, x)
    grad_weight2 = torch.einsum("ncp,ncq->pq", grad_messages - grad, x)
    return grad_x, grad_weight1, grad_weight2, grad.sum((0, 1))


def edge_max_position(
    x: Tensor, idx: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> tuple[Tensor, Tensor]:
    """Edge convolution on the graph of the positions, with the difference taken twice as the released code does.

    y_c = max_j ReLU(W1 x_c + b1 + W2 (x_c[idx[·, j]] − 2 x_c) + b2)

    Args:
        x: (N, C, P).
        idx: (N, P, k) integer, neighbours among the P positions.
        weight1, weight2: (P, P).
        bias1, bias2: (P,).
    Returns:
        y (N, C, P) and the winning neighbour j < k (N, C, P) uint8, the lowest of equals.
    """
    best, winner = product(gather_positions(x, idx), weight2.t()).max(2)
    y = F.relu(product(x, (weight1 - 2 * weight2).t()) + (bias1 + bias2) + best)
    return y, winner.to(torch.uint8)


def edge_max_position_backward(
    grad_y: Tensor, x: Tensor, idx: Tensor, weight1: Tensor, weight2: Tensor, y: Tensor, winner: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight1, weight2 and of either bias (they are equal)."""
    n, c, p = x.shape
    k = idx.shape[2]
    grad = grad_y.where(y > 0, 0)
    neighbour = torch.arange(k, device=x.device)[:, None]
    grad_edges = grad[:, :, None, :].where(winner[:, :, None, :] == neighbour, 0)  # (N, C, k, P)
    grad_x = product(grad, weight1 - 2 * weight2)
    grad_x.scatter_add_(2, _position_index(idx, c), product(grad_edges, weight2).reshape(n, c, k * p))
    grad_weight1 = torch.einsum("ncp,ncq->pq", grad, x)
    grad_weight2 = torch.einsum("nckp,nckq->pq", grad_edges, gather_positions(x, idx)) - 2 * grad_weight1
    return grad_x, grad_weight1, grad_weight2, grad.sum((0, 1))


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b. On a CPU 16 bits are multiplied in float32 and rounded once, so that NaN in a row stays in that row,
    whatever the processor's own 16-bit products do."""
    if a.device.type == "cpu" and a.dtype in (torch.bfloat16, torch.float16):
        return (a.float() @ b.float()).to(a.dtype)
    return a @ b


def gather_positions(x: Tensor, idx: Tensor) -> Tensor:
    """x_c[idx[·, j]] for every neighbour j.  (N, C, P), (N, P, k) → (N, C, k, P)."""
    n, p, k = idx.shape
    return x.gather(2, _position_index(idx, x.shape[1])).view(n, x.shape[1], k, p)


def _position_index(idx: Tensor, channels: int) -> Tensor:
    """(N, P, k) → (N, C, k·P), neighbour-major."""
    n, p, k = idx.shape
    return idx.long().transpose(1, 2).reshape(n, 1, k * p).expand(n, channels, k * p)


def edge_max(
    x: Tensor, idx: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, graph: str
) -> tuple[Tensor, Tensor]:
    """`edge_max_channel` or `edge_max_position`."""
    forward = edge_max_channel if graph == "channel" else edge_max_position
    return forward(x, idx, weight1, bias1, weight2, bias2)


def edge_max_backward(
    grad_y: Tensor, x: Tensor, idx: Tensor, weight1: Tensor, weight2: Tensor, y: Tensor, winner: Tensor, graph: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`edge_max_channel_backward` or `edge_max_position_backward`."""
    backward = edge_max_channel_backward if graph == "channel" else edge_max_position_backward
    return backward(grad_y, x, idx, weight1, weight2, y, winner)


def ccc(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, k: int, graph: str) -> Tensor:
    """Channel correspondence convolution: the graph of x, then the edge convolution on it.  (N, C, P) → (N, C, P)."""
    idx = knn(graph_nodes(x.detach(), graph), k)
    return edge_max(x, idx, weight1, bias1, weight2, bias2, graph)[0]


def graph_nodes(x: Tensor, graph: str) -> Tensor:
    """The node vectors: the C channels over P for "channel", the P positions over C for "position"."""
    return x if graph == "channel" else x.transpose(1, 2)


# --------------------------------------------------------------------------------------------------------------
# f5c: the whole block, in evaluation


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
    """The F5C block with given statistics.

    - With mixing convolutions (the paper's block): z = x + mix1(FCC(x)); y = z + mix2(CCC(z)).
    - Without them (the released block): z = x + FCC(x); y = z + CCC(z).
    """
    f = fcc(x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w, eps, False)
    z = x + mix(f.flatten(2), fcc_mix, fcc_mix_bias).view_as(x)
    edges = ccc(z.flatten(2), weight1, bias1, weight2, bias2, k, graph)
    return z + mix(edges, ccc_mix, ccc_mix_bias).view_as(z)


def mix(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution: y[n, d, p] = Σ_c weight[d, c] · x[n, c, p] + bias[d]; x itself without a weight."""
    if weight is None:
        return x
    if x.is_cuda:  # where cuDNN's setting of TF32 counts, as for nn.Conv2d: see `molkernels.precision`
        return F.conv1d(x, weight[:, :, None], bias)
    y = weight @ x
    return y if bias is None else y + bias[:, None]


# --------------------------------------------------------------------------------------------------------------
# cost_volume: correlation of two maps over a square of displacements


def cost_volume(a: Tensor, b: Tensor, radius_y: int, radius_x: int, stride: int, negative_slope: float) -> Tensor:
    """Correlation of two maps over displacements, with LeakyReLU::

        out[n, d, y, x] = LeakyReLU(1/C · Σ_c a[n, c, y, x] · b[n, c, y + s·dy, x + s·dx]),   zero outside,
        d = (dy + Ry)(2Rx + 1) + (dx + Rx)

    Args:
        a, b: (N, C, H, W).
    Returns:
        (N, (2Ry + 1)(2Rx + 1), H, W).
    """
    n, c, height, width = a.shape
    target, valid = displaced_positions(height, width, radius_y, radius_x, stride, a.device)
    products = (a.flatten(2).transpose(1, 2) / c) @ b.flatten(2)  # (N, P, P): every pixel of a with every pixel of b
    chosen = products.gather(2, target.expand(n, -1, -1)).where(valid, 0)
    return F.leaky_relu(chosen, negative_slope).transpose(1, 2).reshape(n, target.shape[1], height, width)


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
    n, c, height, width = a.shape
    target, valid = displaced_positions(height, width, radius_y, radius_x, stride, a.device)
    grad = torch.where(out > 0, grad_out, grad_out * negative_slope).flatten(2).mT.where(valid, 0)
    grad_products = grad.new_zeros(n, height * width, height * width).scatter_add_(2, target.expand(n, -1, -1), grad)
    grad_a = (b.flatten(2) / c) @ grad_products.mT
    grad_b = (a.flatten(2) / c) @ grad_products
    return grad_a.view_as(a), grad_b.view_as(b)


def displaced_positions(
    height: int, width: int, radius_y: int, radius_x: int, stride: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each pixel and displacement the pixel of b (P, D), and whether it is inside the map (P, D)."""
    dy = torch.arange(-radius_y, radius_y + 1, device=device).repeat_interleave(2 * radius_x + 1) * stride
    dx = torch.arange(-radius_x, radius_x + 1, device=device).repeat(2 * radius_y + 1) * stride
    y = torch.arange(height, device=device).repeat_interleave(width)[:, None] + dy
    x = torch.arange(width, device=device).repeat(height)[:, None] + dx
    valid = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return y.clamp(0, height - 1) * width + x.clamp(0, width - 1), valid
