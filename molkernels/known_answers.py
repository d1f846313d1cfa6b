"""Small fixed inputs for each operator, and how far a backend's results on them are from those of the reference.

The inputs are arithmetic patterns, the same on every device and with every version of PyTorch. The graph operators get
small integers, on which every dtype computes exactly, so that also the winners must be equal; their inputs have equal
and all-zero nodes. Each operator is called on an odd shape and on one that fills the kernels' tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from molkernels import reference

# Largest error relative to the largest value of a result. "tf32" is float32 with products of 11 bits.
LIMITS = {"float64": 1e-9, "float32": 1e-4, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 3e-2}

# (N, C, H, W)
SHAPES = ((3, 6, 5, 7), (2, 32, 16, 16))
_EPS = 1e-5
Case = tuple[str, tuple[Any, ...]]


def largest_error(
    op: str, kernel: Callable[[str], Callable[..., Any]], dtype: torch.dtype, device: torch.device
) -> float:
    """Run `op`, and its backward if it has one, and compare with the reference in float64 on the same device.

    Args:
        op: an operator of `molkernels.dispatch.OPERATORS`.
        kernel: gives the backend's function of a name.
    Returns:
        The largest difference, relative to the largest value of the same result; infinite if an index differs, a shape
        or dtype is wrong, or a value is not finite.
    """
    errors = []
    for name, arguments in _cases(op, dtype, device):
        wide = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
        wanted = getattr(reference, name)(*wide)
        got = kernel(name)(*arguments)
        if isinstance(wanted, Tensor):
            wanted, got = (wanted,), (got,)
        errors += [_difference(g, w, dtype) for g, w in zip(got, wanted, strict=True)]
    return max(errors)


def _difference(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> float:
    if got.shape != wanted.shape or got.is_floating_point() != wanted.is_floating_point():
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if got.dtype == wanted.dtype and torch.equal(got, wanted) else float("inf")
    if got.dtype not in (dtype, reference.statistics_dtype(dtype)):
        return float("inf")
    error = float((got.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    return error if error == error else float("inf")


def _cases(op: str, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """Names of functions of `reference` and their arguments, rounded to `dtype`."""

    def cast(*values: Any) -> tuple[Any, ...]:
        return tuple(v.to(device, dtype) if isinstance(v, Tensor) else v for v in values)

    for maps, channels, height, width in SHAPES:
        yield from _CASES[op](cast, maps, channels, height, width)


def _fcc(cast: Callable[..., Any], n: int, c: int, h: int, w: int) -> Iterator[Case]:
    x, *parameters, grad = cast(_values(n, c, h, w), *_fcc_parameters(c, h, w), _values(n, c, h, w, seed=9))
    groups = 1 if n % 2 else 2
    wide = reference.statistics_dtype(x.dtype)
    mean, var = _values(groups, c, seed=10).to(x.device, wide), 1 + _values(groups, c, seed=11).to(x.device, wide) / 2
    for residual in (False, True):
        yield "fcc", (x, mean, var, *parameters, _EPS, residual)
    yield "fcc_backward", (grad, x, mean, var, *parameters, _EPS, True, False)


def _fcc_train(cast: Callable[..., Any], n: int, c: int, h: int, w: int) -> Iterator[Case]:
    x, *parameters, grad = cast(_values(n, c, h, w), *_fcc_parameters(c, h, w), _values(n, c, h, w, seed=9))
    groups = 1 if n % 2 else 2
    yield "fcc_train", (x, *parameters, groups, _EPS, False)
    mean, var = reference.fcc_statistics(x, parameters[2], parameters[3], groups)
    yield "fcc_backward", (grad, x, mean, var, *parameters, _EPS, False, True)


def _fcc_parameters(c: int, h: int, w: int) -> list[Tensor]:
    """gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w."""
    shapes = [(c,), (c,), (c, h), (c, w), (c, h), (c, w), (c,), (c,)]
    return [_values(*shape, seed=seed) / (shape[-1] if seed in (5, 6) else 2) for seed, shape in enumerate(shapes, 1)]


def _knn(cast: Callable[..., Any], n: int, c: int, h: int, w: int) -> Iterator[Case]:
    (x,) = cast(_values(n, c, h * w, seed=12))
    x[:, 3], x[:, 5] = 0, 2 * x[:, 1]  # a node without a direction, and two of the same
    for nodes in (x, x.mT):
        yield "knn", (nodes, 4)


def _edge_max(cast: Callable[..., Any], n: int, c: int, h: int, w: int) -> Iterator[Case]:
    x, *parameters, grad = cast(_integers(n, c, h * w), *_edge_parameters(h * w), _integers(n, c, h * w, seed=17))
    for graph in ("channel", "position"):
        idx = _graph(n, c if graph == "channel" else h * w).to(x.device)
        yield "edge_max", (x, idx, *parameters, graph)
        weight1, bias1, weight2, bias2 = (p.double() for p in parameters)
        y, winner = reference.edge_max(x.double(), idx, weight1, bias1, weight2, bias2, graph)
        yield "edge_max_backward", (grad, x, idx, parameters[0], parameters[2], y.to(x.dtype), winner, graph)


def _edge_parameters(positions: int) -> list[Tensor]:
    """weight1, bias1, weight2, bias2: integers, and so few of them not zero that sums stay below 256."""
    square = (positions, positions)
    weights = [
        _integers(*square, seed=seed).clamp(-1, 1) * _integers(*square, seed=seed + 5).eq(2) for seed in (13, 15)
    ]
    return [weights[0], _integers(positions, seed=14), weights[1], _integers(positions, seed=16)]


def _f5c(cast: Callable[..., Any], n: int, c: int, h: int, w: int) -> Iterator[Case]:
    """Nodes in bundles, so that rounding in the layers before the graph changes no neighbour and not their order."""
    c, h, w = (8, 4, 4) if h != w else (128, h, w)
    mean, var = torch.zeros(1, c, dtype=torch.float64), torch.ones(1, c, dtype=torch.float64)
    parameters = [p / 8 for p in _fcc_parameters(c, h, w)]
    mix = [_values(c, c, seed=20) / (2 * c), _values(c, seed=21) / 16, _values(c, c, seed=22) / c, _values(c, seed=23)]
    edges = [p / 2 for p in _edge_parameters(h * w)]
    for graph, mixes in (("channel", mix), ("position", [None] * 4)):
        maps = _bundles(n, c, h * w) if graph == "channel" else _bundles(n, h * w, c).mT
        x, *rest = cast(maps.reshape(n, c, h, w), *parameters, *mixes[:2], *edges, *mixes[2:])
        wide = reference.statistics_dtype(x.dtype)
        yield "f5c", (x, mean.to(x.device, wide), var.to(x.device, wide), *rest, 4, graph, _EPS)


def _cost_volume(cast: Callable[..., Any], n: int, c: int, h: int, w: int) -> Iterator[Case]:
    a, b = cast(_integers(n, c, h, w, seed=18), _integers(n, c, h, w, seed=19))
    settings = (2, 3, 1, 0.25) if h != w else (7, 7, 2, 0.25)
    yield "cost_volume", (a, b, *settings)
    out = reference.cost_volume(a.double(), b.double(), *settings).to(a.dtype)
    (grad,) = cast(_integers(*out.shape, seed=24))
    yield "cost_volume_backward", (grad, a, b, out, *settings)


_CASES: dict[str, Callable[..., Iterator[Case]]] = {
    "fcc": _fcc,
    "fcc_train": _fcc_train,
    "knn": _knn,
    "edge_max": _edge_max,
    "f5c": _f5c,
    "cost_volume": _cost_volume,
}


def _integers(*shape: int, seed: int = 0) -> Tensor:
    """From −2 to 2, without a period that a side could share."""
    return (_scrambled(shape, seed) % 5 - 2).double()


def _values(*shape: int, seed: int = 0) -> Tensor:
    """From −1 to 1."""
    return (_scrambled(shape, seed) - 125).double() / 125


def _scrambled(shape: tuple[int, ...], seed: int) -> Tensor:
    i = torch.arange(torch.Size(shape).numel())
    return ((i * i * 31 + i // 251 * (i // 17) + i * (17 + seed) + seed * 101) % 251).view(shape)


def _graph(maps: int, nodes: int, k: int = 3) -> Tensor:
    """int32 (N, nodes, k): the node itself, and neighbours without order, one of them twice in every third row."""
    n, node, j = torch.arange(maps)[:, None, None], torch.arange(nodes)[None, :, None], torch.arange(k)
    return ((node + j * (1 + (node + n) % 3) * 2) % nodes).int()


def _bundles(maps: int, nodes: int, length: int) -> Tensor:
    """(N, nodes, length): bundles of 4 nodes, at right angles to those of the others.

    Within a bundle each node has another angle to each of the others.
    """
    bundles = nodes // 4
    node, column = torch.arange(nodes)[:, None], torch.arange(length)
    angle = torch.tensor([0.0, 0.15, 0.6, 0.9], dtype=torch.float64)[node // bundles]
    direction = node % bundles * 2
    plane = angle.cos() * _hadamard(direction, column) + angle.sin() * _hadamard(direction + 1, column)
    return plane * (1 + torch.arange(maps, dtype=torch.float64)[:, None, None] / 4)


def _hadamard(row: Tensor, column: Tensor) -> Tensor:
    """±1; rows of one matrix are at right angles."""
    odd = torch.zeros_like(row & column)
    for bit in range(8):
        odd ^= (row & column) >> bit & 1
    return 1.0 - 2.0 * odd
