"""The operators timed by replayed CUDA graphs, each in float32 without and with TF32 and in bfloat16.

    python -m bench.gpu.timing compile-triton   # compiles Triton's kernels, in several processes, and times nothing
    python -m bench.gpu.timing eager            # every backend, the reference, and the rivals of the cost volume
    python -m bench.gpu.timing compile          # the same as the first for the forms of the next
    python -m bench.gpu.timing compiled         # torch.compile of the reference and the usual form, and one backend
    python -m bench.gpu.timing autotuned        # the reference with mode="max-autotune"; takes minutes

A graph holds several calls on tensors of their own, together more than the L2 cache, so each finds it cold, and neither
launches nor Python are timed; `host_seconds` of a row is the time of a call from Python.
"""

import argparse
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

import molkernels as mk
from bench import counts, memory, ops
from bench.baselines import correlation_sampler, localcorr
from bench.gpu import worker
from bench.groups import Check, Contender, Group, measure
from bench.machine import TF32, measure_limits, products
from bench.record import AUTOTUNED, COMPILED, LOCALCORR, REFERENCE, SAMPLER, USUAL

PRECISIONS = ("bfloat16", "float32", TF32)
SIZES = (224, 14)  # N, the larger first: there a kernel fills the device
OPERATORS = ("f5c", "ccc-position", "ccc-channel", "fcc", "cost-volume")
FORMS = {"compile": (COMPILED, USUAL), "compiled": (COMPILED, USUAL), "autotuned": (AUTOTUNED,)}
PARTS = ("compile-triton", "eager", *FORMS)
UNTIMED = ("compile-triton", "compile")
RIVALS = {LOCALCORR: localcorr.why_not, SAMPLER: correlation_sampler.why_not}  # of the cost volume
BUDGET = 0.4  # seconds of a group's rounds
MOST_COPIES = 16


def names() -> list[str]:
    """The groups in the order of their worth."""
    if worker.pretended():
        return ["ccc-channel forward-backward N=1", "cost-volume forward N=1"]
    return [f"{op} {direction} N={n}" for n, op, direction in itertools.product(SIZES, OPERATORS, ops.DIRECTIONS)]


def point_of(name: str) -> tuple[str, str, ops.Point]:
    """Operator, direction and shapes of a group."""
    op, direction, maps = name.split(" ")
    point = replace(ops.STANDARD, maps=int(maps.removeprefix("N=")))
    if worker.pretended():
        return op, direction, replace(point, side=8)
    return op, direction, point if point.maps == ops.STANDARD.maps else replace(point, sweep="maps")


def contenders(op: str, part: str) -> Iterator[str]:
    """Who takes part in a group, without the precisions."""
    backends = [name for name in mk.available_backends(worker.device()) if name != REFERENCE]
    if part == "eager":
        yield from (*backends, REFERENCE)
        if op == "cost-volume" and not worker.pretended():
            yield from (name for name, reason in RIVALS.items() if reason() is None)
        return
    if part == "compile-triton":
        yield backends[-1]
        return
    if part != "compile":
        yield from backends[:1]
    yield from FORMS[part]


class Timed:
    """One contender in one precision, on as many copies of the tensors as make the cache cold."""

    def __init__(self, case: ops.Case, who: str, precision: str, direction: str) -> None:
        self.case, self.who, self.precision = case, who, precision
        self.evaluate = ops.evaluation(direction)
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        # A pretended one is captured only: the compiler for a processor would take a minute.
        self.function = ops.form(case, who, **({"backend": "eager", "mode": None} if worker.pretended() else {}))
        cotangent = ops.cotangent_of(case).to(worker.device(), self.dtype)
        self.copies = [(_own(case.tensors, self.dtype), cotangent.clone()) for _ in range(_copies(case.work))]

    def call(self, copy: int = 0) -> tuple[Tensor, ...]:
        """One call on one copy."""
        tensors, cotangent = self.copies[copy]
        with products(self.precision):
            return self.evaluate(self.function, tensors, cotangent)

    def check(self) -> Check:
        """The error against float64 on the same numbers, and what it may be."""
        tensors, cotangent = self.copies[0]
        return ops.judge(self.case, self.function, self.evaluate, self.call(), tensors, cotangent, self.precision)

    def all_calls(self) -> None:
        """One call on every copy."""
        for copy in range(len(self.copies)):
            self.call(copy)

    def replayable(self) -> Callable[[], object]:
        """All calls as one CUDA graph; on a pretended GPU, the calls themselves."""
        if worker.pretended():
            return self.all_calls
        return captured(self.all_calls).replay

    def host_seconds(self, calls: int = 10) -> float:
        """Seconds in which Python gets through a call when the device is not waited for."""
        self.call()
        worker.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            self.call()
        seconds = (time.perf_counter() - begin) / calls
        worker.synchronize()
        return seconds


