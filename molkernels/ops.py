"""The operators as PyTorch sees them: schema, shapes, gradient and autocast, defined once for all backends.

An operator is opaque to torch.compile; inside, `dispatch.select` picks the backend at run time from the tensor's device
and the operator's last argument. Call `molkernels.functional` instead of these: it checks its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from molkernels import dispatch, reference

_library = torch.library.Library("molkernels", "DEF")

_FCC_PARAMETERS = (
    "Tensor gamma, Tensor beta, Tensor pe_h, Tensor pe_w, "
    "Tensor weight_h, Tensor weight_w, Tensor bias_h, Tensor bias_w"
)
_EDGE_PARAMETERS = "Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2"
_NINE_TENSORS = "(" + ", ".join(["Tensor"] * 9) + ")"

SCHEMAS = {
    "fcc": f"(Tensor x, Tensor mean, Tensor var, {_FCC_PARAMETERS}, float eps, bool residual, str backend) -> Tensor",
    "fcc_train": (
        f"(Tensor x, {_FCC_PARAMETERS}, int groups, float eps, bool residual, str backend) -> (Tensor, Tensor, Tensor)"
    ),
    "fcc_backward": (
        f"(Tensor grad_y, Tensor x, Tensor mean, Tensor var, {_FCC_PARAMETERS}, float eps, bool residual, "
        f"bool training, str backend) -> {_NINE_TENSORS}"
    ),
    "knn": "(Tensor nodes, int k, str backend) -> Tensor",
    "edge_max": f"(Tensor x, Tensor idx, {_EDGE_PARAMETERS}, str graph, str backend) -> (Tensor, Tensor)",
    "edge_max_backward": (
        "(Tensor grad_y, Tensor x, Tensor idx, Tensor weight1, Tensor weight2, Tensor y, Tensor winner, str graph, "
        "str backend) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "f5c": (
        f"(Tensor x, Tensor mean, Tensor var, {_FCC_PARAMETERS}, Tensor? fcc_mix, Tensor? fcc_mix_bias, "
        f"{_EDGE_PARAMETERS}, Tensor? ccc_mix, Tensor? ccc_mix_bias, int k, str graph, float eps, "
        "str backend) -> Tensor"
    ),
    "cost_volume": (
        "(Tensor a, Tensor b, int radius_y, int radius_x, int stride, float negative_slope, str backend) -> Tensor"
    ),
    "cost_volume_backward": (
        "(Tensor grad_out, Tensor a, Tensor b, Tensor out, int radius_y, int radius_x, int stride, "
        "float negative_slope, str backend) -> (Tensor, Tensor)"
    ),
}

# Statistics keep their precision under autocast.
_NEVER_CAST = {"fcc": (1, 2), "f5c": (1, 2)}
_CAST = ("fcc", "fcc_train", "knn", "edge_max", "f5c", "cost_volume")


def _implement(name: str) -> Callable[..., Any]:
    """Run `name` on the backend determined by its last argument and its first tensor's device."""

    def run(*args: Any) -> Any:
        *inputs, backend = args
        device_type = inputs[0].device.type
        kernel = dispatch.select(name, device_type, backend, inputs[0].dtype).kernel(name)
        with torch.amp.autocast(device_type, enabled=False):
            result = kernel(*inputs)
        return result.contiguous() if isinstance(result, Tensor) else tuple(r.contiguous() for r in result)

    return run


def _autocast(name: str, device_type: str) -> Callable[..., Any]:
    """Cast the floating tensors to the autocast dtype and call the operator again with autocast off."""
    keep = _NEVER_CAST.get(name, ())

    def cast(position: int, value: Any, dtype: torch.dtype) -> Any:
        eligible = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if eligible and position not in keep else value

    def run(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device_type)
        op = getattr(torch.ops.molkernels, name)
        with torch.amp.autocast(device_type, enabled=False):
            return op(*(cast(i, a, dtype) for i, a in enumerate(args)))

    return run


# The compiled libraries implement these: the same arguments without the backend, on CUDA with the float32 precision.
_compiled = {name: torch.library.Library(f"molkernels_{name}", "FRAGMENT") for name in ("cpu", "cuda")}

for _name, _schema in SCHEMAS.items():
    _compiled["cpu"].define(_name + _schema.replace(", str backend", ""))
    _compiled["cuda"].define(_name + _schema.replace(", str backend", ", bool tf32"))
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, _implement(_name), "CompositeExplicitAutograd")
for _name in _CAST:
    _library.impl(_name, _autocast(_name, "cpu"), "AutocastCPU")
    _library.impl(_name, _autocast(_name, "cuda"), "AutocastCUDA")


# --------------------------------------------------------------------------------------------------------------
# Shapes


def _empty_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("molkernels::fcc", lib=_library)
def _fcc_fake(x: Tensor, *args: Any) -> Tensor:
    return _empty_like(x)


