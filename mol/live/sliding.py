"""The window of the newest T frames, moved on by one frame at a time at the cost of one.

What belongs to a frame or a pair is computed once, under one alignment (`mol.prediction.alignment`). While a window
fills, its first frame stands for those that are missing, so that no frame is left for later. A face that moves needs
another alignment: a second stream begins with the newest frame and takes over when it has a whole window, and until
then the first one goes on. So a step costs two frames at most, and none is late.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from mol.network.model import FRAMES
from mol.networks.interface import Network, WindowStream
from mol.prediction.alignment import TOLERANCE, distance_from, run_stream
from mol.prediction.windows import ALIGN, Aligned, Window, align_window, run_network
from mol.vision.align import alignment_matrix, warp_picture

FURTHEST = 8.0
"""Pixels of the crop by which a window may lie elsewhere than under its own alignment: as far as training moves it."""

_DARKER = 0.15  # of the standard deviation of the grey levels, by which their mean or itself may change
_RECENT = 3  # frames whose median landmarks say where the face is now: the detector jitters


@dataclass(frozen=True)
class _Seen:
    """A frame and where the face is in it."""

    number: int
    picture: np.ndarray
    points: np.ndarray


@dataclass
class _Held:
    """One alignment, and what has been computed under it.

    Attributes:
        matrix: (2, 3) picture → aligned frame.
        stream: of the network.
        first: number of its first frame.
        crops: number → (S, S) uint8.
        grey: mean and standard deviation of the grey levels that the stream was begun with, and now.
        still: (C,) probabilities of its first frame repeated: what the network says of this face at rest.
        count: frames that it has read.
    """

    matrix: np.ndarray
    stream: WindowStream
    first: int
    grey: tuple[np.ndarray, np.ndarray]
    crops: dict[int, np.ndarray] = field(default_factory=dict)
    still: np.ndarray | None = None
    count: int = 0

    def unlike(self, points: np.ndarray) -> float:
        """How far the face and its light are from what the stream was begun with; from 1 on another one is better."""
        then, now = self.grey
        return max(distance_from(self.matrix, points) / TOLERANCE, float(np.abs(now - then).max() / then[1]) / _DARKER)


@dataclass(frozen=True)
class Slid:
    """What a step gave.

    Attributes:
        window: of the newest T frames; None while it fills, or if the face has just moved far.
        still: (C,) uncalibrated probabilities of the same face at rest; None if they are not known.
        filled: frames that the window has, T at most.
    """

    window: Window | None
    still: np.ndarray | None
    filled: int


class SlidingWindow:
    """Reads the newest T frames of one face.

    Args:
        network: what kind of network `model` is; one without `Network.window_stream` runs on whole windows.
        model: in evaluation mode.
        precision: "32" or "bf16-mixed".
    """

    def __init__(self, network: Network, model: nn.Module, precision: str) -> None:
        self._network, self._model, self._precision = network, model, precision
        self._device = next(model.parameters()).device
        self._seen: deque[_Seen] = deque(maxlen=FRAMES)
        self._held: list[_Held] = []
        self._still: np.ndarray | None = None
        self._streams: bool | None = None

    def restart(self) -> None:
        """Begin a new window with the next frame."""
        self._seen.clear()
        self._held, self._still = [], None

    def push(self, number: int, picture: np.ndarray, points: np.ndarray) -> Slid:
        """Take the next frame in.

        Args:
            number: larger than the last one.
            picture: (H, W) uint8.
            points: (68, 2) landmarks in pixels of the picture.
        Raises:
            FaceError: landmarks that cannot be aligned.
            ClipError: the network's probabilities are not finite.
        """
        self._seen.append(_Seen(number, picture, points))
        if self._streams is False:
            return self._whole()
        here = np.median([seen.points for seen in list(self._seen)[-_RECENT:]], axis=0)
        self._realign(here)
        if not self._held:
            return self._whole()
        windows = [self._step(held) for held in self._held]
        if len(self._held) == 2 and self._held[1].count >= FRAMES:
            del self._held[0], windows[0]
        held = self._held[0]
        return Slid(windows[0] if held.count >= FRAMES else None, held.still, min(held.count, len(self._seen)))

    def _realign(self, here: np.ndarray) -> None:
        """Begin, change or drop streams by where the face is now."""
        if self._held:
            whole = np.median([seen.points for seen in self._seen], axis=0)
            if distance_from(self._held[0].matrix, whole) > FURTHEST:
                del self._held[0]
        unlike = [held.unlike(here) for held in self._held]
        if len(unlike) == 2 and unlike[0] < 0.5:
            self._held.pop()  # it has come back
        elif len(unlike) == 2 and distance_from(self._held[1].matrix, here) > FURTHEST:
            self._held[1:] = self._hold(here)
        elif not unlike or (len(unlike) == 1 and unlike[0] > 1):
            self._held += self._hold(here)

    def _hold(self, points: np.ndarray) -> list[_Held]:
        """A stream that begins with the newest frame; none if the network has none."""
        matrix = alignment_matrix(points, ALIGN)
        newest = self._seen[-1]
        crops = warp_picture(newest.picture, matrix, ALIGN.size)[None]
        stream = self._network.window_stream(self._model, crops, self._device)
        self._streams = stream is not None
        return [] if stream is None else [_Held(matrix, stream, newest.number, (_grey(crops), _grey(crops)))]

    def _step(self, held: _Held) -> Window:
        """Read the newest frame under an alignment."""
        mine = [seen for seen in self._seen if seen.number >= held.first]
        newest = mine[-1]
        held.crops = {seen.number: held.crops[seen.number] for seen in mine[:-1]}
        held.crops[newest.number] = warp_picture(newest.picture, held.matrix, ALIGN.size)
        held.grey = (held.grey[0], _grey(held.crops[newest.number]))
        row = [mine[0]] * (FRAMES - len(mine)) + mine
        aligned = Aligned(
            np.array([seen.number for seen in row]),
            np.stack([held.crops[seen.number] for seen in row]),
            held.matrix,
            np.stack([seen.points for seen in row]),
        )
        (window,) = run_stream(held.stream, [aligned], self._device, self._precision)
        held.count += 1
        if held.count == 1:
            held.still = window.probabilities
        return window

    def _whole(self) -> Slid:
        """Read the whole window under its own alignment."""
        if len(self._seen) < FRAMES:
            return Slid(None, None, len(self._seen))
        seen = list(self._seen)
        aligned = align_window(
            np.array([one.number for one in seen]),
            [one.picture for one in seen],
            np.stack([one.points for one in seen]),
        )
        if self._still is None:
            rest = Aligned(
                aligned.frames, np.repeat(aligned.crops[:1], FRAMES, axis=0), aligned.matrix, aligned.detected
            )
            (still,) = run_network(self._network, self._model, [rest], self._precision)
            self._still = still.probabilities
        (window,) = run_network(self._network, self._model, [aligned], self._precision)
        return Slid(window, self._still, FRAMES)


def _grey(crops: np.ndarray) -> np.ndarray:
    """Mean and standard deviation, never 0, of grey levels."""
    return np.array([crops.mean(), max(float(crops.std()), 1.0)])