def captured(run: Callable[[], object], warm: int = 2) -> torch.cuda.CUDAGraph:
    """`run` as a CUDA graph, after `warm` runs on another stream.

    Raises:
        RuntimeError: it does something that a graph cannot hold, such as waiting for the host.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def _copies(work: counts.Work) -> int:
    if worker.pretended():
        return 1
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(MOST_COPIES, math.ceil(2 * cache / (4 * work.elements))))


def _own(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Copies that share no memory with `tensors`."""
    return tuple(tensor.detach().to(dtype, copy=True).requires_grad_() for tensor in tensors)


def prepare(name: str, part: str) -> tuple[Group, dict[str, Timed], list[str]]:
    """Compile, check and capture the contenders of a group.

    Returns:
        The group of those that can be timed (its work that of all copies), what is behind them by key, and in words
        what failed; a contender that fails does not keep the others from being timed.
    Raises:
        RuntimeError: the device is lost.
    """
    op, direction, point = point_of(name)
    torch.compiler.reset()
    case = ops.CASES[op](direction, point, worker.device())
    copies = _copies(case.work)
    ready, behind, failures = [], {}, []
    for who, precision in itertools.product(contenders(op, part), PRECISIONS):
        try:
            timed = Timed(case, who, precision, direction)
            if part in UNTIMED:
                timed.call()
                continue
            check = timed.check()
            if not check.passed:
                failures.append(f"{who}, {precision}: relative error {check.error:.2e}, allowed {check.tolerance:.2e}")
            contender = Contender(who, precision, timed.replayable(), lambda check=check: check)
        except Exception as error:
            if worker.device_is_lost():
                raise
            failures.append(f"{who}, {precision}: {error!r}")
            continue
        ready.append(contender)
        behind[contender.key] = timed
    # The compiled forms take turns with the fastest backend, which was also timed before: another group.
    title = f"{case.name}, {direction}" + ("" if part == "eager" else f", {part}")
    work = counts.Work(case.work.flops * copies, case.work.elements * copies)
    budget, rounds = (0.0, 1) if worker.pretended() else (BUDGET, 5)
    return (
        Group(
            op, direction, title, case.shape, case.sizes, work, ready, point.sweep, budget, rounds, worker.device()
        ),
        behind,
        failures,
    )  # fmt: skip


def measure_group(group: Group, behind: dict[str, Timed], limits: dict[str, Any]) -> None:
    """Time the group and report a row for each contender, per call."""
    for key, row in measure(group, limits).items():
        copies = len(behind[key].copies)
        row.flops, row.bytes = row.flops / copies, row.bytes / copies
        row.durations = [seconds / copies for seconds in row.durations]
        row.seconds = row.seconds and tuple(seconds / copies for seconds in row.seconds)  # type: ignore[assignment]
        row.peak_bytes = memory.peak_of(behind[key].call, group.device)
        worker.report("row", row={**asdict(row), "host_seconds": behind[key].host_seconds(), "copies": copies})


def main() -> None:
    """Do one of the four parts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_args().part
    gc.freeze()  # a collection before each timing then takes no time
    limits: dict[str, Any] = {}
    for name in worker.plan(names()):
        with worker.task(name):
            if part not in UNTIMED and not limits:
                limits = limits_here()
            group, behind, failures = prepare(name, part)
            if group.contenders:
                measure_group(group, behind, limits)
            if failures:
                raise RuntimeError("\n".join(failures))


def limits_here() -> dict[str, Any]:
    """The machine's limits, also reported; a processor has no TF32."""
    limits = measure_limits(worker.device(), budget=0.0 if worker.pretended() else 1.0)
    limits["gemm"].setdefault(TF32, limits["gemm"]["float32"])
    worker.report("limits", limits=limits)
    return limits


if __name__ == "__main__":
    main()
