"""A live view with a network that is quick, a face to look at, and clients of its WebSocket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from data_fixtures import astronaut
from tiny_model import TinyMOL
from websockets.sync.client import ClientConnection, connect

from mol.live.frames import HEADER
from mol.live.run import Live, LiveConfig
from mol.networks.mol import NETWORK
from mol.networks.trained import Trained
from mol.prediction.windows import ALIGN, MARGIN
from mol.vision.align import alignment_matrix, transform_points

CLASSES = ["happiness", "surprise", "others"]
HEIGHT, WIDTH = 120, 160


@cache
def face_frames(count: int = 12) -> np.ndarray:
    """(count, 120, 160) uint8: a real face that moves to and fro by fractions of a pixel."""
    face = astronaut()
    low, high = face.points.min(axis=0), face.points.max(axis=0)
    scale = 70 / (high - low).max()
    middle = (low + high) / 2
    frames = []
    for number in range(count):
        move = np.array([WIDTH, HEIGHT]) / 2 - scale * middle + 0.4 * np.sin(2 * np.pi * number / count)
        matrix = np.array([[scale, 0, move[0]], [0, scale, move[1]]])
        frames.append(cv2.warpAffine(face.image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA))
    return np.stack(frames)


def tiny_network() -> Trained:
    """A network that takes milliseconds: random, but for its landmarks, which are about those of `face_frames`."""
    torch.manual_seed(0)
    model = TinyMOL(len(CLASSES)).eval()
    points = astronaut().points
    shape = transform_points(alignment_matrix(points, ALIGN), points) - MARGIN
    with torch.no_grad():
        model.landmarks.bias.copy_(torch.from_numpy(np.tile(shape, (7, 1))).flatten())
    return Trained(model, CLASSES, {"step": 5, "normalisation": "clip"}, NETWORK)


@contextmanager
def live_view(**settings: Any) -> Iterator[Live]:
    """A live view that runs."""
    with ExitStack() as closing:
        live = Live(LiveConfig("run", **settings), tiny_network(), "32", closing)
        live.start(closing)
        failed: list[BaseException] = []
        ended = threading.Event()

        def watch() -> None:
            try:
                live.watch()
            except BaseException as error:
                if not ended.is_set():
                    failed.append(error)

        threading.Thread(target=watch, daemon=True).start()
        yield live
        ended.set()
        assert not failed, failed


def origin_of(live: Live) -> str:
    """The origin of the page."""
    return live.server.address.rpartition("/")[0].rpartition("/")[0]


class Client:
    """A page, but for what it shows."""

    def __init__(self, live: Live) -> None:
        address = live.server.address.replace("http", "ws") + "socket"
        self._closing = ExitStack()
        opening: Any = connect(address, origin=origin_of(live), max_size=None)  # type: ignore[arg-type]
        self.connection: ClientConnection = self._closing.enter_context(opening)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the page."""
        self._closing.close()

    def say(self, message: dict[str, Any] | str | bytes) -> None:
        self.connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def hear(self, kind: str, **values: Any) -> dict[str, Any]:
        """The next message of a kind with these values; its picture is under "jpeg"."""
        while True:
            message = self.connection.recv(timeout=10)
            if isinstance(message, str):
                found = json.loads(message)
            else:
                length = int.from_bytes(message[:4], "little")
                found = {**json.loads(message[4 : 4 + length]), "jpeg": message[4 + length :]}
            if found["kind"] == kind and all(found.get(name) == value for name, value in values.items()):
                return found


def frame_bytes(picture: np.ndarray, number: int, seconds: float) -> bytes:
    """A frame as the page sends it."""
    height, width = picture.shape
    return HEADER.pack(number, seconds, width, height) + picture.tobytes()


def write_camera_file(path: Path, frames: np.ndarray, fps: int = 30) -> Path:
    """A film that Chromium takes for a camera: YUV4MPEG2."""
    height, width = frames.shape[1:]
    colours = bytes([128]) * (width * height // 2)
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + frame.tobytes() + colours)
    return path
