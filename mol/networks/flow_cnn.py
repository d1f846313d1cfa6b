"""A shallow three-stream network on the optical flow from onset to apex, in the form of STSTNet.

The input is the horizontal and vertical TV-L1 flow from onset to apex and its optical strain, 28×28. Three streams (3,
5 and 8 filters of 3×3, ReLU, max pooling 3×3 with stride 3 and padding 1, dropout) are concatenated, averaged over 2×2,
and a linear layer gives the logits.

Source: Liong, Gan, See, Khor, Huang, "Shallow Triple Stream Three-dimensional CNN (STSTNet) for Micro-expression
Recognition", FG 2019. It differs from the paper on purpose: the flow's mean is taken off, against motion of the head;
batch norm follows each convolution; training clips are shifted and mirrored; AdamW with a cosine schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mol.common.errors import SettingsError
from mol.data.cache import ClipSet
from mol.data.clips import Augmentation
from mol.networks.interface import Defaults, Emotion, Network
from mol.networks.maps import HeldMaps, MapForm, centre_inputs, computed, shrunk
from mol.networks.onset_apex import SMOOTH, WINDOW_NOTE, pair_notes, row_pair, window_pair
from mol.vision.tvl1 import require_tvl1, tvl1_flow

FORM = MapForm(size=28, signs=(-1, 1, 1))


class FlowCNN(nn.Module):
    """The network: u, v and strain (B, 3, 28, 28) → logits (B, num_classes).

    Args:
        num_classes: number of emotions, at least 2.
        filters: of each stream.
        dropout: probability, after the pooling of each stream.
    """

    def __init__(self, num_classes: int, filters: Sequence[int] = (3, 5, 8), dropout: float = 0.5) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; at least 2 are needed")
        self.config = {"num_classes": num_classes, "filters": list(filters), "dropout": dropout}
        self.streams = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, count, 3, padding=1),
                nn.BatchNorm2d(count),
                nn.ReLU(),
                nn.MaxPool2d(3, stride=3, padding=1),
                nn.Dropout(dropout),
            )
            for count in filters
        )
        self.pool = nn.AvgPool2d(2)
        self.classes = nn.Linear(5 * 5 * sum(filters), num_classes)

    def forward(self, maps: Tensor) -> Emotion:
        """Logits of maps (B, 3, 28, 28)."""
        streams = torch.cat([stream(maps) for stream in self.streams], 1)
        return Emotion(self.classes(self.pool(streams).flatten(1)))


def motion_maps(flow: np.ndarray) -> np.ndarray:
    """Flow without its mean, and its optical strain.

        strain = sqrt(e_xx² + e_yy² + 2 e_xy²),   e_xy = (∂u/∂y + ∂v/∂x) / 2

    Args:
        flow: (2, S, S) float32, (u, v) in pixels.
    Returns:
        (3, S, S) float32.
    """
    (u_y, u_x), (v_y, v_x) = (np.gradient(component) for component in flow)
    strain = np.sqrt(u_x**2 + v_y**2 + 0.5 * (u_y + v_x) ** 2)
    return np.concatenate([flow - flow.mean(axis=(-2, -1), keepdims=True), strain[None]]).astype(np.float32)


class FlowCNNNetwork(Network):
    """The three-stream network."""

    name = "flow-cnn"
    title = "flow-cnn"
    summary = "A shallow three-stream CNN on TV-L1 flow and strain from onset to apex, the form of STSTNet."
    source = (
        "Liong et al., Shallow Triple Stream Three-dimensional CNN (STSTNet) for Micro-expression Recognition, FG 2019"
    )
    usual = Defaults(steps=300, batch_size=32, learning_rate=1e-2, schedule="cosine")
    window_note = WINDOW_NOTE
    threads = 1

    def hold(
        self,
        cache: ClipSet,
        rows: Sequence[int] | np.ndarray,
        device: torch.device | str = "cpu",
        normalisation: str = "clip",
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> HeldMaps:
        """Flow and strain from onset to apex, computed here on all cores."""
        chosen = [int(row) for row in rows]
        if not chosen:
            raise SettingsError("no clips to hold: the list of rows is empty")
        require_tvl1()
        maps = computed(partial(_row_maps, cache), chosen, "flow onset → apex")
        return HeldMaps(cache, chosen, maps, FORM, device, augmentation, balanced)

    def window_inputs(self, frames: np.ndarray, device: torch.device) -> Tensor:
        """Flow and strain from the first frame of each window to that of greatest motion."""
        return torch.cat([centre_inputs(_pair_maps(window_pair(window)), FORM) for window in frames]).to(device)

    def rebuild(self, **config: Any) -> nn.Module:
        """`FlowCNN` with these arguments."""
        return FlowCNN(**config)

    def notes(self, cache: ClipSet) -> list[str]:
        """Which frames take the place of onsets and apexes that the index lacks."""
        return pair_notes(cache, self.title)


def _row_maps(cache: ClipSet, row: int) -> Tensor:
    return shrunk(_pair_maps(row_pair(cache, row)))


def _pair_maps(pair: np.ndarray) -> Tensor:
    """Maps (1, 3, S, S) of two frames (2, S, S) uint8."""
    return torch.from_numpy(motion_maps(tvl1_flow(pair, SMOOTH)[0]))[None]


NETWORK = FlowCNNNetwork()
