"""The rules of the benchmarks: nothing is timed that is wrong, rounds are shared, figures follow from the times."""

import gc
import time
from dataclasses import asdict, replace

import pytest
import torch

from bench import counts, machine, memory, ops, record, report
from bench.baselines import correlation_sampler, usual
from bench.gpu import timing
from bench.groups import Check, Contender, Group, measure, relative_error
from bench.test_ops import operators
from bench.timing import ReplayClock, paired_ratio, quantiles, time_interleaved

LIMITS = {"copy": {"bytes_per_second": 1e10}, "gemm": {"float32": 1e11, "bfloat16": 2e11}}


@pytest.fixture(autouse=True, scope="module")
def _few_objects():
    """Timing collects garbage before each run, which among the objects of all other tests takes half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


def group(contenders, sweep=None):
    sizes = {"maps": 1}
    return Group("fcc", "forward", "g", "1×1", sizes, counts.Work(1e6, 1e3), contenders, sweep, budget=0.0)


def contender(name, error=0.0, run=lambda: None):
    return Contender(name, "float32", run, lambda: Check(error, 1e-3))


def test_a_contender_off_the_oracle_is_not_run_again():
    calls = []
    both = group([contender("wrong", 0.1, lambda: calls.append(1)), contender("right")])
    rows = measure(both, LIMITS)
    assert rows["wrong-float32"].seconds is None
    assert not calls
    assert rows["right-float32"].rounds == both.least_rounds


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


def test_a_row_says_which_limit_binds_and_how_much_of_it_is_reached():
    row = measure(group([contender("right", run=lambda: time.sleep(1e-3))]), LIMITS)["right-float32"]
    assert row.bound == "arithmetic"  # 1e6 operations against 4e3 bytes
    assert 1e6 / 1e12 / row.seconds[1] < row.share_of_limit < 1e6 / 1e9 / row.seconds[1]
    assert row.sizes == {"maps": 1, "threads": torch.get_num_threads()}


def test_the_limit_is_that_of_the_same_round():
    gauge = machine.Gauge("cpu")
    moments = gauge.take(times := {"a": [1.0, 1.0], "gauge-gemm": [1.0, 2.0], "gauge-copy": [1.0, 4.0]})
    assert list(times) == ["a"]
    assert moments[0].flops_per_second == 2 * moments[1].flops_per_second == 2 * gauge.side**3
    assert moments[0].bytes_per_second == 4 * moments[1].bytes_per_second == 2 * gauge.source.nbytes


@pytest.mark.parametrize(
    ("flags", "architecture", "sets"),
    [
        ("flags : sse2 avx2 fma", "x86_64", []),
        ("flags : avx2 avx512f avx512_bf16", "x86_64", ["AVX-512", "bfloat16"]),
        ("flags : avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8", "x86_64", ["AVX-512", "bfloat16", "AMX"]),
        ("Features : fp asimd i8mm", "aarch64", ["AArch64"]),
        ("Features : fp asimd sve sve2 bf16", "aarch64", ["AArch64", "SVE", "bfloat16"]),
        ("", "arm64", ["AArch64"]),
    ],
)
def test_a_processor_is_named_by_the_instruction_sets_that_set_it_apart(flags, architecture, sets):
    assert machine.instruction_sets(flags, architecture) == sets


def test_a_measured_run_is_saved_and_reads_as_a_table(tmp_path, capsys):
    rows = [
        asdict(row) for row in measure(group([contender("published-loop"), contender("reference")]), LIMITS).values()
    ]
    about = {"device": "A CPU, 2 threads", "torch": "2", "date": "2026-01-02T03:04:05+00:00", "commit": "abc"}
    peak = {"contender": "reference", "dtype": "float32", "batch": 2, "peak_bytes": 2**30, "imports_bytes": 2**29}
    path = record.save(record.assemble(about, LIMITS, rows, [peak], []), tmp_path)
    assert path == tmp_path / "a-cpu-2-threads" / "2026-01-02-abc.json"
    assert report.main([str(path)]) == 0
    assert "| published-loop | float32 |" in capsys.readouterr().out


def test_a_call_is_charged_with_its_own_peak_only():
    size = 64 * 2**20
    held = torch.ones(size // 4)
    peak = memory.peak_of(lambda: torch.ones(size // 4), "cpu")
    assert 0.99 * size < peak < 1.5 * size  # the kernel counts pages of a thread in portions
    assert held.sum() == size // 4


@pytest.mark.parametrize("direction", ops.DIRECTIONS)
@pytest.mark.parametrize("op", ops.CASES)
def test_the_published_loop_and_molkernels_compute_each_operator_of_the_benchmarks(op, direction):
    """On small maps, without the compiled forms: what `pytest bench/` checks before it times."""
    measured = ops.group(op, direction, replace(ops.STANDARD, maps=1, side=8), "cpu")
    for one in measured.contenders:
        if one.name not in (ops.COMPILED, ops.USUAL, ops.AUTOTUNED):
            assert one.check().passed, one.key


def judged(op, direction, dtype="float32", maps=2, side=8):
    """The check of the idiomatic form, captured by the compiler but run as it is."""
    case = ops.CASES[op](direction, replace(ops.STANDARD, maps=maps, side=side), "cpu")
    form, evaluate = ops.form(case, ops.USUAL, backend="eager"), ops.evaluation(direction)
    tensors = ops.leaves(case.tensors, getattr(torch, dtype))
    cotangent = ops.cotangent_of(case).to(getattr(torch, dtype))
    return ops.judge(case, form, evaluate, evaluate(form, tensors, cotangent), tensors, cotangent, dtype)


@pytest.mark.parametrize("dtype", machine.DTYPES)
@pytest.mark.parametrize("direction", ops.DIRECTIONS)
@pytest.mark.parametrize("op", ops.CASES)
def test_the_idiomatic_form_computes_each_operator_on_the_graph_that_it_finds(op, direction, dtype):
    check = judged(op, direction, dtype)
    assert check.passed, check
    if op in ("fcc", "cost-volume"):
        assert check.graph_differs is None
    else:
        assert 0 <= check.graph_differs < (0.01 if dtype == "float32" else 0.2)


def test_neighbours_that_are_nearly_tied_may_change_places_and_are_counted(monkeypatch):
    """All maps are equal, so every node is as near as any other: the exact graph takes the first ones."""
    monkeypatch.setattr(ops, "_input", lambda device, shape: torch.ones(shape).requires_grad_())

    def last(nodes, k):
        return torch.arange(nodes.shape[1] - k, nodes.shape[1]).expand(*nodes.shape[:2], k)

    monkeypatch.setattr(usual, "knn", last)
    check = judged("ccc-channel", "forward")
    assert check.passed, check
    assert check.graph_differs > 0.9


@pytest.mark.parametrize("op", ["ccc-channel", "ccc-position", "f5c"])
def test_neighbours_that_are_not_nearly_tied_fail_the_check(op, monkeypatch):
    exact = usual.knn
    monkeypatch.setattr(usual, "knn", lambda nodes, k: exact(nodes, nodes.shape[1])[..., -k:])
    check = judged(op, "forward")
    assert (check.error, check.passed) == (float("inf"), False)
    assert check.graph_differs > 0.9


@pytest.mark.parametrize("op", ops.CASES)
def test_the_idiomatic_form_takes_part_wherever_the_compiled_reference_does(op):
    keys = ops.contender_keys(op, ops.STANDARD, "cpu")
    for dtype in machine.DTYPES:
        assert (f"compiled-idiomatic-{dtype}" in keys) == (f"compiled-reference-{dtype}" in keys)
    assert {ops.COMPILED, ops.USUAL} <= set(timing.contenders(op, "compiled"))


def test_what_is_left_out_is_said():
    reasons = ops.left_out()
    installed = correlation_sampler.why_not() is None
    assert [reason["contender"] for reason in reasons] == ([] if installed else ["spatial-correlation-sampler"])
    keys = ops.contender_keys("cost-volume", ops.STANDARD, "cpu")
    assert ("spatial-correlation-sampler-float32" in keys) == installed


def test_full_runs_sweep_every_size_and_the_short_one_none():
    short, full = ({case.id for case in operators("cpu", wide, 4)} for wide in (False, True))
    assert "f5c-forward-cpu-float32" in short
    assert not any("=" in name for name in short)
    for place in ("maps=2", "maps=224", "side=8", "side=32", "k=1", "k=16", "threads=1", "threads=2"):
        assert f"f5c-forward-{place}-cpu-float32" in full
    assert not any("k=" in name for name in full if name.startswith(("fcc", "cost-volume")))


def test_resident_peak_is_that_of_this_process():
    before = memory.resident_peak()
    block = torch.ones(64 * 2**20 // 4)
    assert memory.resident_peak() >= before
    assert memory.resident_peak() > block.nbytes
