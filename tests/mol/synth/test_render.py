"""Rendering: flow and landmarks are exactly those of the motion, and pictures follow them."""

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from data_fixtures import astronaut
from synth_clips import NOTHING, PURE, STILL, one_clip, people

from mol.synth.clip_plan import FPS, ClipPlan, SynthSettings, plan_clips
from mol.synth.render import _sample, plan_motion, render_clip, render_video, sampled_times
from mol.vision.align import alignment_matrix
from mol.vision.tvl1 import tvl1_flow

BLINKING = replace(PURE, blinks=1.0)


@cache
def blinking(settings: SynthSettings) -> list[tuple[int, ClipPlan]]:
    """The clips of these settings in which the eyes close well inside the sampled frames."""
    plans = enumerate(plan_clips([astronaut()], replace(settings, clips=24)))
    return [(clip, plan) for clip, plan in plans if plan.blink and 0.3 < plan.blink.closed / plan.length < 0.7]


def exactness_cases() -> list[tuple[SynthSettings, int]]:
    """An expression of each kind; expressions with a blink; neutral clips with a blink."""
    cases = [(PURE, clip) for clip in range(6)]
    for settings in (BLINKING, NOTHING):
        cases += [(replace(settings, clips=24), clip) for clip, _ in blinking(settings)[:3]]
    return cases


@pytest.mark.parametrize(("settings", "clip"), exactness_cases())
def test_flow_joins_the_places_that_show_the_same_point_of_the_face(settings, clip):
    """At x + flow(x) frame t + 1 shows the point of the face at rest that frame t shows at x, to 1e-3 pixels."""
    plan, rendered = one_clip(settings, clip)
    motion, _ = plan_motion(plan, astronaut(), settings)
    times = sampled_times(plan, plan.starts[0], 8)
    grid = np.stack(np.meshgrid(np.arange(144.0), np.arange(144.0)))
    for step in range(7):
        here = motion.backward(times[step], grid)
        there = motion.backward(times[step + 1], grid + rendered.flow[step])
        assert np.abs(here - there).max() < 1e-3


@pytest.mark.parametrize("settings", [PURE, BLINKING, NOTHING])
def test_motion_forward_undoes_backward(settings):
    plan = plan_clips([astronaut()], PURE)[2] if settings is PURE else blinking(settings)[0][1]
    motion, _ = plan_motion(plan, astronaut(), settings)
    points = np.random.default_rng(0).uniform(0, 143, (2, 500))
    times = (0, plan.apex, plan.length - 1, *([plan.blink.closed] if plan.blink else []))
    for time in times:
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
    for settings, clip in exactness_cases():
        _, (_, flow, landmarks) = one_clip(settings, clip)
        for step in range(7):
            inside = ((landmarks[step] > 0) & (landmarks[step] < 142)).all(axis=-1)
            points = landmarks[step][inside]
            moved = np.stack([_sample(channel, points.T) for channel in flow[step]], axis=-1)
            # Bilinear reading between pixels is off by an eighth of the flow's curvature, which is large at the lids.
            tolerance = 0.02 if settings is PURE else 0.1
            np.testing.assert_allclose(points + moved, landmarks[step + 1][inside], atol=tolerance)


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


def test_a_neutral_clip_moves_with_the_head_alone():
    settings = replace(NOTHING, clips=24)
    seen = 0
    for clip, plan in enumerate(plan_clips([astronaut()], settings)):
        if plan.blink:
            continue
        seen += 1
        motion, points = plan_motion(plan, astronaut(), settings)
        assert plan.amplitude == 0
        for time in (0, plan.apex, plan.offset):
            turned = points @ motion.head[time, :, :2].T + motion.head[time, :, 2]
            np.testing.assert_allclose(motion.forward(time, points.T.copy()).T, turned, atol=1e-9)
        if seen == 1:
            _, (frames, flow, _) = one_clip(replace(settings, head_shift=0, head_turn=0, head_zoom=0), clip)
            assert np.abs(flow).max() < 1e-4
            assert (frames == frames[0]).all()
    assert 6 <= seen <= 18


def test_a_blink_moves_the_eyelids_and_nothing_else():
    """Eyes close to less than half of their height, upper lids by more; brows, nose, mouth and contour stay."""
    still = replace(NOTHING, clips=24, head_shift=0, head_turn=0, head_zoom=0)
    for face in [astronaut(), *people()]:
        for plan in plan_clips([face], still):
            if not plan.blink:
                continue
            motion, points = plan_motion(replace(plan, blink=replace(plan.blink, depth=1.0)), face, still)
            closed = motion.forward(plan.blink.closed, points.T.copy()).T
            moved = np.linalg.norm(closed - points, axis=1)
            assert moved[[*range(17), *range(27, 36), *range(48, 68)]].max() < 0.02
            assert moved[17:27].max() < 0.3
            upper, lower = [37, 38, 43, 44], [41, 40, 47, 46]
            before, after = (np.linalg.norm(p[upper] - p[lower], axis=1).mean() for p in (points, closed))
            assert after < 0.5 * before
            assert (closed[upper, 1] > points[upper, 1]).all()
            assert moved[upper].mean() > moved[lower].mean()


def test_a_blink_is_shorter_than_half_a_second_and_leaves_the_eyes_open():
    for _, plan in [*blinking(BLINKING), *blinking(NOTHING)]:
        assert 0.1 <= (plan.blink.last - plan.blink.first) / FPS <= 0.41
        motion, _ = plan_motion(plan, astronaut(), PURE)
        inside = np.arange(plan.length)
        assert (motion.closure[(inside <= plan.blink.first) | (inside >= plan.blink.last)] == 0).all()
        assert motion.closure[plan.blink.closed] == pytest.approx(plan.blink.depth) == motion.closure.max()


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
