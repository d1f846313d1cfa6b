"""Scores over a fixed class list, per video, and the errors of flow and landmarks."""

import numpy as np
import pytest
import torch

from mol.common.errors import ClipError
from mol.scoring.metrics import (
    confusion_matrix,
    endpoint_error,
    failure_rate,
    normalised_mean_error,
    recognition_scores,
    vote_videos,
)


def test_scores_by_hand():
    scores = recognition_scores([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], 3)
    recalls, f1 = [2 / 3, 1 / 2, 1.0], [4 / 5, 1 / 2, 2 / 3]
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.war == pytest.approx(4 / 6)
    assert scores.uar == pytest.approx(np.mean(recalls))
    assert scores.uf1 == pytest.approx(np.mean(f1))
    assert scores.wf1 == pytest.approx(np.average(f1, weights=[3, 2, 1]))


def test_a_class_that_is_never_predicted_counts_as_zero():
    scores = recognition_scores([0, 0, 1, 1], [0, 0, 0, 0], 2)
    assert scores.uar == pytest.approx(0.5)
    assert scores.uf1 == pytest.approx((2 / 3 + 0) / 2)


def test_a_class_without_videos_gets_no_term_of_its_own():
    assert recognition_scores([0, 1], [0, 1], 5).uf1 == 1.0
    assert recognition_scores([0, 0, 1], [0, 4, 1], 5).uf1 == pytest.approx((2 / 3 + 1) / 2)


def test_scores_refuse_what_they_cannot_score():
    for labels, predictions in (([], []), ([0], [0, 1]), ([0], [3]), ([-1], [0])):
        with pytest.raises(ClipError):
            recognition_scores(labels, predictions, 3)


def test_confusion_matrix_has_true_rows_and_predicted_columns():
    assert confusion_matrix([0, 0, 1, 2], [0, 1, 1, 0], 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_published_error_6_a_long_video_has_one_vote_as_a_short_one():
    """Eight wrong sub-clips of one long video do not outvote three right short videos."""
    videos = ["long"] * 8 + ["a", "b", "c"]
    probabilities = np.array([[0.9, 0.1]] * 8 + [[0.2, 0.8]] * 3)
    votes, names = vote_videos(probabilities, videos)
    assert names == ["long", "a", "b", "c"]
    scores = recognition_scores([1, 1, 1, 1], votes.argmax(1), 2)
    assert scores.accuracy == pytest.approx(3 / 4)


def test_a_video_is_voted_by_its_mean_probability():
    votes, names = vote_videos(np.array([[0.6, 0.4], [0.1, 0.9], [0.6, 0.4]]), ["v", "v", "w"])
    np.testing.assert_allclose(votes, [[0.35, 0.65], [0.6, 0.4]])
    assert names == ["v", "w"]


def test_endpoint_error_is_the_mean_length_of_the_difference():
    flow, target = torch.zeros(2, 2, 4, 4), torch.zeros(2, 2, 4, 4)
    flow[0, 0], flow[0, 1] = 3.0, 4.0
    assert endpoint_error(flow, target).tolist() == [5.0, 0.0]


def test_landmark_error_is_by_interocular_distance():
    target = torch.zeros(68, 2)
    target[42:48, 0] = 50.0
    moved = target + torch.tensor([3.0, 4.0])
    assert float(normalised_mean_error(moved, target)) == pytest.approx(0.1)
    assert failure_rate(torch.tensor([0.05, 0.1, 0.11, float("nan")])) == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_there_is_no_vote_over_probabilities_that_are_not_finite(value: float):
    probabilities = np.array([[0.2, 0.8], [value, 0.5], [0.5, 0.5]])
    names = [("set", "s1", "a"), ("set", "s1", "b"), ("set", "s1", "b")]
    with pytest.raises(
        ClipError, match=r"probabilities for set/s1/b are not finite \(1 of 3 clips\).*earlier checkpoint"
    ):
        vote_videos(probabilities, names)
