"""Single operators: `pytest bench/test_ops.py`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from bench import machine, ops
from bench.conftest import CLOCK, Cases

pytestmark = pytest.mark.benchmark(timer=CLOCK)


def operators(device: str, full: bool, threads: int) -> Iterator[Any]:
    """A case for each operator, direction, point and contender."""
    for op in ops.CASES:
        for point, count in points(op, full, threads):
            for direction in ops.DIRECTIONS:
                for contender in ops.contender_keys(op, point, device):
                    name = f"{op}-{direction}-{_named(point, count)}{contender}"
                    yield pytest.param(op, direction, point, count, contender, id=name)


def points(op: str, full: bool, threads: int) -> Iterator[tuple[ops.Point, int]]:
    """The points at which an operator is measured and their threads: the standard point, then the sweeps."""
    yield replace(ops.STANDARD, autotuned=full), threads
    if not full:
        return
    for field, values in ops.SWEEPS.items():
        if field != "k" or op in ("f5c", "ccc-channel", "ccc-position"):
            yield from ((replace(ops.STANDARD, sweep=field, **{field: value}), threads) for value in values)
    yield from ((replace(ops.STANDARD, sweep="threads"), count) for count in machine.fewer_threads(threads))


def _named(point: ops.Point, threads: int) -> str:
    if point.sweep is None:
        return ""
    return f"{point.sweep}={threads if point.sweep == 'threads' else getattr(point, point.sweep)}-"


CASES = {"test_operator": Cases(("op", "direction", "point", "threads", "contender"), operators)}


def test_operator(op, direction, point, threads, contender, bench_run, replay):
    key = (op, direction, point, threads)
    row = bench_run.row(key, lambda: ops.group(op, direction, point, bench_run.device), contender, threads)
    if point.sweep is None:
        row.peak_bytes = bench_run.operator_peak(op, direction, contender)
    replay(row)
