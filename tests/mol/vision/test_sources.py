"""Films and folders whose frames are decoded on demand: the same frames, times and notes as when read at once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from films import moving_frames, write_film, write_timed

from mol.common.errors import MediaError
from mol.vision.footage import Footage
from mol.vision.sources import open_footage
from mol.vision.video import read_video


def ramp(bits: int) -> np.ndarray:
    """(64, 64) uint16 with every 8-bit level, in the upper bits of the given depth."""
    return np.sort(np.resize(np.arange(256), 64 * 64)).reshape(64, 64).astype(np.uint16) << (bits - 8)


def write_pictures(folder: Path, frames: list[np.ndarray], suffix: str = ".png") -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / f"img{number}{suffix}"), frame)
    return folder


def film(tmp_path: Path, kind: str) -> Path:
    frames = moving_frames(12)
    if kind == "folder":
        return write_pictures(tmp_path / "frames", list(frames))
    if kind == "deep folder":
        return write_pictures(tmp_path / "frames", [ramp(12) // 8, ramp(8).astype(np.uint8), ramp(12)])
    if kind == "deep film":
        return write_film(tmp_path / "deep.mkv", np.stack([ramp(10) // 4, ramp(10)]), codec="ffv1", pixels="gray16le")
    if kind == "variable":
        return write_timed(tmp_path / "dark.mp4", frames, [*range(0, 240, 40), *range(400, 1000, 100)], last=100)
    if kind == "raw":
        return write_film(tmp_path / "film.mjpeg", frames, codec="mjpeg", pixels="yuvj420p")
    if kind == "hidden frames":  # VP8 has packets that make no frame
        path = tmp_path / "film.webm"
        return write_film(path, np.repeat(frames, 3, axis=0), codec="libvpx", fps=30)
    return write_film(tmp_path / f"film.{kind}", frames)


KINDS = ["mp4", "avi", "mkv", "raw", "variable", "hidden frames", "deep film", "folder", "deep folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_footage_is_what_is_read_at_once(tmp_path, kind):
    path = film(tmp_path, kind)
    video, footage = read_video(path), open_footage(path)
    assert len(footage) == len(video)
    assert footage.shape == video.shape == video.frames.shape[1:]
    np.testing.assert_array_equal(np.stack(list(footage.walk())), video.frames)
    np.testing.assert_array_equal(footage.seconds, video.seconds)
    for name in ("fps", "duration", "has_variable_rate", "notes", "rate_notes"):
        assert getattr(footage, name) == getattr(video, name)
    assert [footage.name(number) for number in range(len(footage))] == video.names
    wanted = sorted({0, 1, len(video) - 1})
    for source in (video, footage):
        np.testing.assert_array_equal(np.stack(list(source.walk(wanted))), video.frames[wanted])
        assert list(source.walk([])) == []
        assert source.at_rate(7).duration == pytest.approx(len(video) / 7)


def test_a_folder_has_the_rate_that_is_given(tmp_path):
    path = film(tmp_path, "folder")
    assert (open_footage(path, folder_fps=100).fps, open_footage(path, folder_fps=100).rate_notes) == (100, ())
    assert open_footage(path, folder_fps=100, rate_notes=("as the set has",)).rate_notes == ("as the set has",)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_truncated_film_is_refused_before_anything_is_computed(tmp_path, suffix):
    path = write_film(tmp_path / f"talk{suffix}", moving_frames(24))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(MediaError, match="talk"):
        open_footage(path)


def test_a_damaged_picture_and_one_of_another_size_are_refused_by_name(tmp_path):
    path = film(tmp_path, "folder")
    picture = path / "img7.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"img7\.png"):
        open_footage(path)
    cv2.imwrite(str(picture), moving_frames(1)[0][:-2])
    with pytest.raises(MediaError, match=r"img7\.png is 96×62 pixels and img1\.png is 96×64"):
        open_footage(path)


@pytest.mark.parametrize("name", ["gone.mp4", "one.png"])
def test_what_is_no_film_is_refused_by_name(tmp_path, name):
    cv2.imwrite(str(tmp_path / "one.png"), moving_frames(1)[0])
    with pytest.raises(MediaError, match=name):
        open_footage(tmp_path / name)


def changed(footage: Footage, path: Path) -> None:
    write_film(path, moving_frames(5))
    list(footage.walk())


def test_a_film_that_changes_while_it_is_read_is_refused(tmp_path):
    path = film(tmp_path, "mp4")
    with pytest.raises(MediaError, match=r"film\.mp4 was changed while it was read: frame 5 is missing"):
        changed(open_footage(path), path)
