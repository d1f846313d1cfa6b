"""Regressions are found and noise is not, on made-up results of two runs."""

import json
import math

import numpy as np
import pytest

from bench import compare
from bench.timing import quantiles
from mol.common.errors import SettingsError

BASELINES = ("published-loop", "reference", "compiled-reference", "max-autotune")
MACHINE = {"device": "A CPU, 2 threads", "threads": 2, "torch": "2.13.0", "date": "2026-01-02", "commit": "abc"}


def group(rng, slower=1.0, rounds=5, noise=0.05, baselines=BASELINES, task="forward", outliers=0.0):
    """One group: `cpu` and its baselines, all under the same drift from round to round, each with its own noise."""
    drift = np.exp(rng.normal(0, 0.3) + 0.1 * rng.standard_normal(rounds).cumsum())
    rows = []
    for name, seconds in {"cpu": 0.01 * slower, **dict.fromkeys(baselines, 0.05)}.items():
        stretched = np.where(rng.random(rounds) < outliers, 2.0, 1.0)
        durations = (seconds * drift * stretched * np.exp(noise * rng.standard_normal(rounds))).tolist()
        rows.append({
            "group": f"fcc, {task}", "subject": "fcc", "task": task, "sizes": {"maps": 14, "threads": 2}, "sweep": None,
            "contender": name, "dtype": "float32", "seconds": quantiles(durations), "rounds": rounds,
            "durations": durations,
        })  # fmt: skip
    return rows


def result(rows, memory=(), **machine):
    return {"format": 2, "machine": {**MACHINE, **machine}, "rows": rows, "memory": list(memory)}


def memory(peak, contender="cpu"):
    return {"contender": contender, "dtype": "float32", "batch": 2, "peak_bytes": peak + 200, "imports_bytes": 200}


def only(verdicts):
    assert len(verdicts) == 1
    return verdicts[0]


def share_failing(slower, trials=500, **kwargs):
    rng = np.random.default_rng(7)
    runs = ((result(group(rng, **kwargs)), result(group(rng, slower=slower, **kwargs))) for _ in range(trials))
    return np.mean([only(compare.compare(*pair)).fails for pair in runs])


@pytest.mark.parametrize("outliers", [0.0, 0.1])
@pytest.mark.parametrize("rounds", [3, 5, 10, 40])
def test_runs_that_differ_by_noise_and_drift_seldom_fail(rounds, outliers):
    assert share_failing(1.0, rounds=rounds, outliers=outliers) < 0.02


@pytest.mark.parametrize("rounds", [5, 10])
def test_a_slowdown_of_30_percent_is_found(rounds):
    assert share_failing(1.3, rounds=rounds) > 0.95


def test_interruptions_do_not_hide_a_slowdown_where_there_are_many_rounds():
    assert share_failing(1.3, rounds=40, outliers=0.1) > 0.95


@pytest.mark.parametrize("rounds", [3, 5, 10, 40])
def test_the_interval_holds_the_truth_as_often_as_it_says(rounds):
    """99 % of 4000 trials, less three standard deviations, and not by being far too wide."""
    rng = np.random.default_rng(3)
    draws = 0.05 * rng.standard_normal((4000, 2, rounds))
    bounds = [compare.interval(old, new) for old, new in draws]
    assert np.mean([low <= 1 <= high for low, _, high in bounds]) > 0.985
    widths = np.array([math.log(high / low) / 2 for low, _, high in bounds])
    normal = 2.576 * 0.05 * math.sqrt(2 / rounds)
    assert 1 < np.median(widths) / normal < (3 if rounds < 5 else 1.6)


def test_a_single_round_says_nothing():
    low, ratio, high = compare.interval(np.zeros(1), np.log([[2.0]])[0])
    assert (low, high) == (0.0, math.inf)
    assert ratio == pytest.approx(2)


def test_rounds_without_any_spread_give_a_point():
    assert compare.interval(np.zeros(4), np.full(4, math.log(2))) == pytest.approx((2, 2, 2))


def test_drift_that_hits_all_of_a_round_cancels_exactly():
    own, other = {"durations": [1.0, 2.0]}, {"durations": [3.0, 5.0]}
    drifted = [{"durations": [d * 10, e * 0.1]} for d, e in (own["durations"], other["durations"])]
    np.testing.assert_allclose(compare.relative(drifted[0], drifted[1:]), compare.relative(own, [other]))


def test_improvements_are_listed_and_do_not_fail():
    rng = np.random.default_rng(0)
    line = only(compare.compare(result(group(rng)), result(group(rng, slower=0.5, rounds=7))))
    assert (line.verdict, line.fails) == ("faster", False)
    assert "5 and 7 rounds" in line.ratio


def test_what_is_allowed_is_not_a_regression():
    rng = np.random.default_rng(0)
    old, new = result(group(rng, noise=0.005)), result(group(rng, slower=1.3, noise=0.005))
    assert only(compare.compare(old, new)).verdict == "slower"
    assert only(compare.compare(old, new, allow=0.5)).verdict == "same"
    with pytest.raises(SettingsError, match="--allow"):
        compare.compare(old, new, allow=-0.1)


