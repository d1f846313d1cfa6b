"""The operators of molkernels beside their formulas in float64: odd strides, NaN, empty axes, large offsets, threads.

How far a result may be from the exact one is not guessed: the formula of absolute values bounds every sum that is
rounded on the way, so each element has a bound of its own. Where the exact value is finite and far from overflow the
result must be finite, whatever other elements hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import molkernels as mk
from molkernels import functional, reference
from molkernels.functional import EdgeParameters, FCCParameters
from torture import sandbox
from torture.outcome import Outcome
from torture.sandbox import InvalidResultError, Limits
from torture.unit import Session, Unit

_DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")}
_LAYOUTS = ("contiguous", "channels-last", "strided", "expanded", "transposed", "offset", "narrowed")
_SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "zero": 0.0, "tiny": 1e-42}
# Roundings per sum beside its length, and per result.
_SLACK = 24
_REFUSALS = (ValueError, TypeError, IndexError)
_TOGETHER = 4
# Its functions take many tensors in a row, which a type checker cannot follow through a star.
_formula: Any = reference
Case = Mapping[str, Any]


@dataclass(frozen=True)
class Calls:
    """An operator on the tensors of a case.

    Attributes:
        tensors: its inputs, in the case's dtype, layout and device.
        compute: calls it on a backend.
        exact: its formula, of the same tensors in float64.
        bound: the same formula of absolute values.
        length: terms of its longest sum.
        compare: compares a result with the exact one, where that is not a matter of rounding.
    """

    tensors: list[Tensor]
    compute: Callable[..., Tensor]
    exact: Callable[..., Tensor]
    bound: Callable[..., Tensor]
    length: int
    compare: Callable[[Tensor, Tensor], None] | None = None


# --- Cases ----------------------------------------------------------------------------------------------------------


def _cases(operator: str) -> st.SearchStrategy[dict[str, Any]]:
    """Everything that shapes one example, as JSON."""
    side = st.integers(1, 9) | st.sampled_from([1, 13, 16, 17, 31, 32, 33, 64])
    return st.fixed_dictionaries(
        {
            "operator": st.just(operator),
            "seed": st.integers(0, 2**31),
            "backend": st.sampled_from([*mk.available_backends("cpu"), "auto"]),
            "dtype": st.sampled_from(list(_DTYPES)),
            "layout": st.sampled_from(_LAYOUTS),
            "n": st.sampled_from([0, 1, 1, 2, 3, 5]),
            "c": st.sampled_from([2, 2, 4, 6, 8, 10, 16] if operator.startswith("fcc") else [1, 2, 3, 4, 7, 8, 16]),
            "h": side,
            "w": side,
            "offset": st.sampled_from([0.0, 0.0, 0.0, 300.0, 20_000.0, -1e6]),
            "scale": st.sampled_from([1.0, 1.0, 1.0, 1e-6, 1e4, 1e-30]),
            "special": st.sampled_from([None, None, None, *_SPECIAL]),
            "specials": st.integers(1, 3),
            "k": st.sampled_from([1, 2, 3, 4, 8, 16]),
            "refused": st.sampled_from([None] * 12 + ["h = 0", "w = 65", "c = 0", "c = 3", "k = 0", "k = 17"]),
            "graph": st.sampled_from(["channel", "position"]),
            "bad_index": st.sampled_from([None] * 9 + [-1, 1, 2**31 - 1, -(2**31)]),
            "groups": st.sampled_from([1, 1, 2, 3]),
            "residual": st.booleans(),
            "radius": st.integers(0, 5),
            "stride": st.integers(1, 3),
            "slope": st.sampled_from([0.1, 1.0, 0.0]),
            "compact": st.booleans(),
            "large": st.sampled_from([False] * 7 + [True]),
            "gradient": st.booleans(),
            "threads": st.sampled_from([1, 1, 1, 2, _TOGETHER]),
            "inner_threads": st.sampled_from([1, 2]),
        }
    )


def _sides(case: Case) -> tuple[int, int, int, int]:
    """N, C, H and W; one of them may be what an operator must refuse."""
    sides = {name: case[name] for name in "nchw"}
    name, _, value = (case["refused"] or "").partition(" = ")
    if name in sides:
        sides[name] = int(value)
    return sides["n"], sides["c"], sides["h"], sides["w"]


def _neighbours(case: Case, nodes: int) -> int:
    """k, as many as there are nodes at most; or what an operator must refuse."""
    name, _, value = (case["refused"] or "").partition(" = ")
    return int(value) if name == "k" else min(case["k"], nodes)


def _random(case: Case, generator: torch.Generator, *shape: int, plain: bool = True) -> Tensor:
    """Random numbers; those that are not plain have the case's offset, scale and special values."""
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if not plain:
        values = values * case["scale"] + case["offset"]
        if case["special"] and values.numel():
            places = torch.randint(values.numel(), (case["specials"],), generator=generator)
            values.view(-1)[places] = _SPECIAL[case["special"]]
    return values.to(_DTYPES[case["dtype"]])


