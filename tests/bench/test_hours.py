"""From measured steps to hours: lines and ratios by hand."""

import pytest
from bench_results import LIMITS, MACHINE

from bench import hours
from bench.loso import PROTOCOL


def test_a_straight_line_is_found_again_whatever_the_numbers_of_steps():
    assert hours.fit_line({"2": [2.0] * 50, "8": [5.0] * 6, "32": [17.0]}) == pytest.approx((1.0, 0.5))


def test_the_line_weighs_relative_errors():
    """Weights 1, 1/4, 1/4 for 1, 2, 2 seconds at batches 1, 2, 3: slope 0.5 / 0.875, through (1.5, 4/3)."""
    assert hours.fit_line({"1": [1.0], "2": [2.0], "3": [2.0]}) == pytest.approx((10 / 21, 4 / 7))


def test_the_check_of_the_fit_does_not_know_the_batch_that_it_predicts():
    durations = {"2": [2.0], "8": [5.0], "32": [100.0]}
    assert hours.step_seconds(32, durations) == (100.0, True)
    assert hours.fitted_step(32, durations) == pytest.approx(17.0)


def test_one_other_batch_gives_no_line():
    assert hours.step_seconds(32, {"2": [2.0], "8": []}) is None


def test_the_headline_is_the_protocol_times_the_measured_step():
    """28 × 1000 steps of 9 s are 70 hours; the loop's 36 s are 280; the rounds' ratios are 4, 4 and 5."""
    result = {
        "machine": MACHINE,
        "limits": LIMITS,
        "loso": {
            "protocol": PROTOCOL,
            "draft": False,
            "durations": {
                "published-loop-float32": {"2": [4.0] * 50, "32": [36.0, 32.0, 45.0]},
                "cpu-float32": {"2": [1.0] * 50, "32": [9.0, 8.0, 9.0]},
            },
        },
    }
    text = hours.markdown(result)
    assert "published-loop-float32 280 hours = 11.7 days; cpu-float32 70.0 hours = 2.9 days" in text
    assert "published-loop-float32 takes 4.00 times as long as cpu-float32 (4.00 to 4.60, paired rounds)" in text


def test_a_step_from_the_fit_is_marked_as_extrapolated():
    loso = {"protocol": PROTOCOL, "draft": False, "durations": {"cpu-float32": {"2": [2.0] * 50, "8": [5.0]}}}
    assert "cpu-float32 132 hours = 5.5 days (step extrapolated)" in hours.headline(loso)
