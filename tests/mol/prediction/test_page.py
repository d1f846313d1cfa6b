"""What the page shows of a prediction: each frame under the window that speaks for it, and the movement by region."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import TinyMOL

from mol.prediction.page import SHOWN_REGIONS, PageLooks, Shown, strengths_of, viewer_data_of, write_prediction_page
from mol.prediction.regions import REGIONS
from mol.prediction.result import Prediction
from mol.prediction.tape import interpolated, points_of
from mol.prediction.trace import Trace
from mol.prediction.watch import WatchSettings, watch
from mol.prediction.windows import Window, inverse
from mol.scoring.expression import Expression
from mol.viewer.looks import ABSENT, UNIT, coarse_flow
from mol.vision.align import transform_points
from mol.vision.video import Video

CLASSES = ["surprise", "happiness", "disgust"]
LENGTH, HEIGHT, WIDTH = 26, 120, 160


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prediction, PageLooks, list[Window]]:
    """A video of noise with a moving face that somebody marked, read by a network with random weights."""
    rng = np.random.default_rng(2)
    video = Video(rng.integers(0, 255, (LENGTH, HEIGHT, WIDTH), np.uint8), 25.0, [f"frame {n}" for n in range(LENGTH)])
    face = rng.uniform(-25, 25, (68, 2))
    face[36:42], face[42:48] = (-12, -10), (12, -10)
    face[30], face[48], face[54] = (0, 2), (-9, 13), (9, 13)
    points = (face + np.array([80, 60]) + rng.normal(0, 1, (LENGTH, 68, 2)).cumsum(axis=0)).astype(np.float32)
    torch.manual_seed(0)
    windows: list[Window] = []
    looks: list[PageLooks] = []

    def listeners(scene):
        looks.append(PageLooks(scene, tmp_path_factory.mktemp("looks")))
        return [looks[0].hear, lambda number, window: windows.append(window)]

    settings = WatchSettings(interval=2, stride=3)
    (prediction,) = watch(TinyMOL().eval(), video, CLASSES, settings, landmarks=points, listeners=listeners)
    return prediction, looks[0], windows


def test_every_frame_has_the_look_of_the_window_that_speaks_for_it(heard):
    prediction, page, windows = heard
    seconds = prediction.video.seconds
    for frame, which in enumerate(prediction.nearest):
        (look,) = page.looks.read(frame)
        if which < 0:
            assert (look["landmarks"] == ABSENT).all()
            continue
        window = windows[which]
        expected = interpolated(*points_of(window), frame, seconds)
        shown = look["landmarks"] / UNIT * (WIDTH, HEIGHT) - 0.5
        np.testing.assert_allclose(shown, expected.clip(-160, 319), atol=0.02)
        corner = transform_points(inverse(window.matrix), np.array([[-0.5, -0.5]]))[0]
        np.testing.assert_allclose(look["square"][0] / UNIT * (WIDTH, HEIGHT) - 0.5, corner, atol=0.02)
        pair = min(int((window.frames <= frame).sum()) - 1, 6)
        flow = coarse_flow(window.flow[pair], window.matrix)
        np.testing.assert_allclose(look["flow"] * look["step"], flow, atol=look["step"] * 0.51)
    assert (prediction.nearest >= 0).sum() > 20


def test_the_page_holds_the_prediction(heard, tmp_path: Path):
    prediction, page, _ = heard
    shown = Shown(prediction, page.looks, [Expression(3, 5, 8, emotion="disgust")])
    path = write_prediction_page(tmp_path / "page.html", [shown], "film.mp4", {"Network": "MOL"})
    text = path.read_text(encoding="utf-8")
    found = re.search(r'id="data">(.*?)</script>', text)
    assert found
    known = json.loads(found[1])
    assert known["frames"] == LENGTH
    assert known["classes"] == CLASSES
    assert known["regions"] == list(SHOWN_REGIONS)
    assert known["people"][0]["verdict"].startswith(prediction.verdict)
    assert "trained without neutral clips" in text
    data = viewer_data_of([shown], "film.mp4", {})
    np.testing.assert_allclose(data.people[0].series.probabilities, prediction.trace.probabilities)
    assert data.people[0].series.times.tolist() == prediction.trace.centres.tolist()


def test_movement_is_relative_to_the_head_but_for_its_own():
    flow = np.zeros((2, 3, len(REGIONS), 2), np.float32)
    flow[..., 0] = 2.0  # the head moves as a whole
    mouth, nose, brow = (REGIONS.index(name) for name in ("right_mouth", "nose", "left_brow"))
    flow[0, :, mouth, 1] = 0.6
    flow[0, 0, brow] = np.nan
    flow[1, :, brow] = np.nan
    strengths = strengths_of(trace_of(flow))
    assert strengths is not None
    expected = np.zeros((2, len(REGIONS)))
    expected[0, mouth], expected[:, nose], expected[1, brow] = 0.6, 2.0, np.nan
    np.testing.assert_allclose(strengths, expected, atol=1e-6)
    assert SHOWN_REGIONS[nose] == "head"
    assert strengths_of(trace_of(np.full_like(flow, np.nan))) is None


def trace_of(flow: np.ndarray) -> Trace:
    frames = np.arange(8) + np.array([[0], [4]])
    return Trace(tuple(CLASSES), 25.0, 1.0, 25, frames, frames / 25, np.full((2, 3), 1 / 3), flow)
