"""The operators as functions of tensors: check the arguments, choose a backend, call it.

Every function takes float64, float32, bfloat16 or float16 tensors of any strides on one device, respects
`torch.autocast` (which casts all floating-point arguments except statistics) and has a gradient. ``backend`` is "auto",
"reference", "cpu", "cuda" or "triton"; "auto" follows an enclosing `molkernels.backend` block.

Shapes: N ≥ 0 maps, C channels, H and W from 1 to 64, P = H·W, k from 1 to 16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from molkernels import checks, dispatch, ops


class FCCParameters(NamedTuple):
    """The tensors of `fcc`: for each of C channels a norm, and for each axis an embedding, a kernel and a bias.

    The first C/2 channels are convolved along the columns (H) first, the others along the rows (W) first.
    """

    gamma: Tensor
    """(C,), the norm's scale."""
    beta: Tensor
    """(C,), the norm's shift."""
    pe_h: Tensor
    """(C, H), the position embedding along H."""
    pe_w: Tensor
    """(C, W), the position embedding along W."""
    weight_h: Tensor
    """(C, H), the circular kernel along H."""
    weight_w: Tensor
    """(C, W), the circular kernel along W."""
    bias_h: Tensor
    """(C,), added after the correlation along H."""
    bias_w: Tensor
    """(C,), added after the correlation along W."""


class EdgeParameters(NamedTuple):
    """The tensors of `edge_max`."""

    weight1: Tensor
    """(P, P), applied to the node."""
    bias1: Tensor
    """(P,)."""
    weight2: Tensor
    """(P, P), applied to the difference to a neighbour."""
    bias2: Tensor
    """(P,)."""


class MixParameters(NamedTuple):
    """The tensors of a 1×1 convolution between channels."""

    weight: Tensor
    """(C, C)."""
    bias: Tensor | None
    """(C,)."""


