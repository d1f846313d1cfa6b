"""How far a prediction is from what the network says of the same face when nothing moves.

The classes' probabilities always sum to 1, so a network names a class for any face, even a still one. Still clips are
made from the video itself: one of its frames repeated, with sensor noise of the video's own level. A window whose
probabilities are hardly further from theirs than theirs are from one another says nothing about an expression. The
reverse is not true: a blink or a turn of the head also tells a face from a still one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mol.common.extras import require

STILL_CLIPS = 12
"""Still clips per video."""
NOISE_FACTORS = np.geomspace(0.8, 1.25, STILL_CLIPS)
"""The noise of each still clip relative to the video's, which is only known to about a fifth."""
# With 12 still clips and Gaussian probabilities, noise alone takes about 1 in 1000 windows, at most, beyond this many
# times the largest distance of two still clips.
_MARGIN = 1.5
# Probabilities are written with four digits; smaller differences come from the order of sums.
_EQUAL = 1e-4
_BLOCK = 8


@dataclass(frozen=True)
class Stillness:
    """The network's probabilities of still clips of one face.

    Attributes:
        probabilities: (K, C), K at least 2.
        noise: standard deviation of the video's noise in grey levels.
    """

    probabilities: np.ndarray
    noise: float

    @property
    def mean(self) -> np.ndarray:
        """(C,)."""
        mean: np.ndarray = self.probabilities.mean(axis=0)
        return mean

    @property
    def between(self) -> tuple[float, float]:
        """Smallest and largest distance of two still clips from one another."""
        first, second = np.triu_indices(len(self.probabilities), k=1)
        distances = total_variation(self.probabilities[first], self.probabilities[second])
        return float(distances.min()), float(distances.max())

    @property
    def limit(self) -> float:
        """The largest distance from the mean at which probabilities may still be those of a still face."""
        return _MARGIN * self.between[1] + _EQUAL

    def distance(self, probabilities: np.ndarray) -> np.ndarray:
        """Total variation between probabilities (..., C) and the mean of the still clips: (...) in 0 … 1."""
        return total_variation(probabilities, self.mean)

    def covers(self, probabilities: np.ndarray) -> bool:
        """Whether probabilities (C,) may be those of a still face."""
        return float(self.distance(probabilities)) <= self.limit


def total_variation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Half the sum of the absolute differences of two distributions (..., C): 0 for equal ones, 1 at most."""
    distance: np.ndarray = 0.5 * np.abs(np.asarray(left, np.float64) - right).sum(axis=-1)
    return distance


def still_frames(frame: np.ndarray, count: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """One frame (H, W) uint8 repeated with new sensor noise each time: (count, H, W) uint8."""
    noisy = frame + np.float32(noise) * rng.standard_normal((count, *frame.shape), np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def sensor_noise(frames: np.ndarray) -> float:
    """The standard deviation of the noise in a few frames of one face, in grey levels.

    Differences of neighbouring frames are filtered so that anything smooth drops out (Immerkær, "Fast noise variance
    estimation", 1996); the median over blocks of 8×8 pixels leaves out the parts of the face that move.

    Args:
        frames: (n, H, W) uint8, in the order of time.
    Returns:
        Root mean square over the pairs of frames; 0 if the pictures are smaller than a block.
    """
    cv2 = require("cv2", extra="data")
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rows, columns = (extent // _BLOCK for extent in frames.shape[1:])
    if not rows or not columns:
        return 0.0
    levels = []
    for difference in np.diff(frames.astype(np.float32), axis=0):
        response = np.abs(cv2.filter2D(difference, -1, kernel))[: rows * _BLOCK, : columns * _BLOCK]
        blocks = response.reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))
        levels.append(np.sqrt(np.pi / 2) / 6 * np.median(blocks) / np.sqrt(2))
    return float(np.sqrt(np.mean(np.square(levels))))
