"""Stillness: a still face is never called an emotion, a moving one can be."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from data_fixtures import astronaut, dlib_detector, write_frames_folder
from tiny_model import TinyMOL
from torch import Tensor

from mol.network.checkpoint import save_checkpoint
from mol.network.model import MOL, MOLOutput
from mol.prediction.predict import NO_NEUTRAL_CLASS, PredictConfig, describe_prediction, predict
from mol.prediction.result import DISAGREEMENT, NO_EXPRESSION, STILL_FACE, Prediction
from mol.prediction.stillness import STILL_CLIPS, Stillness, sensor_noise, still_frames, total_variation
from mol.prediction.storyboard import overview_of, timeline_of
from mol.prediction.watch import predict_video
from mol.scoring.calibration import Temperature, apply_temperature
from mol.vision.landmarks import Face
from mol.vision.video import Video

EMOTIONS = ["surprise", "happiness", "disgust"]
WITH_NEUTRAL = [*EMOTIONS, "neutral"]


@cache
def face() -> np.ndarray:
    """A real face with some room around it, enlarged so that the detector finds it."""
    picture, points = astronaut().image, astronaut().points
    left, top = (points.min(axis=0) - 45).clip(0).astype(int) // 2 * 2
    right, bottom = (points.max(axis=0) + 45).astype(int) // 2 * 2
    return picture[top:bottom, left:right]


@cache
def still_video(noise: float = 2.0, length: int = 40, seed: int = 0) -> Video:
    frames = still_frames(face(), length, noise, np.random.default_rng(seed))
    return Video(frames, 25.0, [f"frame {index}" for index in range(length)])


@cache
def moving_video(noise: float = 2.0, length: int = 40) -> Video:
    """The mouth opens and closes twice."""
    points = dlib_detector()(face())[0].points
    mouth, width = points[48:68].mean(axis=0), np.ptp(points[48:68, 0])
    rows, columns = np.indices(face().shape, dtype=np.float32)
    near = np.exp(-((rows - mouth[1] - 0.3 * width) ** 2 + (columns - mouth[0]) ** 2) / (2 * (0.6 * width) ** 2))
    rng = np.random.default_rng(1)
    frames = []
    for index in range(length):
        down = (0.12 * width * (1 - np.cos(4 * np.pi * index / length)) * near).astype(np.float32)
        moved = cv2.remap(face(), columns, rows - down, cv2.INTER_LINEAR)
        frames.append(still_frames(moved, 1, noise, rng)[0])
    return Video(np.stack(frames), 25.0, [f"frame {index}" for index in range(length)])


class MotionReader(TinyMOL):
    """Sees only what changes from frame to frame, so strongly that noise alone changes the probabilities."""

    def forward(self, clips: Tensor) -> MOLOutput:
        return super().forward(20 * (clips - clips.mean(dim=2, keepdim=True)))


class AppearanceReader(TinyMOL):
    """Sees the pictures themselves, and names an emotion for each of them."""


@cache
def network(kind: type[TinyMOL], classes: int, seed: int) -> TinyMOL:
    """An untrained network with a large emotion head."""
    torch.manual_seed(seed)
    model = kind(classes).eval()
    with torch.no_grad():
        model.emotion.weight.mul_(8)
    return model


@cache
def faces_in(picture: bytes, shape: tuple[int, int]) -> list[Face]:
    return dlib_detector()(np.frombuffer(picture, np.uint8).reshape(shape))


def read(model: torch.nn.Module, video: Video, classes: list[str]) -> Prediction:
    """What is predicted; the faces of each picture are looked for once, because tests share a few videos."""
    return predict_video(model, video, classes, detector=lambda picture: faces_in(picture.tobytes(), picture.shape))


# Sensor noise


@pytest.mark.parametrize("noise", [0.5, 1.5, 4.0])
@pytest.mark.parametrize("video", [still_video, moving_video])
def test_noise_of_a_video_is_measured_whether_the_face_moves_or_not(video, noise):
    # Rounding to whole grey levels adds a twelfth to the variance; moving texture adds a little more.
    expected = np.sqrt(noise**2 + 1 / 12)
    assert sensor_noise(video(noise, 16).frames) == pytest.approx(expected, rel=0.1 if video is still_video else 0.25)


def test_repeated_frames_have_no_noise():
    assert sensor_noise(np.repeat(face()[None], 4, axis=0)) == 0


def test_a_face_smaller_than_a_block_has_no_measurable_noise():
    assert sensor_noise(np.zeros((4, 7, 30), np.uint8)) == 0


# Distances


def test_total_variation_is_half_the_sum_of_differences():
    assert total_variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    np.testing.assert_allclose(total_variation(np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([0.5, 0.5])), [0, 0.3])


def test_probabilities_are_still_up_to_one_and_a_half_times_the_largest_distance_between_still_clips():
    stillness = Stillness(np.array([[0.5, 0.5], [0.6, 0.4], [0.55, 0.45]]), 1.0)
    assert stillness.between == pytest.approx((0.05, 0.1))
    assert stillness.covers(np.array([0.69, 0.31]))
    assert not stillness.covers(np.array([0.71, 0.29]))


def test_noise_alone_seldom_passes_for_a_motion():
    """Of 2000 windows that differ from the still clips by chance alone, as these do from one another."""
    rng = np.random.default_rng(0)
    draws = 0.3 + 0.01 * rng.standard_normal((2000, STILL_CLIPS + 1, 3))
    draws /= draws.sum(axis=-1, keepdims=True)
    passed = sum(not Stillness(clips[1:], 1.0).covers(clips[0]) for clips in draws)
    assert passed <= 6


# Predictions


@pytest.mark.parametrize("classes", [EMOTIONS, WITH_NEUTRAL], ids=["without neutral", "with neutral"])
@pytest.mark.parametrize("kind", [MotionReader, AppearanceReader])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_a_still_face_is_never_an_emotion(classes, kind, seed, noise):
    prediction = read(network(kind, len(classes), seed), still_video(noise), classes)
    verdicts = {prediction.verdict, *(prediction.verdict_of(window.probabilities) for window in prediction.windows)}
    assert verdicts <= {STILL_FACE, NO_EXPRESSION}
    assert len(prediction.stillness.probabilities) == STILL_CLIPS
    if classes is EMOTIONS:
        assert not any(name in describe_prediction(prediction) for name in classes)


def test_a_still_face_is_never_an_emotion_to_the_real_network():
    torch.manual_seed(0)
    prediction = read(MOL(3).eval(), still_video(2.0, 16), EMOTIONS)
    assert {prediction.verdict_of(window.probabilities) for window in prediction.windows} == {STILL_FACE}
    assert prediction.predicted is None


@pytest.mark.parametrize("seed", range(4))
def test_a_moving_face_can_be_told_from_a_still_one(seed):
    prediction = read(network(MotionReader, 3, seed), moving_video(), EMOTIONS)
    distances = prediction.stillness.distance(np.stack([window.probabilities for window in prediction.windows]))
    assert distances.max() > 2 * prediction.stillness.between[1]
    assert {prediction.verdict_of(window.probabilities) for window in prediction.windows} & set(EMOTIONS)


def with_bias(towards: int) -> TinyMOL:
    """A network that has learned one thing: this class, whatever it sees."""
    torch.manual_seed(0)
    model = TinyMOL(4).eval()
    with torch.no_grad():
        model.emotion.bias[towards] += 5
    return model


def test_a_vote_for_neutral_is_no_expression():
    prediction = read(with_bias(3), moving_video(), WITH_NEUTRAL)
    assert (prediction.predicted, prediction.verdict) == ("neutral", NO_EXPRESSION)
    text = describe_prediction(prediction)
    assert text.splitlines()[0].startswith(f"{len(prediction.windows)} windows over 1.6 s: no expression")
    assert f"no expression: {len(prediction.windows)} of {len(prediction.windows)} windows" in text
    assert NO_NEUTRAL_CLASS not in text


def test_an_emotion_that_the_network_sees_in_still_faces_too_is_none():
    prediction = read(with_bias(1), still_video(), WITH_NEUTRAL)
    assert prediction.classes[int(np.argmax(prediction.probabilities))] == "happiness"
    assert (prediction.predicted, prediction.verdict) == (None, STILL_FACE)


@pytest.mark.parametrize(
    ("windows", "verdict"),
    [
        ([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]], DISAGREEMENT),
        ([[0.9, 0.05, 0.05], [0.05, 0.5, 0.45], [0.33, 0.33, 0.34], [0.34, 0.33, 0.33]], STILL_FACE),
        ([[0.33, 0.33, 0.34], [0.34, 0.33, 0.33]], STILL_FACE),
        ([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.05, 0.9, 0.05]], "surprise"),
    ],
)
def test_windows_that_are_each_no_still_face_do_not_add_up_to_one(windows, verdict):
    plain = read(network(MotionReader, 3, 0), still_video(), EMOTIONS)
    probabilities = np.array(windows, np.float32)
    prediction = replace(
        plain,
        trace=replace(plain.trace, frames=plain.trace.frames[: len(windows)], probabilities=probabilities),
        probabilities=probabilities.mean(0),
        stillness=Stillness(np.array([[0.3, 0.35, 0.35], [0.4, 0.3, 0.3], [0.35, 0.3, 0.35]]), 1.0),
    )
    assert prediction.verdict == verdict
    assert (prediction.predicted is None) == (verdict in (DISAGREEMENT, STILL_FACE))
    assert verdict in describe_prediction(prediction).splitlines()[0]


def test_the_timeline_emphasises_nothing_for_a_still_face():
    timeline = timeline_of(read(network(MotionReader, 3, 0), still_video(), EMOTIONS))
    assert timeline.winner is None
    assert timeline.distances.max() <= timeline.limit


@pytest.mark.parametrize("temperature", [0.05, 20.0])
@pytest.mark.parametrize("kind", [MotionReader, AppearanceReader])
@pytest.mark.parametrize("video", [still_video, moving_video])
def test_no_temperature_moves_a_verdict(temperature, kind, video):
    plain = read(network(kind, 3, 0), video(), EMOTIONS)
    prediction = replace(plain, calibration=Temperature(temperature))
    before, after = timeline_of(plain), timeline_of(prediction)
    assert np.abs(after.probabilities - before.probabilities).max() > 0.03
    np.testing.assert_allclose(after.mean, apply_temperature(plain.probabilities, temperature), rtol=1e-5)
    assert (after.winner, after.limit, after.still) == (before.winner, before.limit, before.still)
    np.testing.assert_array_equal(after.distances, before.distances)
    assert describe_prediction(prediction).splitlines()[0].split("; ")[0].endswith(f": {plain.verdict}")


def test_the_overview_of_a_calibrated_network_says_which_probabilities_it_shows(tmp_path: Path, monkeypatch):
    shown = []
    monkeypatch.setattr("mol.prediction.storyboard.overview_picture", lambda path, overview: shown.append(overview))
    prediction = read(network(MotionReader, 3, 0), moving_video(), EMOTIONS)
    for calibration in (None, Temperature(None, "no people set aside"), Temperature(2.0)):
        overview_of(tmp_path / "overview.png", replace(prediction, calibration=calibration), "talk.mp4")
    assert [overview.timeline.is_calibrated for overview in shown] == [False, False, True]
    kinds = [overview.subtitle.split("  ·  ")[2].rsplit(" ", 1)[0] for overview in shown]
    assert kinds == ["mean probability", "mean probability", "calibrated probability"]


def test_the_overview_of_a_still_face_names_no_emotion(tmp_path: Path, monkeypatch):
    shown = []
    monkeypatch.setattr("mol.prediction.storyboard.overview_picture", lambda path, overview: shown.append(overview))
    overview_of(tmp_path / "overview.png", read(network(MotionReader, 3, 0), still_video(), EMOTIONS), "talk.mp4")
    (overview,) = shown
    assert overview.title == "talk.mp4: not distinguishable from a still face"
    assert "trained without neutral clips" in overview.subtitle
    headlines = overview.title + overview.subtitle + overview.window_title
    assert not any(name in headlines for name in EMOTIONS)


@pytest.mark.parametrize("classes", [EMOTIONS, WITH_NEUTRAL], ids=["without neutral", "with neutral"])
def test_files_tell_how_far_each_window_is_from_a_still_face(tmp_path: Path, monkeypatch, classes):
    monkeypatch.setattr("mol.networks.mol.MOL", TinyMOL)
    state = {"classes": classes, "mean_shape": [[0.0, 0.0]] * 68, "step": 5, "normalisation": "clip"}
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last", network(TinyMOL, len(classes), 1), None, state)
    write_frames_folder(still_video(length=24).frames, tmp_path / "frames")
    config = PredictConfig(
        str(tmp_path / "frames"), str(tmp_path / "run"), str(tmp_path / "out"), save_arrays=True, overlay=False
    )
    prediction, files = predict(config)
    written = json.loads(files["predictions"].read_text(encoding="utf-8"))
    still = written["still_clips"]
    assert still["clips"] == STILL_CLIPS
    assert still["noise_grey_levels"] == pytest.approx(2, rel=0.15)
    assert still["network_has_class_neutral"] == (classes is WITH_NEUTRAL)
    assert ("note" in still) == (classes is EMOTIONS)
    assert written["vote"]["verdict"] in (STILL_FACE, NO_EXPRESSION)
    for entry in (written["vote"], *written["windows"]):
        assert entry["predicted"] in (None, "neutral")
        expected = total_variation(
            np.array(list(entry["probabilities"].values())), np.array(list(still["probabilities"].values()))
        )
        assert entry["distance_from_still"] == pytest.approx(expected, abs=1e-3)
    with np.load(files["arrays"], allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["still_probabilities"], prediction.stillness.probabilities)
