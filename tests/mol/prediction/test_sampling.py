"""Which frames the windows of a video take when its frames are not evenly spaced."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mol.common.errors import ClipError
from mol.prediction.sampling import long_windows, plan_windows, sample_in_time, split_at_gaps
from mol.vision.video import Video


def timed(seconds: np.ndarray) -> Video:
    """A video of black frames at these times."""
    count = len(seconds)
    fps = (count - 1) / seconds[-1]
    return Video(np.zeros((count, 2, 2), np.uint8), fps, [f"frame {index}" for index in range(count)], seconds)


@given(st.lists(st.floats(0.001, 0.5), min_size=7, max_size=120), st.one_of(st.none(), st.integers(1, 9)))
def test_windows_in_time_start_with_the_video_and_end_with_it(steps, stride):
    seconds = np.concatenate([[0], np.cumsum(steps)])
    samples = sample_in_time(seconds, min(0.5 / 7, seconds[-1] / 8), stride)
    assert samples[0][0] == 0
    assert samples[-1][-1] == len(seconds) - 1
    for sample in samples:
        assert len(sample) == 8
        assert (np.diff(sample) > 0).all()
    assert (np.diff([sample[0] for sample in samples]) > 0).all()


def test_a_video_hardly_longer_than_a_window_is_read_to_its_end():
    steps = [0.125, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0625, 0.03125]
    (sample,) = sample_in_time(np.concatenate([[0], np.cumsum(steps)]), 0.5 / 7)
    assert (sample[0], sample[-1]) == (0, 8)


def test_a_camera_that_halves_its_rate_in_the_dark_has_windows_of_the_same_length():
    seconds = np.concatenate([np.arange(60) * 0.033, 1.98 + np.arange(60) * 0.067])
    plan = plan_windows(timed(seconds), None, None)
    lengths = [seconds[sample[-1]] - seconds[sample[0]] for sample in plan.samples]
    assert plan.seconds_apart == pytest.approx(0.5 / 7)
    assert min(lengths) > 0.44
    assert max(lengths) < 0.54
    assert plan.samples[0].tolist() == [0, 2, 4, 6, 9, 11, 13, 15]


def test_an_irregular_webcam_is_never_read_over_more_than_half_a_second():
    steps = np.random.default_rng(1).integers(5, 60, 299) / 1000
    seconds = np.concatenate([[0], np.cumsum(steps)])
    plan = plan_windows(timed(seconds), None, None)
    assert max(seconds[sample[-1]] - seconds[sample[0]] for sample in plan.samples) < 0.56


def test_frames_too_far_apart_are_taken_one_after_the_other():
    seconds = np.cumsum(np.random.default_rng(2).uniform(0.15, 0.25, 30))
    seconds -= seconds[0]
    for sample in sample_in_time(seconds, 0.5 / 7):
        assert (np.diff(sample) == 1).all()


def test_an_interval_that_is_given_counts_frames_at_any_rate():
    seconds = np.concatenate([np.arange(60) * 0.033, 1.98 + np.arange(60) * 0.067])
    plan = plan_windows(timed(seconds), 3, 10)
    assert (plan.interval, plan.stride, plan.seconds_apart) == (3, 10, None)
    assert plan.samples[1].tolist() == list(range(10, 34, 3))


def test_a_constant_rate_is_sampled_by_number():
    video = timed(np.arange(200) / 30)
    plan = plan_windows(video, None, None)
    assert plan.seconds_apart is None
    assert (np.diff(plan.samples, axis=1) == plan.interval).all()
    assert split_at_gaps(video, plan.samples) == (plan.samples, [])


@pytest.mark.parametrize("interval", [None, 2])
def test_windows_across_seconds_without_frames_are_left_out_by_name(interval):
    seconds = np.concatenate([np.arange(60), 150 + np.arange(60)]) / 30
    video = timed(seconds)
    plan = plan_windows(video, interval, None)
    kept, torn = split_at_gaps(video, plan.samples)
    assert len(kept) + len(torn) == len(plan.samples)
    assert torn
    for sample in kept:
        assert np.diff(seconds[sample]).max() < 0.2
    for window in torn:
        assert window.start < 60 <= window.end
        assert "a gap of 3.0" in window.reason


def test_a_video_of_nothing_but_gaps_is_refused_with_the_remedy():
    # Bursts of four frames; no window of eight is without a pause.
    seconds = (np.arange(80) // 4) * 2.0 + (np.arange(80) % 4) * 0.01
    video = timed(seconds)
    with pytest.raises(ClipError, match=r"every window of the video has a gap: 2 s or more.*--fps"):
        split_at_gaps(video, plan_windows(video, None, None).samples)


def test_windows_much_longer_than_a_micro_expression_are_said_to_be():
    slow = timed(np.arange(20.0))
    (note,) = long_windows(slow, plan_windows(slow, None, None).samples)
    assert note.startswith("a window lasts up to 7 s")
    usual = timed(np.arange(100) / 25)
    assert long_windows(usual, plan_windows(usual, None, None).samples) == []
