"""Confidence that can be read: temperature scaling, and how far confidence is from the share of right answers.

All of it is about videos: a video's probabilities are the mean over its sub-clips.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mol.common.errors import CheckpointError, ClipError
from mol.common.typed import Count, Number, typed

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of a temperature; votes whose best one lies outside don't determine it."""
MINIMUM_VIDEOS = 20
"""In simulations a temperature fitted on 10 videos made new ones less likely in 3 of 10 cases, on 20 in 1 of 10."""
BINS = 15
ADVICE = "train with --inner-validation 0.2"
"""How to get a network whose probabilities are calibrated."""

# predictions.csv has six decimals; a probability that it can't tell from 0 has a finite logarithm everywhere.
_LEAST = 5e-7
_NORMAL_95 = 1.959964
_DRAWS = 1000


@dataclass(frozen=True)
class Temperature:
    """What the probabilities of a network are divided by, in the exponent, so that they can be read as frequencies.

    Attributes:
        value: the temperature; above 1 it lowers confidence, below 1 it raises it. None if there is none.
        note: why there is none; empty if there is one.
        videos, clips, people: what it was fitted on.
    """

    value: Number | None
    note: str = ""
    videos: Count = 0
    clips: Count = 0
    people: Count = 0

    def describe(self) -> str:
        """``temperature 1.43, fitted on 36 videos …``, or ``not calibrated: …``."""
        if self.value is None:
            return f"not calibrated: {self.note}"
        return (
            f"temperature {self.value:.3g}, fitted on {self.videos} videos ({self.clips} clips) "
            f"of {self.people} people set aside from the training people"
        )


def fit_temperature(logits: np.ndarray, labels: Sequence[int] | np.ndarray) -> Temperature:
    """The temperature T that minimises the mean negative log likelihood of ``softmax(logits / T)``.

    The logits are those of a video's vote, the logarithms of its mean probabilities: the vote is what is reported,
    averaging over sub-clips has already changed its confidence, and no temperature can change which class leads it.
    The likelihood is convex in 1/T, so the sign of its derivative is bisected over log T from `LOWEST` to `HIGHEST`.

    Args:
        logits: (n, C), up to a constant per row.
        labels: (n,) class indices.
    Returns:
        The temperature; without a value and with a note if these votes determine none.
    Raises:
        ClipError: shapes that do not fit, or a label outside the classes.
    """
    scores, truth = _checked(logits, labels)
    if note := _why_undetermined(scores, truth):
        return Temperature(None, note)
    scores = scores - scores.max(axis=1, keepdims=True)
    low, high = math.log(LOWEST), math.log(HIGHEST)
    if _slope(scores, truth, LOWEST) <= 0:
        return Temperature(None, f"the best temperature is below {LOWEST:g}: the classes' probabilities hardly differ")
    if _slope(scores, truth, HIGHEST) >= 0:
        return Temperature(
            None, f"the best temperature is above {HIGHEST:g}: the probabilities say nothing about the class"
        )
    for _ in range(60):
        middle = (low + high) / 2
        if _slope(scores, truth, math.exp(middle)) > 0:
            low = middle
        else:
            high = middle
    return Temperature(math.exp((low + high) / 2), videos=len(truth))


def _why_undetermined(scores: np.ndarray, truth: np.ndarray) -> str:
    """Why no temperature can be fitted to these votes; empty if one can."""
    if not np.isfinite(scores).all():
        return "the votes of the people set aside have NaN or infinite logits"
    if len(truth) < MINIMUM_VIDEOS:
        return f"only {len(truth)} videos of the people set aside; a temperature needs {MINIMUM_VIDEOS}: set more aside"
    if len(set(truth.tolist())) == 1:
        return "the videos of the people set aside are all of one class"
    right = int((scores.argmax(axis=1) == truth).sum())
    if right == len(truth):
        return f"all {right} videos of the people set aside are right, so that any higher confidence would fit better"
    if right == 0:
        return f"none of the {len(truth)} videos of the people set aside is right"
    return ""


