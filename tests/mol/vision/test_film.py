"""Only media containers are decoded, only the file that is named, and never more than fits into memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from films import moving_frames, write_film

from mol.common import memory
from mol.common.errors import MediaError, NotEnoughMemoryError
from mol.vision.video import read_frames, read_video, video_extent, walk_video


@pytest.mark.parametrize(
    "name",
    [
        "12:30.mp4",
        "subject1:take2.mp4",
        "http:/film.mp4",
        "file:film.mp4",
        "concat:a|b.mp4",
        "pipe:0",
        "50%d.mp4",
        "-.mp4",
    ],
)
def test_a_name_that_looks_like_an_address_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    write_film(tmp_path / "plain.mp4", moving_frames(9)).rename(name)
    assert len(read_video(name)) == 9
    assert len(read_frames(name, [0, 8])) == 2
    assert video_extent(name).frames == 9


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile film.mp4\n"),
        ("list.mp4", "ffconcat version 1.0\nfile film.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfilm.mp4\n#EXT-X-ENDLIST\n"),
        ("talk.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("notes.txt", "these are notes\n" * 100),
        ("art.ans", "\x1b[31m" + "words " * 500),
        ("titles.srt", "1\n00:00:01,000 --> 00:00:02,000\nHello\n"),
    ],
)
def test_playlists_and_texts_are_no_films(tmp_path, name, text):
    write_film(tmp_path / "film.mp4", moving_frames(9))
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match=f"{name} cannot be read as a video: it is no media container"):
        read_video(tmp_path / name)
    with pytest.raises(MediaError, match="no media container"):
        video_extent(tmp_path / name)


def test_a_picture_is_no_film(tmp_path):
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), moving_frames(1)[0])
    with pytest.raises(MediaError, match=r"face\.png is a single picture; give the folder"):
        read_video(path)
    path.rename(tmp_path / "face.mp4")
    with pytest.raises(MediaError, match="no media container"):
        read_video(tmp_path / "face.mp4")


@pytest.mark.parametrize(
    "read", [read_video, video_extent, lambda path: read_frames(path, [0]), lambda path: next(walk_video(path))]
)
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "film.mp4")
    with pytest.raises(MediaError, match=r"film\.mp4 is a pipe; give an ordinary file"):
        read(tmp_path / "film.mp4")
    with pytest.raises(MediaError, match="/dev/zero is a device"):
        read(Path("/dev/zero"))


def test_metadata_in_another_encoding_than_utf_8_do_not_matter(tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        stream = container.add_stream("mpeg4", rate=30)
        stream.metadata["handler_name"] = "Z\N{LATIN SMALL LETTER U WITH DIAERESIS}rich"
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in moving_frames(9):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray").reformat(format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert "caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode() in data
    # Of the same length, and not UTF-8.
    path.write_bytes(
        data.replace("\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), b"\xe9\xff").replace(b"Z\xc3\xbc", b"Z\xfc\xff")
    )
    assert len(read_video(path)) == 9
    assert video_extent(path).frames == 9


def test_a_cover_is_not_the_film(tmp_path):
    path = tmp_path / "covered.mkv"
    cover = cv2.imencode(".png", np.zeros((32, 32), np.uint8))[1].tobytes()
    with av.open(str(path), "w") as container:
        attached = container.add_attachment("cover.png", "image/png", cover)
        assert attached.type == "attachment"
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in moving_frames(9):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray").reformat(format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert read_video(path).frames.shape == (9, 64, 96)


# Memory


def test_frames_that_do_not_fit_are_refused_with_their_need_before_they_are_decoded(tmp_path, monkeypatch):
    path = write_film(tmp_path / "long.mkv", moving_frames(40))
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000)
    for read in (read_video, lambda path: read_frames(path, range(40))):
        with pytest.raises(NotEnoughMemoryError, match=r"the 40 frames of .*long\.mkv need 0 MiB .*shorter"):
            read(path)
    for number in range(1, 41):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), moving_frames(1)[0])
    path.unlink()
    with pytest.raises(NotEnoughMemoryError, match=r"the 40 pictures in .* need .* free some memory"):
        read_video(tmp_path)


def test_a_film_is_held_once(tmp_path):
    """The peak of a process that reads a film is its frames and not twice as much."""
    frames = np.broadcast_to(np.kron(moving_frames(1)[0], np.ones((8, 8), np.uint8)), (300, 512, 768))
    path = write_film(tmp_path / "long.mkv", frames)
    script = (
        "import resource, sys, av, cv2, numpy\n"
        "from mol.vision.video import read_video, walk_video\n"
        "for frame in walk_video(sys.argv[1]): pass\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "frames = read_video(sys.argv[1]).frames\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(len(frames), (after - before) * 1024 / frames.nbytes)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    count, times = done.stdout.split()
    assert int(count) == 300
    assert float(times) < 1.3


def test_a_film_is_walked_through_frame_by_frame(tmp_path):
    path = write_film(tmp_path / "film.mp4", moving_frames())
    np.testing.assert_array_equal(np.stack(list(walk_video(path))), read_video(path).frames)


def test_a_film_of_an_unknown_codec_is_refused_by_name(tmp_path):
    path = write_film(tmp_path / "film.mkv", moving_frames(9))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO", b"V_OTHER/ISO"))
    with pytest.raises(MediaError, match=r"film\.mkv is damaged, or its codec is unknown"):
        read_video(path)
