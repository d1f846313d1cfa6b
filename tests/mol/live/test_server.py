"""The live view over its network: who is let in, whose camera is read, what a page is told, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from films import write_film
from live_view import CLASSES, Client, face_frames, frame_bytes, live_view
from places import environment
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from mol.common.errors import SettingsError, StorageError
from mol.common.storage import read_csv
from mol.live.frames import HEADER, MOST_PIXELS
from mol.live.page import SCRIPTS
from mol.live.room import FULL, MOST_VIEWERS
from mol.live.run import Live, LiveConfig
from mol.network.checkpoint import save_checkpoint
from mol.networks.apex_difference import DifferenceCNN
from mol.prediction.tables import frame_columns
from mol.vision.sources import open_footage

STEP = 1 / 14


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with live_view() as live:
        yield live


def get(live: Live, path: str | None = None, **headers: str) -> http.client.HTTPResponse:
    address = urlsplit(live.server.address)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    connection.request("GET", address.path if path is None else path, headers=headers)
    return connection.getresponse()


def start_camera(client: Client) -> None:
    client.hear("hello")
    client.hear("camera", whose="nobody")
    client.say({"kind": "claim"})
    client.hear("camera", whose="here")


def send_face(client: Client, number: int, seconds: float | None = None) -> dict:
    """Send a frame of the face and wait for its reading."""
    frames = face_frames()
    client.say(frame_bytes(frames[number % len(frames)], number, number * STEP if seconds is None else seconds))
    return client.hear("reading", number=number)


# Who is let in.


def test_the_page_and_its_files_come_from_the_address_with_the_token(live: Live):
    page = get(live)
    text = page.read().decode()
    assert page.status == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert "http" not in text.replace("http-equiv", "").replace(live.server.address, "")
    home = urlsplit(live.server.address).path
    for name in (*SCRIPTS, "live.css"):
        assert name in text
        answer = get(live, home + name)
        assert (answer.status, bool(answer.read())) == (200, True)
    assert get(live, home + "run.py").status == 404
    assert get(live, home + "..%2f..%2frun.py").status == 404


def test_an_address_without_its_last_slash_leads_to_the_page(live: Live):
    home = urlsplit(live.server.address).path
    answer = get(live, home.rstrip("/"))
    assert (answer.status, answer.headers["Location"]) == (307, home)


@pytest.mark.parametrize("path", ["/", "/live.js", "/wrong/", "//", "/%ff%fe/"])
def test_a_request_without_the_token_is_told_what_to_do(live: Live, path: str):
    answer = get(live, path)
    text = answer.read().decode()
    assert answer.status == 403
    assert "mol live" in text
    assert "token" in text
    assert urlsplit(live.server.address).path.strip("/") not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_other_names_and_other_pages_are_refused_even_with_the_token(live: Live, headers: dict[str, str]):
    assert get(live, **headers).status == 403


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("ws://127.0.0.1:PORT/TOKEN/socket", "https://evil.example"),
        ("ws://127.0.0.1:PORT/TOKEN/socket", None),
        ("ws://evil.example:PORT/TOKEN/socket", "http://evil.example:PORT"),
        ("ws://127.0.0.1:PORT/socket", "http://127.0.0.1:PORT"),
        ("ws://127.0.0.1:PORT/wrong/socket", "http://127.0.0.1:PORT"),
    ],
)
def test_the_websocket_is_refused_to_other_pages(live: Live, address: str, origin: str | None):
    own = urlsplit(live.server.address)
    for name, value in (("PORT", str(own.port)), ("TOKEN", own.path.strip("/"))):
        address, origin = address.replace(name, value), origin and origin.replace(name, value)
    sock = socket.create_connection((own.hostname, own.port))
    with pytest.raises(InvalidStatus) as refused, connect(address, sock=sock, origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_it_listens_on_this_machine_only(live: Live):
    port = urlsplit(live.server.address).port
    listening = Path("/proc/net/tcp").read_text().splitlines()
    addresses = [line.split()[1] for line in listening if line.split()[1].endswith(f":{port:04X}")]
    assert "0100007F" in {address.partition(":")[0] for address in addresses}
    assert "00000000" not in {address.partition(":")[0] for address in addresses}


def test_a_port_that_is_in_use_is_named(live: Live):
    port = urlsplit(live.server.address).port
    with pytest.raises(SettingsError, match=f"port {port} is in use"), live_view(port=port):
        pass


# A camera.


def test_a_camera_is_read_window_by_window(live: Live):
    with Client(live) as client:
        start_camera(client)
        readings = [send_face(client, number) for number in range(12)]
    windows = [reading for reading in readings if reading["probabilities"]]
    assert [reading["filled"] for reading in readings[:8]] == list(range(1, 9))
    assert len(windows) == 5
    last = windows[-1]
    assert sum(last["probabilities"]) == pytest.approx(1, abs=1e-3)
    assert sum(last["still"]) == pytest.approx(1, abs=1e-3)
    assert last["lasts"] == pytest.approx(7 * STEP, abs=1e-3)
    assert len(last["flow"]["values"]) == 2 * 16 * 16
    square = np.array(last["square"])
    assert (np.ptp(square, axis=0) > 0.3).all()
    assert np.array(last["landmarks"]).shape == (68, 2)
    assert 0 <= last["waited_ms"] <= last["age_ms"]
    # Without a window the detector's own points are shown, which lie on the face.
    assert ((np.array(readings[0]["landmarks"]) > 0) & (np.array(readings[0]["landmarks"]) < 1)).all()


def test_a_picture_without_a_face_is_said_to_have_none(live: Live):
    with Client(live) as client:
        start_camera(client)
        client.say(frame_bytes(np.full((120, 160), 90, np.uint8), 0, 0.0))
        reading = client.hear("reading", number=0)
    assert (reading["faces"], reading["landmarks"], reading["probabilities"]) == (0, None, None)


def test_a_gap_in_time_begins_a_new_window(live: Live):
    with Client(live) as client:
        start_camera(client)
        for number in range(9):
            last = send_face(client, number)
        assert last["filled"] == 8
        assert send_face(client, 9, 9 * STEP + 1.5)["filled"] == 1


def test_frames_that_are_none_are_refused_and_the_next_is_read(live: Live):
    frame = face_frames()[0]
    with Client(live) as client:
        start_camera(client)
        send_face(client, 5)
        for message, words in (
            (b"not a picture", "no header"),
            (HEADER.pack(6, 1.0, 65535, 65535), "at most"),
            (HEADER.pack(6, 1.0, 160, 120) + b"short", "no picture"),
            (frame_bytes(frame, 5, 1.0), "not newer"),
            (frame_bytes(frame, 6, 0.0), "not newer"),
            ("no JSON", "not known"),
            ("[" * 1900, "not known"),
            (json.dumps({"kind": "again"}), "not known"),
            (json.dumps(["claim"]), "not known"),
        ):
            client.say(message)
            assert words in client.hear("refused")["why"]
        assert send_face(client, 6)["faces"] == 1


def test_a_giant_message_ends_its_connection_and_nothing_else(live: Live):
    with Client(live) as giant:
        start_camera(giant)
        giant.say(bytes(HEADER.size + MOST_PIXELS + 2))
        with pytest.raises(ConnectionClosed) as closed:
            giant.hear("refused")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    with Client(live) as client:
        start_camera(client)
        assert send_face(client, 0)["faces"] == 1


def test_two_pages_see_one_camera_and_the_second_can_follow(live: Live):
    with Client(live) as second:
        with Client(live) as first:
            start_camera(first)
            second.hear("camera", whose="elsewhere")
            own = send_face(first, 0)
            seen = second.hear("reading", number=0)
            assert "jpeg" not in own
            assert seen.pop("jpeg").startswith(b"\xff\xd8")
            assert seen == own
            second.say({"kind": "claim"})
            second.hear("camera", whose="elsewhere")
            second.say(frame_bytes(face_frames()[0], 1, 1.0))
            assert "not read" in second.hear("refused")["why"]
        second.hear("camera", whose="nobody")  # the first page was closed, and its camera with it
        second.say({"kind": "claim"})
        second.hear("camera", whose="here")
        assert send_face(second, 0)["filled"] == 1  # nothing of the other camera's window


def test_a_camera_that_stops_is_free_for_others(live: Live):
    with Client(live) as client:
        start_camera(client)
        client.say({"kind": "release"})
        client.hear("camera", whose="nobody")


def test_one_page_too_many_is_told_so(live: Live):
    pages = [Client(live) for _ in range(MOST_VIEWERS)]
    for page in pages:
        page.hear("hello")
    with Client(live) as last, pytest.raises(ConnectionClosed) as closed:
        last.hear("hello")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == FULL
    for page in pages:
        page.close()


# A film.


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thirds of a second, of which every second frame is read."""
    return write_film(tmp_path_factory.mktemp("film") / "face.mp4", np.concatenate([face_frames()] * 2)[:20])


