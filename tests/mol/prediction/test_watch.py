"""Films as a stream: constant memory, files that are whole or not there, and what cameras and disks do."""

from __future__ import annotations

import errno
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import astronaut
from films import write_film, write_timed
from tiny_model import TinyMOL
from tiny_predictions import FACE, tiny_weights

from mol.common import scratch
from mol.common.errors import ClipError, StorageError
from mol.network.model import MOL
from mol.prediction.alignment import TOLERANCE, anchors_of
from mol.prediction.describe import compact_json
from mol.prediction.people import Person
from mol.prediction.predict import PredictConfig, describe_prediction, predict
from mol.prediction.result import STILL_FACE
from mol.prediction.watch import WatchSettings, predict_video, watch
from mol.prediction.windows import ALIGN
from mol.vision.align import alignment_anchors, alignment_matrix
from mol.vision.video import Video


def noisy(count: int, height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """(count, height, width) uint8: a texture that moves, with noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((height, width)) / 9
    waves = [90 + 60 * np.sin(rows + index / 20) * np.cos(columns - index / 15) for index in range(count)]
    return np.stack([np.clip(wave + 3 * rng.standard_normal(wave.shape), 0, 255).astype(np.uint8) for wave in waves])


def write_points(path: Path, count: int, step: float = 0.2) -> str:
    np.savez(
        path, landmarks=np.stack([np.add(FACE, (step * (index % 9), 0)) for index in range(count)]).astype(np.float32)
    )
    return str(path)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    """Of a film of 24 frames with given landmarks."""
    weights = tiny_weights(tmp_path, monkeypatch)
    film = write_film(tmp_path / "talk.mp4", noisy(24), 25)
    points = write_points(tmp_path / "points.npz", 24)
    return PredictConfig(str(film), str(weights), str(tmp_path / "out"), landmarks=points, overlay=False, page=False)


# Memory


def peak_of(action) -> int:
    """Bytes by which the process grows at most while something runs."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far

    def status(name: str) -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
        return int(line.split()[1]) * 1024

    before = status("VmRSS:")
    action()
    return status("VmHWM:") - before


@pytest.mark.parametrize("drawn", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["read", "drawn"])
def test_memory_does_not_grow_with_the_film(config, tmp_path, drawn):
    picture, peaks = noisy(1, 720, 1280)[0], []
    # The first loads what is loaded once; decoder and encoder hold some dozens of frames.
    short, long = (90, 270) if drawn else (60, 240)
    for count in (short, short, long):
        path = tmp_path / f"film{count}.mp4"
        if not path.exists():
            write_film(path, np.stack([np.roll(picture, index % 9, axis=1) for index in range(count)]), 25)
        points = write_points(tmp_path / f"points{count}.npz", count)
        longer = replace(config, video=str(path), landmarks=points, overlay=drawn, save_arrays=drawn)
        peaks.append(peak_of(lambda longer=longer: predict(longer)))
    frames = (long - short) * 720 * 1280
    assert peaks[2] - peaks[1] < frames / 3


# Files


def test_predictions_written_window_by_window_are_laid_out_as_a_whole(config):
    _, files = predict(config)
    text = files["predictions"].read_text(encoding="utf-8")
    document = json.loads(text)
    assert len(document["windows"]) > 2
    assert compact_json(document) == text


def test_no_working_file_is_left(config):
    _, files = predict(replace(config, save_arrays=True, overlay=True))
    assert sorted(entry.name for entry in Path(config.out).iterdir()) == sorted(path.name for path in files.values())


class FullDisk:
    """A working file on a disk that fills after some bytes."""

    def __init__(self, room: int) -> None:
        self._file = io.BytesIO()
        self._room = room

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def test_a_disk_that_fills_while_windows_are_read_is_named_with_the_remedy(config, monkeypatch):
    before, _ = predict(replace(config, save_arrays=True))
    kept = {entry.name: entry.read_bytes() for entry in Path(config.out).iterdir()}
    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", lambda dir: FullDisk(1_000_000))
    with pytest.raises(StorageError, match=r"working file in .*out: No space left.*--save-arrays false"):
        predict(replace(config, save_arrays=True))
    assert {entry.name: entry.read_bytes() for entry in Path(config.out).iterdir()} == kept
    assert len(before.trace)


@pytest.mark.parametrize(
    ("wanted", "part", "lost", "kept"),
    [
        ("overlay", "mol.prediction.overlay._encode", r"overlay\.mp4", ["frames.csv", "overview.png"]),
        ("page", "mol.viewer.film._encode", r"page\.html", ["frames.csv", "overview.png"]),
    ],
)
def test_files_that_are_whole_stay_when_a_later_one_fails(config, monkeypatch, wanted, part, lost, kept):
    def fail(*arguments, **named) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(part, fail)
    with pytest.raises(StorageError, match=lost):
        predict(replace(config, **{wanted: True}))
    assert sorted(entry.name for entry in Path(config.out).iterdir()) == kept


# What cameras do


def test_a_film_of_one_still_frame_says_nothing_of_an_expression(config, tmp_path):
    still = write_film(tmp_path / "still.mp4", np.repeat(noisy(1), 40, axis=0), 25)
    points = np.repeat(FACE[None], 40, axis=0).astype(np.float32)
    np.savez(tmp_path / "still.npz", landmarks=points)
    prediction, files = predict(replace(config, video=str(still), landmarks=str(tmp_path / "still.npz")))
    assert prediction.verdict == STILL_FACE
    assert json.loads(files["predictions"].read_text())["vote"]["predicted"] is None


def test_one_frame_a_second_is_read_and_noted(config, tmp_path):
    slow = write_timed(tmp_path / "slow.mp4", noisy(24), range(0, 24_000, 1000), last=1000)
    prediction, _ = predict(replace(config, video=str(slow)))
    assert prediction.interval == 1
    assert "a window lasts up to 7 s" in describe_prediction(prediction)


def test_bursts_with_pauses_are_named(config, tmp_path):
    times = [2000 * (index // 4) + 10 * (index % 4) for index in range(24)]
    path = write_timed(tmp_path / "bursts.mp4", noisy(24), times)
    with pytest.raises(ClipError, match="every window of the video has a gap"):
        predict(replace(config, video=str(path)))


def test_many_windows_left_out_are_told_as_stretches(config, tmp_path):
    film = write_film(tmp_path / "long.mp4", noisy(120), 25)
    points = np.repeat(FACE[None], 120, axis=0).astype(np.float32)
    points[30:80] = np.nan
    np.savez(tmp_path / "long.npz", landmarks=points)
    prediction, files = predict(
        replace(config, video=str(film), landmarks=str(tmp_path / "long.npz"), on_error="skip", interval=1)
    )
    count = len(json.loads(files["predictions"].read_text())["skipped"])
    assert count > 20
    text = describe_prediction(prediction)
    assert f"windows left out because a frame has no usable face: {count} (frames 24–85)" in text


# Alignment that windows share


def person_of(points: np.ndarray) -> Person:
    count = len(points)
    whole = np.ones(count, bool)
    return Person(None, np.arange(count), points.astype(np.float32), whole, np.zeros(count, int))


def test_an_anchor_holds_until_the_face_has_moved():
    steps = np.concatenate([np.zeros(20), np.linspace(0, 12, 20), np.full(20, 12.0)])
    jitter = np.random.default_rng(0).normal(0, 0.3, (60, 68, 2))
    person = person_of(np.stack([np.add(FACE, (step, 0)) for step in steps]) + jitter)
    samples = np.arange(0, 52, 2)[:, None] + np.arange(8)
    anchors = anchors_of(samples, person, "shared")
    assert (np.diff(anchors) >= 0).all()
    assert (anchors[anchors] == anchors).all()
    assert 3 <= len(set(anchors.tolist())) < len(anchors) - 5
    for number, anchor in enumerate(anchors.tolist()):
        own, held = (np.median(person.at(samples[which]), axis=0) for which in (number, anchor))
        places = alignment_anchors(own)
        between = alignment_matrix(own, ALIGN) - alignment_matrix(held, ALIGN)
        assert np.linalg.norm(places @ between[:, :2].T + between[:, 2], axis=1).max() <= TOLERANCE
    np.testing.assert_array_equal(anchors_of(samples, person, "window"), np.arange(len(samples)))


@pytest.fixture(scope="module")
def drifting() -> tuple[Video, np.ndarray]:
    """A real face that hardly moves, and its landmarks."""
    face = astronaut()
    left, top = (face.points.min(axis=0) - 60).clip(0).astype(int)
    picture, points = face.image[top : top + 240, left : left + 240], face.points - [left, top]
    count = 16
    frames = np.stack([np.roll(picture, index // 6, axis=1) for index in range(count)])
    video = Video(frames, 25.0, [f"frame {index}" for index in range(count)])
    return video, np.stack([np.add(points, (index // 6, 0)) for index in range(count)]).astype(np.float32)


def test_the_real_network_reads_shared_windows_as_it_reads_them_one_by_one(drifting, monkeypatch):
    monkeypatch.setattr("mol.prediction.watch.STILL_CLIPS", 1)
    monkeypatch.setattr("mol.prediction.watch.NOISE_FACTORS", np.ones(1))
    monkeypatch.setattr("mol.prediction.stillness.Stillness.between", (0.0, 0.0))
    video, points = drifting
    torch.manual_seed(0)
    model = MOL(3).eval()
    windows = []
    settings = WatchSettings(interval=1, stride=4, alignment="shared", batch_size=2)
    (shared,) = watch(
        model,
        video,
        ["a", "b", "c"],
        settings,
        landmarks=points,
        listeners=lambda scene: [lambda number, window: windows.append(window)],
    )
    assert shared.anchors.tolist() == [0, 0, 0]
    alone = predict_video(model, video, ["a", "b", "c"], interval=1, stride=4, landmarks=points)
    assert [window.frames.tolist() for window in windows] == [window.frames.tolist() for window in alone.windows]
    # The first window is its own anchor; the others are aligned elsewhere by less than a pixel or two.
    first, other = windows[0], alone.windows[0]
    np.testing.assert_allclose(first.probabilities, other.probabilities, atol=1e-5)
    np.testing.assert_allclose(first.matrix, other.matrix)
    np.testing.assert_allclose(first.landmarks, other.landmarks, atol=0.01)
    for window in windows[1:]:
        np.testing.assert_array_equal(window.matrix, first.matrix)


def test_another_network_takes_a_shared_alignment_on_whole_windows(drifting, monkeypatch):
    video, points = drifting
    torch.manual_seed(0)
    model = TinyMOL(3).eval()
    settings = WatchSettings(interval=1, stride=4, alignment="shared")
    (shared,) = watch(model, video, ["a", "b", "c"], settings, landmarks=points)
    (alone,) = watch(model, video, ["a", "b", "c"], replace(settings, alignment="window"), landmarks=points)
    np.testing.assert_allclose(shared.trace.probabilities[0], alone.trace.probabilities[0], atol=1e-6)
    assert len(shared.trace) == len(alone.trace) == 3
