"""Every operator as it is usually written in PyTorch, in the tensors' own precision, to be compiled.

`molkernels.reference` is written to be exact: statistics in float32, products of 16 bits in float32 on a processor, and
a graph that is searched in float64 with equal similarities in order. Few users would write that, and some of it costs
much more than this. Of two neighbours that are nearly tied this form may take the other; so that one can tell, a form
with a graph returns it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from molkernels import reference
from molkernels.functional import EdgeParameters, FCCParameters


def fcc(x: Tensor, mean: Tensor | None, var: Tensor | None, given: FCCParameters, eps: float) -> Tensor:
    """`reference.fcc` with its residual: batch norm, then depthwise convolutions of maps that are padded circularly.

    Without mean and var (C,) the statistics are those of the batch.
    """
    half, height, width = x.shape[1] // 2, *x.shape[2:]

    def along_height(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 0, height - 1), mode="circular")
        return F.conv2d(padded, weight[:, None, :, None], bias, groups=half)

    def along_width(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padded = F.pad(x, (0, width - 1, 0, 0), mode="circular")
        return F.conv2d(padded, weight[:, None, None], bias, groups=half)

    placed = reference.add_position(x, given.pe_h, given.pe_w)
    u = F.batch_norm(placed, mean, var, given.gamma, given.beta, training=mean is None, eps=eps)
    first, second = (FCCParameters(*(p[at] for p in given)) for at in (slice(half), slice(half, None)))
    a = along_height(u[:, :half], first.weight_h, first.bias_h) + first.pe_w[:, None]
    b = along_width(u[:, half:], second.weight_w, second.bias_w) + second.pe_h[:, :, None]
    a, b = along_width(a, first.weight_w, first.bias_w), along_height(b, second.weight_h, second.bias_h)
    return x + torch.cat([a, b], 1)


def knn(nodes: Tensor, k: int) -> Tensor:
    """The k nearest nodes by cosine similarity, in any order among equals.  (N, M, D) → int64 (N, M, k)."""
    unit = F.normalize(nodes, dim=2)
    return (unit @ unit.mT).topk(k, dim=2).indices


def ccc(x: Tensor, given: EdgeParameters, k: int, graph: str) -> tuple[Tensor, Tensor]:
    """The formula of `reference.ccc`, and its graph: normalise, product, topk, gather, maximum.

    (N, C, P) → (N, C, P), (N, M, k). Like a user who cares for speed, it multiplies before it gathers where it can. The
    maximum is not `amax`: compiled in bfloat16, its gradient divides by the number of equals, which may then be 0.
    """
    idx = knn(reference.graph_nodes(x.detach(), graph), k)
    if graph == "channel":
        n, c, p = x.shape
        messages = F.linear(x, given.weight2).gather(1, idx.reshape(n, c * k, 1).expand(n, c * k, p)).view(n, c, k, p)
    else:
        messages = F.linear(reference.gather_positions(x, idx), given.weight2)
    own = given.weight1 - (1 if graph == "channel" else 2) * given.weight2
    return F.relu(F.linear(x, own, given.bias1 + given.bias2) + messages.max(2).values), idx


def cost_volume(a: Tensor, b: Tensor, radius: int, stride: int) -> Tensor:
    """The products of all pairs of pixels, padded, and of those the window of each pixel, as RAFT looks them up.

    2 × (N, C, H, W) → (N, (2 radius + 1)², H, W). The other usual form, a sum over the windows that `Tensor.unfold`
    gives of b, is no rival: compiled by PyTorch 2.13 for a processor, its float32 gradient had a relative error of 1.3.
    """
    n, c, height, width = a.shape
    products = (a.flatten(2).mT @ b.flatten(2)).view(n, height, width, height, width) / c
    padded = F.pad(products, (radius * stride,) * 4)
    y, x = torch.arange(height, device=a.device)[:, None], torch.arange(width, device=a.device)
    shifts = stride * torch.arange(2 * radius + 1, device=a.device)[:, None, None]
    return padded[:, y, x, y + shifts[..., None], x + shifts].flatten(1, 2)
