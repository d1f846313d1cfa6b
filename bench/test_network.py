"""The whole network: `pytest bench/test_network.py`."""

import pytest

from bench import memory, network
from bench.conftest import CLOCK

SUBJECT = network


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("task", network.TOLERANCES)
def test_network(task, batch, contender, bench_run, replay):
    replay(bench_run.row((task, batch), lambda: network.group(task, bench_run.device, batch), contender))


def test_peak_memory_of_a_training_step(contender, bench_run):
    figures = memory.measure(contender, bench_run.device)
    assert figures["peak_bytes"] > figures["imports_bytes"]
    bench_run.memory.append(figures)
