"""Which alignment the windows of a face share, and the network on windows that share one.

By default every window is aligned by its own landmarks and normalised by its own grey values. Then neighbouring windows
have no picture in common, and everything is computed anew for each. Under a shared alignment the matrix and the grey
statistics of one window, the anchor, hold until a window's own matrix would move the face by more than a little; so
what belongs to a frame or a pair is computed once, for networks that can (`Network.window_stream`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mol.export.onnx_model import OnnxModel, OnnxNetwork
from mol.prediction.people import Person
from mol.prediction.windows import ALIGN, Aligned, Window, align_window, run_network, windows_of
from mol.vision.align import alignment_anchors, alignment_matrix, warp_picture

if TYPE_CHECKING:  # an exported network runs without PyTorch
    import torch

    from mol.networks.interface import WindowStream
    from mol.prediction.windows import AnyModel, AnyNetwork

ALIGNMENTS = ("window", "shared")
TOLERANCE = 2.0
"""Pixels of the crop by which the eyes, the nose or the mouth may lie elsewhere than under the window's own alignment.

Training moves the crop by up to 8 pixels, and the detector's own jitter is about one.
"""


def anchors_of(samples: np.ndarray, person: Person, alignment: str) -> np.ndarray:
    """The window whose alignment each window takes.

    Args:
        samples: (n, T) frame numbers of the windows.
        person: whose face it is.
        alignment: "window" or "shared".
    Returns:
        (n,) numbers of windows, never falling; each is its own anchor at "window".
    """
    if alignment == "window":
        return np.arange(len(samples))
    anchors = np.zeros(len(samples), int)
    anchor, held = -1, np.empty(0)
    for number, sample in enumerate(samples):
        points = np.median(person.at(sample), axis=0)
        if anchor < 0 or distance_from(held, points) > TOLERANCE:
            anchor, held = number, alignment_matrix(points, ALIGN)
        anchors[number] = anchor
    return anchors


def distance_from(held: np.ndarray, points: np.ndarray) -> float:
    """How far an alignment puts a face from where its own would, in pixels of the crop.

    Args:
        held: (2, 3) picture → aligned frame.
        points: (68, 2) landmarks in pixels of the picture.
    """
    places = alignment_anchors(points)
    between = alignment_matrix(points, ALIGN) - held
    return float(np.linalg.norm(places @ between[:, :2].T + between[:, 2], axis=1).max())


Read = tuple[int, Window]
"""Whose window was read, and the window."""


class WindowReader:
    """Reads windows that are each aligned by itself, those of all people together in batches.

    Args:
        network: what kind of network `model` is.
        model: in evaluation mode.
        batch_size: windows at once.
        precision: "32" or "bf16-mixed".
    """

    def __init__(self, network: AnyNetwork, model: AnyModel, batch_size: int, precision: str) -> None:
        self._network, self._model, self._precision = network, model, precision
        self._batch_size = batch_size
        self._batch: list[tuple[int, Aligned]] = []

    def take(self, whose: int, frames: np.ndarray, pictures: Sequence[np.ndarray], detected: np.ndarray) -> list[Read]:
        """Take the next window of a person, and give what has been read; each person's windows stay in order.

        Args:
            whose: the person's place.
            frames: (T,) frame numbers.
            pictures: T of (H, W) uint8.
            detected: (T, 68, 2) landmarks in pixels of the pictures.
        """
        self._batch.append((whose, align_window(frames, pictures, detected)))
        return self.finish() if len(self._batch) == self._batch_size else []

    def finish(self) -> list[Read]:
        """Read what has been taken."""
        if not self._batch:
            return []
        whose, batch = zip(*self._batch, strict=True)
        self._batch = []
        return list(zip(whose, run_network(self._network, self._model, batch, self._precision), strict=True))


class SharedReader:
    """Reads windows of one person that take the alignment of their anchor.

    Args:
        network: what kind of network `model` is; one without `Network.window_stream` runs on whole windows.
        model: in evaluation mode.
        whose: the person's place.
        anchors: (n,) the windows' anchors, see `anchors_of`.
        batch_size: windows at once.
        precision: "32" or "bf16-mixed".
    """

    def __init__(
        self,
        network: AnyNetwork,
        model: AnyModel,
        whose: int,
        anchors: np.ndarray,
        batch_size: int,
        precision: str,
    ) -> None:
        self._network, self._model, self._precision = network, model, precision
        self._whose, self._anchors, self._batch_size = whose, anchors, batch_size
        self._count, self._anchor = 0, -1
        self._matrix = np.empty(0)
        self._crops: dict[int, np.ndarray] = {}
        self._stream: WindowStream | None = None
        self._batch: list[Aligned] = []

    def take(self, frames: np.ndarray, pictures: Sequence[np.ndarray], detected: np.ndarray) -> list[Read]:
        """Take the person's next window, and give what has been read; see `WindowReader.take`."""
        anchor, ready = int(self._anchors[self._count]), list[Read]()
        self._count += 1
        numbers = frames.tolist()
        if anchor != self._anchor:
            ready = self.finish()
            self._anchor, self._crops = anchor, {}
            self._matrix = alignment_matrix(np.median(detected, axis=0), ALIGN)
        self._crops = {number: crop for number, crop in self._crops.items() if number >= numbers[0]}
        for number, picture in zip(numbers, pictures, strict=True):
            if number not in self._crops:
                self._crops[number] = warp_picture(picture, self._matrix, ALIGN.size)
        window = Aligned(frames, np.stack([self._crops[number] for number in numbers]), self._matrix, detected)
        if anchor == self._count - 1:
            self._stream = _stream_of(self._network, self._model, window.crops)
        self._batch.append(window)
        return ready + (self.finish() if len(self._batch) == self._batch_size else [])

    def finish(self) -> list[Read]:
        """Read what has been taken."""
        batch, self._batch = self._batch, []
        if not batch:
            return []
        if self._stream is None:
            windows = run_network(self._network, self._model, batch, self._precision)
        else:
            windows = run_stream(self._stream, batch, _device_of(self._model), self._precision)
        return [(self._whose, window) for window in windows]


