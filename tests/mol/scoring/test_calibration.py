"""Calibration: scores of confidence against values worked out by hand, and temperatures that are known."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from mol.common.errors import CheckpointError, ClipError
from mol.scoring.calibration import (
    HIGHEST,
    LOWEST,
    MINIMUM_VIDEOS,
    Temperature,
    apply_temperature,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    temperature_of,
    vote_logits,
)


def two_classes(*confidences: float) -> np.ndarray:
    """Probabilities (n, 2) that prefer class 0 with these confidences."""
    return np.array([[confidence, 1 - confidence] for confidence in confidences])


def drawn(temperature: float, count: int = 20_000, classes: int = 5, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are exact log probabilities times a temperature, and labels drawn from the exact probabilities."""
    generator = np.random.default_rng(seed)
    exact = generator.normal(0, 1.5, (count, classes))
    shares = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    labels = (shares.cumsum(1) < generator.random((count, 1))).sum(1)
    return exact * temperature, labels


def test_calibration_error_of_two_bins_worked_out_by_hand() -> None:
    """Four videos of confidence 0.9, three right; two of confidence 0.6, one right."""
    found = expected_calibration_error(two_classes(0.9, 0.9, 0.9, 0.9, 0.6, 0.6), [0, 0, 0, 1, 0, 1], bins=10)
    assert found.expected == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.1)
    assert found.maximum == pytest.approx(0.15)
    assert [(one.videos, one.confidence, one.accuracy) for one in found.bins] == [
        (2, pytest.approx(0.6), 0.5),
        (4, pytest.approx(0.9), 0.75),
    ]


def test_bins_hold_their_upper_edge_and_empty_ones_are_left_out() -> None:
    found = expected_calibration_error(two_classes(0.5, 0.75, 0.751, 1.0), [0, 0, 0, 0], bins=4)
    assert [(one.low, one.high, one.videos) for one in found.bins] == [(0.25, 0.5, 1), (0.5, 0.75, 1), (0.75, 1.0, 2)]


def test_sure_and_always_right_or_always_wrong() -> None:
    sure = two_classes(1.0, 1.0, 1.0)
    assert expected_calibration_error(sure, [0, 0, 0]).expected == 0
    wrong = expected_calibration_error(sure, [1, 1, 1])
    assert (wrong.expected, wrong.maximum) == (1, 1)


def test_the_interval_of_a_bin_is_wilsons() -> None:
    """8 of 10: 0.4902 to 0.9433 (Wilson, 1927; the same as statsmodels gives)."""
    (found,) = expected_calibration_error(two_classes(*[0.8] * 10), [0] * 8 + [1] * 2).bins
    assert (found.accuracy_low, found.accuracy_high) == (
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )


def test_chance_alone_explains_the_error_of_few_exact_confidences_but_not_that_of_boasting() -> None:
    logits, labels = drawn(1.0, count=60)
    exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    honest = expected_calibration_error(exact, labels)
    assert 0.05 < honest.by_chance < 0.2
    assert honest.expected < 2 * honest.by_chance
    boasting = expected_calibration_error(apply_temperature(exact, 0.2), labels)
    assert boasting.expected > 3 * boasting.by_chance


def test_likelihood_and_brier_score_worked_out_by_hand() -> None:
    shares = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    assert negative_log_likelihood(shares, [0, 2]) == pytest.approx((math.log(2) + math.log(10)) / 2)
    assert brier_score(shares, [0, 2]) == pytest.approx((0.25 + 0.09 + 0.04 + 0.01 + 0.64 + 0.81) / 2)


def test_a_probability_of_0_has_the_likelihood_that_six_decimals_can_tell() -> None:
    assert negative_log_likelihood(two_classes(1.0), [1]) == pytest.approx(-math.log(5e-7))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_factor_by_which_logits_were_scaled_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted.value == pytest.approx(temperature, rel=0.03)
    assert (fitted.note, fitted.videos) == ("", len(labels))
    doubled = fit_temperature(2 * logits, labels)
    assert doubled.value == pytest.approx(2 * (fitted.value or 0), rel=1e-6)


