"""What a network says of a video over time: all that remains of a window when its frames and flow are let go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mol.prediction.regions import REGIONS


@dataclass(frozen=True)
class Trace:
    """The windows of one person in a video, in the order of time: about a kilobyte each.

    Attributes:
        classes: C names.
        fps: frames per second of the video; the mean where the rate varies.
        duration: seconds of the video.
        length: frames of the video.
        frames: (n, T) frame numbers of each window.
        seconds: (n, T) their times.
        probabilities: (n, C), before calibration.
        flow: (n, T−1, R, 2) mean flow per region of `mol.prediction.regions`, sampled frame t to t+1, in pixels of the
            128×128 crop; NaN where a region lies outside it, or if the network estimates no flow.
    """

    classes: tuple[str, ...]
    fps: float
    duration: float
    length: int
    frames: np.ndarray
    seconds: np.ndarray
    probabilities: np.ndarray
    flow: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def centres(self) -> np.ndarray:
        """(n,) seconds of the windows' middles."""
        middles: np.ndarray = (self.seconds[:, 0] + self.seconds[:, -1]) / 2
        return middles

    def flow_without_head(self) -> np.ndarray:
        """The flow of the regions relative to that of the nose, so that a head that moves as a whole counts nothing."""
        relative: np.ndarray = self.flow - self.flow[:, :, [REGIONS.index("nose")]]
        return relative
