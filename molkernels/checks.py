"""All argument checks of the library, so that every backend gives the same error messages."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
GRAPHS = ("channel", "position")
MAX_SIDE = 64
MAX_NEIGHBOURS = 16


def integer(name: str, value: object) -> None:
    """An integer, of Python or NumPy; True and False are none."""
    if type(value) is int or isinstance(value, torch.SymInt) or _is_traced(value):
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; an integer is needed")


def _is_traced(value: object) -> bool:
    """Whether this is the length of an axis inside `torch.jit.trace`: there it is a tensor without axes."""
    return isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point() and torch.jit.is_tracing()


def number(name: str, value: object) -> None:
    """A real number; True and False are none."""
    if type(value) is float or type(value) is int or isinstance(value, (torch.SymFloat, torch.SymInt)):
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; a number is needed")


def epsilon(eps: float) -> None:
    """What is added to a variance."""
    number("eps", eps)
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"eps is {eps}; must be a finite number, at least 0")


def momentum(value: float | None) -> None:
    """The weight of a new batch in the running statistics; None for their cumulative average."""
    if value is not None:
        number("momentum", value)
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"momentum is {value}; must be between 0 and 1, or None (cumulative average)")


def sides(size: object) -> tuple[int, int]:
    """(H, W) of a module's `size`: one integer for both, or a pair."""
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"size is {size!r}; H = W or a pair (H, W) is needed")
    for name, length in zip("HW", pair, strict=True):
        integer(f"size {name}", length)
        if not 1 <= length <= MAX_SIDE:
            raise ValueError(f"size has {name} = {length}; must be between 1 and {MAX_SIDE}")
    return int(pair[0]), int(pair[1])


def tensor(name: str, value: object) -> Tensor:
    """`value`, if it is a tensor of a supported floating dtype."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}; a torch.Tensor is needed")
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {value.dtype}; must be one of {', '.join(str(d) for d in DTYPES)}")
    return value


def feature_map(name: str, value: object) -> Tensor:
    """A map (N, C, H, W) with sides from 1 to 64."""
    x = tensor(name, value)
    if x.ndim != 4:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; (N, C, H, W) is needed")
    if x.shape[1] < 1:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; at least one channel is needed")
    for side, length in (("H", x.shape[2]), ("W", x.shape[3])):
        if not 1 <= length <= MAX_SIDE:
            raise ValueError(f"{name} has {side} = {length}; must be between 1 and {MAX_SIDE}")
    return x


def even_channels(name: str, channels: int) -> None:
    """FCC splits the channels into two halves."""
    integer(name, channels)
    if channels < 2 or channels % 2:
        raise ValueError(f"{name} is {channels}; FCC needs an even number, at least 2")


def parameter(name: str, value: object, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A parameter of an exact shape, on the device of `like` and, outside autocast, of its dtype."""
    if isinstance(value, Tensor) and value.shape == shape and value.dtype == like.dtype and value.device == like.device:
        return value  # nearly always; `like` has been checked
    p = tensor(name, value)
    if tuple(p.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(p.shape)}; {shape} is needed")
    same_device(name, p, like)
    if p.dtype != like.dtype and not autocasting(like):
        raise TypeError(f"{name} has dtype {p.dtype}; that of x, {like.dtype}, is needed (or torch.autocast)")
    return p


def autocasting(x: Tensor) -> bool:
    """Whether autocast is on for x's kind of device (meta tensors have no autocast)."""
    return x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)


def statistic(name: str, value: object, channels: int, like: Tensor) -> Tensor:
    """A running statistic (C,) or (G, C): float32, or float64 if x is float64."""
    s = tensor(name, value)
    if s.ndim not in (1, 2) or s.shape[-1] != channels:
        raise ValueError(f"{name} has shape {tuple(s.shape)}; ({channels},) or (G, {channels}) is needed")
    same_device(name, s, like)
    return s


def same_device(name: str, value: Tensor, like: Tensor) -> None:
    """All tensors of a call must be on one device."""
    if value.device != like.device:
        raise ValueError(f"{name} is on {value.device}; x is on {like.device}, and all must be on one device")


def graph(value: str) -> str:
    """The kind of graph."""
    if value not in GRAPHS:
        raise ValueError(f"graph is {value!r}; must be 'channel' or 'position'")
    return value


def neighbours(k: int, nodes: int) -> None:
    """1 ≤ k ≤ 16, and at most the number of nodes."""
    integer("k", k)
    if not 1 <= k <= MAX_NEIGHBOURS:
        raise ValueError(f"k is {k}; must be between 1 and {MAX_NEIGHBOURS}")
    if k > nodes:
        raise ValueError(f"k is {k}; the graph has only {nodes} nodes")


def groups(value: int, samples: int, pixels: int) -> None:
    """Batch statistics need whole groups and more than one value per channel in each."""
    integer("groups", value)
    if value < 1:
        raise ValueError(f"groups is {value}; at least 1 is needed")
    if samples % value:
        raise ValueError(f"groups is {value}; it does not divide the {samples} samples of x")
    if samples and samples // value * pixels == 1:
        raise ValueError("x has one value per channel and group; batch statistics need at least two")


def displacement(radius: int, stride: int, negative_slope: float) -> None:
    """The settings of a cost volume."""
    integer("radius", radius)
    integer("stride", stride)
    number("negative_slope", negative_slope)
    if not 0 <= radius <= MAX_SIDE:
        raise ValueError(f"radius is {radius}; must be between 0 and {MAX_SIDE}")
    if not 1 <= stride <= MAX_SIDE:
        raise ValueError(f"stride is {stride}; must be between 1 and {MAX_SIDE}")
    if not 0.0 <= negative_slope <= 1.0:
        raise ValueError(f"negative_slope is {negative_slope}; must be between 0 and 1 (1: no activation)")
