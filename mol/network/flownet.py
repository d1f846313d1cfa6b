"""Optical flow: a FlowNetC on raw frames and F5C features.

Source: Dosovitskiy et al., "FlowNet", ICCV 2015, as changed in Shao et al., "MOL", IEEE TPAMI 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import molkernels as mk
from mol.network import convolution
from mol.network.layout import MULTIPLE, consecutive, fitted, joined
from mol.network.norm import GroupedBatchNorm2d, normalise

SLOPE = 0.1
RADIUS, STRIDE = 10, 2
FEATURE_SIZE = 16
SMALL_CHANGE = 0.05


class Encoded(NamedTuple):
    """What the flow network computes of each frame alone, finest first.

    Attributes:
        frames: (N, 1, 128, 128).
        c1: (N, 64, 64, 64).
        c2: (N, 128, 32, 32).
        c3: (N, 256, 16, 16).
    """

    frames: Tensor
    c1: Tensor
    c2: Tensor
    c3: Tensor


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, LeakyReLU 0.1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.norm = GroupedBatchNorm2d(outputs)

    def forward(
        self, x: Tensor, groups: int, order: Sequence[int] | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        """y for x (N, C, H, W); `inputs` has the indices of the input channels in x, if x holds only some."""
        weight = self.conv.weight if inputs is None else self.conv.weight.index_select(1, inputs)
        y = convolution.conv2d(x, fitted(weight, 1, x.shape[1]), self.conv.stride[0], int(self.conv.padding[0]))
        return normalise(self.norm, y, groups, order, SLOPE)


class Upsample(nn.Module):
    """Transposed convolution 4×4, stride 2, without bias; LeakyReLU 0.1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', 2H, 2W)."""
        return F.leaky_relu_(convolution.conv_transpose2d(x, fitted(self.conv.weight, 0, x.shape[1])), SLOPE)


class Predictor(nn.Conv2d):
    """Flow from features: a convolution 3×3 to (dx, dy), without bias."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 2, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 2, H, W)."""
        return convolution.narrow_conv2d(x, fitted(self.weight, 1, x.shape[1]))


