"""The groups of single operators: published loop, every backend, and the compiled reference, on the same tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import molkernels as mk
from bench import counts, machine
from bench.baselines import layout, published
from bench.groups import Check, Contender, Group, worst_error
from molkernels import functional, reference

MAPS, CHANNELS, SIZE, NEIGHBOURS = 14, 128, 16, 4  # 2 clips of 7 pairs through one F5C
FLOW_CHANNELS, RADIUS, STRIDE = 256, 10, 2
MAP_SHAPE = (MAPS, CHANNELS, SIZE, SIZE)
EPS = 1e-5
DTYPES = ("float32", "bfloat16")
# Relative L2 error of float32 against float64. Where a graph is made of computed features, two neighbours of nearly
# equal similarity may change places, which moves a few entries of the gradient.
TOLERANCE = 2e-5
TOLERANCE_WITH_GRAPH = 2e-3
DIRECTIONS = ("forward", "forward-backward")

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One operator in its three forms, as functions of the same tensors.

    Attributes:
        tensors: the inputs and parameters, float32, all of which need a gradient.
        call: the operator through `molkernels.functional`, on the backend given as `backend`.
        truth: the operator's formula in `molkernels.reference`.
        loop: the published form; takes no arguments but runs on `loop_leaves`.
        loop_leaves: the tensors that the published form differentiates.
        arrange: puts the gradients of `loop_leaves` in the order of `tensors`.
    """

    tensors: tuple[Tensor, ...]
    call: Function
    truth: Function
    loop: Callable[[], Tensor]
    loop_leaves: tuple[Tensor, ...]
    arrange: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


def contender_keys(device: str) -> list[str]:
    """The keys of the contenders that every group of operators has."""
    names = [*mk.available_backends(device), "compiled-reference"]
    return ["published-loop-float32", *(f"{name}-{dtype}" for name in names for dtype in dtypes_of(name, device))]


def dtypes_of(name: str, device: str) -> tuple[str, ...]:
    """The dtypes that a contender is measured in: bfloat16 by torch's own products only where they are not emulated."""
    own = name in ("reference", "compiled-reference")
    return DTYPES if not own or machine.computes_in_bfloat16(device) else DTYPES[:1]


def group(name: str, direction: str, shape: str, work: counts.Work, case: Case, tolerance: float = TOLERANCE) -> Group:
    """Contenders for one case, in one direction.

    A float32 contender may be off the float64 formula by `tolerance`; a bfloat16 one by twice what the plain formula in
    bfloat16 is off.
    """
    evaluate = _forward if direction == "forward" else _forward_backward
    device = case.tensors[0].device.type
    cotangent = _normal(tuple(case.truth(*case.tensors).shape), seed=2).to(device)

    def contender(who: str, dtype: str, function: Function) -> Contender:
        tensors = _leaves(case.tensors, getattr(torch, dtype))
        grad = cotangent.to(getattr(torch, dtype))

        def run() -> tuple[Tensor, ...]:
            return evaluate(function, tensors, grad)

        def check() -> Check:
            exact = evaluate(case.truth, _leaves(tensors, torch.float64), grad.double())
            error = worst_error(run(), exact)
            if dtype == "float32":
                return Check(error, tolerance)
            return Check(error, 2 * worst_error(evaluate(case.truth, tensors, grad), exact))

        return Contender(who, dtype, run, check)

    functions = {name: _on_backend(case.call, name) for name in mk.available_backends(device)}
    functions["compiled-reference"] = torch.compile(case.truth, dynamic=False)
    contenders = [
        contender(who, dtype, function) for who, function in functions.items() for dtype in dtypes_of(who, device)
    ]
    contenders.insert(0, _published(case, evaluate, cotangent, tolerance))
    return Group(f"{name}, {direction}", shape, work, contenders, device=device)


