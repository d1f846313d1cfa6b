"""A window of T frames: align the face, run the network, map its output back to the picture.

A window is aligned by one similarity transform, that of the median landmarks over its own frames: within a window the
detector's jitter cannot become motion, and from window to window the face may move through the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mol.data.clips import CROP
from mol.networks.interface import Network, Output
from mol.scoring.metrics import require_probabilities
from mol.vision.align import AlignSettings, alignment_matrix, transform_points, warp_picture

ALIGN = AlignSettings()
"""How a face is aligned for the network, as in `mol extract`."""
MARGIN = (ALIGN.size - CROP) // 2
"""Pixels of the aligned frame around the crop that the network sees."""


@dataclass(frozen=True)
class Window:
    """The network's output for T frames.

    Attributes:
        frames: (T,) frame numbers.
        matrix: (2, 3) float64, picture → crop: pixels of the video to those of the 128×128 square that is seen.
        probabilities: (C,) float32.
        flow: (T-1, 2, 128, 128) float16, (dx, dy) in pixels of the crop, sampled frame t to t+1; None if the network
            estimates none.
        landmarks: (T-1, 68, 2) float32, (x, y) in pixels of the video, of sampled frames 2..T; None if the network
            estimates none.
        detected: (T, 68, 2) float32, the detector's points, in pixels of the video.
        action_units: (A,) float32, probabilities of the action units that the network tells; None if it tells none.
    """

    frames: np.ndarray
    matrix: np.ndarray
    probabilities: np.ndarray
    flow: np.ndarray | None
    landmarks: np.ndarray | None
    detected: np.ndarray
    action_units: np.ndarray | None = None

    @property
    def start(self) -> int:
        return int(self.frames[0])

    @property
    def end(self) -> int:
        return int(self.frames[-1])

    def picture_flow(self) -> np.ndarray | None:
        """The flow vectors in pixels of the video, on the grid of the crop: (T-1, 2, 128, 128) float32."""
        if self.flow is None:
            return None
        back = np.linalg.inv(self.matrix[:, :2]).astype(np.float32)
        return np.einsum("ij,tjyx->tiyx", back, self.flow.astype(np.float32))


@dataclass(frozen=True)
class Aligned:
    """T frames of a face as the network gets them, and where they are from.

    Attributes:
        frames: (T,) frame numbers.
        crops: (T, 144, 144) uint8.
        matrix: (2, 3) float64, picture → aligned frame.
        detected: (T, 68, 2) float32, the detector's points, in pixels of the video.
    """

    frames: np.ndarray
    crops: np.ndarray
    matrix: np.ndarray
    detected: np.ndarray


def align_window(frames: np.ndarray, pictures: Sequence[np.ndarray], detected: np.ndarray) -> Aligned:
    """Align a window by its own median landmarks.

    Args:
        frames: (T,) frame numbers.
        pictures: T of (H, W) uint8.
        detected: (T, 68, 2) landmarks in pixels of the pictures.
    Raises:
        FaceError: landmarks that are not finite, or degenerate.
    """
    matrix = alignment_matrix(np.median(detected, axis=0), ALIGN)
    crops = np.stack([warp_picture(picture, matrix, ALIGN.size) for picture in pictures])
    return Aligned(frames, crops, matrix, detected)


def run_network(network: Network, model: nn.Module, batch: Sequence[Aligned], precision: str) -> list[Window]:
    """Run the network on some windows at once.

    Args:
        network: what kind of network `model` is.
        model: in evaluation mode.
        batch: at least one window.
        precision: "32" or "bf16-mixed".
    Raises:
        ClipError: the network's probabilities are not finite.
    """
    device = next(model.parameters()).device
    inputs = network.window_inputs(np.stack([window.crops for window in batch]), device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        output = model(inputs)
    return windows_of(output, batch)


def windows_of(output: Output, batch: Sequence[Aligned]) -> list[Window]:
    """What a network says of some windows, with its landmarks mapped back to the picture.

    Raises:
        ClipError: the network's probabilities are not finite.
    """
    probabilities = torch.softmax(output.logits.float(), dim=-1).cpu().numpy()
    require_probabilities(probabilities, [f"frames {window.frames[0]} to {window.frames[-1]}" for window in batch])
    flow = None if output.flow is None else output.flow.to(torch.float16).cpu().numpy()
    landmarks = None if output.landmarks is None else output.landmarks.float().cpu().numpy()
    logits = getattr(output, "action_units", None)
    units = [None] * len(batch) if logits is None else logits.float().sigmoid().cpu().numpy()
    windows = []
    for index, aligned in enumerate(batch):
        matrix = aligned.matrix - np.array([[0, 0, MARGIN], [0, 0, MARGIN]])
        moved = None if flow is None else flow[index]
        placed = None if landmarks is None else transform_points(inverse(matrix), landmarks[index])
        seen = (aligned.frames, matrix, probabilities[index], moved, placed, aligned.detected)
        windows.append(Window(*seen, action_units=units[index]))
    return windows


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) affine matrix."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)
