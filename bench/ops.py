"""The groups of single operators: published loop, every backend, and the compiled forms, on the same tensors."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import molkernels as mk
from bench import counts, machine
from bench.baselines import correlation_sampler, layout, localcorr, published, usual
from bench.groups import Check, Contender, Group, worst_error
from bench.machine import TF32
from bench.record import AUTOTUNED, COMPILED, LOCALCORR, PUBLISHED, REFERENCE, SAMPLER, USUAL
from molkernels import functional, reference

CHANNELS = 128
FLOW_CHANNELS, RADIUS, STRIDE = 256, 10, 2
EPS = 1e-5
# Relative L2 error of float32 against float64. In a graph of computed features, two neighbours of nearly equal
# similarity may change places, which changes a few entries of the gradient.
TOLERANCE = 2e-5
TOLERANCE_WITH_GRAPH = 2e-3
TF32_TOLERANCE = 5e-3
# A form that searches its graph in its own precision may take neighbours whose similarity is less than the best by a
# few times the spacing of numbers below 1 there.
NEARLY_TIED = {"float32": 4 * 2**-23, TF32: 4 * 2**-10, "bfloat16": 4 * 2**-7}
DIRECTIONS = ("forward", "forward-backward")

Function = Callable[..., Tensor]
Evaluation = Callable[[Function, Sequence[Tensor], Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Point:
    """The shapes an operator is measured on; by default those of 2 clips of 7 pairs in one F5C.

    Attributes:
        maps: N of (N, 128, side, side).
        side: H = W.
        k: neighbours, for operators with a graph.
        sweep: the field that differs from the standard point, or None.
        autotuned: whether `torch.compile(mode="max-autotune")` takes part.
    """

    maps: int = 14
    side: int = 16
    k: int = 4
    sweep: str | None = None
    autotuned: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.maps, CHANNELS, self.side, self.side

    @property
    def sizes(self) -> dict[str, int]:
        return {"maps": self.maps, "channels": CHANNELS, "side": self.side}


STANDARD = Point()
SWEEPS = {"maps": (2, 56, 224), "side": (8, 32), "k": (1, 16)}


@dataclass(frozen=True)
class Case:
    """One operator in its three forms, as functions of the same tensors.

    Attributes:
        tensors: inputs and parameters, float32, all of which require a gradient.
        call: the operator through `molkernels.functional`, on the backend given as `backend`.
        truth: the operator's formula in `molkernels.reference`.
        usual: the same as it is usually written in PyTorch (`bench.baselines.usual`): the result, and its graph if it
            searches one.
        loop: the published form; takes no arguments and runs on `loop_leaves`.
        loop_leaves: the tensors whose gradients the published form computes.
        arrange: puts the gradients of `loop_leaves` in the order of `tensors`.
        name, shape, sizes, work: as in `bench.groups.Group`.
        tolerance: largest relative L2 error of float32 against float64.
        around: `truth` with another function in the place of `reference.ccc`, for operators with a graph.
    """

    tensors: tuple[Tensor, ...]
    call: Function
    truth: Function
    usual: Callable[..., tuple[Tensor, Tensor | None]]
    loop: Callable[[], Tensor]
    loop_leaves: tuple[Tensor, ...]
    arrange: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
    name: str
    shape: str
    sizes: Mapping[str, int]
    work: counts.Work
    tolerance: float = TOLERANCE
    around: Callable[[Function], Function] | None = None


class Usual:
    """The compiled usual form of a case as a function of the result alone; keeps the graph of its last call."""

    def __init__(self, case: Case, **options: Any) -> None:
        self.compiled = torch.compile(case.usual, dynamic=False, **options)
        self.graph: Tensor | None = None

    def __call__(self, *tensors: Tensor) -> Tensor:
        result, self.graph = self.compiled(*tensors)
        return result


class OnGraph:
    """`reference.ccc` on a given graph instead of the exact one; keeps the nodes of its last call."""

    def __init__(self, graph: Tensor) -> None:
        self.graph = graph
        self.nodes = graph

    def __call__(self, x: Tensor, *given: Any) -> Tensor:
        *parameters, _k, graph = given
        self.nodes = reference.graph_nodes(x.detach(), graph)
        return reference.edge_max(x, self.graph, *parameters, graph)[0]

    def unlike_exact(self) -> tuple[float, float]:
        """The share of neighbours that the exact search of the nodes does not choose, and by how much the least similar
        neighbour of a node is less similar than the exact one, at most."""
        exact = reference.knn(self.nodes, self.graph.shape[2]).long()
        unit = nn.functional.normalize(self.nodes.double(), dim=2)
        chosen, best = ((unit @ unit.mT).gather(2, graph).amin(2) for graph in (self.graph, exact))
        return other_neighbours(self.graph, exact), (best - chosen).max().item()


def other_neighbours(graph: Tensor, exact: Tensor) -> float:
    """The share of neighbours of `graph` (N, M, k) that `exact` does not have for the same node."""
    return 1 - (graph[..., None] == exact[..., None, :]).any(-1).double().mean().item()


def contender_keys(op: str, point: Point, device: str) -> list[str]:
    """The keys of an operator's contenders. The published loop takes part at the standard point only."""
    names = [*mk.available_backends(device), COMPILED, USUAL, *([AUTOTUNED] if point.autotuned else [])]
    keys = [f"{name}-{dtype}" for name in names for dtype in dtypes_of(name, device)]
    if op == "cost-volume" and correlation_sampler.why_not() is None:
        keys.append(f"{SAMPLER}-float32")
    return keys if point.sweep else [f"{PUBLISHED}-float32", *keys]


