"""Single operators: `pytest bench/test_ops.py`."""

import pytest

from bench import ops
from bench.conftest import CLOCK

pytestmark = pytest.mark.benchmark(timer=CLOCK)


@pytest.mark.parametrize("contender", ops.contender_keys())
@pytest.mark.parametrize("direction", ops.DIRECTIONS)
@pytest.mark.parametrize("op", ops.GROUPS)
def test_operator(op, direction, contender, bench_run, replay):
    replay(bench_run.row((op, direction), lambda: ops.GROUPS[op](direction), contender))