def _slope(scores: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """Derivative of the mean negative log likelihood by 1/T; positive where a higher temperature fits better."""
    weights = np.exp(scores / temperature)
    mean = (weights * scores).sum(axis=1) / weights.sum(axis=1)
    return float((mean - scores[np.arange(len(truth)), truth]).mean())


def vote_logits(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities of votes, (n, C), as `fit_temperature` takes them."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float64).tiny))


def apply_temperature(probabilities: np.ndarray, temperature: float | None) -> np.ndarray:
    """Probabilities at a temperature: ``p ** (1 / T)``, normalised; the order of the classes stays.

    Args:
        probabilities: (…, C) of votes.
        temperature: None leaves them as they are.
    """
    if temperature is None:
        return probabilities
    scores = vote_logits(probabilities) / temperature
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def temperature_of(state: Mapping[str, Any]) -> Temperature:
    """The temperature in the facts of a checkpoint or fold, or why it has none.

    Args:
        state: of a checkpoint, as in its state.json, or of a fold, as in its fold.json.
    Raises:
        CheckpointError: the facts are damaged.
    """
    found = state.get("calibration")
    if found is None:
        reason = "the checkpoint is not that of a finished training, or older than calibration"
        return Temperature(None, reason if state.get("inner_validation_people") else ADVICE)
    result = typed(found, Temperature, "the recorded calibration", "train again", CheckpointError)
    if result.value is not None and not LOWEST <= result.value <= HIGHEST:
        raise CheckpointError(
            f"the recorded temperature is {result.value:g}; it must be in [{LOWEST:g}, {HIGHEST:g}]: train again"
        )
    return result


# Scores


@dataclass(frozen=True)
class Bin:
    """Videos of about the same confidence.

    Attributes:
        low, high: confidences in (low, high].
        videos: how many.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
        accuracy_low, accuracy_high: 95 % interval of that share (Wilson), as if videos were independent.
    """

    low: float
    high: float
    videos: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True)
class CalibrationError:
    """How far the confidence of answers is from the share of right ones.

    Attributes:
        expected: ECE, the mean over videos of the distance from their bin's accuracy to its mean confidence.
        maximum: MCE, the largest of these distances.
        by_chance: the ECE that is to be expected, on so few videos, of a network whose confidence is exact.
        bins: those that have videos, in ascending order.
    """

    expected: float
    maximum: float
    by_chance: float
    bins: list[Bin]


def expected_calibration_error(
    probabilities: np.ndarray, labels: Sequence[int] | np.ndarray, bins: int = BINS
) -> CalibrationError:
    """ECE over bins of equal width of the confidence, the probability of the predicted class; empty bins are left out.

    Args:
        probabilities: (n, C).
        labels: (n,) class indices.
        bins: number of bins between 0 and 1.
    Raises:
        ClipError: nothing to score, shapes that do not fit, a label outside the classes, or what are no probabilities.
    """
    shares, truth = _checked_probabilities(probabilities, labels)
    confidence = shares.max(axis=1)
    right = shares.argmax(axis=1) == truth
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    table = []
    for index in np.unique(place):
        inside = place == index
        count, share = int(inside.sum()), float(right[inside].mean())
        lowest, highest = _wilson(share, count)
        table.append(
            Bin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                videos=count,
                confidence=float(confidence[inside].mean()),
                accuracy=share,
                accuracy_low=lowest,
                accuracy_high=highest,
            )
        )
    # As if every video were right as often as its confidence says; always the same draws.
    draws = np.random.default_rng(0).random((_DRAWS, len(truth))) < confidence
    return CalibrationError(
        expected=float(_gaps(right[None], confidence, place)[0]),
        maximum=max(abs(one.accuracy - one.confidence) for one in table),
        by_chance=float(_gaps(draws, confidence, place).mean()),
        bins=table,
    )


def _gaps(right: np.ndarray, confidence: np.ndarray, place: np.ndarray) -> np.ndarray:
    """ECE of answers (m, n) that are right or not, for the bins `place` (n,); (m,)."""
    member = place[:, None] == np.unique(place)
    return np.asarray(np.abs((right - confidence) @ member).sum(axis=1) / len(confidence))


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    square = _NORMAL_95**2 / count
    centre = (share + square / 2) / (1 + square)
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def negative_log_likelihood(probabilities: np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Mean −log of the probability of the true class, in nats; below 5e-7, which predictions.csv calls 0, as 5e-7.

    Args:
        probabilities: (n, C).
        labels: (n,) class indices.
    Raises:
        ClipError: as `expected_calibration_error`.
    """
    shares, truth = _checked_probabilities(probabilities, labels)
    return float(-np.log(np.maximum(shares[np.arange(len(truth)), truth], _LEAST)).mean())


def brier_score(probabilities: np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """Mean over videos of the squared distance from the probabilities to the true class's; 0 to 2 (Brier, 1950).

    Args:
        probabilities: (n, C).
        labels: (n,) class indices.
    Raises:
        ClipError: as `expected_calibration_error`.
    """
    shares, truth = _checked_probabilities(probabilities, labels)
    return float(((shares - np.eye(shares.shape[1])[truth]) ** 2).sum(axis=1).mean())


@dataclass(frozen=True)
class Confidence:
    """Scores of the probabilities; lower is better.

    Attributes:
        ece, mce, ece_by_chance: as in `CalibrationError`.
        nll: mean negative log likelihood, nats.
        brier: Brier score.
        bins: of the reliability diagram.
    """

    ece: float
    mce: float
    ece_by_chance: float
    nll: float
    brier: float
    bins: list[Bin]


CONFIDENCE_TITLES = {
    "ece": "ECE",
    "ece_by_chance": "ECE by chance",
    "mce": "MCE",
    "nll": "NLL",
    "brier": "Brier score",
}
"""What tables call the fields of `Confidence` that are numbers, in their order."""


def confidence_scores(probabilities: np.ndarray, labels: Sequence[int] | np.ndarray) -> Confidence:
    """All scores of the probabilities of videos.

    Args:
        probabilities: (n, C).
        labels: (n,) class indices.
    Raises:
        ClipError: as `expected_calibration_error`.
    """
    error = expected_calibration_error(probabilities, labels)
    return Confidence(
        ece=error.expected,
        mce=error.maximum,
        ece_by_chance=error.by_chance,
        nll=negative_log_likelihood(probabilities, labels),
        brier=brier_score(probabilities, labels),
        bins=error.bins,
    )


def _checked(values: np.ndarray, labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, C) in float64 and labels (n,)."""
    table, truth = np.asarray(values, np.float64), np.asarray(labels, np.int64)
    if table.ndim != 2 or truth.shape != table.shape[:1]:
        raise ClipError(
            f"values of shape {table.shape} and labels of shape {truth.shape}; (n, classes) and (n,) are needed"
        )
    if len(truth) and not (truth.min() >= 0 and truth.max() < table.shape[1]):
        raise ClipError(f"labels must be class indices from 0 to {table.shape[1] - 1}")
    return table, truth


def _checked_probabilities(values: np.ndarray, labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shares, truth = _checked(values, labels)
    if not len(truth):
        raise ClipError("no videos to score; at least one is needed")
    # Rounded to six decimals they need not sum to exactly 1; NaN fails every comparison.
    if not ((shares >= 0).all() and (np.abs(shares.sum(axis=1) - 1) < 1e-3).all()):
        raise ClipError("the probabilities of a video must not be negative and must sum to 1")
    return shares, truth