def _arranged(x: Tensor, layout: str) -> Tensor:
    """Values of the same shape with other strides."""
    if layout == "channels-last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return x.new_zeros(*x.shape, 3)[..., 1].copy_(x)
    if layout == "expanded":
        return x[:1].expand_as(x) if len(x) else x
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "offset":
        return x.new_zeros(x.numel() + 3)[3:].view(x.shape).copy_(x)
    if layout == "narrowed":
        n, c, h, w = x.shape
        return x.new_full((n + 1, c + 2, h + 1, w + 2), float("nan"))[1:, 1 : c + 1, :h, 2:].copy_(x)
    return x


def _fcc(case: Case, generator: torch.Generator) -> Calls:
    n, c, h, w = _sides(case)
    x = _arranged(_random(case, generator, n, c, h, w, plain=False), case["layout"])
    shapes = [(c,), (c,), (c, h), (c, w), (c, h), (c, w), (c,), (c,)]
    parameters = [_random(case, generator, *shape) for shape in shapes]
    wide = reference.statistics_dtype(x.dtype)
    mean = torch.randn(1, c, generator=generator, dtype=torch.float64).to(wide)
    var = (torch.rand(1, c, generator=generator, dtype=torch.float64) + 0.1).to(wide)
    residual = case["residual"]

    def compute(backend: str, x: Tensor, mean: Tensor, var: Tensor, *p: Tensor) -> Tensor:
        return functional.fcc(x, FCCParameters(*p), mean, var, residual=residual, backend=backend)

    def exact(x: Tensor, mean: Tensor, var: Tensor, *p: Tensor) -> Tensor:
        return _formula.fcc(x, mean, var, *p, eps=1e-5, residual=residual)

    def bound(x: Tensor, mean: Tensor, var: Tensor, *p: Tensor) -> Tensor:
        return _formula.fcc(x.abs(), -mean.abs(), var, *_sizes(p), eps=1e-5, residual=residual)

    return Calls([x, mean, var, *parameters], compute, exact, bound, h + w)


def _fcc_train(case: Case, generator: torch.Generator) -> Calls:
    n, c, h, w = _sides(case)
    x = _arranged(_random(case, generator, n, c, h, w, plain=False), case["layout"])
    shapes = [(c,), (c,), (c, h), (c, w), (c, h), (c, w), (c,), (c,)]
    parameters = [_random(case, generator, *shape) for shape in shapes]
    groups, residual = case["groups"], case["residual"]

    def compute(backend: str, x: Tensor, *p: Tensor) -> Tensor:
        y, mean, var = functional.fcc_train(x, FCCParameters(*p), groups=groups, residual=residual, backend=backend)
        _check_statistics(x, p, groups, mean, var)
        return y

    def exact(x: Tensor, *p: Tensor) -> Tensor:
        return _formula.fcc_train(x, *p, groups=groups, eps=1e-5, residual=residual)[0]

    def bound(x: Tensor, *p: Tensor) -> Tensor:
        mean, var = reference.fcc_statistics(x, p[2], p[3], groups)
        magnitude = _formula.fcc(x.abs(), -mean.abs(), var, *_sizes(p), eps=1e-5, residual=residual)
        # What rounding x + pe to its own precision does to 1/√var, whatever is done after it.
        deviation = reference.per_sample((var + 1e-5).sqrt(), x)
        return magnitude * (1 + (x.abs() + _embedding(x, p)) / deviation)

    return Calls([x, *parameters], compute, exact, bound, max(h + w, min(n * h * w, 4096)))


def _sizes(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.abs() for tensor in tensors]


def _embedding(x: Tensor, p: Sequence[Tensor]) -> Tensor:
    return reference.add_position(torch.zeros_like(x), p[2].abs(), p[3].abs())


