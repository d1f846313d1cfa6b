"""Reading videos and folders, whole or not at all; sampling of clips."""

import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from films import moving_frames, write_film
from hypothesis import given
from hypothesis import strategies as st

from mol.common.errors import ClipError, MediaError
from mol.vision.video import interpolate_frames, read_frames, read_picture, read_video, sample_starts


def write_pictures(folder: Path, names: list[str], frames: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        cv2.imwrite(str(folder / name), frame)
    return folder


def test_folder_is_sorted_by_number_without_zero_padding(tmp_path):
    frames = moving_frames(12)
    order = [9, 10, 100, 11, 1, 2, 3, 46, 5, 6, 7, 8]
    write_pictures(tmp_path, [f"reg_img{number}.png" for number in order], frames)
    video = read_video(tmp_path)
    assert video.names == [f"reg_img{number}.png" for number in sorted(order)]
    np.testing.assert_array_equal(video.frames, frames[np.argsort(order)])


def test_folder_number_is_the_last_one_of_the_name(tmp_path):
    write_pictures(tmp_path, ["006_05562.png", "006_05561.png"], moving_frames(2))
    assert read_video(tmp_path).names == ["006_05561.png", "006_05562.png"]


def test_folder_takes_the_given_rate_and_ignores_other_files(tmp_path):
    write_pictures(tmp_path, ["img1.png"], moving_frames(1))
    (tmp_path / "Thumbs.db").write_bytes(b"1")
    (tmp_path / "._img1.png").write_bytes(b"left by another system")
    assert (read_video(tmp_path, folder_fps=200).fps, len(read_video(tmp_path))) == (200, 1)


def test_a_folder_without_a_rate_says_which_one_is_assumed(tmp_path):
    write_pictures(tmp_path, ["img1.png", "img2.png"], moving_frames(2))
    video = read_video(tmp_path)
    assert video.fps == 25
    assert video.rate_notes == ("a folder has no frame rate; 25 frames per second are assumed; --fps sets another",)
    assert read_video(tmp_path, folder_fps=25).rate_notes == ()


def test_a_pipe_among_the_pictures_is_refused_by_name(tmp_path):
    write_pictures(tmp_path, ["img1.png"], moving_frames(1))
    os.mkfifo(tmp_path / "img2.png")
    with pytest.raises(MediaError, match=r"img2\.png is a pipe; give an ordinary file"):
        read_video(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "holds no pictures"), (["a1.png", "b1.png"], "same frame number 1"), (["face.png"], "no number in its name")],
)
def test_folder_that_is_no_video_is_refused_by_name(tmp_path, names, message):
    write_pictures(tmp_path, names, moving_frames(len(names)) if names else [])
    with pytest.raises(MediaError, match=message) as caught:
        read_video(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_folder_with_pictures_of_two_sizes_is_refused(tmp_path):
    frame = moving_frames(1)[0]
    write_pictures(tmp_path, ["img1.png", "img2.png"], [frame, frame[:-2]])
    with pytest.raises(MediaError, match=r"img2.png is 96×62 pixels and img1.png is 96×64"):
        read_video(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".pgm", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_truncated_picture_is_refused_by_name(tmp_path, suffix, kept):
    path = tmp_path / f"img7{suffix}"
    write_pictures(tmp_path, [path.name], moving_frames(1))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(MediaError, match="img7"):
        read_video(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a picture at all"])
def test_file_that_is_no_picture_is_refused_by_name(tmp_path, content):
    (tmp_path / "img1.jpg").write_bytes(content)
    with pytest.raises(MediaError, match=r"img1\.jpg"):
        read_video(tmp_path)


def test_colour_picture_is_read_as_grey(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((4, 5, 3), (0, 0, 200), np.uint8))
    picture = read_picture(tmp_path / "red.png")
    assert picture.shape == (4, 5)
    assert abs(int(picture[0, 0]) - 0.299 * 200) <= 1


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_video_file_gives_every_frame_in_order(tmp_path, suffix):
    frames = moving_frames()
    video = read_video(write_film(tmp_path / f"clip{suffix}", frames))
    assert video.frames.shape == frames.shape
    assert video.fps == pytest.approx(30)
    error = np.abs(video.frames[:, None].astype(int) - frames[None]).mean(axis=(2, 3))
    np.testing.assert_array_equal(error.argmin(axis=1), np.arange(len(frames)))
    assert np.diag(error).max() < 5


def test_some_frames_of_a_video_file_are_those_of_the_whole(tmp_path):
    path = write_film(tmp_path / "clip.mp4", moving_frames())
    np.testing.assert_array_equal(read_frames(path, [1, 2, 5]), read_video(path).frames[[1, 2, 5]])
    with pytest.raises(MediaError, match=r"clip\.mp4 ends before frame 500"):
        read_frames(path, [1, 500])


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("kept", [0.02, 0.4, 0.9])
def test_truncated_video_is_refused_by_name(tmp_path, suffix, kept):
    path = write_film(tmp_path / f"clip{suffix}", moving_frames())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(MediaError, match=f"clip{suffix}"):
        read_video(path)


def test_file_that_is_no_video_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("these are notes")
    with pytest.raises(MediaError, match=r"notes\.mp4 cannot be read as a video"):
        read_video(path)


def test_sound_without_pictures_is_refused(tmp_path):
    path = tmp_path / "voice.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="no video stream"):
        read_video(path)


def test_missing_path_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"nothing\.mp4 does not exist"):
        read_video(tmp_path / "nothing.mp4")


@given(length=st.integers(8, 2000), frames=st.integers(1, 8))
def test_sub_clips_lie_inside_the_video_and_share_no_frame(length, frames):
    interval, starts = sample_starts(length, frames)
    taken = [start + interval * step for start in starts for step in range(frames)]
    assert len(set(taken)) == len(taken) == interval * frames
    assert max(taken) < length
    assert len(starts) == interval == length // frames


def test_too_short_video_is_refused_with_the_remedy():
    with pytest.raises(ClipError, match=r"7 frames and a clip needs 8.*interpolate_frames"):
        sample_starts(7)


def test_interpolation_in_time_keeps_the_ends_and_blends_between():
    frames = np.stack([np.full((2, 2), value, np.uint8) for value in (0, 100, 40)])
    longer = interpolate_frames(frames, 9)
    np.testing.assert_array_equal(longer[:, 0, 0], [0, 25, 50, 75, 100, 85, 70, 55, 40])
    with pytest.raises(ClipError, match="at least 2 frames"):
        interpolate_frames(frames[:1], 8)
