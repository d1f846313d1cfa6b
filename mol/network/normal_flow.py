"""Learned normal flow: how the features of two frames meet.

A motion of a fraction of a pixel changes a frame's grey values by slope · motion. The change alone says little: on
another person's skin the same motion changes other values, with other signs. Only the change divided by the slope is
the motion, which is what optical flow has been computed from since Horn and Schunck (Artificial Intelligence 17, 1981)
and Lucas and Kanade (IJCAI 1981); the part along the slope is called the normal flow. Convolutions of two frames side
by side neither multiply nor divide, so they have to learn it from examples, face by face; here it is built in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mol.network.norm import GroupedBatchNorm2d, normalise


class NormalFlow(nn.Module):
    """Change over slope, per position, for R learned pairs of directions in the space of features.

        s = (f + g) / 2,  d = g − f                    both normalised per channel
        y_r = a_r(s) · b_r(d) / (mean_q a_q(s)² + ε)   r = 1 … R, then normalised per channel

    a and b are 1×1 convolutions, ε is learned. The difference is taken in float32, whatever the precision: it is a few
    hundredths of what is subtracted.

    Args:
        channels: C of the features.
        outputs: R.
    Shapes:
        first and second (N, C, H, W) → (N, R, H, W), float32 at least.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm_slope = GroupedBatchNorm2d(channels)
        self.norm_change = GroupedBatchNorm2d(channels)
        self.slope = nn.Conv2d(channels, outputs, 1)
        self.change = nn.Conv2d(channels, outputs, 1, bias=False)
        self.log_floor = nn.Parameter(torch.tensor(-1.0))
        self.norm = GroupedBatchNorm2d(outputs)
        for layer in (self.slope, self.change):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")

    def forward(self, first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
        """y; in training, samples n with equal n mod `groups` share their batch statistics."""
        wide = torch.promote_types(first.dtype, torch.float32)
        first, second = first.to(wide), second.to(wide)
        slope = self.slope(normalise(self.norm_slope, (first + second) / 2, groups)).to(wide)
        change = self.change(normalise(self.norm_change, second - first, groups)).to(wide)
        energy = slope.square().mean(1, keepdim=True) + self.log_floor.exp()
        return normalise(self.norm, slope * change / energy, groups)
