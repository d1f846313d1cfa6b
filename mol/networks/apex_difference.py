"""A small CNN on the difference in grey between apex and onset: the simplest baseline that looks at appearance.

The difference of the two aligned frames is divided by the deviation of the onset frame's grey values, and its mean is
taken off, so that neither contrast nor a change of brightness counts. Three convolutions with batch norm, ReLU and max
pooling, then a linear layer.

Source: a baseline of this project, not a published network. That apex and onset alone say much is the point of Liong,
See, Wong, Phan, "Less is more: Micro-expression recognition from video using apex frame", Signal Processing: Image
Communication 62, 2018.
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
from mol.networks.onset_apex import WINDOW_NOTE, pair_notes, row_pair, window_pair

FORM = MapForm(size=32, signs=(1,))


class DifferenceCNN(nn.Module):
    """The network: differences (B, 1, 32, 32) → logits (B, num_classes).

    Args:
        num_classes: number of emotions, at least 2.
        filters: of each convolution.
        dropout: probability, before the linear layer.
    """

    def __init__(self, num_classes: int, filters: Sequence[int] = (16, 32, 64), dropout: float = 0.5) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; at least 2 are needed")
        self.config = {"num_classes": num_classes, "filters": list(filters), "dropout": dropout}
        self.convolutions = nn.Sequential()
        for before, count in zip((1, *filters), filters, strict=False):
            self.convolutions += nn.Sequential(
                nn.Conv2d(before, count, 3, padding=1), nn.BatchNorm2d(count), nn.ReLU(), nn.MaxPool2d(2)
            )
        self.dropout = nn.Dropout(dropout)
        side = FORM.size >> len(filters)
        self.classes = nn.Linear(side * side * filters[-1], num_classes)

    def forward(self, differences: Tensor) -> Emotion:
        """Logits of differences (B, 1, 32, 32)."""
        return Emotion(self.classes(self.dropout(self.convolutions(differences).flatten(1))))


def difference_map(pair: np.ndarray) -> np.ndarray:
    """The change from onset to apex, in deviations of the onset frame's grey values and without its mean.

    Args:
        pair: (2, S, S) uint8, onset and apex.
    Returns:
        (1, S, S) float32; zeros for a frame without contrast.
    """
    onset, apex = pair.astype(np.float32)
    change = apex - onset
    deviation = onset.std()
    return (change - change.mean())[None] / max(float(deviation), 1.0)


class ApexDifference(Network):
    """The network on the difference of two frames."""

    name = "apex-difference"
    title = "apex-difference"
    summary = "A small CNN on the grey difference between apex and onset."
    source = "a baseline of this project, on the apex frame as in Liong et al., Less is more, SPIC 62, 2018"
    usual = Defaults(steps=300, batch_size=32, learning_rate=2e-3, schedule="cosine")
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
        """The differences; TV-L1 finds the apex where the index has none, on all cores."""
        chosen = [int(row) for row in rows]
        if not chosen:
            raise SettingsError("no clips to hold: the list of rows is empty")
        maps = computed(partial(_row_map, cache), chosen, "apex − onset")
        return HeldMaps(cache, chosen, maps, FORM, device, augmentation, balanced)

    def window_inputs(self, frames: np.ndarray, device: torch.device) -> Tensor:
        """The difference between the first frame of each window and that of greatest motion (by TV-L1)."""
        return torch.cat([centre_inputs(_pair_map(window_pair(window)), FORM) for window in frames]).to(device)

    def rebuild(self, **config: Any) -> nn.Module:
        """`DifferenceCNN` with these arguments."""
        return DifferenceCNN(**config)

    def notes(self, cache: ClipSet) -> list[str]:
        """Which frames take the place of onsets and apexes that the index lacks."""
        return pair_notes(cache, self.title)


def _row_map(cache: ClipSet, row: int) -> Tensor:
    return shrunk(_pair_map(row_pair(cache, row)))


def _pair_map(pair: np.ndarray) -> Tensor:
    return torch.from_numpy(difference_map(pair))[None]


NETWORK = ApexDifference()
