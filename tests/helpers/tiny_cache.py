"""A small cache of moving random textures with exact flow and landmarks, for tests that need data but no faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mol.data.cache import Cache, CacheSettings, CacheWriter

CLASSES = ("happiness", "surprise", "disgust")
FRAMES, SIZE = 8, 144


def face_shape() -> np.ndarray:
    """68 points in roughly the places of a face's landmarks, (68, 2): jaw, brows, nose, eyes, mouth."""

    def arc(
        count: int, centre: tuple[float, float], radius: tuple[float, float], start: float, end: float
    ) -> np.ndarray:
        angles = np.deg2rad(np.linspace(start, end, count))
        return np.stack([centre[0] + radius[0] * np.cos(angles), centre[1] + radius[1] * np.sin(angles)], axis=1)

    return np.concatenate(
        [
            arc(17, (72, 66), (40, 50), 180, 0),
            arc(5, (55, 52), (11, 5), 190, 350),
            arc(5, (89, 52), (11, 5), 190, 350),
            np.stack([np.full(4, 72.0), np.linspace(60, 78, 4)], axis=1),
            arc(5, (72, 82), (8, 4), 160, 20),
            arc(6, (56, 62), (7, 4), 180, 480),
            arc(6, (88, 62), (7, 4), 180, 480),
            arc(12, (72, 98), (16, 8), 180, 510),
            arc(8, (72, 98), (10, 3), 180, 495),
        ]
    )


def texture(generator: np.random.Generator, size: int) -> np.ndarray:
    """A smooth random picture (size, size) float in 20..235: a few random waves."""
    y, x = np.mgrid[:size, :size]
    picture = np.zeros((size, size))
    for _ in range(12):
        kx, ky, phase = generator.uniform(-0.25, 0.25), generator.uniform(-0.25, 0.25), generator.uniform(0, 6.3)
        picture += np.sin(kx * x + ky * y + phase)
    return 20 + 215 * (picture - picture.min()) / np.ptp(picture)


def moving_clip(generator: np.random.Generator, shift: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (8, 144, 144) uint8 that move by `shift` = (dx, dy) whole pixels per frame, their flow and landmarks."""
    dx, dy = shift
    margin = FRAMES * max(abs(dx), abs(dy))
    picture = texture(generator, SIZE + 2 * margin)
    frames = np.empty((FRAMES, SIZE, SIZE), np.uint8)
    for t in range(FRAMES):
        top, left = margin - t * dy, margin - t * dx
        frames[t] = picture[top : top + SIZE, left : left + SIZE].round()
    flow = np.broadcast_to(np.array([dx, dy], np.float32)[None, :, None, None], (FRAMES - 1, 2, SIZE, SIZE))
    steps = np.arange(FRAMES)[:, None, None] * np.array([dx, dy])
    points = face_shape() + generator.normal(0, 0.5, (68, 2)) + steps
    return frames, flow.copy(), points.astype(np.float32)


def write_tiny_cache(
    path: Path,
    people: int = 4,
    videos: int = 3,
    windows: int = 1,
    seed: int = 0,
    marked: bool = False,
    units: Sequence[Any] = ([], [], []),
) -> Cache:
    """Write and open a cache of `people` × `videos` × `windows` clips; labels cycle through the classes by video.

    A person's first video has one sub-clip and the others have `windows`, so that counting sub-clips and counting
    videos give different results. If `marked`, rows name their onset and apex, which networks on these two frames
    otherwise search for with TV-L1, a third of a second a clip. `units` are the action units that are annotated for
    each of the three classes.
    """
    rows = [
        {
            "dataset": "tiny",
            "subject": f"s{p + 1}",
            "clip": f"v{v + 1}",
            "start": w,
            "interval": 1,
            "label": (p + v) % len(CLASSES),
            "emotion": CLASSES[(p + v) % len(CLASSES)],
            "action_units": units[(p + v) % len(CLASSES)],
            **({"onset": w, "apex": w + 4} if marked else {}),
        }
        for p in range(people)
        for v in range(videos)
        for w in range(1 if v == 0 else windows)
    ]
    settings = CacheSettings(kind="synthetic", classes=CLASSES, settings={"seed": seed}, versions={})
    shifts = [(1, 0), (0, 1), (-1, 1)]
    with CacheWriter(path, settings, rows) as writer:
        for i in writer.pending():
            generator = np.random.default_rng((seed, i))
            writer.write(i, *moving_clip(generator, shifts[int(rows[i]["label"])]))
        writer.finish()
    return Cache.open(path)
