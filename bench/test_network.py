"""The whole network: `pytest bench/test_network.py`."""

import pytest

from bench import memory, network
from bench.conftest import CLOCK


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("contender", network.contender_keys())
@pytest.mark.parametrize("task", network.TOLERANCES)
def test_network(task, contender, bench_run, replay):
    replay(bench_run.row(task, lambda: network.group(task), contender))


@pytest.mark.parametrize("contender", network.contender_keys())
def test_peak_memory_of_a_training_step(contender, bench_run):
    figures = memory.measure(contender)
    assert figures["peak_bytes"] > figures["imports_bytes"]
    bench_run.memory.append(figures)
