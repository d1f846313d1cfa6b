"""What the server tells the pages, as JSON: numbers rounded to what can be seen."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from mol.common.extras import require
from mol.data.clips import CROP
from mol.live.engine import Reading
from mol.network.model import FRAMES
from mol.prediction.windows import Window, inverse
from mol.viewer.looks import coarse_flow
from mol.vision.align import transform_points

_SQUARE = np.array([[0, 0], [CROP, 0], [CROP, CROP], [0, CROP]]) - 0.5
_JPEG_QUALITY = 85
LENGTH = struct.Struct("<I")
"""What stands before the JSON of a message that also holds a picture: its length in bytes."""


def reading_message(reading: Reading, facts: dict[str, Any]) -> dict[str, Any]:
    """A reading: places in fractions of the picture, flow in pixels of the square.

    Args:
        reading: of a frame.
        facts: more entries, such as times.
    """
    height, width = reading.frame.picture.shape
    size = np.array([width, height])
    window = reading.window
    return {
        "kind": "reading",
        "number": reading.frame.number,
        "seconds": round(reading.frame.seconds, 4),
        "size": [width, height],
        "faces": reading.faces,
        "filled": reading.slid.filled,
        "of": FRAMES,
        "landmarks": _places(reading.landmarks, size),
        "square": None if window is None else _places(transform_points(inverse(window.matrix), _SQUARE), size),
        "flow": None if window is None or window.flow is None else _coarse(window),
        "probabilities": _rounded(reading.probabilities, 4),
        "still": _rounded(reading.still, 4),
        "lasts": round(reading.lasts, 3),
        "face_ms": round(reading.face_ms, 1),
        "network_ms": round(reading.network_ms, 1),
        **facts,
    }


def _places(points: np.ndarray | None, size: np.ndarray) -> list[list[float]] | None:
    """Points in pixels, whose centres are at integers, as fractions of the picture."""
    return None if points is None else _rounded((points + 0.5) / size, 5)


def _coarse(window: Window) -> dict[str, Any]:
    """The flow from the last frame but one to the newest."""
    assert window.flow is not None
    cells = coarse_flow(window.flow[-1], window.matrix)
    return {"step": 0.01, "values": np.rint(cells.ravel() / 0.01).astype(int).tolist()}


def _rounded(values: np.ndarray | None, digits: int) -> Any:
    return None if values is None else np.round(values.astype(np.float64), digits).tolist()


def with_picture(message: dict[str, Any], picture: np.ndarray) -> bytes:
    """A message and the frame that it is about, as a JPEG."""
    cv2 = require("cv2", extra="data")
    text = json.dumps(message).encode()
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return LENGTH.pack(len(text)) + text + encoded.tobytes()