def left_out() -> list[dict[str, str]]:
    """Baselines that cannot run here, with the reason."""
    reason = correlation_sampler.why_not()
    return [{"contender": SAMPLER, "subject": "cost-volume", "reason": reason}] if reason else []


def dtypes_of(name: str, device: str) -> tuple[str, ...]:
    """The dtypes that a contender is measured in; see `bench.machine.torch_dtypes`."""
    own = name in (REFERENCE, COMPILED, USUAL, AUTOTUNED)
    return machine.torch_dtypes(device) if own else machine.DTYPES


def group(op: str, direction: str, point: Point, device: str) -> Group:
    """The contenders of one operator at one point, in one direction, checked by `judge`."""
    # Each group compiles its own forms; those of earlier groups are no longer needed.
    torch.compiler.reset()
    case = CASES[op](direction, point, device)
    evaluate = evaluation(direction)
    cotangent = cotangent_of(case).to(device)

    def contender(who: str, dtype: str) -> Contender:
        function = form(case, who)
        tensors = leaves(case.tensors, getattr(torch, dtype))
        grad = cotangent.to(getattr(torch, dtype))

        def run() -> tuple[Tensor, ...]:
            return evaluate(function, tensors, grad)

        return Contender(who, dtype, run, lambda: judge(case, function, evaluate, run(), tensors, grad, dtype))

    keys = [key.rsplit("-", 1) for key in contender_keys(op, point, device)]
    contenders = [
        _published(case, evaluate, cotangent) if who == PUBLISHED else contender(who, dtype) for who, dtype in keys
    ]
    return Group(
        op, direction, f"{case.name}, {direction}", case.shape, case.sizes, case.work, contenders, point.sweep,
        device=device,
    )  # fmt: skip


def judge(
    case: Case,
    function: Function,
    evaluate: Evaluation,
    results: Sequence[Tensor],
    tensors: Sequence[Tensor],
    grad: Tensor,
    precision: str,
) -> Check:
    """The error of a function's results against the formula in float64 on the same numbers, and what it may be.

    That is the case's tolerance in float32, and twice the error of the plain formula in bfloat16. A form that found a
    graph of its own is held against the formula on that graph, which may differ from the exact one by neighbours that
    are nearly tied, and by no others.
    """
    truth, differing = case.truth, None
    if isinstance(function, Usual) and function.graph is not None and case.around is not None:
        given = OnGraph(function.graph)
        truth = case.around(given)
    exact = evaluate(truth, leaves(tensors, torch.float64), grad.double())
    error = worst_error(results, exact)
    if truth is not case.truth:
        differing, shortfall = given.unlike_exact()
        if shortfall > NEARLY_TIED[precision]:
            return Check(math.inf, case.tolerance, differing)
    if precision == "float32":
        return Check(error, case.tolerance, differing)
    if precision == TF32:
        return Check(error, TF32_TOLERANCE, differing)
    return Check(error, 2 * worst_error(evaluate(truth, tensors, grad), exact), differing)


def form(case: Case, who: str, **options: Any) -> Function:
    """The operator as the contender `who` computes it; `options` are those of `torch.compile`."""
    if who == COMPILED:
        return torch.compile(case.truth, dynamic=False, **options)
    if who == AUTOTUNED:
        return torch.compile(case.truth, dynamic=False, **({"mode": "max-autotune"} | options))
    if who == USUAL:
        return Usual(case, **options)
    if who == SAMPLER:
        return lambda a, b: correlation_sampler.cost_volume(a, b, RADIUS, STRIDE)
    if who == LOCALCORR:
        return lambda a, b: localcorr.cost_volume(a, b, RADIUS, STRIDE)
    return lambda *tensors: case.call(*tensors, backend=who)


