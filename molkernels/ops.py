"""The operators as PyTorch sees them: schema, shapes, gradient and autocast, defined once for all backends.

An operator is opaque to torch.compile; inside, `dispatch.select` picks the backend at run time from the tensor's device
and the operator's last argument. Call `molkernels.functional` instead of these: it checks its arguments.

The kernels have a gradient for autograd and no other derivative. Inside the transforms of torch.func, for forward-mode
derivatives and for second derivatives, PyTorch differentiates the formulas of `molkernels.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

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


def call(name: str, *args: Any) -> Any:
    """The operator `name`; its formula if an argument has a forward-mode tangent, or a graph must do without us."""
    if dispatch.wants_standard_operators():
        return _formula(name, "in a graph of standard operators (standard_operators, torch.onnx.export)")(*args)
    if forward_ad._current_level >= 0 and any(
        isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args
    ):
        return _formula(name)(*args)
    return _operators[name](*args)


def _implement(name: str) -> Callable[..., Any]:
    """Run `name` on the backend determined by its last argument and its first tensor's device."""

    def run(*args: Any) -> Any:
        *inputs, backend = args
        first = inputs[0]
        device = first.device
        if name == "edge_max" and device.type == "cpu":
            _check_neighbours(inputs[1])
        kernel = dispatch.kernel(name, device, backend, first.dtype)
        if device.type in ("cpu", "cuda") and not torch.is_autocast_enabled(device.type):
            result = kernel(*inputs)
        else:  # to enter this block costs as much as a small kernel
            with torch.amp.autocast(device.type, enabled=False):
                result = kernel(*inputs)
        return result.contiguous() if isinstance(result, Tensor) else tuple(r.contiguous() for r in result)

    return run


def _check_neighbours(idx: Tensor) -> None:
    """Kernels read memory at these indices. On a GPU the check would have to wait for the device."""
    if idx.numel() == 0:
        return
    least, most = (bound.item() for bound in idx.aminmax())
    nodes = idx.shape[1]
    if least < 0 or most >= nodes:
        raise IndexError(
            f"idx has the neighbour {least if least < 0 else most}; the graph has {nodes} nodes, so all must be "
            f"between 0 and {nodes - 1} (as molkernels.functional.knn returns them)"
        )


def _autocast(name: str, device_type: str) -> Callable[..., Any]:
    """Cast the floating tensors to the autocast dtype and call the operator again with autocast off."""

    def run(*args: Any) -> Any:
        cast = _cast_arguments(name, args, torch.get_autocast_dtype(device_type))
        with torch.amp.autocast(device_type, enabled=False):
            return _operators[name](*cast)

    return run


def _cast_arguments(name: str, args: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    keep = _NEVER_CAST.get(name, ())

    def cast(position: int, value: Any) -> Any:
        eligible = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if eligible and position not in keep else value

    return [cast(i, a) for i, a in enumerate(args)]


_IN_TRANSFORMS = "inside torch.func transforms (grad, jacrev, jvp, vmap) or with forward-mode tangents"


def _formula(name: str, where: str = _IN_TRANSFORMS) -> Callable[..., Any]:
    """The operator as plain PyTorch, for derivatives and transforms that the kernels lack, and for exported graphs."""

    def run(*args: Any) -> Any:
        *inputs, backend = args
        if backend not in ("auto", "reference"):
            raise RuntimeError(
                f"backend {backend!r} was requested but cannot run {name} {where}: leave backend at 'auto', or request "
                "'reference'; both use the formulas of molkernels.reference there"
            )
        device_type = inputs[0].device.type
        if name in _CAST and device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type):
            inputs = _cast_arguments(name, inputs, torch.get_autocast_dtype(device_type))
        formula = _FORMULAS.get(name, getattr(reference, name))
        if device_type in ("cpu", "cuda") and not torch.is_autocast_enabled(device_type):
            return formula(*inputs)  # an exported graph would record the block below
        with torch.amp.autocast(device_type, enabled=False):
            return formula(*inputs)

    return run