def test_only_baselines_of_both_runs_count():
    rng = np.random.default_rng(0)
    old, new = group(rng, noise=0.001), group(rng, noise=0.001, baselines=BASELINES[:2])
    for row in old[3:]:
        row["durations"] = [9 * seconds for seconds in row["durations"]]
    assert only(compare.compare(result(old), result(new))).verdict == "same"
    line = only(compare.compare(result(old[:2]), result([new[0], new[2]])))
    assert line.verdict.startswith("no common baseline")
    assert line.fails


def test_a_row_that_now_fails_its_check_is_a_failure_and_the_reverse_is_not():
    rng = np.random.default_rng(0)
    good, bad = group(rng), group(rng)
    bad[0] |= {"seconds": None, "durations": [], "rounds": 0}
    assert only(compare.compare(result(good), result(bad), missing_ok=True)) == compare.Verdict(
        "FCC, forward, cpu", compare._ms(good[0]), "not timed", "", "fails its check", True
    )
    assert not only(compare.compare(result(bad), result(good))).fails
    assert not only(compare.compare(result(bad), result(bad))).fails


def test_baselines_are_compared_on_request_only():
    rng = np.random.default_rng(0)
    old, new = result(group(rng)), result(group(rng))
    assert len(compare.compare(old, new)) == 1
    assert len(compare.compare(old, new, everyone=True)) == 1 + len(BASELINES)


def test_peak_memory_may_grow_by_five_percent():
    rng = np.random.default_rng(0)
    rows = group(rng)
    peaks = {
        peak: compare.compare(result(rows, [memory(1000)]), result(rows, [memory(peak)]))[-1]
        for peak in (900, 1040, 1060)
    }
    assert [line.verdict for line in peaks.values()] == ["less", "same", "more"]
    assert [line.fails for line in peaks.values()] == [False, False, True]
    assert len(compare.compare(result(rows, [memory(9, "reference")]), result(rows))) == 1


@pytest.fixture
def run(tmp_path, capsys):
    """Save two results and run the command line on them; exit status, standard output and error."""

    def run(old, new, *options):
        paths = [tmp_path / "old.json", tmp_path / "new.json"]
        for path, saved in zip(paths, (old, new), strict=True):
            path.write_text(json.dumps(saved))
        status = compare.main([*map(str, paths), *options])
        return status, *capsys.readouterr()

    return run


def test_exit_status_and_table_of_a_regression(run):
    rng = np.random.default_rng(0)
    old, new = result(group(rng)), result(group(rng, slower=2.0))
    assert run(old, old)[0] == 0
    status, out, _ = run(old, new)
    assert status == 1
    assert "| FCC, forward, cpu |" in out
    assert "| **slower** |" in out
    assert "1 of 1 fail" in out


def test_missing_rows_fail_unless_allowed_and_new_ones_are_listed(run):
    rng = np.random.default_rng(0)
    forward, both = group(rng), group(rng, task="forward-backward")
    old, new = result(forward + both, [memory(1000)]), result(forward)
    status, out, _ = run(old, new)
    assert status == 1
    assert out.count("**missing**") == 2
    assert run(old, new, "--missing-ok")[0] == 0
    status, out, _ = run(new, old)
    assert status == 0
    assert "| new |" in out


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        ({}, {"device": "B"}, "A CPU, 2 threads before, B now"),
        (
            {"device": "Xeon (AVX-512, bfloat16), 2 threads"},
            {"device": "Xeon (AVX-512, bfloat16, AMX), 2 threads"},
            "Xeon (AVX-512, bfloat16), 2 threads before, Xeon (AVX-512, bfloat16, AMX), 2 threads now",
        ),
        (
            {"cpu_capability": "AVX2"},
            {"cpu_capability": "AVX512"},
            "A CPU, 2 threads [AVX2] before, A CPU, 2 threads [AVX512] now",
        ),
        (
            {"capability": "8.0", "cpu_capability": "AVX2"},
            {"capability": "9.0", "cpu_capability": "AVX2"},
            "[8.0] before, A CPU, 2 threads [9.0] now",
        ),
        ({}, {"threads": 4}, "2 before, 4 now"),
    ],
    ids=["device", "instructions", "used", "gpu", "threads"],
)
def test_runs_of_different_machine_classes_are_not_compared(run, was, now, named):
    rows = group(np.random.default_rng(0))
    status, out, error = run(result(rows, **was), result(rows, **now))
    assert (status, out) == (2, "")
    assert named in error
    assert "pytest bench/ --save-results" in error


def test_the_host_of_a_gpu_is_no_part_of_its_class(run):
    rows = group(np.random.default_rng(0))
    old, new = (result(rows, capability="9.0", cpu_capability=used) for used in ("AVX2", "AVX512"))
    assert run(old, new)[0] == 0


def test_another_torch_is_a_warning(run):
    rows = group(np.random.default_rng(0))
    status, _, error = run(result(rows), result(rows, torch="2.14.0"))
    assert status == 0
    assert "torch differs, 2.13.0 before and 2.14.0 now" in error


def test_older_formats_are_refused(run):
    status, _, error = run({"format": 1}, result([]))
    assert status == 2
    assert "format 1" in error
