"""Expressions out of traces: of synthetic recordings with true flow, and made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from long_films import annotated, exact_trace

from mol.common.errors import SettingsError
from mol.scoring.spotting import score_video
from mol.spotting.spot import (
    SpotParameters,
    choose_among,
    choose_parameters,
    find_candidates,
    fitting,
    longest_micro,
    shows_micro,
    spot,
)
from mol.synth.long_plan import LongSettings

MINUTE = LongSettings(people=1, videos=1, minutes=1, micro=8, macro=3, blinks=15, pictures=1)
LOOSE = SpotParameters(micro=5.0, macro=4.0, evidence=0.0)


@pytest.fixture(scope="module")
def minute():
    return exact_trace(MINUTE)


def test_micro_and_macro_expressions_of_a_synthetic_minute_are_found(minute):
    trace, plan = minute
    scores = score_video(annotated(plan), spot(trace, LOOSE))
    assert scores.of("micro").f1 > 0.8
    assert scores.of("overall").f1 > 0.7


def test_onset_apex_and_offset_are_near_the_true_ones(minute):
    trace, plan = minute
    pairs = score_video(annotated(plan), spot(trace, LOOSE)).pairs
    errors = [
        [pair.found.onset - pair.truth.onset, pair.found.apex - pair.truth.apex, pair.found.offset - pair.truth.offset]
        for pair in pairs
        if pair.truth.kind == "micro"
    ]
    assert np.abs(np.median(errors, axis=0)).max() <= 2


def test_blinks_are_told_from_expressions(minute):
    trace, plan = minute
    found = spot(trace, LOOSE)
    blinks = [one for one in annotated(plan) if one.kind == "blink"]
    alone = [one for one in found if one.kind == "micro" and any(one.overlap(blink) > 0.5 for blink in blinks)]
    expressions = [one for one in annotated(plan) if one.kind != "blink"]
    assert [one for one in alone if not any(one.overlap(other) for other in expressions)] == []
    seen = [blink for blink in blinks if any(blink.overlap(one) > 0.3 for one in found if one.kind == "blink")]
    assert len(seen) >= len(blinks) / 2


def test_a_face_that_does_not_move_shows_nothing(minute):
    trace, _ = minute
    still = replace(trace, flow=np.random.default_rng(0).normal(0, 0.03, trace.flow.shape))
    assert spot(still, LOOSE) == []
    assert spot(replace(trace, flow=np.zeros_like(trace.flow)), LOOSE) == []


def test_an_expression_in_whose_windows_the_face_is_neutral_is_dropped(minute):
    trace, _ = minute
    found = spot(trace, LOOSE)
    expressions = [one for one in found if one.kind != "blink"]
    middle = expressions[len(expressions) // 2]
    probabilities = np.tile(np.array([0.9, 0.1], np.float32), (len(trace), 1))
    near = (trace.frames[:, -1] >= middle.onset - 15) & (trace.frames[:, 0] <= middle.offset + 15)
    probabilities[near] = (0.1, 0.9)
    heard = spot(replace(trace, probabilities=probabilities), replace(LOOSE, evidence=0.5))
    kept = [(one.onset, one.offset) for one in heard if one.kind != "blink"]
    assert (middle.onset, middle.offset) not in kept
    assert (expressions[0].onset, expressions[0].offset) in kept
    assert all(0.4 < one.confidence < 1 for one in heard if one.kind != "blink")


def test_the_emotion_is_that_of_the_windows_over_the_expression(minute):
    trace, _ = minute
    trace = replace(trace, classes=("anger", "fear", "neutral"))
    wanted = next(one for one in spot(replace(trace, probabilities=even(trace)), LOOSE) if one.kind == "micro")
    middle = (wanted.onset + wanted.offset) / 2
    windows = np.abs(trace.frames.mean(axis=1) - middle) <= 4.5
    probabilities = np.where(windows[:, None], [0.1, 0.6, 0.3], [0.6, 0.1, 0.3]).astype(np.float32)
    found = spot(replace(trace, probabilities=probabilities), LOOSE)
    assert {one.emotion for one in found if one.onset == wanted.onset} == {"fear"}
    assert [one.emotion for one in found if one.kind == "blink"] == [None] * sum(one.kind == "blink" for one in found)


def even(trace) -> np.ndarray:
    return np.full((len(trace), len(trace.classes)), 1 / len(trace.classes), np.float32)


def test_frames_are_those_of_the_video_where_the_rate_varies(minute):
    trace, plan = minute
    # Every second frame of the second half was dropped: the times are those of the frames that are left.
    kept = np.concatenate([np.arange(900), np.arange(900, 1800, 2)])
    number_of = np.full(1801, -1)
    number_of[kept] = np.arange(len(kept))
    whole = (number_of[trace.frames] >= 0).all(axis=1)
    seconds = len(kept) / 60
    thinner = replace(
        trace,
        fps=seconds,
        length=len(kept),
        frames=number_of[trace.frames][whole],
        seconds=trace.seconds[whole],
        probabilities=trace.probabilities[whole],
        flow=trace.flow[whole],
    )
    late = [one for one in annotated(plan) if one.kind != "blink" and one.onset > 950]
    found = [
        one for one in spot(thinner, replace(LOOSE, micro=3.5, macro=3.5)) if one.kind != "blink" and one.onset > 925
    ]
    hit = sum(any(abs(kept[one.onset] - true.onset) <= 6 for one in found) for true in late)
    assert hit >= 0.5 * len(late) > 0


def test_parameters_are_chosen_by_the_f1_on_the_videos(minute):
    trace, plan = minute
    candidates, truth = find_candidates(trace), annotated(plan)
    parameters, f1 = choose_parameters([(candidates, truth)])
    assert f1 == pytest.approx(score_video(truth, choose_among(candidates, parameters)).of("overall").f1)
    for other in (LOOSE, SpotParameters(micro=10.0, macro=7.0, evidence=0.0)):
        assert f1 >= score_video(truth, choose_among(candidates, other)).of("overall").f1


def test_a_network_without_neutral_clips_is_not_asked_for_evidence():
    assert fitting(SpotParameters(evidence=0.7), ("anger", "neutral")).evidence == 0.7
    assert fitting(SpotParameters(evidence=0.7), ("anger", "fear")).evidence == 0.0


def test_a_trace_without_flow_has_nothing_in_it(minute):
    trace, _ = minute
    assert spot(replace(trace, flow=np.full_like(trace.flow, np.nan)), LOOSE) == []


@pytest.mark.parametrize(("fps", "frames", "seen"), [(200, 100, True), (30, 15, True), (5, 2, False), (1, 1, False)])
def test_a_micro_expression_lasts_half_a_second(fps, frames, seen):
    assert longest_micro(fps) == frames
    assert shows_micro(fps) == seen


@pytest.mark.parametrize("wrong", [{"micro": 0.0}, {"macro": 1.0}, {"evidence": 1.5}, {"blink": -1.0}])
def test_parameters_that_cannot_work_are_refused(wrong):
    with pytest.raises(SettingsError):
        SpotParameters(**wrong)