def _fcc_train_formula(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, var = reference.fcc_train(*args)
    return y, mean.detach(), var.detach()


def _fcc_backward_formula(grad_y: Tensor, x: Tensor, mean: Tensor, var: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """With batch statistics, which the operator gets as constants, these are again functions of x."""
    (_gamma, _beta, pe_h, pe_w), training = args[:4], args[-1]
    if training:
        mean, var = reference.fcc_statistics(x, pe_h, pe_w, mean.shape[0])
    return reference.fcc_backward(grad_y, x, mean, var, *args)


_FORMULAS: dict[str, Callable[..., Any]] = {"fcc_train": _fcc_train_formula, "fcc_backward": _fcc_backward_formula}


# The compiled libraries implement these: the same arguments without the backend, on CUDA with the precision of float32
# products (`molkernels.precision`).
_compiled = {name: torch.library.Library(f"molkernels_{name}", "FRAGMENT") for name in ("cpu", "cuda")}

for _name, _schema in SCHEMAS.items():
    _compiled["cpu"].define(_name + _schema.replace(", str backend", ""))
    _tf32 = ", bool tf32, bool conv_tf32" if _name == "f5c" else ", bool tf32"
    _compiled["cuda"].define(_name + _schema.replace(", str backend", _tf32))
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, _implement(_name), "CompositeExplicitAutograd")
    # Where a call arrives first inside a transform of torch.func.
    _library.impl(_name, _formula(_name), "FuncTorchDynamicLayerFrontMode")
_operators = {name: getattr(torch.ops.molkernels, name).default for name in SCHEMAS}
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
    """What `torch.library.register_autograd` does, in less time, by the private names of PyTorch that it uses itself.

    Where a version of PyTorch lacks one of them, it registers the gradient itself.
    """
    try:
        run = _with_gradient(name, setup, backward)
    except AttributeError:
        torch.library.register_autograd(f"molkernels::{name}", backward, setup_context=setup, lib=_library)
    else:
        _library.impl(name, run, "Autograd", with_keyset=True)


def _with_gradient(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    below_autograd, requires_grad = torch._C._AutoDispatchBelowAutograd, torch._C._any_requires_grad
    after_autograd, keys = torch._C._after_autograd_keyset, torch._C.DispatchKey
    dense = [torch._C.DispatchKeySet(key).raw_repr() for key in (keys.CPU, keys.CUDA)]
    redispatch, implementation = _operators[name].redispatch, _implement(name)

    def forward(keyset: Any, *args: Any) -> Any:
        below = keyset & after_autograd
        with below_autograd():
            # Where no mode and no subclass has a say, the dispatcher would only come to the same function.
            return implementation(*args) if below.raw_repr() in dense else redispatch(below, *args)

    def forward_and_save(ctx: Any, *args: Any) -> Any:
        *inputs, keyset = args
        output = forward(keyset, *inputs)
        setup(ctx, inputs, output)
        return output

    def backward_and_keyset(ctx: Any, *grads: Tensor) -> Any:
        return *backward(ctx, *grads), None

    methods = {"forward": staticmethod(forward_and_save), "backward": staticmethod(backward_and_keyset)}
    function: Any = type(f"molkernels_{name}", (torch.autograd.Function,), methods)
    # Past the look for transforms of torch.func: they take a call before it gets here (FuncTorchDynamicLayerFrontMode).
    apply = super(torch.autograd.Function, function).apply

    def run(keyset: Any, *args: Any) -> Any:
        if torch.is_grad_enabled() and requires_grad(*args):
            return apply(*args, keyset)
        return forward(keyset, *args)

    return run


def _fcc_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.residual, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _fcc_gradient(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    grads = _operators["fcc_backward"](grad_y, *ctx.saved_tensors, ctx.eps, ctx.residual, False, ctx.backend)
    return (grads[0], None, None, *grads[1:], None, None, None)


def _fcc_train_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, *parameters, _groups, ctx.eps, ctx.residual, ctx.backend = inputs
    _y, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, mean, var, *parameters)


def _fcc_train_gradient(ctx: Any, grad_y: Tensor, _grad_mean: Tensor, _grad_var: Tensor) -> tuple[Any, ...]:
    grads = _operators["fcc_backward"](grad_y, *ctx.saved_tensors, ctx.eps, ctx.residual, True, ctx.backend)
    return (*grads, None, None, None, None)


def _edge_max_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, idx, weight1, _bias1, weight2, _bias2, ctx.graph, ctx.backend = inputs
    y, winner = output
    ctx.mark_non_differentiable(winner)
    ctx.save_for_backward(x, idx, weight1, weight2, y, winner)


def _edge_max_gradient(ctx: Any, grad_y: Tensor, _grad_winner: Tensor) -> tuple[Any, ...]:
    grad_x, grad_weight1, grad_weight2, grad_bias = _operators["edge_max_backward"](
        grad_y, *ctx.saved_tensors, ctx.graph, ctx.backend
    )
    return grad_x, None, grad_weight1, grad_bias, grad_weight2, grad_bias, None, None


def _cost_volume_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, *ctx.settings = inputs
    ctx.save_for_backward(a, b, output)


def _cost_volume_gradient(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    grads = _operators["cost_volume_backward"](grad_out, *ctx.saved_tensors, *ctx.settings)
    return (*grads, *(None for _ in ctx.settings))


def _no_gradient(ctx: Any, *grads: Tensor) -> Any:
    raise RuntimeError(
        "molkernels::f5c has no gradient of its own: it is for inference; molkernels.functional.f5c composes the "
        "operators for gradients"
    )


def _nothing_saved(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _inputs_saved(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.tensors, ctx.settings = len(tensors), inputs[len(tensors) : -1]
    ctx.save_for_backward(*tensors)


def _second_gradient(name: str) -> Callable[..., Any]:
    """The gradient of a gradient, by autograd through its formula; differentiable again if autograd asks for it."""

    def backward(ctx: Any, *grads: Tensor) -> Any:
        again, needed = torch.is_grad_enabled(), [i for i in range(ctx.tensors) if ctx.needs_input_grad[i]]
        with torch.enable_grad(), torch.amp.autocast(grads[0].device.type, enabled=False):
            # Aliases: an input that was computed from another one must not pass its own gradient on.
            inputs = [t.view_as(t) for t in ctx.saved_tensors]
            outputs = _FORMULAS.get(name, getattr(reference, name))(*inputs, *ctx.settings)
            second = _gradients(outputs, [inputs[i] for i in needed], grads, create_graph=again)
        of_input = dict(zip(needed, second, strict=True))
        return tuple(of_input.get(i) for i in range(ctx.tensors + len(ctx.settings) + 1))

    return backward


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor], *, create_graph: bool
) -> Sequence[Tensor | None]:
    pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    outputs, grads = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, grads, create_graph=create_graph, allow_unused=True)


_register_gradient("fcc", _fcc_setup, _fcc_gradient)
_register_gradient("fcc_train", _fcc_train_setup, _fcc_train_gradient)
_register_gradient("edge_max", _edge_max_setup, _edge_max_gradient)
_register_gradient("cost_volume", _cost_volume_setup, _cost_volume_gradient)
_register_gradient("f5c", _nothing_saved, _no_gradient)
for _name in ("fcc_backward", "edge_max_backward", "cost_volume_backward"):
    _register_gradient(_name, _inputs_saved, _second_gradient(_name))
_register_gradient(
    "knn", lambda ctx, inputs, output: ctx.mark_non_differentiable(output), lambda ctx, _grad: (None, None, None)
)
