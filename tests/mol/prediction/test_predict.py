"""Prediction: windows over time, the way from the picture to the crop and back, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from data_fixtures import write_frames_folder
from films import write_film, write_timed
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TinyMOL, TinyMOLWithUnits
from torch import nn

from mol.common import devices
from mol.common.errors import (
    CheckpointError,
    ClipError,
    MediaError,
    NoFaceError,
    SettingsError,
    SeveralFacesError,
    StorageError,
)
from mol.network.checkpoint import save_checkpoint
from mol.network.model import MOL, MOLOutput
from mol.networks.flow_cnn import FlowCNN
from mol.prediction import overlay
from mol.prediction.overlay import OverlayFrame, OverlayStyle, draw_frame, write_overlay
from mol.prediction.predict import PredictConfig, describe_prediction, predict
from mol.prediction.regions import flow_by_region
from mol.prediction.sampling import nearest_windows, sample_in_time, window_starts
from mol.prediction.stillness import STILL_CLIPS
from mol.prediction.storyboard import timeline_of
from mol.prediction.tape import interpolated, pairs_shown
from mol.prediction.watch import predict_video
from mol.synth.faces import FaceImage, load_faces
from mol.vision.align import align_clip, transform_points
from mol.vision.landmarks import Face
from mol.vision.video import Video, read_video

CLASSES = ["surprise", "happiness", "disgust"]


def upright_face() -> np.ndarray:
    """68 points with eyes, nose and mouth where alignment looks for them, around the origin."""
    generator = np.random.default_rng(5)
    points = generator.uniform(-20, 20, (68, 2))
    points[36:42] = np.array([-10, -10]) + generator.uniform(-2, 2, (6, 2))
    points[42:48] = np.array([10, -10]) + generator.uniform(-2, 2, (6, 2))
    points[30], points[48], points[54] = [0, 2], [-8, 12], [8, 12]
    return points


def tilted_face(centre: tuple[float, float], degrees: float = 20.0, scale: float = 1.5) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (scale * upright_face() @ turn.T + centre).astype(np.float32)


def grey_video(length: int = 20, fps: float = 30.0, seed: int = 0) -> Video:
    frames = np.random.default_rng(seed).integers(0, 255, (length, 120, 160), dtype=np.uint8)
    return Video(frames, fps, [f"frame {index}" for index in range(length)])


class Detector:
    """Knows the faces of each frame by the frame's content; counts how often it is asked."""

    def __init__(self, video: Video, faces_of=lambda index: 1) -> None:
        self._index = {frame.tobytes(): index for index, frame in enumerate(video.frames)}
        self._faces_of = faces_of
        self.asked: list[int] = []

    def __call__(self, image: np.ndarray) -> list[Face]:
        index = self._index[image.tobytes()]
        self.asked.append(index)
        points = tilted_face((80 + 0.5 * index, 60))
        return [Face((index, 0, index + 10 * (n + 1), 20), points + 5 * n) for n in range(self._faces_of(index))]