def _check_statistics(x: Tensor, p: Sequence[Tensor], groups: int, mean: Tensor, var: Tensor) -> None:
    """The variance of a batch: never negative, and right to what rounding its terms leaves of it."""
    if not x.numel() or not bool(x.isfinite().all()):
        return
    values = x.double()
    true_mean, true = reference.fcc_statistics(values, p[2].double(), p[3].double(), groups)
    if bool((var < 0).any()):
        raise InvalidResultError(f"negative variance: {float(var.min()):.3g}")
    rounding = torch.finfo(torch.promote_types(x.dtype, torch.float32) if x.dtype != torch.float64 else x.dtype).eps
    size = float(values.abs().max()) + float(_embedding(values, [one.double() for one in p]).max())
    allowed = 64 * rounding * (true + size * true.sqrt()) + 16 * (rounding * size) ** 2
    _within("variance", var.double(), true, allowed)
    _within("mean", mean.double(), true_mean, torch.full_like(true_mean, 64 * rounding * size + 1e-300))


def _edge_max(case: Case, generator: torch.Generator) -> Calls:
    n, c, h, w = _sides(case)
    x = _arranged(_random(case, generator, n, c, h, w, plain=False), case["layout"])
    places, graph = h * w, case["graph"]
    parameters = [_random(case, generator, *shape) for shape in ((places, places), (places,)) * 2]
    nodes = c if graph == "channel" else places
    k = _neighbours(case, nodes)
    idx = torch.randint(max(nodes, 1), (n, nodes, k), generator=generator)
    wrong = 0
    if case["bad_index"] is not None and idx.numel():
        wrong = case["bad_index"] + (nodes - 1 if case["bad_index"] == 1 else 0)
        idx.view(-1)[int(torch.randint(idx.numel(), (1,), generator=generator))] = wrong
    idx = idx.to(torch.int32 if case["seed"] % 2 else torch.int64)
    must_refuse = case["bad_index"] is not None and idx.numel() > 0

    def compute(backend: str, x: Tensor, *p: Tensor) -> Tensor:
        try:
            y, winner = functional.edge_max(x, idx, EdgeParameters(*p), graph=graph, backend=backend)
        except RuntimeError as error:
            raise IndexError(str(error)) if must_refuse else error from error
        if must_refuse:
            raise InvalidResultError(f"bad index taken: {wrong} of {nodes} nodes")
        if winner.numel() and int(winner.max()) >= k:
            raise InvalidResultError(f"bad winner: {int(winner.max())} of {k} neighbours")
        return y

    def exact(x: Tensor, *p: Tensor) -> Tensor:
        return _formula.edge_max(x.flatten(2), idx, *p, graph=graph)[0].view(x.shape)

    def bound(x: Tensor, *p: Tensor) -> Tensor:
        # (|W1| + |W2| or 2 |W2|) |x| + |b1| + |b2| + max |W2| |x_j|, through the same formula.
        twice = 2 if graph == "channel" else 4
        weights = [p[0].abs() + twice * p[2].abs(), p[1].abs(), p[2].abs(), p[3].abs()]
        return _formula.edge_max(x.flatten(2).abs(), idx, *weights, graph=graph)[0].view(x.shape)

    return Calls([x, *parameters], compute, exact, bound, 2 * places)


def _cost_volume(case: Case, generator: torch.Generator) -> Calls:
    n, c, h, w = _sides(case)
    a = _random(case, generator, n, c, h, w, plain=False)
    b = _random(case, generator, n, c, h, w)
    if case["large"] and a.numel():  # as large as the type allows, beside ones: the mean is finite, the sum is not
        a, b = torch.full_like(a, 0.7 * torch.finfo(a.dtype).max), torch.ones_like(b)
    a = _arranged(a, case["layout"])
    radius, stride, slope, compact = (case[name] for name in ("radius", "stride", "slope", "compact"))
    reach = [functional.reachable_radius(radius, stride, side) if compact else radius for side in (h, w)]

    def compute(backend: str, a: Tensor, b: Tensor) -> Tensor:
        return functional.cost_volume(
            a, b, radius=radius, stride=stride, negative_slope=slope, compact=compact, backend=backend
        )

    def exact(a: Tensor, b: Tensor) -> Tensor:
        return _formula.cost_volume(a, b, *reach, stride=stride, negative_slope=slope)

    def bound(a: Tensor, b: Tensor) -> Tensor:
        return _formula.cost_volume(a.abs(), b.abs(), *reach, stride=stride, negative_slope=1.0)

    return Calls([a, b], compute, exact, bound, max(c, 1))


