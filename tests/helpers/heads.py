"""Small films of two real heads: side by side, passing each other, taking each other's seat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from data_fixtures import dlib_detector, smooth_texture

from mol.synth.faces import load_faces

HEIGHT, WIDTH = 240, 520
_FACE = 100  # pixels from the outer end of one jaw to that of the other


@cache
def heads() -> list[tuple[np.ndarray, np.ndarray]]:
    """Two heads: picture (h, w) float32 and opacity (h, w) in 0 … 1, with soft edges, the face in the middle."""
    cut = []
    for face in load_faces(["astronaut", "grace_hopper"], detector=dlib_detector()):
        scale = _FACE / np.ptp(face.points[:17, 0])
        centre = (face.points.min(axis=0) + face.points.max(axis=0)) / 2
        size = (round(1.5 * _FACE), round(1.9 * _FACE))
        matrix = np.float32(
            [[scale, 0, size[0] / 2 - scale * centre[0]], [0, scale, 0.56 * size[1] - scale * centre[1]]]
        )
        shrunk = cv2.GaussianBlur(face.image, (0, 0), max(0.3, 0.4 / scale))
        picture = cv2.warpAffine(shrunk, matrix, size, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        rows, columns = np.indices(picture.shape)
        radius = np.hypot((columns - size[0] / 2) / (0.47 * size[0]), (rows - size[1] / 2) / (0.48 * size[1]))
        cut.append((picture, np.clip((1 - radius) * 8, 0, 1).astype(np.float32)))
    return cut


def film_of(places: Sequence[Sequence[tuple[float, float] | None]], noise: float = 1.5, seed: int = 0) -> np.ndarray:
    """(L, 240, 520) uint8.

    Args:
        places: for each frame the centres (x, y) of both heads, the hindmost first; None where a head is away.
        noise: of the camera, in grey levels.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    ground = 0.3 * smooth_texture(rng, HEIGHT, WIDTH) + 90
    frames = []
    for centres in places:
        frame = ground.astype(np.float32)
        for (picture, opacity), centre in zip(heads(), centres, strict=True):
            if centre is not None:
                height, width = picture.shape
                matrix = np.float32([[1, 0, centre[0] - width / 2], [0, 1, centre[1] - height / 2]])
                drawn, cover = (cv2.warpAffine(part, matrix, (WIDTH, HEIGHT)) for part in (picture, opacity))
                frame = frame * (1 - cover) + drawn * cover
        frames.append(np.clip(np.rint(frame + noise * rng.standard_normal(frame.shape)), 0, 255).astype(np.uint8))
    return np.stack(frames)


def passing(count: int = 44) -> list[list[tuple[float, float]]]:
    """The first head goes to the left, behind the second, which goes to the right."""
    ways = np.linspace(0, 1, count)
    return [[(420 - 320 * way, 120.0), (100 + 320 * way, 122.0)] for way in ways]