def fcc(
    x: Tensor,
    parameters: FCCParameters,
    mean: Tensor,
    var: Tensor,
    *,
    eps: float = 1e-5,
    residual: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Fully-connected convolution with given statistics (evaluation).

    For the first C/2 channels (columns, then rows; the others with the axes exchanged)::

        u0 = (x + pe_h[c, i] − mean) / √(var + eps) · gamma + beta
        u1[i, j] = Σ_t weight_h[c, t] · u0[(i + t) mod H, j] + bias_h[c] + pe_w[c, j]
        y[i, j]  = Σ_t weight_w[c, t] · u1[i, (j + t) mod W] + bias_w[c]     (+ x with residual)

    Args:
        x: (N, C, H, W), C even.
        parameters: see `FCCParameters`.
        mean, var: (C,), or (G, C) where row n mod G holds the statistics of sample n. No gradient.
        eps: added to the variance.
        residual: add x, as the released code does inside each branch.
        backend: see `molkernels.functional`.
    Returns:
        (N, C, H, W), contiguous.
    Raises:
        ValueError, TypeError: an argument has the wrong shape, dtype or device; the message names it.
        RuntimeError: the backend was requested by name and cannot run.

    Source: Shao et al., "MOL", IEEE TPAMI 2025, the FCC of the F5C block.
    """
    _check_fcc(x, parameters, eps)
    statistics = _statistics(x, mean, var)
    return ops.call("fcc", x, *statistics, *parameters, eps, residual, _backend(backend))  # type: ignore[no-any-return]


def fcc_train(
    x: Tensor,
    parameters: FCCParameters,
    *,
    groups: int = 1,
    eps: float = 1e-5,
    residual: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Fully-connected convolution with batch statistics (training); see `fcc` for the formula.

    Args:
        x: (N, C, H, W), C even.
        parameters: see `FCCParameters`.
        groups: G; samples n with equal n mod G share their statistics. G divides N.
        eps, residual, backend: see `fcc`.
    Returns:
        y (N, C, H, W), and the batch mean (G, C) and biased variance (G, C) of x plus the position embedding, in
        float32 (float64 for float64), without gradient. The gradient of y takes the statistics into account.
    Raises:
        ValueError, TypeError, RuntimeError: as `fcc`; also if a group has only one value per channel.
    """
    _check_fcc(x, parameters, eps)
    checks.groups(groups, x.shape[0], x.shape[2] * x.shape[3])
    return ops.call("fcc_train", x, *parameters, groups, eps, residual, _backend(backend))  # type: ignore[no-any-return]


def knn(x: Tensor, k: int, *, graph: str = "channel", backend: str = "auto") -> Tensor:
    """The cosine k-nearest-neighbour graph of a map; each node is its own first neighbour.

    Of equal similarities (to within 2⁻⁴⁰) the lowest index wins; all-zero nodes have similarity 0; NaN ranks last.

    Args:
        x: (N, C, P) or (N, C, H, W).
        k: 1 to 16, at most the number of nodes.
        graph: with "channel" the nodes are the C channels, vectors over P; with "position" the P positions, vectors
            over C.
        backend: see `molkernels.functional`.
    Returns:
        int32 (N, C, k) or (N, P, k), contiguous, without gradient.
    Raises:
        ValueError, TypeError, RuntimeError: as `fcc`.
    """
    flat = _flat_map(x)
    nodes = flat if checks.graph(graph) == "channel" else flat.mT
    checks.neighbours(k, nodes.shape[1])
    return ops.call("knn", nodes, k, _backend(backend))  # type: ignore[no-any-return]


def edge_max(
    x: Tensor, idx: Tensor, parameters: EdgeParameters, *, graph: str = "channel", backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Edge convolution with the maximum over the neighbours, on a given graph::

        "channel":  y_c = max_j ReLU(W1 x_c + b1 + W2 (x_idx[c, j] − x_c) + b2)
        "position": y_c = max_j ReLU(W1 x_c + b1 + W2 (x_c[idx[·, j]] − 2 x_c) + b2)

    Args:
        x: (N, C, P) or (N, C, H, W).
        idx: neighbours, int32 or int64, (N, C, k) for "channel", (N, P, k) for "position", as `knn` returns them. On
            CUDA tensors a value outside the graph is undefined behaviour: to check would be to wait for the device.
        parameters: see `EdgeParameters`.
        graph, backend: see `knn`.
    Returns:
        y, shaped like x, contiguous, and the winning neighbour j (uint8, shaped like x), the lowest among equals.
    Raises:
        ValueError, TypeError, RuntimeError: as `fcc`.
        IndexError: idx has a value outside the graph (CPU tensors).

    Source: Wang et al., "Dynamic Graph CNN", ACM TOG 2019 (EdgeConv); Shao et al., "MOL" (CCC).
    """
    flat = _flat_map(x)
    _check_edge(flat, parameters)
    nodes = flat.shape[1] if checks.graph(graph) == "channel" else flat.shape[2]
    if not isinstance(idx, Tensor) or idx.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"idx has type {getattr(idx, 'dtype', type(idx).__name__)}; int32 or int64 is needed")
    if idx.ndim != 3 or idx.shape[0] != flat.shape[0] or idx.shape[1] != nodes:
        raise ValueError(f"idx has shape {tuple(idx.shape)}; (N, nodes, k) = ({flat.shape[0]}, {nodes}, k) is needed")
    checks.neighbours(idx.shape[2], nodes)
    checks.same_device("idx", idx, flat)
    y, winner = ops.call("edge_max", flat, idx, *parameters, graph, _backend(backend))
    return y.view(x.shape), winner.view(x.shape)


def ccc(x: Tensor, parameters: EdgeParameters, *, k: int = 4, graph: str = "channel", backend: str = "auto") -> Tensor:
    """Channel correspondence convolution: `knn` of x, then `edge_max` on that graph.

    Args:
        x: (N, C, P) or (N, C, H, W).
        parameters: see `EdgeParameters`.
        k, graph, backend: see `knn`.
    Returns:
        Shaped like x, contiguous.
    Raises:
        ValueError, TypeError, RuntimeError: as `fcc`.
    """
    _check_edge(_flat_map(x), parameters)
    idx = knn(x.detach(), k, graph=graph, backend=backend)
    return edge_max(x, idx, parameters, graph=graph, backend=backend)[0]


def f5c(
    x: Tensor,
    fcc_parameters: FCCParameters,
    mean: Tensor,
    var: Tensor,
    edge_parameters: EdgeParameters,
    *,
    k: int = 4,
    graph: str = "channel",
    fcc_mix: MixParameters | None = None,
    ccc_mix: MixParameters | None = None,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """The F5C block with given statistics (evaluation)::

        z = x + mix1(FCC(x));   y = z + mix2(CCC(z))

    Args:
        x: (N, C, H, W), C even.
        fcc_parameters, mean, var, eps: see `fcc`.
        edge_parameters, k, graph: see `ccc`.
        fcc_mix, ccc_mix: the 1×1 convolutions of the paper's block; None (the released block) leaves them out.
        backend: see `molkernels.functional`.
    Returns:
        (N, C, H, W), contiguous. If a gradient is needed, the block's operators run one by one; otherwise one fused
        operator does.
    Raises:
        ValueError, TypeError, RuntimeError: as `fcc`.

    Source: Shao et al., "MOL", IEEE TPAMI 2025, the F5C block.
    """
    _check_fcc(x, fcc_parameters, eps)
    x = block_input(x)
    _check_edge(x.flatten(2), edge_parameters)
    checks.neighbours(k, x.shape[1] if checks.graph(graph) == "channel" else x.shape[2] * x.shape[3])
    mixes = (*_mix_tensors("fcc_mix", x, fcc_mix), *_mix_tensors("ccc_mix", x, ccc_mix))
    tensors = (x, *fcc_parameters, *edge_parameters, *mixes)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        released = fcc_mix is None
        f = fcc(x, fcc_parameters, mean, var, eps=eps, residual=released, backend=backend)
        z = f if released else x + mix(f, fcc_mix)
        return z + mix(ccc(z, edge_parameters, k=k, graph=graph, backend=backend), ccc_mix)
    statistics = _statistics(x, mean, var)
    return ops.call(  # type: ignore[no-any-return]
        "f5c",
        x,
        *statistics,
        *fcc_parameters,
        *mixes[:2],
        *edge_parameters,
        *mixes[2:],
        k,
        graph,
        eps,
        _backend(backend),
    )


def mix(x: Tensor, parameters: MixParameters | None) -> Tensor:
    """PyTorch's 1×1 convolution between the channels of x (N, C, H, W); x itself if there are no parameters."""
    if parameters is None:
        return x
    return torch.nn.functional.conv2d(x, parameters.weight[:, :, None, None], parameters.bias)


def cost_volume(
    a: Tensor,
    b: Tensor,
    *,
    radius: int = 10,
    stride: int = 2,
    negative_slope: float = 1.0,
    compact: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Correlation of two maps over a square of displacements, with LeakyReLU::

        out[n, d, y, x] = LeakyReLU(1/C · Σ_c a[n, c, y, x] · b[n, c, y + s·dy, x + s·dx]),   zero outside,
        d = (dy + R)(2R + 1) + (dx + R)

    Args:
        a, b: (N, C, H, W).
        radius: R, in steps of `stride` pixels.
        stride: s, pixels.
        negative_slope: slope of the LeakyReLU below zero, 0 to 1; 1 means no activation.
        compact: keep only the (2Ry + 1)(2Rx + 1) displacements that can reach the map, Ry = min(R, (H − 1) // s) and Rx
            likewise; `reachable_displacements` lists them.
        backend: see `molkernels.functional`.
    Returns:
        (N, (2R + 1)², H, W), or (N, (2Ry + 1)(2Rx + 1), H, W) with `compact`; contiguous.
    Raises:
        ValueError, TypeError, RuntimeError: as `fcc`.

    Source: Dosovitskiy et al., "FlowNet", ICCV 2015 (FlowNetC's correlation layer).
    """
    checks.feature_map("a", a)
    checks.feature_map("b", b)
    if a.shape != b.shape:
        raise ValueError(f"b has shape {tuple(b.shape)}; that of a, {tuple(a.shape)}, is needed")
    checks.parameter("b", b, tuple(a.shape), a)
    checks.displacement(radius, stride, negative_slope)
    radius_y, radius_x = radius, radius
    if compact:
        radius_y, radius_x = reachable_radius(radius, stride, a.shape[2]), reachable_radius(radius, stride, a.shape[3])
    return ops.call(  # type: ignore[no-any-return]
        "cost_volume",
        a,
        b,
        radius_y,
        radius_x,
        stride,
        negative_slope,
        _backend(backend),
    )


def block_input(x: Tensor) -> Tensor:
    """x, contiguous and in autocast's dtype: a residual connection then keeps neither odd strides nor a wider dtype."""
    if x.dtype != torch.float64 and checks.autocasting(x):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x.contiguous()


def reachable_radius(radius: int, stride: int, length: int) -> int:
    """The largest displacement, in steps, that stays within an axis: min(radius, (length − 1) // stride)."""
    return min(radius, (length - 1) // stride)


def reachable_displacements(radius: int, stride: int, size: int | tuple[int, int]) -> list[int]:
    """The channels of the full cost volume that a map of this size can fill, in order (225 of 441 at 16×16)."""
    checks.displacement(radius, stride, 1.0)
    height, width = checks.sides(size)
    ry, rx = reachable_radius(radius, stride, height), reachable_radius(radius, stride, width)
    side = 2 * radius + 1
    return [(dy + radius) * side + dx + radius for dy in range(-ry, ry + 1) for dx in range(-rx, rx + 1)]


def _backend(name: str) -> str:
    dispatch.check_name(name)
    return dispatch.requested(name)


def _flat_map(x: Tensor) -> Tensor:
    """(N, C, P) of a map given as (N, C, P) or (N, C, H, W)."""
    if isinstance(x, Tensor) and x.ndim == 3:
        checks.feature_map("x", x[:, :, None, :1])
        if not 1 <= x.shape[2] <= checks.MAX_SIDE**2:
            raise ValueError(f"x has P = {x.shape[2]} positions; must be between 1 and {checks.MAX_SIDE**2}")
        return x
    return checks.feature_map("x", x).flatten(2)


def _check_fcc(x: Tensor, parameters: FCCParameters, eps: float) -> None:
    checks.epsilon(eps)
    _, channels, height, width = checks.feature_map("x", x).shape
    checks.even_channels("the number of channels of x", channels)
    shapes = {
        "pe_h": (channels, height),
        "weight_h": (channels, height),
        "pe_w": (channels, width),
        "weight_w": (channels, width),
    }
    for name, value in zip(FCCParameters._fields, parameters, strict=True):
        checks.parameter(name, value, shapes.get(name, (channels,)), x)


def _check_edge(flat: Tensor, parameters: EdgeParameters) -> None:
    positions = flat.shape[2]
    for name, value in zip(EdgeParameters._fields, parameters, strict=True):
        checks.parameter(name, value, (positions, positions) if name.startswith("weight") else (positions,), flat)


def _mix_tensors(name: str, x: Tensor, parameters: MixParameters | None) -> tuple[Tensor | None, Tensor | None]:
    if parameters is None:
        return None, None
    channels = x.shape[1]
    checks.parameter(f"{name}.weight", parameters.weight, (channels, channels), x)
    if parameters.bias is not None:
        checks.parameter(f"{name}.bias", parameters.bias, (channels,), x)
    return parameters.weight, parameters.bias


def _statistics(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (G, C) in the statistics' precision."""
    for name, value in (("mean", mean), ("var", var)):
        checks.statistic(name, value, x.shape[1], x)
    if mean.shape != var.shape:
        raise ValueError(f"var has shape {tuple(var.shape)}; that of mean, {tuple(mean.shape)}, is needed")
    if mean.ndim == 2:
        checks.groups(mean.shape[0], x.shape[0], 2)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if mean.ndim == 1:
        mean, var = mean[None], var[None]
    return mean.to(dtype), var.to(dtype)