def _knn(case: Case, generator: torch.Generator) -> Calls:
    n, c, h, w = _sides(case)
    x = _arranged(_random(case, generator, n, c, h, w, plain=False), case["layout"])
    graph = case["graph"]
    k = _neighbours(case, c if graph == "channel" else h * w)

    def compute(backend: str, x: Tensor) -> Tensor:
        return functional.knn(x, k, graph=graph, backend=backend)

    def exact(x: Tensor) -> Tensor:
        return reference.knn(reference.graph_nodes(x.flatten(2), graph), k)

    def compare(found: Tensor, true: Tensor) -> None:
        """Other neighbours than the formula's only where similarities are equal to within their rounding."""
        nodes = reference.graph_nodes(x.flatten(2), graph).double()
        if found.shape != true.shape or (
            found.numel() and not 0 <= int(found.min()) <= int(found.max()) < nodes.shape[1]
        ):
            raise InvalidResultError(f"no graph: {tuple(found.shape)}, or neighbours outside it")
        unit = torch.nn.functional.normalize(nodes, dim=2, eps=torch.finfo(torch.float32).tiny ** 0.5)
        similarity = (unit @ unit.mT).nan_to_num(nan=-2.0)
        similarity.diagonal(dim1=1, dim2=2).fill_(3.0)
        ours, theirs = (similarity.gather(2, idx.long()) for idx in (found, true))
        _within("similarity", ours, theirs, torch.full_like(ours, 2 / reference.SIMILARITY_STEPS))
        if any(len(set(row)) < k for row in found.flatten(0, 1).tolist()):
            raise InvalidResultError("no graph: twice the same neighbour")

    return Calls([x], compute, exact, exact, 1, compare)


_OPERATORS: dict[str, tuple[Callable[[Case, torch.Generator], Calls], int, int]] = {
    "fcc": (_fcc, 700, 30),
    "fcc_train": (_fcc_train, 700, 30),
    "edge_max": (_edge_max, 700, 35),
    "knn": (_knn, 500, 25),
    "cost_volume": (_cost_volume, 700, 30),
}


# --- One example ----------------------------------------------------------------------------------------------------


