"""A network of MOL's interface with F5C blocks of 8 channels, which is exported in seconds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import molkernels as mk
from mol.network.model import MOLOutput, f5c_block

STATE = {
    "network": "mol",
    "classes": ["happiness", "surprise", "others"],
    "step": 7,
    "train_people": ["somebody"],
    "calibration": {"value": 1.5, "videos": 30, "clips": 60, "people": 5},
}
"""Facts of its training."""


class TinyGraph(nn.Module):
    """Frames averaged to 8×8 pixels, 8 channels, two F5C blocks, a cost volume; a linear head per output."""

    def __init__(
        self,
        num_classes: int = 3,
        k: int = 4,
        variant: str = "paper",
        *,
        fcc: bool = True,
        ccc: bool = True,
        f5c: bool = True,
        **settings: object,
    ) -> None:
        super().__init__()
        self.config = {"num_classes": num_classes, "k": k, "variant": variant, "fcc": fcc, "ccc": ccc, "f5c": f5c}
        self.config |= settings
        self.stack = nn.Conv2d(1, 8, 3, padding=1)
        self.f5c1 = f5c_block(mk.F5C(8, 8, k, variant), fcc and f5c, ccc and f5c)
        self.f5c2 = f5c_block(mk.F5C(8, 8, k, variant), fcc and f5c, ccc and f5c)
        self.cost = mk.CostVolume(2, 2, negative_slope=0.1, compact=True)
        self.emotion = nn.Linear(7 * 8 * 8 * 8, num_classes)
        self.landmarks = nn.Linear(8 * 8 * 8, 68 * 2)
        self.flow = nn.Conv2d(25, 2, 1)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)

    def forward(self, clips: Tensor) -> MOLOutput:
        """Clips (B, 1, 8, 128, 128) → MOLOutput."""
        stacked = self.stack(F.avg_pool2d(clips.transpose(1, 2).flatten(0, 1), 16)).unflatten(0, (-1, 8))
        second = self.f5c2(stacked[:, 1:].flatten(0, 1))
        first = self.f5c1(stacked[:, :-1].flatten(0, 1))
        flow = F.interpolate(self.flow(self.cost(first, second)), size=128, mode="nearest").unflatten(0, (-1, 7))
        landmarks = self.landmarks(second.flatten(1)).unflatten(0, (-1, 7)).unflatten(2, (68, 2))
        return MOLOutput(self.emotion(first.unflatten(0, (-1, 7)).flatten(1)), flow, landmarks)
