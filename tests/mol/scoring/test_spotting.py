"""Spotting is scored as the challenges do: by hand-made intervals, ties and several overlaps included."""

from __future__ import annotations

import pytest

from mol.scoring.expression import Expression
from mol.scoring.spotting import Counts, match, pool_videos, score_video


def micro(onset: int, offset: int, emotion: str | None = None) -> Expression:
    return Expression(onset, (onset + offset) // 2, offset, "micro", emotion)


def macro(onset: int, offset: int, emotion: str | None = None) -> Expression:
    return Expression(onset, (onset + offset) // 2, offset, "macro", emotion)


def test_an_overlap_of_exactly_half_counts():
    # 10 frames each, 20 in union less the common ones: 10 of 20, then 9 of 20.
    assert score_video([micro(0, 9)], [micro(0, 19)]).of("micro") == Counts(1, 0, 0)
    assert score_video([micro(0, 9)], [micro(0, 20)]).of("micro") == Counts(0, 1, 1)


def test_two_intervals_on_one_truth_are_one_hit_and_one_false_alarm():
    scores = score_video([micro(10, 19)], [micro(10, 19), micro(11, 20)]).of("micro")
    assert scores == Counts(1, 1, 0)
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 1.0, pytest.approx(2 / 3))


def test_one_interval_over_two_truths_hits_one():
    truth = [micro(0, 9), micro(10, 19)]
    assert score_video(truth, [micro(0, 19)]).of("micro") == Counts(1, 0, 1)


def test_as_many_as_possible_are_matched_in_any_order():
    # The long interval overlaps both truths, the short one the first alone: the long one must go to the second.
    truth, long, short = [micro(0, 9), micro(10, 19)], micro(0, 19), micro(0, 5)
    for found in ([long, short], [short, long]):
        for order in (truth, truth[::-1]):
            assert score_video(order, found).of("micro") == Counts(2, 0, 0)
            assert [(pair.truth.onset, pair.found.offset) for pair in match(order, found)] == [(0, 5), (10, 19)]


def test_a_truth_takes_the_interval_that_overlaps_it_most():
    found = [micro(0, 13, "anger"), micro(0, 10, "fear")]
    assert match([micro(0, 9)], found)[0].found.emotion == "fear"


def test_kinds_are_matched_among_themselves_and_added_up():
    truth = [micro(0, 9), macro(50, 99), macro(200, 250)]
    found = [micro(50, 99), macro(52, 99), micro(0, 8), Expression(300, 301, 302, "blink")]
    scores = score_video(truth, found)
    assert scores.of("micro") == Counts(1, 1, 0)
    assert scores.of("macro") == Counts(1, 0, 1)
    assert scores.of("overall") == Counts(2, 1, 1)


def test_videos_are_pooled_before_the_scores_are_computed():
    scores = pool_videos(
        [
            score_video([micro(0, 9)], [micro(0, 9)]),
            score_video([micro(0, 9), micro(20, 29), micro(40, 49)], [micro(60, 69)]),
        ]
    )
    assert scores.of("micro") == Counts(1, 1, 3)
    assert scores.of("micro").f1 == pytest.approx(2 / (2 + 1 + 3))


def test_nothing_found_and_nothing_to_find_score_zero():
    assert score_video([micro(0, 9)], []).of("overall") == Counts(0, 0, 1)
    assert score_video([], [micro(0, 9)]).of("overall") == Counts(0, 1, 0)
    assert score_video([], []).describe()["overall"]["f1"] == 0.0
    assert pool_videos([]).of("micro") == Counts()


def test_strs_is_the_product_of_both_scores_on_the_hits():
    truth = [micro(0, 9, "fear"), micro(20, 29, "fear"), micro(40, 49, "anger"), micro(60, 69, "anger")]
    found = [micro(0, 9, "fear"), micro(20, 29, "anger"), micro(40, 49, "anger")]
    scores = score_video(truth, found)
    # Of the three hits: fear has precision 1, recall 1/2; anger precision 1/2, recall 1.
    recognition = scores.recognition("micro")
    assert recognition.videos == 3
    assert recognition.uf1 == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert recognition.uar == pytest.approx((0.5 + 1) / 2)
    assert scores.strs("micro") == pytest.approx(6 / 7 * 2 / 3)


def test_hits_without_an_annotated_emotion_do_not_take_part_in_recognition():
    truth = [micro(0, 9, "fear"), micro(20, 29)]
    scores = score_video(truth, [micro(0, 9, "fear"), micro(20, 29, "anger")])
    assert (scores.recognition("micro").videos, scores.recognition("micro").uf1) == (1, 1.0)
    assert score_video([micro(0, 9)], [micro(0, 9, "fear")]).strs("micro") == 0.0


def test_an_interval_without_an_emotion_is_a_wrong_answer():
    assert score_video([micro(0, 9, "fear")], [micro(0, 9)]).recognition("micro").uf1 == 0.0