def _try(case: Case) -> None:
    """Compute, in one thread or several at once, and compare every result with the exact one.

    Raises:
        InvalidResultError: a result is wrong.
    """
    torch.set_num_threads(case["inner_threads"])
    generator = torch.Generator().manual_seed(case["seed"])
    calls = _OPERATORS[case["operator"]][0](case, generator)
    before = [tensor.clone() for tensor in calls.tensors]
    results: list[Tensor | BaseException] = [ValueError("no result")] * case["threads"]

    def compute(place: int) -> None:
        try:
            results[place] = calls.compute(case["backend"], *calls.tensors)
        except BaseException as error:
            results[place] = error

    if case["threads"] == 1:
        compute(0)
    else:
        threads = [threading.Thread(target=compute, args=(place,)) for place in range(case["threads"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    for now, then in zip(calls.tensors, before, strict=True):
        if not torch.equal(now.nan_to_num(7.0), then.nan_to_num(7.0)):
            raise InvalidResultError("input changed: it differs after the call")
    wide = [tensor.double() for tensor in calls.tensors]
    exact, bound = calls.exact(*wide), calls.bound(*wide)
    dtype = _DTYPES[case["dtype"]]
    for result in results:
        assert isinstance(result, Tensor)
        if calls.compare is not None:
            calls.compare(result, exact)
        else:
            _compare(result, exact, bound, dtype, calls.length)
    plain = not case["special"] and not case["offset"] and case["scale"] == 1.0 and not case["large"]
    if case["gradient"] and plain and dtype == torch.float64 and exact.is_floating_point() and exact.numel():
        _compare_gradients(calls, case["backend"])


def _compare_gradients(calls: Calls, backend: str) -> None:
    """Gradients in float64, where no rounding makes another neighbour win, beside those of the formula."""
    sides = []
    for function in (partial(calls.compute, backend), calls.exact):
        leaves = [tensor.detach().requires_grad_() for tensor in calls.tensors]
        y = function(*leaves)
        cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).mul(7).sin().view(y.shape)
        sides.append(torch.autograd.grad(y, leaves, cotangent, allow_unused=True))
    for place, (ours, theirs) in enumerate(zip(*sides, strict=True)):
        if ours is None or theirs is None:  # statistics have no gradient
            continue
        norm, error = float(theirs.norm()), float((ours - theirs).norm())
        if not error <= 1e-8 * norm + 1e-10:
            raise InvalidResultError(f"inaccurate gradient: that of input {place} is off by {error:.3g} of {norm:.3g}")


def _compare(result: Tensor, exact: Tensor, bound: Tensor, dtype: torch.dtype, length: int) -> None:
    if result.shape != exact.shape:
        raise InvalidResultError(f"shape: {tuple(result.shape)}, not {tuple(exact.shape)}")
    limits = torch.finfo(dtype)
    # Elements that no rounding can bring near overflow or below the smallest normal number.
    # In float16 a sum on the way can be larger than what comes out.
    highest = limits.max * (0.01 if dtype == torch.float16 else 0.9)
    safe = exact.isfinite() & bound.isfinite() & (bound < highest)
    got = result.double()
    if bool((~got.isfinite() & safe).any()):
        at = tuple((~got.isfinite() & safe).nonzero()[0].tolist())
        raise InvalidResultError(f"not finite: {float(got[at])} at {at}, exactly {float(exact[at]):.4g}")
    # Sums of 16-bit products are kept in more precision, their inputs and results are not.
    roundings = _SLACK + (length if dtype in (torch.float32, torch.float64) else 0)
    allowed = roundings * limits.eps * bound + length * limits.tiny
    _within("result", got.where(safe, 0), exact.where(safe, 0), allowed.where(safe, 1))
    lost = exact.isnan() & got.isfinite()
    if bool(lost.any()):
        at = tuple(lost.nonzero()[0].tolist())
        raise InvalidResultError(f"NaN lost: {float(got[at]):.4g} at {at}")


def _within(what: str, got: Tensor, exact: Tensor, allowed: Tensor) -> None:
    excess = (got - exact).abs() - allowed
    if excess.numel() and bool((excess > 0).any()):
        at = tuple(int(place) for place in (excess == excess.max()).nonzero()[0])
        values = f"{float(got[at]):.8g} at {at}, exactly {float(exact[at]):.8g}"
        raise InvalidResultError(f"inaccurate {what}: {values}, allowed error {float(allowed[at]):.2g}")


# --- The units ------------------------------------------------------------------------------------------------------


def units() -> list[Unit]:
    """One unit per operator."""
    return [
        Unit("operators", name, target, seconds, partial(_run, name), _repeat)
        for name, (_, target, seconds) in _OPERATORS.items()
    ]


def _run(operator: str, session: Session) -> None:
    session.note(f"backends {', '.join(mk.available_backends('cpu'))} on CPU tensors")
    round_ = 0
    while session.goes_on():
        before = session.done
        _examples(operator, session, round_)
        round_ += 1
        if session.done == before:
            break


def _examples(operator: str, session: Session, round_: int) -> None:
    @seed(session.seed + round_)
    @settings(
        max_examples=max(1, session.target - session.done),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_cases(operator))
    def example(case: dict[str, Any]) -> None:
        if session.goes_on():
            outcome = _tried(case, session)
            if session.count(outcome):
                case = _simplest(case, session, outcome)
                session.keep(_tried(case, session), {"case": case})

    example()


_PLAIN: dict[str, Any] = {
    "refused": None, "threads": 1, "inner_threads": 1, "special": None, "offset": 0.0, "scale": 1.0, "residual": False,
    "layout": "contiguous", "large": False, "bad_index": None, "compact": False, "gradient": False, "groups": 1, "n": 1,
    "h": 2, "w": 2, "c": 2, "k": 1, "radius": 1, "stride": 1, "slope": 1.0, "graph": "channel",
}  # fmt: skip


def _simplest(case: dict[str, Any], session: Session, outcome: Outcome) -> dict[str, Any]:
    """The case with as many plain values as still give the same outcome."""
    for name, value in _PLAIN.items():
        if case[name] != value:
            plainer = {**case, name: value}
            if _tried(plainer, session).key == outcome.key:
                case = plainer
    return case


def _tried(case: Case, session: Session) -> Outcome:
    box = session.work / "box"
    (box / "example").mkdir(parents=True, exist_ok=True)
    limits = Limits(memory=4 << 30, processor=30, idle=10.0)
    outcome = sandbox.run(lambda: _try(case), box, box / "example", limits, _REFUSALS)
    if not outcome.is_fault:
        return outcome
    # One kind of fault per backend and dtype, whatever the numbers in its message.
    error = outcome.message.partition(":")[0] if outcome.kind == "wrong" else outcome.error
    return Outcome(outcome.kind, error, outcome.message, f"{case['operator']} {case['backend']} {case['dtype']}")


def _repeat(session: Session, case: Mapping[str, Any], files: Path | None) -> Outcome:
    return _tried(case["case"], session)