def _published(case: Case, evaluate: Evaluation, cotangent: Tensor) -> Contender:
    def run() -> tuple[Tensor, ...]:
        return evaluate(lambda *_: case.loop(), case.loop_leaves, cotangent)

    def check() -> Check:
        result, *grads = run()
        results = (result, *case.arrange(grads)) if grads else (result,)
        exact = evaluate(case.truth, leaves(case.tensors, torch.float64), cotangent.double())
        return Check(worst_error(results, exact), case.tolerance)

    return Contender(PUBLISHED, "float32", run, check)


def evaluation(direction: str) -> Evaluation:
    """What computes a function's result, or its result and the gradients of its tensors for a cotangent."""
    return _forward if direction == "forward" else _forward_backward


def cotangent_of(case: Case) -> Tensor:
    """A gradient of the shape of the result; the same at each call, on the CPU."""
    return _normal(tuple(case.truth(*case.tensors).shape), seed=2)


@torch.no_grad()
def _forward(function: Function, tensors: Sequence[Tensor], _cotangent: Tensor) -> tuple[Tensor, ...]:
    return (function(*tensors),)


def _forward_backward(function: Function, tensors: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    result = function(*tensors)
    return (result.detach(), *torch.autograd.grad(result, tensors, cotangent))


def fcc(direction: str, point: Point, device: str) -> Case:
    """FCC of the released variant: running statistics forward, batch statistics forward and backward."""
    x, module = _input(device, point.shape), _seeded(device, published.FCC, CHANNELS)
    mean, var = layout.fcc_statistics(module.state_dict())
    size = point.side
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

    def usual_form(x: Tensor, *parameters: Tensor) -> tuple[Tensor, None]:
        return _usual_fcc(direction, x, mean, var, parameters), None

    module.train(direction != "forward")
    return Case(
        (x, *_stored(layout.fcc_parameters(module.state_dict(), size))),
        call,
        truth,
        usual_form,
        lambda: module(x),
        (x, *leaves.values()),
        lambda grads: (grads[0], *layout.fcc_parameters(dict(zip(leaves, grads[1:], strict=True)), size)),
        "fcc",
        _named(point.shape),
        point.sizes,
        counts.fcc(*point.shape, training=direction != "forward"),
    )


def ccc(graph: str, direction: str, point: Point, device: str) -> Case:
    """CCC on one of the two graphs."""
    x, k = _input(device, point.shape), point.k
    kind = published.CCC if graph == "position" else published.ChannelCCC
    module = _seeded(device, kind, point.side**2, k)
    leaves = dict(module.named_parameters())

    def call(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        given = functional.EdgeParameters(*parameters)
        return functional.ccc(x, given, k=k, graph=graph, backend=backend)

    def around(ccc: Function) -> Function:
        return lambda x, *parameters: ccc(x.flatten(2), *parameters, k, graph).view_as(x)

    def usual_form(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        y, idx = usual.ccc(x.flatten(2), functional.EdgeParameters(*parameters), k, graph)
        return y.view_as(x), idx

    return Case(
        (x, *_stored(layout.edge_parameters(module.state_dict()))),
        call,
        around(reference.ccc),
        usual_form,
        lambda: module(x),
        (x, *leaves.values()),
        lambda grads: (grads[0], *layout.edge_parameters(dict(zip(leaves, grads[1:], strict=True)))),
        f"ccc {graph} graph",
        f"{_named(point.shape)}, k={k}",
        {**point.sizes, "k": k},
        counts.ccc(point.maps, CHANNELS, point.side**2, k, graph, training=direction != "forward"),
        around=around,
    )


def f5c(direction: str, point: Point, device: str) -> Case:
    """The whole block of the released variant."""
    x, k = _input(device, point.shape), point.k
    first, second = _seeded(device, published.FCC, CHANNELS), _seeded(device, published.CCC, point.side**2, k)
    mean, var = layout.fcc_statistics(first.state_dict())
    fcc_leaves, ccc_leaves = _used_fcc_parameters(first), dict(second.named_parameters())
    split = len(functional.FCCParameters._fields)

    def call(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        given, edges = functional.FCCParameters(*parameters[:split]), functional.EdgeParameters(*parameters[split:])
        if direction == "forward":
            return functional.f5c(x, given, mean, var, edges, k=k, graph="position", eps=EPS, backend=backend)
        z = functional.fcc_train(x, given, eps=EPS, residual=True, backend=backend)[0]
        return z + functional.ccc(z, edges, k=k, graph="position", backend=backend)

    def around(ccc: Function) -> Function:
        def truth(x: Tensor, *parameters: Tensor) -> Tensor:
            given, edges = parameters[:split], parameters[split:]
            if direction == "forward":
                z = reference.fcc(x, *_statistics(x, mean, var), *given, EPS, True)
            else:
                z = reference.fcc_train(x, *given, 1, EPS, True)[0]
            return z + ccc(z.flatten(2), *edges, k, "position").view_as(z)

        return truth

    def usual_form(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        z = _usual_fcc(direction, x, mean, var, parameters[:split])
        y, idx = usual.ccc(z.flatten(2), functional.EdgeParameters(*parameters[split:]), k, "position")
        return z + y.view_as(z), idx

    def loop() -> Tensor:
        z = first(x)
        return z + second(z)

    def arrange(grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
        named = dict(zip((*fcc_leaves, *ccc_leaves), grads[1:], strict=True))
        return grads[0], *layout.fcc_parameters(named, point.side), *layout.edge_parameters(named)

    first.train(direction != "forward")
    stored = (*layout.fcc_parameters(first.state_dict(), point.side), *layout.edge_parameters(second.state_dict()))
    return Case(
        (x, *_stored(stored)),
        call,
        around(reference.ccc),
        usual_form,
        loop,
        (x, *fcc_leaves.values(), *ccc_leaves.values()),
        arrange,
        "f5c released",
        f"{_named(point.shape)}, k={k}",
        {**point.sizes, "k": k},
        counts.f5c(*point.shape, k, "position", training=direction != "forward"),
        TOLERANCE_WITH_GRAPH,
        around,
    )


def cost_volume(direction: str, point: Point, device: str) -> Case:
    """The cost volume without activation, all 441 channels."""
    shape = (point.maps, FLOW_CHANNELS, point.side, point.side)
    a, b = _input(device, shape, seed=0), _input(device, shape, seed=1)

    def call(a: Tensor, b: Tensor, backend: str) -> Tensor:
        return functional.cost_volume(a, b, radius=RADIUS, stride=STRIDE, backend=backend)

    def truth(a: Tensor, b: Tensor) -> Tensor:
        return reference.cost_volume(a, b, RADIUS, RADIUS, STRIDE, 1.0)

    return Case(
        (a, b),
        call,
        truth,
        lambda a, b: (usual.cost_volume(a, b, RADIUS, STRIDE), None),
        lambda: published.cost_volume(a, b, RADIUS, STRIDE),
        (a, b),
        tuple,
        "cost volume",
        f"2 × {_named(shape)}, radius {RADIUS}, stride {STRIDE}",
        {**point.sizes, "channels": FLOW_CHANNELS},
        counts.cost_volume(*shape, RADIUS, STRIDE, training=direction != "forward"),
    )


CASES: dict[str, Callable[[str, Point, str], Case]] = {
    "fcc": fcc,
    "ccc-channel": lambda direction, point, device: ccc("channel", direction, point, device),
    "ccc-position": lambda direction, point, device: ccc("position", direction, point, device),
    "f5c": f5c,
    "cost-volume": cost_volume,
}


def _seeded(device: str, kind: Callable[..., nn.Module], *arguments: int) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments).to(device)


def _input(device: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return _normal(shape, seed).to(device).requires_grad_()


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def leaves(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The same numbers in another dtype, each a tensor that requires a gradient."""
    return tuple(t.detach().to(dtype).requires_grad_() for t in tensors)


def _stored(parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(p.detach().contiguous() for p in parameters)


def _used_fcc_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if not name.startswith("ffn")}


def _statistics(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """(1, C) each, in the precision that `molkernels.reference` keeps them in."""
    dtype = reference.statistics_dtype(x.dtype)
    return mean.to(dtype)[None], var.to(dtype)[None]


def _usual_fcc(direction: str, x: Tensor, mean: Tensor, var: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Running statistics forward, in the precision of x; those of the batch forward and backward."""
    given = functional.FCCParameters(*parameters)
    if direction == "forward":
        return usual.fcc(x, mean.to(x.dtype), var.to(x.dtype), given, EPS)
    return usual.fcc(x, None, None, given, EPS)


def _named(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
