"""Only media containers are decoded, only the file that is named, and never more than fits into memory."""

from __future__ import annotations

import os
import struct
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


MPD = """<?xml version='1.0'?>
<MPD type='static' mediaPresentationDuration='PT1S'><Period><AdaptationSet mimeType='video/mp4'>
<Representation id='1' bandwidth='1'><BaseURL>film.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"""


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
        ("list.mpd", MPD),
        ("list.avi", MPD),
        ("reel.xml", "<CompositionPlaylist xmlns='http://www.smpte-ra.org/schemas/2067-3/2016'></CompositionPlaylist>"),
        ("list.asx", "<asx version='3.0'><entry><ref href='film.mp4'/></entry></asx>"),
        ("titles.idx", "# VobSub index file, v7 (do not modify this line!)\ntimestamp: 00:00:00:000, filepos: 00\n"),
        ("graph.lavfi", "movie=film.mp4"),
        *((f"list.{suffix}", "ffconcat version 1.0\nfile film.mp4\n") for suffix in ("y4m", "ivf", "nut", "ts")),
    ],
)
def test_playlists_and_texts_are_no_films(tmp_path, name, text):
    write_film(tmp_path / "film.mp4", moving_frames(9))
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match=f"{name} cannot be read as a video: it is no media container"):
        read_video(tmp_path / name)
    with pytest.raises(MediaError, match="no media container"):
        video_extent(tmp_path / name)


@pytest.mark.parametrize("suffix", ["h264", "hevc", "mjpeg", "m4v", "obu", "m2v"])
def test_a_playlist_with_the_name_of_a_bare_stream_shows_nothing(tmp_path, suffix):
    write_film(tmp_path / "film.mp4", moving_frames(9))
    path = tmp_path / f"list.{suffix}"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfilm.mp4\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match=path.name):
        read_video(path)


def test_a_pattern_is_the_name_of_one_file(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), moving_frames(3)[number])
    with pytest.raises(MediaError, match="does not exist"):
        read_video(tmp_path / "img%d.png")
    (tmp_path / "img%d.mp4").write_text("img%d.png")
    with pytest.raises(MediaError, match="no media container"):
        read_video(tmp_path / "img%d.mp4")


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of a QuickTime file."""
    return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)


def referring(data: bytes, kinds: tuple[bytes, ...], reference: bytes) -> bytes:
    """The boxes of a QuickTime file with another data reference, down a path of boxes."""
    boxes, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        inner = data[at + 8 : at + size]
        if kind in kinds:
            inner = reference if kind == b"dref" else referring(inner, kinds, reference)
        boxes.append(box(kind, inner))
        at += size
    return b"".join(boxes)


def test_a_quicktime_film_whose_pictures_lie_in_another_file_is_not_followed(tmp_path):
    data = write_film(tmp_path / "film.mov", moving_frames(9)).read_bytes()
    path = struct.pack(">hH", 2, 8) + b"film.mov"
    name = bytes(10) + b"\x03vol" + bytes(24) + bytes(12) + b"\x08film.mov" + bytes(55) + bytes(16)
    alias = name + struct.pack(">HH", 1, 1) + bytes(16) + path + struct.pack(">hH", -1, 0)
    dref = struct.pack(">II", 0, 1) + box(b"alis", bytes(4), alias)
    kinds = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    (tmp_path / "reference.mov").write_bytes(referring(data, kinds, dref))
    with av.open(str(tmp_path / "reference.mov"), options={"enable_drefs": "1"}) as container:
        assert len(list(container.decode(video=0))) == 9  # FFmpeg follows it where it may
    with pytest.raises(MediaError, match=r"reference\.mov is truncated: it announces 9 frames and ends after 0"):
        read_video(tmp_path / "reference.mov")


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mpeg2video"])
def test_a_damaged_frame_is_refused_and_never_painted_over(tmp_path, codec):
    path = write_film(tmp_path / "film.mkv", moving_frames(9), codec=codec)
    data, place = bytearray(path.read_bytes()), packet_places(path)[4]
    data[place : place + 60] = bytes(60)
    path.write_bytes(data)
    for read in (read_video, lambda path: read_frames(path, [8]), lambda path: list(walk_video(path))):
        with pytest.raises(MediaError, match=r"film\.mkv.*(damaged|cannot be read)"):
            read(path)


def packet_places(path: Path) -> list[int]:
    """Where the middle of each packet lies in a film."""
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return [data.index(packet) + len(packet) // 2 for packet in packets]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
        ("libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
        ("mpeg2video", {"bf": "2"}),
    ],
)
def test_a_film_cut_out_of_another_without_its_first_references_is_whole(tmp_path, codec, options):
    path = tmp_path / "cut.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 48, 64, "yuv420p", 12
        frames = [av.VideoFrame.from_ndarray(frame, format="gray") for frame in moving_frames(48)[:, :48, :64].copy()]
        packets = [packet for frame in (*frames, None) for packet in stream.encode(frame)]
        first = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[first:]:
            container.mux(packet)
    assert len(read_video(path)) >= 20


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
