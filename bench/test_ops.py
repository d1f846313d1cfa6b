"""Single operators: `pytest bench/test_ops.py`."""

import pytest

from bench import ops
from bench.conftest import CLOCK

SUBJECT = ops
pytestmark = pytest.mark.benchmark(timer=CLOCK)


@pytest.mark.parametrize("direction", ops.DIRECTIONS)
@pytest.mark.parametrize("op", ops.GROUPS)
def test_operator(op, direction, contender, bench_run, replay):
    replay(bench_run.row((op, direction), lambda: ops.GROUPS[op](direction, bench_run.device), contender))
