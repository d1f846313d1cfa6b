"""FCC, CCC, F5C and CostVolume as modules: parameters, and one line of mathematics each."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from molkernels import checks, dispatch, functional, reference
from molkernels.batch_norm import SyncBatchNorm, update_running_statistics
from molkernels.functional import EdgeParameters, FCCParameters, MixParameters

VARIANTS = ("paper", "released")
RELEASED_LENGTH = 32
GRAPH_OF_VARIANT = {"paper": "channel", "released": "position"}


class FCC(nn.Module):
    """Fully-connected convolution: two circular convolutions as long as the axes, in both orders.

    - ``variant="paper"``: y = Conv1x1(FCC(x)).
    - ``variant="released"``: y = x + FCC(x). Kernels and embeddings are stored with length 32 and cropped to the axes;
      ``resize="interpolate"`` resizes them instead.

    Args:
        channels: C, even.
        size: H = W, or (H, W), 1 to 64 (1 to 32 for ``variant="released"`` with ``resize="crop"``).
        variant: "paper" or "released".
        resize: "crop" or "interpolate" (linear, ``align_corners=True``); only for the released variant.
        eps, momentum: of the batch norm; as in PyTorch, momentum None means a cumulative average.
        backend: see `molkernels.functional`.
    Shapes:
        (N, C, H, W) → (N, C, H, W).

    `norm` is an ordinary `nn.BatchNorm2d` and its own settings count: with ``norm.eval()`` it is frozen, whatever the
    mode of the block. Any other module in its place, and one with hooks or a parametrization, is called as a module.
    After `nn.SyncBatchNorm.convert_sync_batchnorm` the statistics are those of all processes; as in PyTorch that needs
    GPUs. `molkernels.batch_norm.SyncBatchNorm.convert` does the same on every device.
    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.

    Source: Shao et al., "MOL", IEEE TPAMI 2025.
    """

    def __init__(
        self,
        channels: int,
        size: int | tuple[int, int],
        variant: str = "paper",
        *,
        resize: str = "crop",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.even_channels("channels", channels)
        checks.epsilon(eps)
        checks.momentum(momentum)
        _check_choice("variant", variant, VARIANTS)
        _check_choice("resize", resize, ("crop", "interpolate"))
        dispatch.check_name(backend)
        self.channels, self.size, self.variant, self.resize, self.backend = (
            channels,
            checks.sides(size),
            variant,
            resize,
            backend,
        )
        height, width = self.size
        if variant == "released":
            if resize == "crop" and max(height, width) > RELEASED_LENGTH:
                raise ValueError(
                    f"size is {size}; the released kernels crop to at most {RELEASED_LENGTH}: use resize='interpolate'"
                )
            height = width = RELEASED_LENGTH
        self.norm = nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
        self.pe_h = nn.Parameter(torch.empty(channels, height))
        self.pe_w = nn.Parameter(torch.empty(channels, width))
        self.weight_h = nn.Parameter(torch.empty(channels, height))
        self.weight_w = nn.Parameter(torch.empty(channels, width))
        self.bias_h = nn.Parameter(torch.empty(channels))
        self.bias_w = nn.Parameter(torch.empty(channels))
        self.mix = nn.Conv2d(channels, channels, 1) if variant == "paper" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw kernels uniformly in ±1/√L (Conv2d's default), embeddings and biases from N(0, 0.02²).

        The released variant draws embeddings and biases from N(0, 1). Embeddings as large as the signal hide it, so the
        paper's variant starts with small ones.
        """
        scale = 1.0 if self.variant == "released" else 0.02
        self.norm.reset_parameters()
        for weight in (self.weight_h, self.weight_w):
            nn.init.uniform_(weight, -1 / math.sqrt(weight.shape[1]), 1 / math.sqrt(weight.shape[1]))
        for offset in (self.pe_h, self.pe_w, self.bias_h, self.bias_w):
            nn.init.normal_(offset, std=scale)
        if self.mix is not None:
            self.mix.reset_parameters()

    def parameters_for_axes(self) -> FCCParameters:
        """The tensors for `functional.fcc`, kernels and embeddings as long as the axes."""
        height, width = self.size
        gamma, beta = getattr(self.norm, "weight", None), getattr(self.norm, "bias", None)
        return FCCParameters(
            self.bias_h.new_ones(self.channels) if gamma is None else gamma,
            self.bias_h.new_zeros(self.channels) if beta is None else beta,
            self._resized(self.pe_h, height),
            self._resized(self.pe_w, width),
            self._resized(self.weight_h, height),
            self._resized(self.weight_w, width),
            self.bias_h,
            self.bias_w,
        )

    def _resized(self, stored: Tensor, length: int) -> Tensor:
        if stored.shape[1] == length:
            return stored
        if self.resize == "crop":
            return stored[:, :length]
        return nn.functional.interpolate(stored[None], size=length, mode="linear", align_corners=True)[0]

    def mix_parameters(self) -> MixParameters | None:
        """The 1×1 convolution of the paper's variant."""
        return _mix_parameters(self.mix)

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        """y for x (N, C, H, W); samples n with equal n mod `groups` share their batch statistics, if those are used."""
        _check_size(x, self.size)
        checks.integer("groups", groups)
        residual = self.variant == "released"
        if _is_batch_norm(self.norm) and self.uses_running_statistics():
            y = functional.fcc(
                x,
                self.parameters_for_axes(),
                *self.statistics(),
                eps=self.norm.eps,
                residual=residual,
                backend=self.backend,
            )
        elif not _is_plain(self.norm, nn.BatchNorm2d):
            y = self._with_called_norm(functional.block_input(x), groups, residual)
        else:
            y, mean, var = functional.fcc_train(
                x, self.parameters_for_axes(), groups=groups, eps=self.norm.eps, residual=residual, backend=self.backend
            )
            if self.norm.training:
                self._update_running_statistics(mean, var, x.shape[0] // groups * x.shape[2] * x.shape[3])
        return y if self.mix is None else self.mix(y)

    def uses_running_statistics(self) -> bool:
        """Whether the batch norm normalises by its running statistics, by PyTorch's rule, and not by the batch's."""
        return not self.norm.training and self.norm.running_mean is not None

    def statistics(self) -> tuple[Tensor, Tensor]:
        """The running mean and variance, (C,) each.

        Raises:
            ValueError: the norm keeps none.
        """
        mean, var = getattr(self.norm, "running_mean", None), getattr(self.norm, "running_var", None)
        if mean is None or var is None:
            raise ValueError(f"the norm {self.norm} keeps no running statistics; use nn.BatchNorm2d({self.channels})")
        return mean, var

    def _with_called_norm(self, x: Tensor, groups: int, residual: bool) -> Tensor:
        """The formula with `norm` called as a module; the operator then gets statistics that change nothing."""
        checks.groups(groups, x.shape[0], 2)
        own, half = self.parameters_for_axes(), self.channels // 2
        placed = reference.add_position(x, own.pe_h, own.pe_w)
        if isinstance(self.norm, SyncBatchNorm):
            normalised = self.norm(placed, groups)
        else:
            normalised = torch.stack([self.norm(placed[group::groups]) for group in range(groups)], 1).flatten(0, 1)
        one, zero = torch.ones_like(own.bias_h), torch.zeros_like(own.bias_h)
        second = own._replace(  # the embedding of each branch's first axis is in `normalised`
            gamma=one,
            beta=zero,
            pe_h=torch.cat([torch.zeros_like(own.pe_h[:half]), own.pe_h[half:]]),
            pe_w=torch.cat([own.pe_w[:half], torch.zeros_like(own.pe_w[half:])]),
        )
        y = functional.fcc(normalised, second, zero.detach(), one.detach(), eps=0.0, backend=self.backend)
        return y + x if residual else y

    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: int) -> None:
        if count:
            update_running_statistics(self.norm, mean, var * (count / (count - 1)))

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.size}, variant={self.variant!r}"


