"""A group: contenders that compute the same thing, checked against one oracle and timed in interleaved rounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bench import machine
from bench.counts import Work
from bench.timing import paired_ratio, quantiles, time_interleaved


class Check(NamedTuple):
    """A contender's error against its oracle and the largest allowed one: relative L2, the worst of all results.

    `graph_differs` is the share of its neighbours that the exact search does not choose, where it searches by itself.
    """

    error: float
    tolerance: float
    graph_differs: float | None = None

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Contender:
    """One way to compute what its group computes.

    Attributes:
        name: a backend, or a baseline of `bench.record.BASELINES`.
        dtype: "float32" or "bfloat16".
        run: what is timed.
        check: compares it with the oracle; called before anything is timed.
    """

    name: str
    dtype: str
    run: Callable[[], object]
    check: Callable[[], Check]

    @property
    def key(self) -> str:
        return f"{self.name}-{self.dtype}"


@dataclass(frozen=True)
class Group:
    """What is computed, on which shapes, and the least work that it takes.

    Attributes:
        subject, task: identify it in results, such as "f5c" and "forward".
        name: the heading, such as "f5c released, forward".
        shape: the shapes in words.
        sizes: the shapes in numbers, without the threads.
        work: counted in `bench.counts`.
        contenders: what is timed, in turns.
        sweep: the key of `sizes` (or "threads") that is varied if this point belongs to a sweep; None otherwise.
        budget: seconds of timing, after at least `least_rounds` rounds.
    """

    subject: str
    task: str
    name: str
    shape: str
    sizes: Mapping[str, int]
    work: Work
    contenders: Sequence[Contender]
    sweep: str | None = None
    budget: float = 2.0
    least_rounds: int = 5
    device: str = "cpu"


@dataclass
class Row:
    """The figures of one contender in one group; `dataclasses.asdict` makes JSON values of it."""

    group: str
    subject: str
    task: str
    sizes: dict[str, int]
    sweep: str | None
    contender: str
    dtype: str
    shape: str
    error: float
    tolerance: float
    flops: float
    bytes: float
    seconds: tuple[float, float, float] | None = None  # quantiles 0.2, 0.5, 0.8
    rounds: int = 0
    share_of_limit: float | None = None
    bound: str | None = None  # which limit binds: "arithmetic" or "traffic"
    speedup_over: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    peak_bytes: int | None = None  # of one call, above what was held before
    graph_differs: float | None = None  # as in `Check`


def measure(group: Group, limits: Mapping[str, Mapping[str, float]]) -> dict[str, Row]:
    """Check every contender, time the correct ones, and relate their times to each other and to the machine's limits.

    Args:
        group: the contenders' checks run first, so compilation and warm-up are over when timing begins.
        limits: as returned by `bench.machine.measure_limits`. A product and a copy take part in every round, so the
            share of the limit refers to the same moment; `limits` gives the rates of other dtypes relative to them.

    Returns:
        One row per contender, by `Contender.key`; a contender over its tolerance has no times.
    """
    checks = {contender.key: contender.check() for contender in group.contenders}
    rows = {contender.key: _row(group, contender, checks[contender.key]) for contender in group.contenders}
    right = {contender.key: contender.run for contender in group.contenders if checks[contender.key].passed}
    gauge = machine.Gauge(group.device)
    times = time_interleaved(right | gauge.runs, group.budget, group.least_rounds, device=group.device, warm=False)
    moments = gauge.take(times)
    for key, durations in times.items():
        row = rows[key]
        row.durations, row.rounds, row.seconds = durations, len(durations), quantiles(durations)
        row.share_of_limit, row.bound = _share(group.work, row.dtype, durations, moments, limits)
        row.speedup_over = {
            rows[other].contender: paired_ratio(times[other], durations)
            for other in times
            if rows[other].dtype == "float32" and other != key
        }
    return rows


def _row(group: Group, contender: Contender, check: Check) -> Row:
    return Row(
        group=group.name,
        subject=group.subject,
        task=group.task,
        sizes={**group.sizes, "threads": torch.get_num_threads()},
        sweep=group.sweep,
        contender=contender.name,
        dtype=contender.dtype,
        shape=group.shape,
        error=check.error,
        tolerance=check.tolerance,
        flops=group.work.flops,
        bytes=group.work.elements * machine.BYTES_PER_ELEMENT[contender.dtype],
        graph_differs=check.graph_differs,
    )


def _share(
    work: Work,
    dtype: str,
    durations: Sequence[float],
    moments: Sequence[machine.Moment],
    limits: Mapping[str, Mapping[str, float]],
) -> tuple[float, str]:
    """The median over the rounds of least over measured time, and which limit determines the least time."""
    faster, width = limits["gemm"][dtype] / limits["gemm"]["float32"], machine.BYTES_PER_ELEMENT[dtype]
    least = [work.seconds_at(m.flops_per_second * faster, m.bytes_per_second, width) for m in moments]
    arithmetic, traffic = (quantiles(seconds)[1] for seconds in zip(*least, strict=True))
    share = quantiles([max(pair) / seconds for pair, seconds in zip(least, durations, strict=True)])[1]
    return share, "arithmetic" if arithmetic >= traffic else "traffic"


def worst_error(results: Sequence[Tensor], oracle: Sequence[Tensor]) -> float:
    """The largest relative L2 error of several tensors against their oracles; infinite where a value is not finite."""
    return max(relative_error(got, want) for got, want in zip(results, oracle, strict=True))


def relative_error(got: Tensor, want: Tensor) -> float:
    """L2 norm of the difference over that of the oracle, in float64."""
    if got.shape != want.shape:
        return float("inf")
    error = (got.double() - want.double()).norm() / want.double().norm().clamp_min(torch.finfo(torch.float64).tiny)
    return error.nan_to_num(nan=float("inf"), posinf=float("inf")).item()
