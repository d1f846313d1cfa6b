"""What is seen in the newest frame: the face, its window, and how long that took."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from mol.common.errors import FaceError
from mol.data.annotations import LONGEST_EXPRESSION
from mol.live.frames import LiveFrame
from mol.live.sliding import Slid, SlidingWindow
from mol.network.model import FRAMES
from mol.networks.trained import Trained
from mol.prediction.windows import Window
from mol.scoring.calibration import apply_temperature, temperature_of
from mol.vision.landmarks import DlibDetector, Face, LandmarkDetector
from mol.vision.tracking import FaceFollower, continues

APART = LONGEST_EXPRESSION / (FRAMES - 1)
"""Seconds from one of a window's frames to the next: a window lasts as long as the longest micro-expression."""

SOONER = 0.75
"""Part of `APART` after which a frame is taken: cameras have rates of their own."""

DETECT_EVERY = 4
"""The face is looked for in every so many frames, and followed in between."""

_GAP = 3.0  # usual steps without a face, after which a window begins anew
_FIRST_GAP = 1.0  # seconds, while no step is usual yet


@dataclass(frozen=True)
class Reading:
    """What is seen in one frame.

    Attributes:
        frame: the frame.
        faces: how many; of several the largest is read.
        points: (68, 2) landmarks that the detector found, in pixels; None without a face.
        slid: the window that ends with this frame, if there is one.
        probabilities: (C,), calibrated; None without a window.
        still: (C,) of the same face at rest, calibrated; None if not known.
        lasts: seconds from the window's first frame to this one; 0 without a window.
        face_ms, network_ms: time spent on finding the face and on the network.
    """

    frame: LiveFrame
    faces: int
    points: np.ndarray | None
    slid: Slid
    probabilities: np.ndarray | None
    still: np.ndarray | None
    lasts: float
    face_ms: float
    network_ms: float

    @property
    def window(self) -> Window | None:
        """The window that ends with this frame."""
        return self.slid.window

    @property
    def landmarks(self) -> np.ndarray | None:
        """(68, 2) in pixels: the network's in this frame if it estimates them, else the detector's."""
        if self.window is not None and self.window.landmarks is not None:
            return np.asarray(self.window.landmarks[-1])
        return self.points


class Engine:
    """Reads one frame after another; frames that come too soon are to be left out by whoever calls.

    Args:
        trained: the network.
        precision: "32" or "bf16-mixed".
        detector: finds the faces of one frame; by default dlib's, followed.
        detect_width: see `mol.prediction.predict.PredictConfig`.
    """

    def __init__(
        self, trained: Trained, precision: str, detector: LandmarkDetector | None = None, detect_width: int = 320
    ) -> None:
        self._sliding = SlidingWindow(trained.network, trained.model, precision)
        self._given, self._width = detector, detect_width
        self._temperature = temperature_of(trained.state).value
        self.restart()

    def restart(self) -> None:
        """Forget everything: frames of another camera come next."""
        self._find = self._given or FaceFollower(DlibDetector(width=self._width), every=DETECT_EVERY)
        self._forget_face()

    def _forget_face(self) -> None:
        self._sliding.restart()
        self._face: Face | None = None
        self._times: list[float] = []

    def read(self, frame: LiveFrame) -> Reading:
        """See what is in a frame.

        Args:
            frame: newer than the last one.
        Raises:
            ClipError: the network's probabilities are not finite.
        """
        start = time.perf_counter()
        faces = self._find(frame.picture)
        found = time.perf_counter()
        face = max(faces, key=lambda one: one.area, default=None)
        slid, lasts = self._slide(frame, face), 0.0
        if slid.window is not None:
            lasts = self._times[-1] - self._times[0]
        return Reading(
            frame=frame,
            faces=len(faces),
            points=None if face is None else face.points,
            slid=slid,
            probabilities=None if slid.window is None else self._calibrated(slid.window.probabilities),
            still=None if slid.still is None else self._calibrated(slid.still),
            lasts=lasts,
            face_ms=1000 * (found - start),
            network_ms=1000 * (time.perf_counter() - found),
        )

    def _slide(self, frame: LiveFrame, face: Face | None) -> Slid:
        if face is None:
            return Slid(None, None, 0)
        if self._face is not None and (not continues(face, self._face) or self._gap(frame.seconds)):
            self._forget_face()
        self._face = face
        self._times = [*self._times[1 - FRAMES :], frame.seconds]
        try:
            return self._sliding.push(frame.number, frame.picture, face.points)
        except FaceError:  # a face that can't be aligned is none
            self._forget_face()
            return Slid(None, None, 0)

    def _gap(self, seconds: float) -> bool:
        """Whether too much time has passed since the last frame with a face."""
        steps = np.diff(self._times)
        usual = max(APART, float(np.median(steps))) if len(steps) else APART
        return seconds - self._times[-1] > max(_GAP * usual, _FIRST_GAP if len(steps) < 3 else 0)

    def _calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        return apply_temperature(probabilities, self._temperature)

    def warm_up(self, side: int = 240) -> None:
        """Run the network once on what is no face, so that the first frames of a camera do not wait.

        Args:
            side: of the picture.
        """
        rng = np.random.default_rng(0)
        angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
        points = (side / 2 + side / 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
        for number in range(FRAMES + 1):
            self._sliding.push(number, rng.integers(0, 255, (side, side), dtype=np.uint8), points)
        self.restart()
