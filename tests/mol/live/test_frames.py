"""Frames on their way: what is no frame is refused, and only the newest waits."""

from __future__ import annotations

import struct
import threading
import time

import numpy as np
import pytest
from live_view import frame_bytes

from mol.common.errors import ClipError
from mol.live.frames import HEADER, MOST_PIXELS, LiveFrame, NewestFrame, parse_frame

PICTURE = np.arange(48 * 64, dtype=np.uint32).astype(np.uint8).reshape(48, 64)


def frame(number: int, seconds: float = 0.0) -> LiveFrame:
    return LiveFrame(number, seconds, PICTURE, time.monotonic())


def test_a_frame_keeps_its_pixels_number_and_time():
    found = parse_frame(frame_bytes(PICTURE, 7, 1.25))
    assert (found.number, found.seconds) == (7, 1.25)
    assert np.array_equal(found.picture, PICTURE)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "no header"),
        (b"\xff\xd8\xff\xe0 a JPEG, which is no frame here", "at most|no picture"),
        (HEADER.pack(1, 0.0, 64, 48) + bytes(64 * 48 - 1), "no picture"),
        (HEADER.pack(1, 0.0, 65535, 65535), f"{MOST_PIXELS:,}"),
        (HEADER.pack(1, 0.0, 4, 4) + bytes(16), "at least 32"),
        (HEADER.pack(1, float("nan"), 64, 48) + bytes(64 * 48), "no possible time"),
        (HEADER.pack(1, -1.0, 64, 48) + bytes(64 * 48), "no possible time"),
    ],
)
def test_what_is_no_frame_is_refused(message: bytes, words: str):
    with pytest.raises(ClipError, match=words):
        parse_frame(message)


@pytest.mark.parametrize(("number", "seconds"), [(3, 2.0), (2, 2.0), (4, 1.0), (4, 0.5)])
def test_frames_come_in_order(number: int, seconds: float):
    with pytest.raises(ClipError, match="not newer than frame 3"):
        parse_frame(frame_bytes(PICTURE, number, seconds), after=frame(3, 1.0))


def test_the_header_is_as_the_page_writes_it():
    """mol/live/assets/camera.js: uint32 at 0, float64 at 4, uint16 at 12 and 14, little endian, 16 bytes."""
    assert HEADER.size == 16
    assert HEADER.pack(1, 2.0, 3, 4) == struct.pack("<I", 1) + struct.pack("<d", 2.0) + struct.pack("<HH", 3, 4)


def test_a_newer_frame_takes_the_place_of_one_that_waits():
    newest = NewestFrame()
    for number in range(5):
        newest.put(frame(number))
    assert newest.take().number == 4
    assert newest.dropped == 4
    assert newest.take(timeout=0.01) is None


def test_a_film_that_waits_loses_no_frame():
    newest, found = NewestFrame(), []

    def bring() -> None:
        for number in range(20):
            newest.put_patiently(frame(number))

    thread = threading.Thread(target=bring)
    thread.start()
    while len(found) < 20:
        found.append(newest.take(timeout=5).number)
    thread.join()
    assert found == list(range(20))
    assert newest.dropped == 0


def test_nobody_waits_for_a_place_that_is_closed():
    newest = NewestFrame()
    newest.put(frame(0))
    waiting = threading.Thread(target=newest.put_patiently, args=(frame(1),))
    waiting.start()
    newest.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert newest.take() is None


def test_a_film_can_wait_until_its_last_frame_has_been_read():
    newest, events = NewestFrame(), []

    def read() -> None:
        newest.take()
        time.sleep(0.05)
        events.append("read")
        newest.take()

    thread = threading.Thread(target=read)
    thread.start()
    newest.put(frame(0))
    newest.wait_until_read()
    events.append("ended")
    newest.close()
    thread.join(5)
    assert events == ["read", "ended"]