class CCC(nn.Module):
    """Channel correspondence convolution: a cosine k-nearest-neighbour graph and an edge convolution with maximum.

    - ``graph="channel"`` (paper): ``y_c = max_{j∈N(c)} ReLU(W1 x_c + b1 + W2 (x_j − x_c) + b2)``
    - ``graph="position"`` (released): ``y_c = max_j ReLU(W1 x_c + b1 + W2 (x_c[idx[·, j]] − 2 x_c) + b2)``

    Args:
        channels: C.
        size: H = W, or (H, W).
        k: number of neighbours, the node itself included; 1 to 16.
        graph: "channel" or "position".
        backend: see `molkernels.functional`.
    Shapes:
        (N, C, H, W) → (N, C, H, W).
    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.

    Source: Shao et al., "MOL", IEEE TPAMI 2025; Wang et al., "DGCNN", ACM TOG 2019.
    """

    def __init__(
        self, channels: int, size: int | tuple[int, int], k: int = 4, graph: str = "channel", *, backend: str = "auto"
    ) -> None:
        super().__init__()
        checks.integer("channels", channels)
        self.channels, self.size, self.k, self.graph, self.backend = (
            channels,
            checks.sides(size),
            k,
            checks.graph(graph),
            backend,
        )
        positions = self.size[0] * self.size[1]
        checks.neighbours(k, channels if graph == "channel" else positions)
        dispatch.check_name(backend)
        self.weight1 = nn.Parameter(torch.empty(positions, positions))
        self.bias1 = nn.Parameter(torch.empty(positions))
        self.weight2 = nn.Parameter(torch.empty(positions, positions))
        self.bias2 = nn.Parameter(torch.empty(positions))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters uniformly in ±1/√P, the default of Linear and Conv2d."""
        bound = 1 / math.sqrt(self.weight1.shape[1])
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def edge_parameters(self) -> EdgeParameters:
        """The tensors for `functional.edge_max`."""
        return EdgeParameters(self.weight1, self.bias1, self.weight2, self.bias2)

    def forward(self, x: Tensor) -> Tensor:
        """y for x (N, C, H, W)."""
        _check_size(x, self.size)
        return functional.ccc(x, self.edge_parameters(), k=self.k, graph=self.graph, backend=self.backend)

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.size}, k={self.k}, graph={self.graph!r}"


class F5C(nn.Module):
    """The F5C block: fully-connected convolution, then channel correspondence convolution, each with a residual.

    - ``variant="paper"``: z = x + Conv1x1(FCC(x)); y = z + Conv1x1(CCC(z)); the graph connects channels.
    - ``variant="released"``: z = x + FCC(x); y = z + CCC(z); the graph connects positions.

    The paper's variant starts as the identity, so it can be added to a network that is already trained.

    Args:
        channels: C, even.
        size: H = W, or (H, W), 1 to 64.
        k: number of neighbours, the node itself included; 1 to 16.
        variant: "paper" or "released".
        backend: "auto", "reference", "cpu", "cuda" or "triton"; a named backend runs or raises an error.
        resize: how the released kernels fit the axes; see `FCC`.
        graph: "channel" or "position"; by default the variant's own.
    Shapes:
        (N, C, H, W) → (N, C, H, W), N ≥ 0.
    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
        RuntimeError: the backend was requested by name and cannot run.

    Source: Shao et al., "MOL", IEEE TPAMI 2025, arXiv 2506.14511.
    """

    def __init__(
        self,
        channels: int = 128,
        size: int | tuple[int, int] = 16,
        k: int = 4,
        variant: str = "paper",
        backend: str = "auto",
        *,
        resize: str = "crop",
        graph: str | None = None,
    ) -> None:
        super().__init__()
        self.fcc = FCC(channels, size, variant, resize=resize, backend=backend)
        self.ccc = CCC(channels, size, k, GRAPH_OF_VARIANT[variant] if graph is None else graph, backend=backend)
        self.mix = nn.Conv2d(channels, channels, 1) if variant == "paper" else None
        self.variant, self.backend = variant, backend
        if self.mix is not None and self.fcc.mix is not None:
            # The block starts as the identity, so that it can be put into a network that works.
            for conv in (self.mix, self.fcc.mix):
                nn.init.zeros_(conv.weight)
                nn.init.zeros_(cast(Tensor, conv.bias))

    def forward(self, x: Tensor, groups: int = 1) -> Tensor:
        """y for x (N, C, H, W); samples n with equal n mod `groups` share their batch statistics, if those are used."""
        checks.integer("groups", groups)
        if self._is_one_operator():
            _check_size(x, self.fcc.size)
            return functional.f5c(
                functional.block_input(x),
                self.fcc.parameters_for_axes(),
                *self.fcc.statistics(),
                self.ccc.edge_parameters(),
                k=self.ccc.k,
                graph=self.ccc.graph,
                fcc_mix=self.fcc.mix_parameters(),
                ccc_mix=_mix_parameters(self.mix),
                eps=self.fcc.norm.eps,
                backend=self.backend,
            )
        x = functional.block_input(checks.feature_map("x", x))
        f = self.fcc(x) if groups == 1 else self.fcc(x, groups)
        z = x + f if self.variant == "paper" else f
        y = self.ccc(z)
        return z + (y if self.mix is None else self.mix(y))  # type: ignore[no-any-return]

    def _is_one_operator(self) -> bool:
        """Whether evaluation needs none of the block's modules called: none is a user's own, or has hooks."""
        fcc, ccc, variant = self.fcc, self.ccc, self.variant
        return (
            not self.training
            and _is_plain(fcc, FCC)
            and _is_batch_norm(fcc.norm)
            and fcc.uses_running_statistics()
            and _is_plain(ccc, CCC)
            and fcc.variant == variant
            and (variant == "paper" or fcc.mix is None)
            and _is_mix(fcc.mix)
            and _is_mix(self.mix)
        )


class CostVolume(nn.Module):
    """Correlation of two maps over a square of displacements, with LeakyReLU; see `functional.cost_volume`.

    Args:
        radius: R, in steps of `stride` pixels.
        stride: pixels.
        negative_slope: slope of the LeakyReLU below zero; 1 means no activation.
        compact: keep only the displacements that can reach the map.
        backend: see `molkernels.functional`.
    Shapes:
        a, b (N, C, H, W) → (N, (2R + 1)², H, W).

    Source: Dosovitskiy et al., "FlowNet", ICCV 2015.
    """

    def __init__(
        self,
        radius: int = 10,
        stride: int = 2,
        *,
        negative_slope: float = 1.0,
        compact: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.displacement(radius, stride, negative_slope)
        dispatch.check_name(backend)
        self.radius, self.stride, self.negative_slope = radius, stride, negative_slope
        self.compact, self.backend = compact, backend

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The cost volume of a and b."""
        return functional.cost_volume(
            a,
            b,
            radius=self.radius,
            stride=self.stride,
            negative_slope=self.negative_slope,
            compact=self.compact,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f"radius={self.radius}, stride={self.stride}, negative_slope={self.negative_slope}, compact={self.compact}"
        )


