"""Predictions beside measurements."""

import pytest
from bench_results import save_result, save_steps

from bench.plan.check import check
from bench.plan.measured import load_measured


def test_the_check_holds_the_roofline_times_the_share_against_the_step(tmp_path):
    """Four times the clips at the same share take four times as long, where arithmetic binds."""
    path = save_steps(tmp_path, cpu_float32={"8": [5.0], "32": [18.0]})
    (found,) = check(load_measured([path]))
    assert "roofline × share at batch 8" in found.what
    assert (found.predicted, found.measured) == (pytest.approx(20.0), 18.0)
    assert found.agrees


def test_the_check_predicts_peaks(tmp_path):
    memory = [
        {"contender": "published-loop", "dtype": "float32", "batch": batch, "peak_bytes": peak * 2**20}
        for batch, peak in ((2, 100), (4, 200), (8, 410))
    ]
    (found,) = check(load_measured([save_result(tmp_path, memory=memory)]))
    assert (found.predicted, found.measured) == (pytest.approx(400.0), 410.0)
