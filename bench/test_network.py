"""The whole network: `pytest bench/test_network.py`."""

from collections.abc import Iterator
from typing import Any

import pytest

from bench import machine, memory, network
from bench.conftest import CLOCK, Cases


def tasks(device: str, full: bool, threads: int) -> Iterator[Any]:
    """A case for each task, batch size, number of threads and contender."""
    for task in network.TOLERANCES:
        for sweep, batch, count in points(task, full, threads):
            for contender in network.contender_keys(device, compiled=full and sweep is None):
                place = "" if sweep is None else f"{sweep}={count if sweep == 'threads' else batch}-"
                yield pytest.param(task, sweep, batch, count, contender, id=f"{task}-{place}{contender}")


def points(task: str, full: bool, threads: int) -> Iterator[tuple[str | None, int, int]]:
    """The swept key, batch size and threads of each point; the standard point has no swept key."""
    yield None, network.BATCH, threads
    if full and task != network.PREDICTION:
        yield from (("batch", batch, threads) for batch in network.BATCHES)
        yield from (("threads", network.BATCH, count) for count in machine.fewer_threads(threads))


def peaks(device: str, full: bool, threads: int) -> Iterator[Any]:
    """A case for each batch size and contender."""
    for batch in (network.BATCH, *(network.BATCHES if full else ())):
        for contender in network.contender_keys(device):
            yield pytest.param(batch, contender, id=f"batch={batch}-{contender}")


CASES = {
    "test_network": Cases(("task", "sweep", "batch", "threads", "contender"), tasks),
    "test_peak_memory_of_a_training_step": Cases(("batch", "contender"), peaks),
}


@pytest.mark.benchmark(timer=CLOCK)
def test_network(task, sweep, batch, threads, contender, bench_run, replay):
    def build():
        keys = network.contender_keys(bench_run.device, compiled=contenders_are_compiled)
        return network.group(task, bench_run.device, batch, keys, sweep, rounds=7 if bench_run.full else 3)

    contenders_are_compiled = bench_run.full and sweep is None
    replay(bench_run.row((task, sweep, batch, threads), build, contender, threads))


def test_peak_memory_of_a_training_step(batch, contender, bench_run):
    figures = memory.measure(contender, bench_run.device, batch)
    assert figures["peak_bytes"] > figures["imports_bytes"]
    bench_run.memory.append(figures)
