"""Real faces and small caches that several test files share; each is made once per run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from mol.data.cache import CacheSettings, CacheWriter
from mol.synth.faces import FaceImage, load_faces
from mol.vision.landmarks import DlibDetector


@cache
def dlib_detector() -> DlibDetector:
    return DlibDetector()


@cache
def astronaut() -> FaceImage:
    return load_faces(["astronaut"], detector=dlib_detector())[0]


def smooth_texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) float32 in 0 … 255 without detail finer than about 6 pixels."""
    import cv2

    texture = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 3)
    return np.clip(128 + 60 * texture / texture.std(), 0, 255)


SMALL = CacheSettings(kind="synthetic", classes=("calm", "glad"), settings={"seed": 0, "noise": 1.5}, frames=3, size=8)


def small_rows(count: int) -> list[dict]:
    return [
        {"dataset": "test", "subject": f"s{i % 2}", "clip": f"c{i}", "start": 0, "interval": 2, "label": i % 2}
        for i in range(count)
    ]


def small_clip(row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, flow and landmarks that fit `SMALL` and differ from row to row."""
    rng = np.random.default_rng(row)
    frames = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    return frames, rng.normal(size=(2, 2, 8, 8)).astype(np.float32), rng.uniform(0, 8, (3, 68, 2)).astype(np.float32)


def write_small_cache(path: Path, count: int = 4) -> Path:
    with CacheWriter(path, SMALL, small_rows(count)) as writer:
        for row in writer.pending():
            writer.write(row, *small_clip(row))
        return writer.finish()


def write_frames_folder(frames: np.ndarray, folder: Path) -> None:
    """Frames (L, H, W) uint8 as ``img001.png, img002.png, …``, as `mol predict FOLDER` reads them."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        assert cv2.imwrite(str(folder / f"img{number:03d}.png"), frame)