def _is_plain(module: object, kind: type[nn.Module]) -> bool:
    """Whether calling the module does what its kind does and no more: no subclass, parametrization, hook or patch."""
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not module._forward_pre_hooks
        and not module._forward_hooks
        and not module._backward_pre_hooks
        and not module._backward_hooks
        and not _has_any_global_hook()
    )


def _is_batch_norm(norm: nn.Module) -> bool:
    """Whether evaluation of this norm is that of `nn.BatchNorm2d`."""
    return any(_is_plain(norm, kind) for kind in (nn.BatchNorm2d, SyncBatchNorm, nn.SyncBatchNorm))


def _is_mix(conv: nn.Conv2d | None) -> bool:
    """Whether this is nothing or a plain 1×1 convolution."""
    return conv is None or (
        _is_plain(conv, nn.Conv2d)
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )


def _mix_parameters(conv: nn.Conv2d | None) -> MixParameters | None:
    return None if conv is None else MixParameters(conv.weight.flatten(1), conv.bias)


def _check_size(x: Tensor, size: tuple[int, int]) -> None:
    checks.feature_map("x", x)
    if tuple(x.shape[2:]) != size:
        raise ValueError(f"x has H, W = {tuple(x.shape[2:])}; this module was made for size={size}")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; must be one of {', '.join(map(repr, allowed))}")