def _stream_of(network: AnyNetwork, model: AnyModel, anchor: np.ndarray) -> WindowStream | None:
    """What reads windows under the anchor's alignment; None if the network reads whole windows only."""
    if isinstance(model, OnnxModel) or isinstance(network, OnnxNetwork):
        return None
    return network.window_stream(model, anchor, _device_of(model))


def _device_of(model: AnyModel) -> torch.device:
    import torch

    return torch.device("cpu") if isinstance(model, OnnxModel) else next(model.parameters()).device


def run_stream(stream: WindowStream, batch: Sequence[Aligned], device: torch.device, precision: str) -> list[Window]:
    """Read some windows by a stream.

    Args:
        stream: that has the anchor of the windows.
        batch: at least one window, in order.
        device: where the network is.
        precision: "32" or "bf16-mixed".
    Raises:
        ClipError: the network's probabilities are not finite.
    """
    import torch

    crops = {number: window.crops[place] for window in batch for place, number in enumerate(window.frames.tolist())}
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        output = stream.read(np.stack([window.frames for window in batch]), crops)
    return windows_of(output, batch)


def read_still(
    network: AnyNetwork,
    model: AnyModel,
    frames: np.ndarray,
    pictures: Sequence[np.ndarray],
    detected: np.ndarray,
    anchor: Aligned | None,
    precision: str,
) -> list[Window]:
    """Read a still clip as a window would be read.

    Args:
        network, model, precision: as for `WindowReader`.
        frames: (T,) numbers to call them by.
        pictures: T of (H, W) uint8.
        detected: (T, 68, 2) landmarks in pixels of the pictures.
        anchor: the window whose alignment is taken; None for that of the landmarks.
    """
    if anchor is None:
        return run_network(network, model, [align_window(frames, pictures, detected)], precision)
    crops = np.stack([warp_picture(picture, anchor.matrix, ALIGN.size) for picture in pictures])
    clip = Aligned(frames, crops, anchor.matrix, detected)
    stream = _stream_of(network, model, anchor.crops)
    if stream is None:
        return run_network(network, model, [clip], precision)
    return run_stream(stream, [clip], _device_of(model), precision)