def test_the_temperature_found_has_the_highest_likelihood() -> None:
    logits, labels = drawn(1.7, count=50)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best = fit_temperature(vote_logits(shares), labels).value
    assert best is not None
    loss = {
        factor: negative_log_likelihood(apply_temperature(shares, best * factor), labels) for factor in (0.98, 1, 1.02)
    }
    assert loss[1] < min(loss[0.98], loss[1.02])


def test_a_temperature_calibrates_and_changes_no_prediction() -> None:
    logits, labels = drawn(3.0)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    temperature = fit_temperature(vote_logits(shares[:10_000]), labels[:10_000]).value
    before, after = shares[10_000:], apply_temperature(shares[10_000:], temperature)
    np.testing.assert_allclose(after.sum(1), 1)
    assert (np.argsort(after, 1) == np.argsort(before, 1)).all()
    assert expected_calibration_error(before, labels[10_000:]).expected > 0.1
    assert expected_calibration_error(after, labels[10_000:]).expected < 0.02


def test_probabilities_of_0_and_1_survive_every_temperature() -> None:
    for temperature in (LOWEST, 1.0, HIGHEST):
        found = apply_temperature(np.array([1.0, 0.0, 0.0]), temperature)
        assert found.argmax() == 0
        assert found.sum() == pytest.approx(1)


LABELS = np.arange(40) % 3
RIGHT = np.eye(3)[LABELS]
ONE_WRONG = np.eye(3)[np.where(np.arange(40) == 0, 1, LABELS)]
ONE_RIGHT = np.eye(3)[np.where(np.arange(40) == 0, LABELS, (LABELS + 1) % 3)]


@pytest.mark.parametrize(
    ("logits", "labels", "note"),
    [
        (np.zeros((0, 3)), [], "only 0 videos"),
        (RIGHT[:19], LABELS[:19], f"only 19 videos .* needs {MINIMUM_VIDEOS}: set more aside"),
        (RIGHT, [1] * 40, "all of one class"),
        (RIGHT, LABELS, "all 40 videos .* are right"),
        (RIGHT, (LABELS + 1) % 3, "none of the 40 videos .* is right"),
        (1e-3 * ONE_WRONG, LABELS, r"below 0\.05"),
        (ONE_RIGHT, LABELS, "above 20"),
        (np.full((40, 3), np.nan), LABELS, "NaN or infinite"),
    ],
)
def test_votes_that_determine_no_temperature_are_named(logits: np.ndarray, labels: np.ndarray, note: str) -> None:
    found = fit_temperature(logits, labels)
    assert found.value is None
    assert found.describe().startswith("not calibrated: ")
    assert re.search(note, found.note)


def test_a_temperature_says_what_it_was_fitted_on() -> None:
    text = Temperature(1.4321, "", 36, 90, 6).describe()
    assert text == "temperature 1.43, fitted on 36 videos (90 clips) of 6 people set aside from the training people"


def test_a_checkpoint_without_temperature_says_why() -> None:
    assert temperature_of({"inner_validation_people": []}).note == "train with --inner-validation 0.2"
    assert "not that of a finished training" in temperature_of({"inner_validation_people": ["a/1"]}).note
    assert temperature_of({"calibration": {"value": 2, "videos": 30}}) == Temperature(2, "", 30)


@pytest.mark.parametrize("damaged", [{"value": "warm"}, {"value": 0}, {"value": float("nan")}, {"warmth": 1}, [1]])
def test_a_damaged_temperature_is_named(damaged: object) -> None:
    with pytest.raises(
        CheckpointError, match=r"the recorded calibration: .*; train again|temperature is .* must be in"
    ):
        temperature_of({"calibration": damaged})


@pytest.mark.parametrize(
    ("shares", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "no videos to score"),
        (two_classes(0.5), [2], "class indices from 0 to 1"),
        (two_classes(0.5), [0, 1], r"\(n, classes\) and \(n,\) are needed"),
        (np.array([[0.5, 0.4]]), [0], "must sum to 1"),
        (np.array([[1.5, -0.5]]), [0], "must not be negative"),
        (np.array([[np.nan, 0.5]]), [0], "must sum to 1"),
    ],
)
def test_what_cannot_be_scored_is_named(shares: np.ndarray, labels: list[int], message: str) -> None:
    for score in (expected_calibration_error, negative_log_likelihood, brier_score):
        with pytest.raises(ClipError, match=message):
            score(shares, labels)
