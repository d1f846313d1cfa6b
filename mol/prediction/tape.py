"""What the overlay shows of each window, kept on disk until the whole video has been read.

The overlay's colours and its strip depend on all windows, so it can only be drawn at the end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mol.common.scratch import Spool
from mol.network.estimates import CROP, FRAMES
from mol.prediction.result import Scene
from mol.prediction.windows import Window

_SAMPLE = 32
_REMEDY = "leave the overlay out (--overlay false)"


class Tape:
    """Records the windows of a person and plays them back frame by frame.

    Of a window's flow only the pairs are kept that some frame shows, and all of a few windows, for the scale.

    Args:
        scene: the person.
        folder: where the working files lie.
    Raises:
        StorageError: the disk is full.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._scene = scene
        self._pair = pairs_shown(scene.samples, scene.nearest)
        count = len(scene.samples)
        wanted = np.zeros((count, FRAMES - 1), bool)
        covered = scene.nearest >= 0
        wanted[scene.nearest[covered], self._pair[covered]] = True
        self._sample = range(0, count, max(1, count // _SAMPLE))
        wanted[self._sample] = True
        self._wanted = wanted
        self._slot = np.full((count, FRAMES - 1), -1)
        points = np.dtype((np.float32, (FRAMES, 68, 2)))
        self._places = Spool(np.dtype([("matrix", np.float64, (2, 3)), ("points", points)]), folder, _REMEDY)
        self._flows = Spool(np.dtype((np.float16, (2, CROP, CROP))), folder, _REMEDY)
        self._estimates_landmarks = False

    def hear(self, number: int, window: Window) -> None:
        """Take in the next window."""
        record = np.zeros(1, self._places.kind)
        record["matrix"] = window.matrix
        self._estimates_landmarks = window.landmarks is not None
        record["points"][0, FRAMES - len(points_of(window)[1]) :] = points_of(window)[1]
        self._places.append(record)
        if window.flow is not None:
            for pair in np.flatnonzero(self._wanted[number]).tolist():
                self._slot[number, pair] = len(self._flows)
                self._flows.append(window.flow[pair])

    def flow_sample(self) -> list[np.ndarray]:
        """The flow of a few windows spread over the video: (T−1, 2, 128, 128) each."""
        return [self._flows.some(int(self._slot[number, 0]), FRAMES - 1) for number in self._sample if len(self._flows)]

    def matrix_and_points(self, number: int, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Picture → crop and the landmarks (68, 2) at a frame of the video; None if no window covers it."""
        which = int(self._scene.nearest[number])
        if which < 0:
            return None
        record = self._places.some(which, 1)[0]
        frames, points = self._scene.samples[which], record["points"]
        if self._estimates_landmarks:
            frames, points = frames[1:], points[1:]
        return record["matrix"], interpolated(frames, points, number, seconds)

    def flow(self, number: int) -> np.ndarray | None:
        """The flow over the pair of sampled frames around a frame: (2, 128, 128) float32; None if there is none."""
        slot = int(self._slot[self._scene.nearest[number], self._pair[number]])
        return None if slot < 0 else self._flows.some(slot, 1)[0].astype(np.float32)

    def close(self) -> None:
        """Give the space back."""
        self._places.close()
        self._flows.close()


def pairs_shown(samples: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Which of a window's pairs of sampled frames each frame lies in.

    Args:
        samples: (n, T) frame numbers of the windows.
        nearest: (L,) number of the window that speaks for each frame, −1 for none.
    Returns:
        (L,) 0 … T−2; 0 where no window speaks.
    """
    numbers = np.arange(len(nearest))
    pairs = (samples[nearest] <= numbers[:, None]).sum(axis=1) - 1
    return np.where(nearest >= 0, pairs.clip(0, samples.shape[1] - 2), 0)


def points_of(window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and landmarks that speak for a window: the network's, or the detector's if it estimates none."""
    return (window.frames, window.detected) if window.landmarks is None else (window.frames[1:], window.landmarks)


def interpolated(frames: np.ndarray, points: np.ndarray, number: int, seconds: np.ndarray) -> np.ndarray:
    """Landmarks at a frame, interpolated in time between those at some frames.

    Args:
        frames: (n,) frame numbers, ascending, n at least 2.
        points: (n, 68, 2).
        number: of the frame; before the first and after the last one, these are taken.
        seconds: (L,) times of the video's frames.
    Returns:
        (68, 2).
    """
    place = np.interp(seconds[number], seconds[frames], np.arange(len(points)))
    earlier = min(int(place), len(points) - 2)
    weight = place - earlier
    between: np.ndarray = points[earlier] * (1 - weight) + points[earlier + 1] * weight
    return between