class FlowNetC(nn.Module):
    """Optical flow between the T − 1 pairs of consecutive frames.

    Each frame is encoded once. Displacements of the cost volume that cannot reach the 16×16 map (216 of 441) are never
    computed, and neither is their part of ``conv3_1``.

    On a GPU the channels that meet in the decoder and below ``conv3_1`` (1026, 770, 513, 386, 258, 130, 35) are padded
    with zeros to multiples of 8; ``pad`` set to True or False decides it for every device. No parameter changes.

    Shapes:
        frames (B·T, 1, 128, 128) and features (B·(T−1), 256, 16, 16) → flow (B·(T−1), 2, 128, 128), pixels (dx, dy).
    """

    pad: bool | None = None

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(1, 64, 6, 2, 2)
        self.conv2 = ConvNorm(64, 128, 4, 2, 1)
        self.conv3 = ConvNorm(128, 256, 2, 2)
        self.redirect = ConvNorm(256, 32, 1)
        self.cost = mk.CostVolume(RADIUS, STRIDE, negative_slope=SLOPE, compact=True)
        self.conv3_1 = ConvNorm(32 + (2 * RADIUS + 1) ** 2 + 256, 256, 3, 1, 1)
        self.conv4 = ConvNorm(256, 512, 3, 2, 1)
        self.conv4_1 = ConvNorm(512, 512, 3, 1, 1)
        self.conv5 = ConvNorm(512, 512, 3, 2, 1)
        self.conv5_1 = ConvNorm(512, 512, 3, 1, 1)
        self.conv6 = ConvNorm(512, 1024, 3, 2, 1)
        self.conv6_1 = ConvNorm(1024, 1024, 3, 1, 1)
        self.predict6 = Predictor(1024)
        self.upsample5, self.upflow5, self.predict5 = Upsample(1024, 512), _flow_upsampler(), Predictor(1026)
        self.upsample4, self.upflow4, self.predict4 = Upsample(1026, 256), _flow_upsampler(), Predictor(770)
        self.upsample3, self.upflow3, self.predict3 = Upsample(770, 128), _flow_upsampler(), Predictor(386)
        self.upsample2, self.upflow2, self.predict2 = Upsample(386, 128), _flow_upsampler(), Predictor(258)
        self.upsample1, self.upflow1, self.predict1 = Upsample(258, 64), _flow_upsampler(), Predictor(130)
        self.upsample0, self.upflow0, self.predict0 = Upsample(130, 32), _flow_upsampler(), Predictor(35)
        live = mk.functional.reachable_displacements(RADIUS, STRIDE, FEATURE_SIZE)
        side = (2 * RADIUS + 1) ** 2
        channels = [*range(32), *(32 + d for d in live), *range(32 + side, 32 + side + 256)]
        self.register_buffer("live_inputs", torch.tensor(channels), persistent=False)

    @torch.no_grad()
    def initialise(self, differences: bool) -> None:
        """Start at values from which motion is visible.

        Two frames of a face differ by a few hundredths of what two faces differ by. Half of the filters of conv3_1
        start on the features alone. With `differences`, for features that are those of both frames side by side, they
        start on their difference and on a similar part of their sum, so that flow, which is change over slope, is not
        hidden; the norm scales them to the size of the others.

        The decoder has no norms; each level starts by keeping the variance of its input. Its flow starts at zero and as
        a pyramid: each predictor passes on the coarser flow, bilinearly enlarged, and learns to add to it. So the
        gradient reaches every level at once.
        """
        if differences:
            first, second = self.conv3_1.conv.weight[:128, -256:].chunk(2, 1)
            change, both = first.clone(), SMALL_CHANGE * second.clone()
            first.copy_(both - change)
            second.copy_(both + change)
        self.conv3_1.conv.weight[:128, :-256] = 0
        for level in (self.upsample5, self.upsample4, self.upsample3, self.upsample2, self.upsample1, self.upsample0):
            # A stride of 2 leaves 4 of the 16 taps to each output.
            fan_in = 4 * level.conv.in_channels
            nn.init.normal_(level.conv.weight, std=nn.init.calculate_gain("leaky_relu", SLOPE) / fan_in**0.5)
        self.predict6.weight.zero_()
        for predictor in (self.predict5, self.predict4, self.predict3, self.predict2, self.predict1, self.predict0):
            predictor.weight.zero_()
            predictor.weight[:, -2:, 1, 1] = torch.eye(2)
        tap = torch.tensor([0.25, 0.75, 0.75, 0.25])
        for enlarge in (self.upflow5, self.upflow4, self.upflow3, self.upflow2, self.upflow1, self.upflow0):
            enlarge.weight.copy_(torch.eye(2)[:, :, None, None] * torch.outer(tap, tap))

    def forward(self, frames: Tensor, features: Tensor, count: int, per_frame: bool) -> Tensor:
        """Flow of all pairs; `count` is T, `per_frame` computes batch statistics per frame."""
        # A loop over pairs sees the inner frames twice: I_1, I_2, I_2, I_3, …
        order = [t for pair in range(count - 1) for t in (pair, pair + 1)] if per_frame else None
        encoded = self.encode(frames, count if per_frame else 1, order)
        first, second = consecutive(encoded.c3, count)
        groups = count - 1 if per_frame else 1
        return self.decode(first, second, features, encoded, lambda x: consecutive(x, count)[0], groups)

    def encode(self, frames: Tensor, groups: int = 1, order: Sequence[int] | None = None) -> Encoded:
        """What is computed of each frame alone: frames (N, 1, 128, 128)."""
        c1 = self.conv1(frames, groups, order)
        c2 = self.conv2(c1, groups, order)
        return Encoded(frames, c1, c2, self.conv3(c2, groups, order))

    def decode(
        self,
        first: Tensor,
        second: Tensor,
        features: Tensor,
        encoded: Encoded,
        first_of: Callable[[Tensor], Tensor],
        groups: int = 1,
    ) -> Tensor:
        """Flow of pairs of frames.

        Args:
            first, second: (N, 256, 16, 16) coarsest maps of both frames.
            features: (N, 256, 16, 16) of the pairs.
            encoded: of all frames.
            first_of: takes the maps of the pairs' first frames, (N, …), out of those of all frames.
            groups: pairs that have batch statistics of their own.
        Returns:
            (N, 2, 128, 128), pixels (dx, dy).
        """
        pad = encoded.frames.is_cuda if self.pad is None else self.pad
        multiple = MULTIPLE if pad else 1
        cost = self.cost(first, second)
        joint = joined([self.redirect(first, groups), cost, features.to(cost.dtype)], multiple)
        d3 = self.conv3_1(joint, groups, inputs=self.live_inputs)
        d4 = self.conv4_1(self.conv4(d3, groups), groups)
        d5 = self.conv5_1(self.conv5(d4, groups), groups)
        d6 = self.conv6_1(self.conv6(d5, groups), groups)
        u5 = joined([d5, self.upsample5(d6), self.upflow5(self.predict6(d6))], multiple)
        u4 = joined([d4, self.upsample4(u5), self.upflow4(self.predict5(u5))], multiple)
        u3 = joined([d3, self.upsample3(u4), self.upflow3(self.predict4(u4))], multiple)
        u2 = joined([first_of(encoded.c2), self.upsample2(u3), self.upflow2(self.predict3(u3))], multiple)
        u1 = joined([first_of(encoded.c1), self.upsample1(u2), self.upflow1(self.predict2(u2))], multiple)
        finest = self.upsample0(u1)
        # Under autocast the float32 frames would otherwise make the whole map float32.
        first_frames = first_of(encoded.frames).to(finest.dtype)
        u0 = joined([first_frames, finest, self.upflow0(self.predict1(u1))], multiple)
        return self.predict0(u0)


def _flow_upsampler() -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False)
