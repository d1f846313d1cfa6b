"""The challenges' baseline: a patch that moves out and back has a large difference, one that goes on has none."""

from __future__ import annotations

import numpy as np
import pytest
from data_fixtures import smooth_texture

from mol.prediction.regions import REGIONS
from mol.prediction.trace import Trace
from mol.scoring.expression import Expression
from mol.spotting.baseline import choose_share, main_direction_curve, spot_peaks
from mol.spotting.sighting import Sighting
from mol.vision.video import Video


def trace_of(length: int, interval: int = 2, stride: int = 2) -> Trace:
    frames = np.arange(0, length - 7 * interval, stride)[:, None] + interval * np.arange(8)
    flow = np.zeros((len(frames), 7, len(REGIONS), 2))
    return Trace(("a",), 30.0, length / 30, length, frames, frames / 30, np.ones((len(frames), 1)), flow)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Landmarks of a face that fills a picture of 128 × 128: only centres and eyes matter."""
    points = np.full((68, 2), 64.0)
    points[17:22], points[22:27] = (36, 30), (92, 30)
    points[36:42], points[42:48] = (40, 44), (88, 44)
    points[28:31], points[48], points[54] = (64, 62), (44, 96), (84, 96)
    return points


def video_of(curve: np.ndarray) -> Video:
    """A texture whose lower left quarter, with the corner of the mouth, is at a height that follows a curve."""
    texture = smooth_texture(np.random.default_rng(0), 140, 128).astype(np.float64)
    rows = np.arange(128)
    frames = np.repeat(texture[None, :128], len(curve), axis=0)
    for frame, shift in zip(frames, curve, strict=True):
        for column in range(20, 64):
            frame[70:126, column] = np.interp(rows[70:126] + shift, np.arange(140), texture[:, column])
    return Video(frames.round().astype(np.uint8), 30.0, [""] * len(curve))


def test_a_corner_of_the_mouth_that_comes_back_is_a_peak(points) -> None:
    curve = np.zeros(60)
    curve[24:36] = 1.5 * np.sin(np.linspace(0, np.pi, 12))
    trace = trace_of(60)
    count = len(trace)
    matrices = np.tile(np.eye(2, 3), (count, 1, 1))
    sighting = Sighting(trace, matrices, np.tile(points, (count, 1, 1)), np.arange(60) / 30)
    values = main_direction_curve(sighting, video_of(curve))
    middles = trace.frames[:, 4]
    assert abs(middles[values.argmax()] - 29.5) <= 4
    assert values.max() > 0.5
    assert np.median(values) < 0.1
    (found,) = spot_peaks(values, trace, 0.5)
    assert found.overlap(Expression(24, 30, 35)) >= 0.5
    assert found.kind == "micro"


def test_the_higher_the_share_the_fewer_peaks() -> None:
    rng = np.random.default_rng(0)
    trace = trace_of(600)
    curve = np.abs(rng.normal(size=len(trace)))
    counts = [len(spot_peaks(curve, trace, share)) for share in (0.05, 0.3, 0.6, 0.95)]
    assert counts[0] > counts[-1] >= 1
    assert spot_peaks(np.zeros(len(trace)), trace, 0.3) == []


def test_the_share_is_chosen_by_f1() -> None:
    trace = trace_of(600)
    curve = 0.1 * np.abs(np.random.default_rng(1).normal(size=len(trace)))
    curve[100:103] = (0.5, 1.0, 0.5)
    truth = [Expression(int(trace.frames[101, 4]) - 5, int(trace.frames[101, 4]), int(trace.frames[101, 4]) + 5)]
    share, f1 = choose_share([(curve, trace, truth)])
    assert f1 == 1.0
    assert 0.1 < share < 1
