"""Scores: recognition per video over a fixed list of classes, flow end-point error, landmark error.

Recognition scores follow scikit-learn with a fixed `labels=` list, so that a class which a fold happens not to contain
still counts; flow and landmark scores are plain PyTorch on the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mol.common.errors import ClipError
from mol.common.extras import require
from mol.vision.points import interocular_distance

if TYPE_CHECKING:  # prediction with an exported network runs without PyTorch
    from torch import Tensor

Video = TypeVar("Video", bound=Hashable)


@dataclass(frozen=True)
class RecognitionScores:
    """Fractions from 0 to 1."""

    accuracy: float
    """Share of videos that are right."""
    war: float
    """Weighted average recall: recall weighted by each class's videos (equal to the accuracy)."""
    uar: float
    """Unweighted average recall: the mean of the classes' recalls."""
    wf1: float
    """F1 weighted by each class's videos."""
    uf1: float
    """Unweighted F1: the mean of the classes' F1."""


TITLES = {"accuracy": "Accuracy", "war": "WAR", "uar": "UAR", "wf1": "WF1", "uf1": "UF1"}
"""What tables call the fields of `RecognitionScores`, in their order."""


def recognition_scores(
    labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray, class_count: int
) -> RecognitionScores:
    """Scores of predictions, one per video, pooled over folds.

    Means are over the classes 0 … `class_count` − 1 that occur among the labels; a class that occurs only among the
    predictions lowers the precision of the others but has no term of its own.

    Args:
        labels, predictions: class indices, equally long, at least one.
        class_count: number of classes of the protocol.
    Raises:
        ClipError: nothing to score, different lengths, or a class outside the protocol.
    """
    truth, predicted = (
        _class_indices("labels", labels, class_count),
        _class_indices("predictions", predictions, class_count),
    )
    if len(truth) != len(predicted) or not len(truth):
        raise ClipError(f"{len(truth)} labels and {len(predicted)} predictions; equally many, at least one, are needed")
    metrics = require("sklearn.metrics", extra="train")
    present = sorted(set(truth.tolist()))

    def score(function: str, average: str) -> float:
        value = getattr(metrics, function)(truth, predicted, labels=present, average=average, zero_division=0)
        return float(value)

    return RecognitionScores(
        accuracy=float((truth == predicted).mean()),
        war=score("recall_score", "weighted"),
        uar=score("recall_score", "macro"),
        wf1=score("f1_score", "weighted"),
        uf1=score("f1_score", "macro"),
    )


def confusion_matrix(
    labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray, class_count: int
) -> np.ndarray:
    """Counts (class_count, class_count): rows are true classes, columns predicted ones."""
    truth, predicted = (
        _class_indices("labels", labels, class_count),
        _class_indices("predictions", predictions, class_count),
    )
    matrix = np.zeros((class_count, class_count), np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def vote_videos(probabilities: np.ndarray, videos: Sequence[Video]) -> tuple[np.ndarray, list[Video]]:
    """One vote per video: the mean probability over its sub-clips, so that long videos count no more than short ones.

    Args:
        probabilities: (n, classes), one row per sub-clip.
        videos: the video of each row.
    Returns:
        (videos, classes) and the videos, in order of first appearance.
    Raises:
        ClipError: lengths that differ, or probabilities that are not finite.
    """
    if len(probabilities) != len(videos):
        raise ClipError(f"{len(probabilities)} rows of probabilities and {len(videos)} videos; equally many are needed")
    require_probabilities(probabilities, videos)
    unique = list(dict.fromkeys(videos))
    row_of = {video: row for row, video in enumerate(unique)}
    rows = np.array([row_of[video] for video in videos], np.int64)
    total = np.zeros((len(unique), probabilities.shape[1]))
    np.add.at(total, rows, probabilities)
    return total / np.bincount(rows, minlength=len(unique))[:, None], unique


def require_probabilities(probabilities: np.ndarray, names: Sequence[object]) -> None:
    """Refuse NaN and infinite probabilities: a vote over them would be for the first class.

    Args:
        probabilities: (n, classes).
        names: of the n clips, for the message.
    Raises:
        ClipError: naming the first clip.
    """
    odd = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(odd):
        name = names[int(odd[0])]
        shown = "/".join(map(str, name)) if isinstance(name, tuple) else name
        raise ClipError(
            f"the network's probabilities for {shown} are not finite ({len(odd)} of {len(probabilities)} clips), so "
            "there is no vote; use an earlier checkpoint, train again with a lower learning_rate, or use precision 32"
        )


def endpoint_error(flow: Tensor, target: Tensor) -> Tensor:
    """EPE, the mean length of (flow − target) over pixels.  (…, 2, H, W) twice → (…), pixels."""
    import torch

    return torch.linalg.vector_norm(flow.double() - target.double(), dim=-3).mean((-2, -1))


def normalised_mean_error(landmarks: Tensor, target: Tensor) -> Tensor:
    """NME, the mean distance over the 68 points by the target's inter-ocular distance.  (…, 68, 2) twice → (…)."""
    import torch

    distance = torch.linalg.vector_norm(landmarks.double() - target.double(), dim=-1).mean(-1)
    return distance / interocular_distance(target.double())


def failure_rate(nme: Tensor, threshold: float = 0.1) -> float:
    """Share of faces whose NME is over `threshold` (NaN counts as a failure)."""
    return float((~(nme <= threshold)).double().mean())


def _class_indices(name: str, values: Sequence[int] | np.ndarray, class_count: int) -> np.ndarray:
    indices = np.asarray(values, np.int64)
    if indices.ndim != 1 or (len(indices) and not (indices.min() >= 0 and indices.max() < class_count)):
        raise ClipError(f"{name} must be a list of class indices from 0 to {class_count - 1}")
    return indices
