"""The rules of the benchmarks: nothing is timed that is wrong, rounds are shared, figures follow from the times."""

import json

import pytest
import torch

from bench import counts, memory, report
from bench.groups import Check, Contender, Group, measure, relative_error
from bench.timing import ReplayClock, paired_ratio, quantiles, time_interleaved

LIMITS = {"copy": {"bytes_per_second": 1e10}, "gemm": {"float32": 1e11, "bfloat16": 2e11}}


def contender(name, error=0.0, run=lambda: None):
    return Contender(name, "float32", run, lambda: Check(error, 1e-3))


def test_a_contender_off_the_oracle_is_not_run_again():
    calls = []
    group = Group(
        "g", "1", counts.Work(1, 1), [contender("wrong", 0.1, lambda: calls.append(1)), contender("right")], 0.0
    )
    rows = measure(group, LIMITS)
    assert rows["wrong-float32"].seconds is None
    assert not calls
    assert rows["right-float32"].rounds == group.least_rounds


def test_rounds_are_interleaved_and_begin_with_another_contender_each_time():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    time_interleaved(runs, budget=0.0, least_rounds=2)
    assert "".join(order) == "ab" + "ab" + "ba"


def test_ratios_are_taken_round_by_round():
    low, median, high = paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert (low, median, high) == (2.0, 2.0, 2.0)


def test_quantiles_of_one_to_six():
    assert quantiles([6.0, 1.0, 5.0, 2.0, 4.0, 3.0]) == pytest.approx((2.0, 3.5, 5.0))


def test_replay_clock_plays_back_what_it_was_given():
    clock = ReplayClock()
    clock.load([0.5, 0.25])
    start = clock()
    clock.play()
    assert clock() - start == 0.5


def test_results_that_are_not_finite_are_infinitely_wrong():
    assert relative_error(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")


def test_work_of_the_released_network_is_that_of_the_specification():
    """32.3 GFLOP a clip, less what is exactly zero or computed twice: 28 to 33."""
    assert 26e9 < counts.mol_released(1, 8, 44_105_379, training=False).flops < 32.3e9


def test_a_saved_result_is_found_by_device_date_and_commit_and_reads_as_a_table(tmp_path, capsys):
    group = Group("g", "1×1", counts.Work(1e6, 1e3), [contender("published-loop"), contender("reference")], 0.0)
    rows = [vars(row) for row in measure(group, LIMITS).values()]
    machine = {"device": "A CPU, 2 threads", "torch": "2", "date": "2026-01-02T03:04:05+00:00", "commit": "abc"}
    memory_row = {"contender": "reference", "dtype": "float32", "peak_bytes": 2**30, "imports_bytes": 2**29}
    result = {"format": 1, "machine": machine, "limits": LIMITS, "rows": rows, "memory": [memory_row]}
    path = report.save(result, tmp_path)
    assert path == tmp_path / "a-cpu-2-threads" / "2026-01-02-abc.json"
    assert report.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "| published-loop | float32 |" in printed
    assert "| reference | float32 | 1024 | 512 |" in printed
    assert json.loads(path.read_text())["format"] == 1


def test_resident_peak_is_that_of_this_process():
    before = memory.resident_peak()
    block = torch.ones(64 * 2**20 // 4)
    assert memory.resident_peak() >= before
    assert memory.resident_peak() > block.nbytes
