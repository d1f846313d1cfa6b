"""Rendering: flow and landmarks are exactly those of the motion, and pictures follow them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from data_fixtures import astronaut
from synth_clips import PURE, STILL, one_clip, people

from mol.synth.clip_plan import plan_clips
from mol.synth.render import _sample, plan_motion, render_clip, render_video, sampled_times
from mol.vision.align import alignment_matrix
from mol.vision.tvl1 import tvl1_flow


@pytest.mark.parametrize("clip", range(6))
def test_flow_joins_the_places_that_show_the_same_point_of_the_face(clip):
    """At x + flow(x) frame t + 1 shows the point of the face at rest that frame t shows at x, to 1e-3 pixels."""
    plan, rendered = one_clip(PURE, clip)
    motion, _ = plan_motion(plan, astronaut(), PURE)
    times = sampled_times(plan, plan.starts[0], 8)
    grid = np.stack(np.meshgrid(np.arange(144.0), np.arange(144.0)))
    for step in range(7):
        here = motion.backward(times[step], grid)
        there = motion.backward(times[step + 1], grid + rendered.flow[step])
        assert np.abs(here - there).max() < 1e-3


def test_motion_forward_undoes_backward():
    plan, _ = one_clip(PURE, 2)
    motion, _ = plan_motion(plan, astronaut(), PURE)
    points = np.random.default_rng(0).uniform(0, 143, (2, 500))
    for time in (0, plan.apex, plan.length - 1):
        assert np.abs(motion.forward(time, motion.backward(time, points)) - points).max() < 3e-4


def test_next_frame_pulled_back_by_the_flow_is_the_frame():
    grid = np.stack(np.meshgrid(np.arange(144.0), np.arange(144.0))).astype(np.float32)
    error, unmoved = [], []
    for clip in range(3):
        _, (frames, flow, _) = one_clip(PURE, clip)
        for step in range(7):
            pulled = cv2.remap(frames[step + 1].astype(np.float32), *(grid + flow[step]), cv2.INTER_CUBIC)
            error.append(np.abs(pulled - frames[step])[4:-4, 4:-4].mean())
            unmoved.append(np.abs(frames[step + 1].astype(np.float32) - frames[step])[4:-4, 4:-4].mean())
    # What is left is rounding to whole grey levels, twice, and the test's own interpolation.
    assert max(error) < 0.8
    assert np.mean(error) < 0.35 * np.mean(unmoved)


def test_landmarks_move_by_the_flow_at_the_landmarks():
    for clip in range(6):
        _, (_, flow, landmarks) = one_clip(PURE, clip)
        for step in range(7):
            inside = ((landmarks[step] > 0) & (landmarks[step] < 142)).all(axis=-1)
            points = landmarks[step][inside]
            moved = np.stack([_sample(channel, points.T) for channel in flow[step]], axis=-1)
            # Bilinear reading between pixels is off by an eighth of the flow's curvature.
            np.testing.assert_allclose(points + moved, landmarks[step + 1][inside], atol=0.02)


def test_nothing_moves_without_expression_and_head_motion():
    """From the offset on the intensity stays; two frames there are equal and the flow is zero."""
    plan, _ = one_clip(STILL)
    motion, _ = plan_motion(plan, astronaut(), STILL)
    points = np.random.default_rng(0).uniform(0, 143, (2, 50))
    np.testing.assert_array_equal(motion.forward(0, points), points)
    np.testing.assert_allclose(motion.forward(plan.offset, points), motion.forward(plan.length - 1, points), atol=1e-12)


def test_amplitude_is_the_longest_displacement_at_the_apex():
    for amplitude in (0.3, 1.7, 3.0):
        settings = replace(STILL, amplitude=(amplitude, amplitude))
        for plan in plan_clips([astronaut()], settings):
            motion, _ = plan_motion(plan, astronaut(), settings)
            grid = np.stack(np.meshgrid(np.arange(0, 144, 0.5), np.arange(0, 144, 0.5)))
            longest = np.hypot(*(motion.forward(plan.apex, grid) - grid)).max()
            assert longest == pytest.approx(amplitude, rel=0.01)


def test_tvl1_agrees_with_the_exact_flow():
    """An independent witness of direction, unit and order: the estimate is far nearer to the truth than no motion."""
    settings = replace(PURE, length=(24, 24))
    _, (frames, flow, _) = one_clip(settings, 1)
    step = int(np.abs(flow).mean(axis=(1, 2, 3)).argmax())
    estimate = tvl1_flow(frames[step : step + 2])[0]
    moving = np.hypot(*flow[step]) > 0.5
    assert moving.sum() > 500
    endpoint_error = np.hypot(*(estimate - flow[step]))[moving].mean()
    assert endpoint_error < 0.35 * np.hypot(*flow[step])[moving].mean()


def test_noise_and_light_are_those_of_the_settings():
    plan, clean = one_clip(PURE)
    noisy = render_clip(plan, astronaut(), plan.starts[0], replace(PURE, noise=2.0)).frames
    difference = noisy.astype(float) - clean.frames
    inner = (clean.frames > 20) & (clean.frames < 235)
    assert difference[inner].std() == pytest.approx(2.0, rel=0.05)
    assert abs(difference[inner].mean()) < 0.02
    lit = render_clip(plan, astronaut(), plan.starts[0], replace(PURE, lighting=0.05)).frames
    ratio = lit[inner] / clean.frames[inner].astype(float)
    assert 0.005 < np.abs(ratio - 1).max() < 0.15
    np.testing.assert_array_equal(
        render_clip(plan, astronaut(), plan.starts[0], replace(PURE, lighting=0.05)).flow, clean.flow
    )


def test_whole_video_shows_the_same_motion_before_alignment():
    """Frames of the whole picture, aligned by the still picture's landmarks, are those of the rendered clip."""
    plan = plan_clips(people()[:1], PURE)[0]
    face = people()[0]
    video = render_video(plan, face, PURE, enlarge=3)
    assert video.shape == (plan.length, 336, 276)
    clip = render_clip(plan, face, plan.starts[0], PURE)
    matrix = alignment_matrix((face.points.astype(np.float64) + 0.5) * 3 - 0.5)
    for index, time in enumerate(sampled_times(plan, plan.starts[0], 8)):
        aligned = cv2.warpAffine(video[time], matrix, (144, 144), borderMode=cv2.BORDER_REFLECT_101)
        inner = np.s_[30:114, 30:114]
        assert np.abs(aligned[inner].astype(int) - clip.frames[index][inner]).mean() < 1.5
