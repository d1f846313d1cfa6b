"""Places of the regions: the flow of overlapping windows adds up to the motion, without that of the head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mol.prediction.regions import REGIONS
from mol.prediction.trace import Trace
from mol.spotting.displacement import _CENTRES, displacement, split_head

BROW, MOUTH = REGIONS.index("left_brow"), REGIONS.index("left_mouth")


def trace_of(places: np.ndarray, frames: np.ndarray, seconds: np.ndarray | None = None) -> Trace:
    """A trace whose regions are at places (L, R, 2)."""
    fps, length = 30.0, len(places)
    flow = places[frames[:, 1:]] - places[frames[:, :-1]]
    times = frames / fps if seconds is None else seconds[frames]
    return Trace(("a", "b"), fps, length / fps, length, frames, times, np.full((len(frames), 2), 0.5), flow)


def windows(length: int, interval: int = 2, stride: int = 4) -> np.ndarray:
    return np.arange(0, length - 7 * interval, stride)[:, None] + interval * np.arange(8)


def one_region(curve: np.ndarray, region: int) -> np.ndarray:
    places = np.zeros((len(curve), len(REGIONS), 2))
    places[:, region, 1] = curve
    return places


def test_overlapping_windows_add_up_to_the_motion() -> None:
    curve = 0.5 * np.sin(np.arange(60) / 6)
    found = displacement(trace_of(one_region(curve, BROW), windows(60)))
    moved = found.places[:59:2, BROW, 1] - found.places[0, BROW, 1]
    np.testing.assert_allclose(moved, curve[:59:2] - curve[0], atol=0.12)
    assert np.abs(found.places[:59, MOUTH]).max() < 0.12


@pytest.mark.parametrize("turn", [0.0, 0.05])
def test_a_head_that_shifts_turns_and_comes_nearer_moves_nothing(turn: float) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 1, 2))
    flow = np.repeat(centres, len(REGIONS), axis=1) + 0.0
    left = split_head(flow[None])[0]
    np.testing.assert_allclose(left, 0, atol=1e-6)
    x, y = np.array([(_CENTRES[name][:2]) for name in REGIONS]).T
    turned = flow + np.stack([0.01 * x - turn * y, 0.01 * y + turn * x], axis=-1)
    np.testing.assert_allclose(split_head(turned[None])[0], 0, atol=1e-6)


def test_what_moves_beside_the_head_stays() -> None:
    flow = np.full((1, 1, len(REGIONS), 2), 3.0)
    flow[..., BROW, 1] -= 1.0
    left = split_head(flow)[0][0, 0]
    assert left[BROW, 1] == pytest.approx(-1.0, abs=0.06)
    others = [place for place in range(len(REGIONS)) if place != BROW]
    assert np.abs(left[others]).max() < 0.06


def test_a_region_outside_the_picture_is_left_out() -> None:
    flow = np.ones((1, 1, len(REGIONS), 2))
    flow[..., MOUTH, :] = np.nan
    left = split_head(flow)[0][0, 0]
    assert np.isnan(left[MOUTH]).all()
    np.testing.assert_allclose(np.delete(left, MOUTH, axis=0), 0, atol=1e-9)


def test_a_gap_divides_the_video() -> None:
    frames = windows(200)
    frames = frames[(frames[:, -1] < 80) | (frames[:, 0] > 120)]
    found = displacement(trace_of(np.zeros((200, len(REGIONS), 2)), frames))
    assert found.segment[10] == 0
    assert found.segment[100] == -1
    assert found.segment[150] == 1


def test_ticks_are_even_in_time_where_the_rate_varies() -> None:
    # 30 frames in the first second, 10 in each of the next two.
    seconds = np.concatenate([np.arange(30) / 30, 1 + np.arange(20) / 10])
    trace = trace_of(np.zeros((50, len(REGIONS), 2)), windows(50), seconds)
    trace = replace(trace, fps=50 / 3, duration=3.0)
    found = displacement(trace)
    assert found.frames[0] == 0
    assert found.frames[round(50 / 3)] == pytest.approx(30, abs=2)
    assert (np.diff(found.frames) >= 0).all()