class Oracle(nn.Module):
    """Answers with landmarks and flow given in crop pixels; remembers the clips."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.clips: list[torch.Tensor] = []

    def forward(self, clips: torch.Tensor) -> MOLOutput:
        self.clips.append(clips)
        batch = len(clips)
        flow = torch.zeros(batch, 7, 2, 128, 128)
        flow[:, :, 0] = 1.0
        landmarks = torch.arange(136.0).reshape(68, 2).expand(batch, 7, 68, 2)
        return MOLOutput(torch.tensor([[0.0, 2.0, 1.0]]).expand(batch, 3), flow, landmarks)


def run(video: Video, **settings):
    settings.setdefault("detector", Detector(video))
    return predict_video(Oracle(), video, CLASSES, **settings)


# Windows


@given(length=st.integers(8, 500), fps=st.floats(10, 240), stride=st.one_of(st.none(), st.integers(1, 40)))
def test_windows_start_with_the_video_and_end_with_it(length, fps, stride):
    interval, used_stride, starts = window_starts(length, fps, None, stride)
    assert starts[0] == 0
    assert starts[-1] + 7 * interval == length - 1
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= used_stride).all()


def test_default_interval_follows_a_short_clip_and_limits_a_long_one_to_half_a_second():
    assert window_starts(67, 200, None, None)[0] == 8
    interval = window_starts(3000, 200, None, None)[0]
    assert 7 * interval / 200 == pytest.approx(0.5, abs=0.02)
    assert window_starts(8, 25, None, None) == (1, 2, [0])


def test_an_interval_too_long_for_the_video_is_refused_with_the_longest_that_fits():
    with pytest.raises(ClipError, match="--interval 2 or less"):
        window_starts(20, 30, 3, None)


def test_windows_overlap_by_default():
    interval, stride, _ = window_starts(200, 30, None, None)
    assert stride < 7 * interval


# Picture ↔ crop


def test_landmarks_come_back_to_where_they_are_in_the_picture():
    video = grey_video()
    window = run(video, interval=1, stride=4).windows[1]
    crop_points = np.arange(136.0).reshape(68, 2)
    np.testing.assert_allclose(
        transform_points(window.matrix, window.landmarks.astype(float)),
        np.broadcast_to(crop_points, (7, 68, 2)),
        atol=1e-3,
    )


def test_the_crop_is_the_centre_of_the_aligned_frames_normalised_per_clip():
    video, oracle = grey_video(), Oracle()
    prediction = predict_video(oracle, video, CLASSES, interval=1, stride=4, detector=Detector(video))
    window = prediction.windows[0]
    clip = oracle.clips[STILL_CLIPS][0, 0]  # the still clips come first
    assert clip.mean().item() == pytest.approx(0, abs=1e-4)
    assert clip.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    aligned, points, _ = align_clip(video.frames[:8], window.detected)
    crop = aligned[:, 8:-8, 8:-8].astype(float)
    np.testing.assert_allclose(clip.numpy(), (crop - crop.mean()) / crop.std(), atol=1e-3)
    np.testing.assert_allclose(transform_points(window.matrix, window.detected), points - 8, atol=1e-2)


def test_a_window_has_one_alignment_however_the_face_moves():
    prediction = run(grey_video(), interval=1, stride=4)
    first, second = prediction.windows[:2]
    assert first.matrix.shape == (2, 3)
    assert np.abs(first.matrix - second.matrix).max() > 0.1


def test_flow_in_the_picture_is_turned_and_scaled_back():
    window = run(grey_video(), interval=1).windows[0]
    vector = window.picture_flow()[0, :, 64, 64]
    scale = np.sqrt(np.linalg.det(window.matrix[:, :2]))
    assert np.hypot(*vector) == pytest.approx(1 / scale, rel=1e-3)
    # The tilted face's own right is 20° clockwise of the picture's (y points down).
    eyes = np.rad2deg(np.arctan2(*(window.detected[3, 42:48].mean(0) - window.detected[3, 36:42].mean(0))[::-1]))
    assert np.rad2deg(np.arctan2(vector[1], vector[0])) == pytest.approx(eyes, abs=0.5)
    assert eyes > 10


def test_the_vote_is_the_mean_probability_over_the_windows():
    prediction = run(grey_video())
    expected = torch.softmax(torch.tensor([0.0, 2.0, 1.0]), 0).numpy()
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)


class Diverged(Oracle):
    """Answers with logits that are not numbers."""

    def forward(self, clips: torch.Tensor) -> MOLOutput:
        return super().forward(clips)._replace(logits=torch.full((len(clips), 3), torch.nan))


def test_windows_without_probabilities_have_no_vote():
    video = grey_video()
    with pytest.raises(ClipError, match=r"probabilities for frames 0 to 14 are not finite"):
        predict_video(Diverged(), video, CLASSES, detector=Detector(video))


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_the_real_network_reads_a_window(precision):
    torch.manual_seed(0)
    video = grey_video(8)
    prediction = predict_video(MOL(3).eval(), video, CLASSES, detector=Detector(video), precision=precision)
    window = prediction.windows[0]
    assert window.probabilities.sum() == pytest.approx(1, abs=1e-4)
    assert window.flow.shape == (7, 2, 128, 128)
    assert window.landmarks.shape == (7, 68, 2)
    assert np.isfinite(window.flow).all()
    assert np.isfinite(window.landmarks).all()


def test_batches_change_nothing():
    video = grey_video()
    one, many = run(video, batch_size=1), run(video, batch_size=64)
    for left, right in zip(one.windows, many.windows, strict=True):
        np.testing.assert_array_equal(left.frames, right.frames)
        np.testing.assert_allclose(left.landmarks, right.landmarks, atol=1e-4)


def test_the_detector_looks_once_and_only_at_frames_that_a_window_uses():
    video = grey_video(24)
    detector = Detector(video)
    run(video, interval=3, stride=3, detector=detector)
    assert detector.asked == sorted(set(detector.asked))
    assert set(detector.asked) == {0, 3, 6, 9, 12, 15, 18, 21} | {2, 5, 8, 11, 14, 17, 20, 23}


# Faces


def test_a_frame_without_a_face_is_named_with_the_remedy():
    video = grey_video()
    with pytest.raises(NoFaceError, match=r"frame 11\b.*--on-error skip"):
        run(video, interval=1, detector=Detector(video, lambda index: 0 if index in range(11, 16) else 1))


def test_a_short_gap_is_filled_and_noted_whoever_found_the_landmarks():
    video, points = grey_video(24), given_points(24)
    whole = run(video, interval=1, stride=4)
    detector = Detector(video, lambda index: 0 if index in (5, 6) else 1)
    prediction = run(video, interval=1, stride=4, detector=detector)
    assert len(prediction.windows) == len(whole.windows)
    np.testing.assert_allclose(prediction.windows[0].detected, whole.windows[0].detected, atol=1)
    assert prediction.notes[-1] == (
        "no face was found in 2 frames (frame 5, frame 6); the landmarks there are interpolated in time"
    )
    points[7] = np.nan
    prediction = run(video, interval=1, stride=4, landmarks=points)
    np.testing.assert_allclose(prediction.windows[0].detected[7], given_points(24)[7], atol=1e-3)
    assert "no face was found in 1 frame (frame 7)" in prediction.notes[-1]


def test_a_frame_with_several_faces_is_named_and_largest_takes_the_largest():
    video = grey_video()
    detector = Detector(video, lambda index: 2 if index >= 4 else 1)
    with pytest.raises(SeveralFacesError, match=r"frame 4\b.*the second one in 20 frames.*--people all"):
        run(video, interval=1, detector=detector)
    window = run(video, interval=1, stride=4, detector=detector, several="largest").windows[0]
    np.testing.assert_allclose(window.detected[4], tilted_face((82, 60)) + 5, atol=1e-3)


def test_a_face_that_passes_by_is_left_out_and_noted():
    video = grey_video()
    prediction = run(video, interval=1, stride=4, detector=Detector(video, lambda index: 2 if index == 4 else 1))
    np.testing.assert_allclose(prediction.windows[0].detected[4], tilted_face((82, 60)), atol=1e-3)
    assert prediction.notes[-1] == "1 frame shows other faces too; the person who is there all the time is followed"


def test_skip_leaves_out_exactly_the_windows_with_a_lost_face_and_lists_them():
    video = grey_video(24)
    detector = Detector(video, lambda index: 0 if index == 23 else 1)
    prediction = run(video, interval=1, stride=4, detector=detector, on_error="skip", max_gap=0)
    assert [window.start for window in prediction.windows] == [0, 4, 8, 12]
    assert [(window.start, window.end) for window in prediction.skipped] == [(16, 23)]
    assert "frame 23" in prediction.skipped[0].reason


def test_skip_with_no_window_left_is_an_error():
    video = grey_video()
    with pytest.raises(NoFaceError, match="no window"):
        run(video, detector=Detector(video, lambda index: 0), on_error="skip")


# Short videos


def test_a_video_shorter_than_a_window_is_refused_with_the_remedy():
    with pytest.raises(ClipError, match=r"5 frames.*needs 8.*--interpolate"):
        run(grey_video(5))


def test_interpolation_gives_one_window_over_the_same_time():
    video = grey_video(5, fps=10)
    points = np.stack([tilted_face((80 + index, 60)) for index in range(5)])
    prediction = run(video, interpolate=True, landmarks=points)
    assert prediction.interpolated_from == 5
    assert [window.frames.tolist() for window in prediction.windows] == [list(range(8))]
    assert 7 / prediction.video.fps == pytest.approx(4 / 10)
    np.testing.assert_allclose(prediction.windows[0].detected[7], points[4], atol=1e-4)


def test_one_picture_is_no_video_even_with_interpolation():
    with pytest.raises(ClipError, match="one picture has no motion"):
        run(grey_video(1), interpolate=True)


# Given landmarks


def given_points(length: int) -> np.ndarray:
    return np.stack([tilted_face((70 + index, 60)) for index in range(length)])


def test_given_landmarks_replace_the_detector():
    video, points = grey_video(), given_points(20)
    prediction = run(video, interval=1, landmarks=points, detector=None)
    np.testing.assert_array_equal(prediction.windows[0].detected, points[:8])


def test_a_frame_without_given_landmarks_is_named_or_skipped():
    video, points = grey_video(24), given_points(24)
    points[2, 30] = np.nan
    with pytest.raises(NoFaceError, match=r"frame 2\b"):
        run(video, interval=1, stride=4, landmarks=points, max_gap=0)
    prediction = run(video, interval=1, stride=4, landmarks=points, on_error="skip", max_gap=0)
    assert [window.start for window in prediction.skipped] == [0]


# Which window speaks for a frame


def test_landmarks_between_sampled_frames_are_interpolated():
    frames, seconds = np.arange(12, 26, 2), np.arange(30) / 10
    points = np.broadcast_to(frames[:, None, None], (7, 68, 2)).astype(np.float32)
    assert interpolated(frames, points, 15, seconds)[0, 0] == pytest.approx(15)
    assert interpolated(frames, points, 10, seconds)[0, 0] == pytest.approx(12)
    assert interpolated(frames, points, 24, seconds)[0, 0] == pytest.approx(24)
    # Frame 15 is shown three quarters of the way from frame 14 to frame 16.
    later = np.where(np.arange(30) == 15, 1.55, seconds)
    assert interpolated(frames, points, 15, later)[0, 0] == pytest.approx(15.5)


def test_flow_of_a_frame_is_that_of_the_pair_around_it():
    nearest = np.where(np.isin(np.arange(30), np.arange(10, 25)), 0, -1)
    pairs = pairs_shown(10 + 2 * np.arange(8)[None], nearest)
    assert pairs[[10, 11, 12, 23, 24]].tolist() == [0, 0, 1, 6, 6]


def test_skipped_neighbours_are_one_gap_that_holds_no_window_that_was_read():
    video = grey_video(50, fps=10)
    lost = Detector(video, lambda index: 0 if index in (20, 21) else 1)
    prediction = run(video, interval=1, stride=5, detector=lost, on_error="skip", max_gap=0)
    timeline = timeline_of(prediction)
    assert [window.start for window in prediction.skipped] == [15, 20]
    ((start, end),) = timeline.gaps
    assert start == pytest.approx(1.6)
    assert end == pytest.approx(2.6)
    assert not ((timeline.times > start) & (timeline.times < end)).any()


def test_the_nearest_covering_window_speaks_for_a_frame():
    def windows_at(stride: int) -> np.ndarray:
        _, _, starts = window_starts(40, 30, 1, stride)
        return nearest_windows(np.array(starts)[:, None] + np.arange(8), np.arange(40) / 30)

    assert windows_at(4)[0] == 0
    assert windows_at(4)[15] in (2, 3)
    assert windows_at(20)[14] == -1


@given(st.lists(st.floats(0, 0.4), min_size=12, max_size=60), st.integers(1, 6), st.booleans())
def test_the_nearest_window_is_that_of_a_search_over_all(steps, stride, in_time):
    seconds = np.concatenate([[0], np.cumsum(steps)])
    if in_time and seconds[-1]:
        samples = np.stack(sample_in_time(seconds, min(0.07, seconds[-1] / 8), stride))
    else:
        samples = np.array(window_starts(len(seconds), 25, 1, stride)[2])[:, None] + np.arange(8)
    centres = (seconds[samples[:, 0]] + seconds[samples[:, -1]]) / 2
    for number, found in enumerate(nearest_windows(samples, seconds).tolist()):
        covering = np.flatnonzero((samples[:, 0] <= number) & (number <= samples[:, -1]))
        if not len(covering):
            assert found == -1
        else:
            distances = np.abs(centres[covering] - seconds[number])
            assert found in covering
            assert abs(centres[found] - seconds[number]) == pytest.approx(distances.min())


# Files


def style(classes=tuple(CLASSES)) -> OverlayStyle:
    return OverlayStyle(classes, 1.0, "per frame", np.array([[0, 0.4, 1]]), 0.5)


@pytest.mark.parametrize("shape", [(101, 77), (576, 720), (1080, 1920)])
def test_overlay_frames_have_even_sides_whatever_the_picture(shape):
    picture = np.zeros(shape, np.uint8)
    blank = draw_frame(OverlayFrame(picture, 0.1, 3), style())
    assert blank.shape[0] % 2 == blank.shape[1] % 2 == 0
    read = draw_frame(
        OverlayFrame(
            picture, 0.1, 3, given_points(1)[0], np.ones((2, 128, 128), np.float32), np.eye(2, 3), np.ones(3) / 3
        ),
        style(),
    )
    assert read.shape == blank.shape
    assert (read != blank).any()


def test_a_longer_bar_is_a_higher_probability():
    frame = OverlayFrame(np.zeros((144, 176), np.uint8), 0.1, 3, probabilities=np.array([0.2, 0.7, 0.1]))
    panel = draw_frame(frame, style())[:, -304:].astype(int)
    lengths = [(np.ptp(panel[top + 21], axis=-1) > 60).sum() for top in overlay._bar_rows(CLASSES)]
    assert np.argsort(lengths).tolist() == [2, 0, 1]


@pytest.mark.parametrize("h264", [True, False])
def test_overlay_video_plays_all_frames_with_and_without_h264(tmp_path, monkeypatch, h264):
    if not h264:
        monkeypatch.setattr(overlay, "_can_encode", lambda av, codec: False)
    frames = [OverlayFrame(np.full((60, 80), 20 * index, np.uint8), index / 12.5, index) for index in range(6)]
    write_overlay(tmp_path / "overlay.mp4", frames, style(), 12.5)
    video = read_video(tmp_path / "overlay.mp4")
    assert len(video) == 6
    assert video.fps == pytest.approx(12.5)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert (container.streams.video[0].codec.name == "mpeg4") is not h264


def test_a_window_like_a_still_face_has_no_winner_in_the_overlay():
    frame = OverlayFrame(np.zeros((144, 176), np.uint8), 0.1, 3, probabilities=np.array([0.2, 0.7, 0.1]))
    named = draw_frame(frame, style())
    unnamed = draw_frame(
        replace(frame, verdict="like a still face"), replace(style(), winners=np.array([[0, 0.4, -1]]))
    )
    panel, strip = np.s_[:-58, -304:], np.s_[-34:-24, 40:200]
    assert (named[panel] != unnamed[panel]).any()
    # The strip below has the winner's colour, or none.
    assert np.ptp(named[strip], axis=-1).max() > 60
    assert np.ptp(unnamed[strip], axis=-1).max() < 30


def test_an_overlay_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "overlay.mp4"
    path.write_bytes(b"old")

    def frames():
        yield OverlayFrame(np.zeros((60, 80), np.uint8), 0.0, 0)
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="untouched"):
        write_overlay(path, frames(), style(), 25)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["overlay.mp4"]


@pytest.fixture
def tiny_run(tmp_path, monkeypatch) -> Path:
    """A checkpoint of a network that is quick, in a folder like that of a run."""
    monkeypatch.setattr("mol.networks.mol.MOL", TinyMOL)
    torch.manual_seed(0)
    state = {"classes": CLASSES, "mean_shape": [[0.0, 0.0]] * 68, "step": 5, "normalisation": "clip"}
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last", TinyMOL(3), None, state)
    return tmp_path / "run"


def close_up(face: FaceImage) -> np.ndarray:
    """The face with some room around it, both sides even."""
    left, top = (face.points.min(axis=0) - 60).clip(0).astype(int) // 2 * 2
    right, bottom = (face.points.max(axis=0) + 60).astype(int) // 2 * 2
    return face.image[top:bottom, left:right]


@pytest.fixture(scope="module")
def astronaut_frames() -> np.ndarray:
    """Twelve frames of a real face that drifts to the right, and then leaves."""
    picture = close_up(load_faces(("astronaut",))[0])
    shown = [np.roll(picture, 2 * index, axis=1) for index in range(11)]
    return np.stack([*shown, np.full_like(picture, 90)])


def test_a_folder_of_frames_is_read_to_the_last_file(tmp_path, tiny_run, astronaut_frames):
    folder = tmp_path / "frames"
    write_frames_folder(astronaut_frames, folder)
    settings = {"interval": 1, "stride": 2, "on_error": "skip", "max_gap": 0, "save_arrays": True}
    config = PredictConfig(str(folder), str(tiny_run), str(tmp_path / "out"), **settings)
    prediction, files = predict(config)
    assert prediction.trace.frames[:, 0].tolist() == [0, 2]
    assert sorted(path.name for path in files.values()) == sorted(entry.name for entry in (tmp_path / "out").iterdir())

    written = json.loads(files["predictions"].read_text(encoding="utf-8"))
    assert written["classes"] == CLASSES
    assert written["vote"]["predicted"] == prediction.predicted
    assert written["network"]["step"] == 5
    assert "img012.png" in written["skipped"][0]["reason"]
    for window in written["windows"]:
        assert sum(window["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert len(window["seconds"]) == 8
        assert np.shape(window["landmarks_px"]["x"]) == (7, 68)
    mean = np.mean([list(window["probabilities"].values()) for window in written["windows"]], axis=0)
    np.testing.assert_allclose(list(written["vote"]["probabilities"].values()), mean, atol=1e-3)

    with np.load(files["arrays"], allow_pickle=False) as arrays:
        assert arrays["flow"].shape == (2, 7, 2, 128, 128)
        for place, window in enumerate(written["windows"]):
            np.testing.assert_allclose(arrays["landmarks"][place, ..., 0], window["landmarks_px"]["x"], atol=0.01)
            np.testing.assert_allclose(arrays["picture_to_crop"][place], window["picture_to_crop"], atol=1e-4)
            points = transform_points(arrays["picture_to_crop"][place], arrays["detected"][place, :-1])
            by_region = flow_by_region(arrays["flow"][place], points)
            np.testing.assert_allclose(by_region, prediction.trace.flow[place], atol=1e-3)
    assert len(read_video(files["overlay"])) == 12


def test_a_network_without_flow_and_landmarks_predicts_and_says_what_it_lacks(tmp_path, astronaut_frames, monkeypatch):
    # In each still clip TV-L1 looks for the frame of greatest motion.
    monkeypatch.setattr("mol.prediction.watch.STILL_CLIPS", 2)
    monkeypatch.setattr("mol.prediction.watch.NOISE_FACTORS", np.array([0.8, 1.25]))
    torch.manual_seed(0)
    run = tmp_path / "run" / "checkpoints" / "last"
    state = {"network": "flow-cnn", "classes": CLASSES, "mean_shape": None, "step": 5, "normalisation": "clip"}
    save_checkpoint(run, FlowCNN(3), None, state)
    write_frames_folder(astronaut_frames, tmp_path / "frames")
    settings = {"interval": 1, "stride": 2, "on_error": "skip", "max_gap": 0, "save_arrays": True}
    prediction, files = predict(
        PredictConfig(str(tmp_path / "frames"), str(tmp_path / "run"), str(tmp_path / "out"), **settings)
    )
    assert prediction.trace.frames[:, 0].tolist() == [0, 2]
    assert np.isnan(prediction.trace.flow).all()
    text = describe_prediction(prediction)
    for part in ("from its first frame to the frame of greatest motion", "no optical flow", "no landmarks"):
        assert part in text
    written = json.loads(files["predictions"].read_text(encoding="utf-8"))
    assert written["network"]["name"] == "flow-cnn"
    assert written["notes"] == list(prediction.notes)
    assert not {"flow_px", "landmarks_px"} & set(written["windows"][0])
    with np.load(files["arrays"], allow_pickle=False) as arrays:
        assert {"probabilities", "detected"} <= set(arrays)
        assert not {"flow", "landmarks"} & set(arrays)
    assert len(read_video(files["overlay"])) == 12
    assert files["overview"].stat().st_size > 10_000


def test_the_probabilities_of_action_units_are_written_for_windows_and_their_mean(
    tmp_path, tiny_run, astronaut_frames, monkeypatch
):
    monkeypatch.setattr("mol.networks.mol.MOL", TinyMOLWithUnits)
    units = {"units": [4, 12], "annotated": [8, 8], "shown": [2, 4], "clips": 8}
    path = tiny_run / "checkpoints" / "last"
    known = json.loads((path / "state.json").read_text(encoding="utf-8"))
    state = {name: value for name, value in known.items() if name not in ("format", "model", "files")}
    save_checkpoint(path, TinyMOLWithUnits(3, [4, 12]), None, {**state, "action_units": units})
    write_frames_folder(astronaut_frames[:10], tmp_path / "frames")
    settings = {"interval": 1, "stride": 2, "overlay": False}
    prediction, files = predict(
        PredictConfig(str(tmp_path / "frames"), str(tiny_run), str(tmp_path / "out"), **settings)
    )
    written = json.loads(files["predictions"].read_text(encoding="utf-8"))
    windows = [[window["action_units"][name] for name in ("AU4", "AU12")] for window in written["windows"]]
    assert len(windows) == 2
    mean = [written["vote"]["action_units"][name] for name in ("AU4", "AU12")]
    assert mean == pytest.approx(np.mean(windows, axis=0), abs=1e-4)
    assert prediction.unit_probabilities == pytest.approx(mean, abs=1e-4)
    assert "action units, mean probability: AU " in describe_prediction(prediction)


def test_the_temperature_of_the_network_changes_all_probabilities_and_no_verdict(tmp_path, tiny_run, astronaut_frames):
    write_frames_folder(astronaut_frames[:11], tmp_path / "frames")
    config = PredictConfig(
        str(tmp_path / "frames"), str(tiny_run), str(tmp_path / "plain"), interval=1, save_arrays=True, overlay=False
    )
    plain, files = predict(config)
    raw = json.loads(files["predictions"].read_text(encoding="utf-8"))
    vote = raw["vote"]
    assert (vote["rule"], vote["temperature"]) == ("mean probability over the windows", None)
    assert "probabilities: not calibrated: train with --inner-validation 0.2" in describe_prediction(plain)

    path = tiny_run / "checkpoints" / "last" / "state.json"
    fitted = {"value": 0.25, "note": "", "videos": 24, "clips": 60, "people": 2}
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": fitted}))
    sharper, files = predict(replace(config, out=str(tmp_path / "calibrated")))
    written = json.loads(files["predictions"].read_text(encoding="utf-8"))
    vote = written["vote"]
    assert (vote["rule"], vote["temperature"]) == ("mean probability over the windows, at temperature 0.25", 0.25)
    assert vote["calibration"] in describe_prediction(sharper)
    assert vote["calibration"].startswith("temperature 0.25, fitted on 24 videos")
    assert written["still_clips"] == raw["still_clips"]
    for before, after in zip([raw["vote"], *raw["windows"]], [vote, *written["windows"]], strict=True):
        for key in ("predicted", "verdict", "distance_from_still"):
            assert after[key] == before[key]
    found = plain.trace.probabilities
    powers = found.astype(float) ** 4
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert np.abs(expected - found).max() > 0.01
    np.testing.assert_allclose(
        [list(window["probabilities"].values()) for window in written["windows"]], expected, atol=1e-4
    )
    powers = plain.probabilities.astype(float) ** 4
    np.testing.assert_allclose(list(vote["probabilities"].values()), powers / powers.sum(), atol=1e-4)
    with np.load(files["arrays"], allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["probabilities"], expected, rtol=1e-4)
        np.testing.assert_allclose(arrays["uncalibrated_probabilities"], found, rtol=1e-4)


def test_real_faces_are_found_where_they_are(tmp_path, tiny_run, astronaut_frames):
    write_frames_folder(astronaut_frames[:8], tmp_path / "frames")
    config = PredictConfig(str(tmp_path / "frames"), str(tiny_run), str(tmp_path / "out"), overlay=False)
    prediction, files = predict(config)
    assert "overlay" not in files
    eyes = prediction.person.at(prediction.trace.frames[0])[:, 36:48].mean(axis=1)
    # The pictures drift by 2 pixels a frame; the detector's own jitter is about one.
    np.testing.assert_allclose(np.diff(eyes[:, 0]).mean(), 2, atol=0.5)
    np.testing.assert_allclose(np.diff(eyes[:, 1]).mean(), 0, atol=0.5)


def test_a_film_of_varying_rate_is_told_and_drawn_at_its_own_times(tmp_path, tiny_run, astronaut_frames):
    picture = astronaut_frames[0]
    frames = np.stack([np.roll(picture, index % 8, axis=1) for index in range(60)])
    # A telephone that drops frames for two seconds and then halves its rate.
    times = np.concatenate([np.arange(30) * 33, 3000 + np.arange(30) * 67])
    path = write_timed(tmp_path / "dark.mp4", frames, times.tolist(), last=67)
    prediction, files = predict(PredictConfig(str(path), str(tiny_run), str(tmp_path / "out")))
    written = json.loads(files["predictions"].read_text(encoding="utf-8"))
    assert written["video"]["variable_rate"]
    assert written["video"]["seconds"] == pytest.approx((times[-1] + 67) / 1000, abs=1e-3)
    for window in written["windows"]:
        np.testing.assert_allclose(window["seconds"], times[window["frames"]] / 1000, atol=2e-3)
        assert 0.4 < window["seconds"][-1] - window["seconds"][0] < 0.6
    assert written["skipped"]
    assert all("a gap of 2.04 s between frames 29 and 30" in window["reason"] for window in written["skipped"])
    assert "the frame rate varies" in " ".join(written["notes"])
    text = describe_prediction(prediction)
    assert f"windows left out because of a gap in time: {len(written['skipped'])} (frames" in text
    overlay_video = read_video(files["overlay"])
    np.testing.assert_allclose(overlay_video.seconds, times / 1000, atol=1e-3)
    assert overlay_video.duration == pytest.approx(prediction.duration, abs=1e-3)
    timeline = timeline_of(prediction)
    for frames, time in zip(prediction.trace.frames, timeline.times, strict=True):
        assert time == pytest.approx((times[frames[0]] + times[frames[-1]]) / 2000, abs=2e-3)
    ((start, end),) = timeline.gaps
    assert times[29] / 1000 - 0.5 < start < end < times[30] / 1000 + 0.5


def test_automatic_precision_is_that_of_the_processor(tmp_path, tiny_run, astronaut_frames, monkeypatch):
    path = write_timed(tmp_path / "film.mkv", astronaut_frames[:10], range(0, 400, 40))
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "_CPUINFO", file)

    def probabilities(precision):
        config = PredictConfig(
            str(path), str(tiny_run), str(tmp_path / "out"), fps=240, device="cpu", precision=precision, overlay=False
        )
        return predict(config)[0].trace.probabilities

    exact, rounded = probabilities("32"), probabilities("bf16-mixed")
    assert not np.array_equal(exact, rounded)
    file.write_text("flags : fpu avx2\n", encoding="utf-8")
    np.testing.assert_array_equal(probabilities("auto"), exact)
    file.write_text("flags : fpu amx_bf16\n", encoding="utf-8")
    np.testing.assert_array_equal(probabilities("auto"), rounded)


def test_a_rate_that_is_given_overrules_the_time_stamps(tmp_path, tiny_run, astronaut_frames):
    path = write_timed(tmp_path / "slow-motion.mkv", astronaut_frames[:10], range(0, 400, 40))
    config = PredictConfig(str(path), str(tiny_run), str(tmp_path / "out"), fps=240, overlay=False)
    prediction, files = predict(config)
    written = json.loads(files["predictions"].read_text(encoding="utf-8"))
    assert (written["video"]["fps"], written["video"]["variable_rate"]) == (240, False)
    np.testing.assert_allclose(written["windows"][0]["seconds"], np.arange(8) / 240, atol=1e-4)
    assert prediction.notes == ()


def test_a_folder_of_a_known_data_set_has_its_rate_and_another_25(tmp_path, tiny_run, astronaut_frames):
    known = tmp_path / "CASME2_RAW_selected" / "sub01" / "EP02_01f"
    for folder in (known, tmp_path / "mine"):
        write_frames_folder(astronaut_frames[:9], folder)
    for folder, fps, note in (
        (known, 200, "the folder belongs to CASME II: 200 frames per second; --fps sets another rate"),
        (tmp_path / "mine", 25, "a folder has no frame rate; 25 frames per second are assumed; --fps sets another"),
    ):
        config = PredictConfig(str(folder), str(tiny_run), str(tmp_path / "out"), overlay=False)
        prediction, _ = predict(config)
        assert prediction.video.fps == fps
        assert note in describe_prediction(prediction)
    assert note not in describe_prediction(predict(replace(config, fps=50))[0])


def test_wide_frames_are_averaged_down_for_detection_as_in_extract(monkeypatch, astronaut_frames):
    widths = []

    class WideDetector:
        threshold = 0.1

        def __init__(self, width: int) -> None:
            widths.append(width)

        def __call__(self, image: np.ndarray) -> list[Face]:
            return [Face((0, 0, 10, 10), tilted_face((80, 60)))]

    monkeypatch.setattr("mol.prediction.watch.DlibDetector", WideDetector)
    for setting in ({}, {"detect_width": 0}, {"detect_width": 320}):
        predict_video(Oracle(), grey_video(8), CLASSES, **setting)
    assert widths == [640, 0, 320]
    assert PredictConfig("talk.mp4", "run").detect_width == 640


def test_an_overlay_is_written_into_a_folder_that_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = [OverlayFrame(np.zeros((60, 80), np.uint8), index / 10, index) for index in range(3)]
    for folder in ("http:", "12:30"):
        write_overlay(Path(folder) / "overlay.mp4", frames, style(), 10)
        assert len(read_video(Path(folder) / "overlay.mp4")) == 3


def test_a_truncated_video_is_named(tmp_path, tiny_run, astronaut_frames):
    path = write_film(tmp_path / "talk.avi", astronaut_frames, 25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"talk\.avi"):
        predict(PredictConfig(str(path), str(tiny_run), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_video_is_named(tmp_path, tiny_run):
    (tmp_path / "notes.mp4").write_text("not a video", encoding="utf-8")
    with pytest.raises(MediaError, match=r"notes\.mp4"):
        predict(PredictConfig(str(tmp_path / "notes.mp4"), str(tiny_run), str(tmp_path / "out")))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        predict(PredictConfig("talk.mp4", str(tmp_path / "nowhere")))


def test_a_network_of_another_normalisation_is_refused(tmp_path, tiny_run):
    state = {"classes": CLASSES, "mean_shape": None, "step": 5, "normalisation": "released-subject"}
    save_checkpoint(tiny_run / "checkpoints" / "last", TinyMOL(3), None, state)
    with pytest.raises(CheckpointError, match="released-subject"):
        predict(PredictConfig("talk.mp4", str(tiny_run)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval": 0},
        {"stride": -1},
        {"fps": float("nan")},
        {"batch_size": 0},
        {"on_error": "ignore"},
        {"several": "all"},
        {"precision": "16"},
        {"detect_width": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        PredictConfig("talk.mp4", "run", **wrong)


def test_a_device_that_is_not_here_is_named(tmp_path, tiny_run):
    with pytest.raises(SettingsError, match="cuda:99"):
        predict(PredictConfig("talk.mp4", str(tiny_run), device="cuda:99"))