def test_a_film_waits_for_the_network_and_can_be_played_again(film: Path):
    with live_view(video=str(film)) as live, Client(live) as client:
        told = client.hear("hello")
        assert (told["source"], told["film"]["name"]) == ("film", "face.mp4")
        readings = [client.hear("reading", number=number) for number in range(10)]
        assert all(reading["faces"] == 1 and reading["jpeg"] for reading in readings)
        assert [reading["probabilities"] is not None for reading in readings] == [False] * 7 + [True] * 3
        client.hear("ended")
        client.say({"kind": "again"})
        client.hear("playing")
        assert client.hear("reading", number=10)["filled"] == 1
        client.say({"kind": "claim"})
        assert "not known" in client.hear("refused")["why"]


def test_a_film_as_live_keeps_its_own_time(film: Path):
    with live_view(video=str(film), as_live=True) as live, Client(live) as client:
        client.hear("playing")
        start = time.monotonic()
        client.hear("ended")
        assert time.monotonic() - start > 0.55


# Recording.


def test_nothing_is_recorded_unless_it_is_asked_for(live: Live):
    assert live.recorder is None
    with Client(live) as client:
        assert client.hear("hello")["recording"] is None


def test_a_recording_holds_every_frame_that_was_read(tmp_path: Path, film: Path):
    folder = tmp_path / "recorded"
    with live_view(video=str(film), record=str(folder), record_film=True) as live, Client(live) as client:
        assert client.hear("hello")["recording"] == str(folder)
        readings = [client.hear("reading", number=number) for number in range(10)]
        client.hear("ended")
    rows = [row for _, row in read_csv(folder / "frames.csv", [*frame_columns(CLASSES), "latency_ms"], "")]
    assert len(rows) == 10
    assert [row["success"] for row in rows] == ["1"] * 10
    for row, reading in zip(rows, readings, strict=True):
        values = [row[f"p_{name}"] for name in CLASSES]
        assert values == ([""] * 3 if reading["probabilities"] is None else [str(v) for v in reading["probabilities"]])
    assert rows[-1]["flow_chin_x"] != ""
    recorded, original = open_footage(folder / "film.mkv"), open_footage(film)
    assert len(recorded) == 10
    for mine, theirs in zip(recorded.walk(), original.walk(range(0, 20, 2)), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_recording_overwrites_nothing(tmp_path: Path):
    (tmp_path / "frames.csv").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"), live_view(record=str(tmp_path)):
        pass
    assert (tmp_path / "frames.csv").read_text() == "mine"


def test_a_full_disk_ends_the_recording_and_not_the_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with live_view(record=str(tmp_path / "recorded")) as live, Client(live) as client:
        start_camera(client)
        send_face(client, 0)

        def full(*_: object) -> None:
            raise StorageError("could not record: no space left on device.")

        monkeypatch.setattr(live.recorder, "add", full)
        # The news may come before the reading, so nothing waits for that.
        client.say(frame_bytes(face_frames()[1], 1, STEP))
        told = client.hear("recording")
        assert told["folder"] is None
        assert "no space" in told["why"]
        assert send_face(client, 2)["faces"] == 1
        with Client(live) as later:
            assert later.hear("hello")["recording"] is None


# Settings, and the command itself.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"camera": -1}, "camera=-1"),
        ({"port": 70000}, "port=70000"),
        ({"as_live": True}, "--video"),
        ({"record_film": True}, "--record"),
        ({"precision": "64"}, "precision"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, words: str):
    with pytest.raises(SettingsError, match=words):
        LiveConfig("run", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_at_once(tmp_path: Path, number: signal.Signals):
    torch.manual_seed(0)
    state = {"network": "apex-difference", "classes": CLASSES, "mean_shape": None, "step": 5, "normalisation": "clip"}
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last", DifferenceCNN(3), None, state)
    command = [sys.executable, "-m", "mol", "live", "--weights", "run", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        address = next(line.split()[-1] for line in process.stdout if "The live view is at" in line)
        with socket.create_connection(("127.0.0.1", urlsplit(address).port), timeout=5):
            os.kill(process.pid, number)
            output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + number, output
    assert "stopped by" in output
    assert "Traceback" not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
