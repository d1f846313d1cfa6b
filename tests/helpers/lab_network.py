"""A made-up network, the smallest there can be: one linear layer on the mean grey of 8×8 blocks of the last frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mol.data.cache import ClipSet
from mol.data.clips import Augmentation
from mol.networks.interface import Defaults, Emotion, Network
from mol.networks.maps import HeldMaps, MapForm, centre_inputs, shrunk

FORM = MapForm(size=8, signs=(1,))


class Linear(nn.Module):
    """Greys (B, 1, 8, 8) → logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.config = {"num_classes": num_classes}
        self.layer = nn.Linear(64, num_classes)

    def forward(self, greys: Tensor) -> Emotion:
        return Emotion(self.layer(greys.flatten(1)))


class LabNetwork(Network):
    """The network of a laboratory."""

    name = "lab"
    title = "Lab"
    summary = "A linear layer on the last frame."
    source = "made up"
    usual = Defaults(steps=7, batch_size=3)

    def hold(
        self,
        cache: ClipSet,
        rows: Sequence[int] | np.ndarray,
        device: torch.device | str = "cpu",
        normalisation: str = "clip",
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> HeldMaps:
        frames = np.stack([cache.frames[int(row)] for row in rows])
        return HeldMaps(cache, rows, shrunk(_last(frames)), FORM, device, augmentation, balanced)

    def window_inputs(self, frames: np.ndarray, device: torch.device) -> Tensor:
        return centre_inputs(_last(frames), FORM).to(device)

    def rebuild(self, **config: Any) -> nn.Module:
        return Linear(**config)


def _last(frames: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(frames[:, -1:].astype(np.float32)), dim=(-2, -1))


NETWORK = LabNetwork()
