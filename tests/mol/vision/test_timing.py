"""The times of frames, from time stamps of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from films import moving_frames, write_film, write_timed

from mol.vision.timing import timing_of
from mol.vision.video import read_video, video_extent


def test_a_stated_rate_is_kept_exactly_if_the_time_stamps_agree_up_to_their_rounding():
    stamps = [round(1000 * index * 1001 / 30000) / 1000 for index in range(400)]
    timing = timing_of(stamps, 30000 / 1001, 0.033)
    assert timing.fps == 30000 / 1001
    assert timing.notes == ()


def test_the_rate_of_a_millisecond_clock_is_not_taken_for_a_frame_rate(tmp_path):
    # As a browser records a webcam: about 30 frames a second, never regular.
    steps = np.random.default_rng(1).integers(5, 60, 89)
    times = np.concatenate([[0], np.cumsum(steps)])
    video = read_video(write_timed(tmp_path / "browser.webm", moving_frames(90), times.tolist(), "libvpx"))
    np.testing.assert_allclose(video.seconds, times / 1000, atol=1e-9)
    assert video.fps == pytest.approx(89 / (times[-1] / 1000))
    assert video.has_variable_rate
    (note,) = video.rate_notes
    assert "the frame rate varies" in note


def test_a_constant_rate_in_milliseconds_is_no_variable_rate(tmp_path):
    times = [round(index * 1000 / 30) for index in range(40)]
    video = read_video(write_timed(tmp_path / "screen.mkv", moving_frames(40), times))
    assert video.fps == pytest.approx(30, rel=1e-3)
    assert not video.has_variable_rate
    np.testing.assert_allclose(video.seconds, np.array(times) / 1000, atol=1e-9)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_last_frame_that_is_held_counts_to_the_length_and_not_to_the_rate(tmp_path, suffix):
    codec = "libvpx" if suffix == ".webm" else "libx264"
    path = tmp_path / f"held{suffix}"
    video = read_video(write_timed(path, moving_frames(20), range(0, 800, 40), codec, last=2000))
    assert video.fps == pytest.approx(25, rel=1e-3)
    assert video.duration == pytest.approx(0.76 + 2, abs=0.01)
    assert video_extent(path).frames == 20
    assert video_extent(path).fps == pytest.approx(25, rel=1e-3)


def test_times_begin_with_the_first_frame_wherever_the_container_begins(tmp_path):
    video = read_video(write_timed(tmp_path / "late.mkv", moving_frames(10), range(5000, 5400, 40)))
    assert video.seconds[0] == 0
    assert video.duration == pytest.approx(0.4)


def test_one_frame_a_second_is_one_frame_a_second(tmp_path):
    video = read_video(write_film(tmp_path / "slow.mp4", moving_frames(10), fps=1))
    assert (video.fps, video.duration, video.rate_notes) == (1, 10, ())


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".ts", ".flv"])
def test_a_constant_rate_is_read_from_any_container(tmp_path, suffix):
    codec = {".flv": "flv1", ".ts": "mpeg2video"}.get(suffix, "mpeg4")
    video = read_video(write_film(tmp_path / f"film{suffix}", moving_frames(), 25, codec))
    assert video.fps == pytest.approx(25)
    assert video.duration == pytest.approx(24 / 25, abs=0.002)
    assert video.rate_notes == ()


def test_a_stream_without_a_container_has_no_time_stamps_and_says_so(tmp_path):
    video = read_video(write_film(tmp_path / "raw.h264", moving_frames(), 30, "libx264"))
    assert video.fps == 25
    assert "no usable time stamps; 25 frames per second are assumed" in video.rate_notes[0]


@pytest.mark.parametrize(
    "stamps", [[0.0, 0.2, 0.1], [1.0, 1.0, 1.0], [0.0, None, 0.2]], ids=["falling", "equal", "absent"]
)
def test_unusable_time_stamps_are_replaced_by_the_stated_rate_with_a_note(stamps):
    timing = timing_of(stamps, 20.0, None)
    np.testing.assert_allclose(timing.times, [0, 0.05, 0.1])
    assert "20 frames per second are assumed as the file states" in timing.notes[0]


def test_high_speed_frames_that_share_a_millisecond_keep_their_mean_rate():
    stamps = [round(index / 2.5) / 1000 for index in range(500)]
    timing = timing_of(stamps, None, None)
    assert timing.fps == pytest.approx(2500, rel=0.01)


def test_a_known_rate_replaces_the_times_of_the_file(tmp_path):
    video = read_video(write_timed(tmp_path / "gap.mkv", moving_frames(3), [0, 40, 4000])).at_rate(200)
    np.testing.assert_allclose(video.seconds, [0, 0.005, 0.01])
    assert video.duration == pytest.approx(0.015)
    assert not video.has_variable_rate