def _published(
    case: Case, evaluate: Callable[..., tuple[Tensor, ...]], cotangent: Tensor, tolerance: float
) -> Contender:
    def run() -> tuple[Tensor, ...]:
        return evaluate(lambda *_: case.loop(), case.loop_leaves, cotangent)

    def check() -> Check:
        result, *grads = run()
        results = (result, *case.arrange(grads)) if grads else (result,)
        exact = evaluate(case.truth, _leaves(case.tensors, torch.float64), cotangent.double())
        return Check(worst_error(results, exact), tolerance)

    return Contender("published-loop", "float32", run, check)


def _on_backend(call: Function, backend: str) -> Function:
    return lambda *tensors: call(*tensors, backend=backend)


@torch.no_grad()
def _forward(function: Function, tensors: Sequence[Tensor], _cotangent: Tensor) -> tuple[Tensor, ...]:
    return (function(*tensors),)


def _forward_backward(function: Function, tensors: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    result = function(*tensors)
    return (result.detach(), *torch.autograd.grad(result, tensors, cotangent))


def fcc(direction: str, device: str) -> Group:
    """FCC of the released variant: running statistics forward, batch statistics forward and backward."""
    x, module = _input(device), _seeded(device, published.FCC, CHANNELS)
    mean, var = layout.fcc_statistics(module.state_dict())
    leaves = _used_fcc_parameters(module)

    def call(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        given = functional.FCCParameters(*parameters)
        if direction == "forward":
            return functional.fcc(x, given, mean, var, eps=EPS, residual=True, backend=backend)
        return functional.fcc_train(x, given, eps=EPS, residual=True, backend=backend)[0]

    def truth(x: Tensor, *parameters: Tensor) -> Tensor:
        given = functional.FCCParameters(*parameters)
        if direction == "forward":
            return reference.fcc(x, *_statistics(x, mean, var), *given, EPS, True)
        return reference.fcc_train(x, *given, 1, EPS, True)[0]

    module.train(direction != "forward")
    case = Case(
        (x, *_stored(layout.fcc_parameters(module.state_dict(), SIZE))),
        call,
        truth,
        lambda: module(x),
        (x, *leaves.values()),
        lambda grads: (grads[0], *layout.fcc_parameters(dict(zip(leaves, grads[1:], strict=True)), SIZE)),
    )
    work = counts.fcc(*MAP_SHAPE, training=direction != "forward")
    return group("fcc", direction, _named(MAP_SHAPE), work, case)


def ccc(graph: str, direction: str, device: str) -> Group:
    """CCC on one of the two graphs."""
    x = _input(device)
    kind = published.CCC if graph == "position" else published.ChannelCCC
    module = _seeded(device, kind, SIZE**2, NEIGHBOURS)
    leaves = dict(module.named_parameters())

    def call(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        given = functional.EdgeParameters(*parameters)
        return functional.ccc(x, given, k=NEIGHBOURS, graph=graph, backend=backend)

    def truth(x: Tensor, *parameters: Tensor) -> Tensor:
        given = functional.EdgeParameters(*parameters)
        return reference.ccc(x.flatten(2), *given, NEIGHBOURS, graph).view_as(x)

    case = Case(
        (x, *_stored(layout.edge_parameters(module.state_dict()))),
        call,
        truth,
        lambda: module(x),
        (x, *leaves.values()),
        lambda grads: (grads[0], *layout.edge_parameters(dict(zip(leaves, grads[1:], strict=True)))),
    )
    work = counts.ccc(MAPS, CHANNELS, SIZE**2, NEIGHBOURS, graph, training=direction != "forward")
    return group(f"ccc {graph} graph", direction, f"{_named(MAP_SHAPE)}, k={NEIGHBOURS}", work, case)


def f5c(direction: str, device: str) -> Group:
    """The whole block of the released variant."""
    x = _input(device)
    first, second = _seeded(device, published.FCC, CHANNELS), _seeded(device, published.CCC, SIZE**2, NEIGHBOURS)
    mean, var = layout.fcc_statistics(first.state_dict())
    fcc_leaves, ccc_leaves = _used_fcc_parameters(first), dict(second.named_parameters())
    split = len(functional.FCCParameters._fields)

    def call(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        given, edges = functional.FCCParameters(*parameters[:split]), functional.EdgeParameters(*parameters[split:])
        if direction == "forward":
            return functional.f5c(x, given, mean, var, edges, k=NEIGHBOURS, graph="position", eps=EPS, backend=backend)
        z = functional.fcc_train(x, given, eps=EPS, residual=True, backend=backend)[0]
        return z + functional.ccc(z, edges, k=NEIGHBOURS, graph="position", backend=backend)

    def truth(x: Tensor, *parameters: Tensor) -> Tensor:
        given, edges = functional.FCCParameters(*parameters[:split]), functional.EdgeParameters(*parameters[split:])
        if direction == "forward":
            z = reference.fcc(x, *_statistics(x, mean, var), *given, EPS, True)
        else:
            z = reference.fcc_train(x, *given, 1, EPS, True)[0]
        return z + reference.ccc(z.flatten(2), *edges, NEIGHBOURS, "position").view_as(z)

    def loop() -> Tensor:
        z = first(x)
        return z + second(z)

    def arrange(grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
        named = dict(zip((*fcc_leaves, *ccc_leaves), grads[1:], strict=True))
        return grads[0], *layout.fcc_parameters(named, SIZE), *layout.edge_parameters(named)

    first.train(direction != "forward")
    stored = (*layout.fcc_parameters(first.state_dict(), SIZE), *layout.edge_parameters(second.state_dict()))
    case = Case((x, *_stored(stored)), call, truth, loop, (x, *fcc_leaves.values(), *ccc_leaves.values()), arrange)
    work = counts.f5c(*MAP_SHAPE, NEIGHBOURS, "position", training=direction != "forward")
    return group("f5c released", direction, f"{_named(MAP_SHAPE)}, k={NEIGHBOURS}", work, case, TOLERANCE_WITH_GRAPH)


def cost_volume(direction: str, device: str) -> Group:
    """The cost volume without activation, all 441 channels."""
    shape = (MAPS, FLOW_CHANNELS, SIZE, SIZE)
    a, b = _input(device, shape, seed=0), _input(device, shape, seed=1)

    def call(a: Tensor, b: Tensor, backend: str) -> Tensor:
        return functional.cost_volume(a, b, radius=RADIUS, stride=STRIDE, backend=backend)

    def truth(a: Tensor, b: Tensor) -> Tensor:
        return reference.cost_volume(a, b, RADIUS, RADIUS, STRIDE, 1.0)

    case = Case((a, b), call, truth, lambda: published.cost_volume(a, b, RADIUS, STRIDE), (a, b), tuple)
    work = counts.cost_volume(*shape, RADIUS, STRIDE, training=direction != "forward")
    return group("cost volume", direction, f"2 × {_named(shape)}, radius {RADIUS}, stride {STRIDE}", work, case)


GROUPS: dict[str, Callable[[str, str], Group]] = {
    "fcc": fcc,
    "ccc-channel": lambda direction, device: ccc("channel", direction, device),
    "ccc-position": lambda direction, device: ccc("position", direction, device),
    "f5c": f5c,
    "cost_volume": cost_volume,
}


def _seeded(device: str, kind: Callable[..., nn.Module], *arguments: int) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments).to(device)


def _input(device: str, shape: tuple[int, ...] = MAP_SHAPE, seed: int = 0) -> Tensor:
    return _normal(shape, seed).to(device).requires_grad_()


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _leaves(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(t.detach().to(dtype).requires_grad_() for t in tensors)


def _stored(parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(p.detach().contiguous() for p in parameters)


def _used_fcc_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if not name.startswith("ffn")}


def _statistics(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """(1, C) each, in the precision that `molkernels.reference` keeps them in."""
    dtype = reference.statistics_dtype(x.dtype)
    return mean.to(dtype)[None], var.to(dtype)[None]


def _named(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