@torch.library.register_fake("molkernels::fcc_train", lib=_library)
def _fcc_train_fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    groups = args[8]
    statistic = x.new_empty(groups, x.shape[1], dtype=reference.statistics_dtype(x.dtype))
    return _empty_like(x), statistic, torch.empty_like(statistic)


@torch.library.register_fake("molkernels::fcc_backward", lib=_library)
def _fcc_backward_fake(grad_y: Tensor, x: Tensor, mean: Tensor, var: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return (_empty_like(x), *(_empty_like(parameter) for parameter in args[:8]))


@torch.library.register_fake("molkernels::knn", lib=_library)
def _knn_fake(nodes: Tensor, k: int, backend: str) -> Tensor:
    return nodes.new_empty(nodes.shape[0], nodes.shape[1], k, dtype=torch.int32)


@torch.library.register_fake("molkernels::edge_max", lib=_library)
def _edge_max_fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return _empty_like(x), x.new_empty(x.shape, dtype=torch.uint8)


@torch.library.register_fake("molkernels::edge_max_backward", lib=_library)
def _edge_max_backward_fake(
    grad_y: Tensor, x: Tensor, idx: Tensor, weight1: Tensor, weight2: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    return _empty_like(x), _empty_like(weight1), _empty_like(weight2), weight1.new_empty(weight1.shape[0])


@torch.library.register_fake("molkernels::f5c", lib=_library)
def _f5c_fake(x: Tensor, *args: Any) -> Tensor:
    return _empty_like(x)


@torch.library.register_fake("molkernels::cost_volume", lib=_library)
def _cost_volume_fake(a: Tensor, b: Tensor, radius_y: int, radius_x: int, *args: Any) -> Tensor:
    return a.new_empty(a.shape[0], (2 * radius_y + 1) * (2 * radius_x + 1), a.shape[2], a.shape[3])


@torch.library.register_fake("molkernels::cost_volume_backward", lib=_library)
def _cost_volume_backward_fake(grad_out: Tensor, a: Tensor, b: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return _empty_like(a), _empty_like(b)


# --------------------------------------------------------------------------------------------------------------
# Gradients


def _register_gradient(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    torch.library.register_autograd(f"molkernels::{name}", backward, setup_context=setup, lib=_library)


def _fcc_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.residual, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _fcc_gradient(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    grads = torch.ops.molkernels.fcc_backward(grad_y, *ctx.saved_tensors, ctx.eps, ctx.residual, False, ctx.backend)
    return (grads[0], None, None, *grads[1:], None, None, None)


def _fcc_train_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, *parameters, _groups, ctx.eps, ctx.residual, ctx.backend = inputs
    _y, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, mean, var, *parameters)


def _fcc_train_gradient(ctx: Any, grad_y: Tensor, _grad_mean: Tensor, _grad_var: Tensor) -> tuple[Any, ...]:
    grads = torch.ops.molkernels.fcc_backward(grad_y, *ctx.saved_tensors, ctx.eps, ctx.residual, True, ctx.backend)
    return (*grads, None, None, None, None)


def _edge_max_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, idx, weight1, _bias1, weight2, _bias2, ctx.graph, ctx.backend = inputs
    y, winner = output
    ctx.mark_non_differentiable(winner)
    ctx.save_for_backward(x, idx, weight1, weight2, y, winner)


def _edge_max_gradient(ctx: Any, grad_y: Tensor, _grad_winner: Tensor) -> tuple[Any, ...]:
    grad_x, grad_weight1, grad_weight2, grad_bias = torch.ops.molkernels.edge_max_backward(
        grad_y, *ctx.saved_tensors, ctx.graph, ctx.backend
    )
    return grad_x, None, grad_weight1, grad_bias, grad_weight2, grad_bias, None, None


def _cost_volume_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, *ctx.settings = inputs
    ctx.save_for_backward(a, b, output)


def _cost_volume_gradient(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    grads = torch.ops.molkernels.cost_volume_backward(grad_out, *ctx.saved_tensors, *ctx.settings)
    return (*grads, *(None for _ in ctx.settings))


def _no_gradient(name: str, advice: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"molkernels::{name} has no gradient of its own: {advice}")

    return backward


def _nothing_saved(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


_register_gradient("fcc", _fcc_setup, _fcc_gradient)
_register_gradient("fcc_train", _fcc_train_setup, _fcc_train_gradient)
_register_gradient("edge_max", _edge_max_setup, _edge_max_gradient)
_register_gradient("cost_volume", _cost_volume_setup, _cost_volume_gradient)
_register_gradient(
    "f5c",
    _nothing_saved,
    _no_gradient("f5c", "it is for inference; molkernels.functional.f5c composes the operators for gradients"),
)
for _name in ("fcc_backward", "edge_max_backward", "cost_volume_backward"):
    _register_gradient(
        _name,
        _nothing_saved,
        _no_gradient(_name, "double backward is not supported; molkernels.reference is differentiable twice"),
    )
_register_gradient(
    "knn", lambda ctx, inputs, output: ctx.mark_non_differentiable(output), lambda ctx, _grad: (None, None, None)
)
