"""How maps lie in memory: channels-last, and channels side by side in numbers that tensor cores take.

A GPU's matrix units read a convolution's channels as vectors of 8 bfloat16 values. In channels-last order, (N, H, W, C)
in memory, cuDNN needs no transposition; with a number of channels that is no multiple of 8 it falls back to slower
kernels. Neither changes the function, its parameters or its checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MULTIPLE = 8
"""Channels that a tensor core reads at once, in bfloat16."""


def lay_out_channels_last(model: nn.Module) -> None:
    """Keep the weights of all 2-D convolutions of a model in channels-last order; their maps then follow."""
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):  # the emotion head's Conv3d has no such format
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def is_channels_last(x: Tensor) -> bool:
    """Whether maps (N, C, H, W) lie in channels-last order and in no other."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def joined(maps: Sequence[Tensor], multiple: int = 1) -> Tensor:
    """Maps (N, C_i, H, W) side by side on the channels, channels-last if one of them is.

    Args:
        maps: at least one; equal in all but their channels.
        multiple: zeros are added until this divides the number of channels; `fitted` fits a weight to them.
    Returns:
        (N, ΣC_i or a little more, H, W).
    """
    count, _, height, width = maps[0].shape
    lacking = -sum(x.shape[1] for x in maps) % multiple
    parts = [*maps, maps[-1].new_zeros(count, lacking, height, width)] if lacking else list(maps)
    if not any(is_channels_last(x) for x in parts):
        return torch.cat(parts, 1)
    # torch.cat itself leaves channels-last as soon as one part is in another order.
    return torch.cat([x.permute(0, 2, 3, 1) for x in parts], 3).permute(0, 3, 1, 2)


def fitted(weight: Tensor, axis: int, channels: int) -> Tensor:
    """A convolution's weight (…, 4 axes) with zeros for the channels that `joined` added.

    Args:
        weight: as it is in the checkpoint.
        axis: of the input channels: 1, or 0 for a transposed convolution.
        channels: of the maps.
    """
    lacking = channels - weight.shape[axis]
    if not 0 < lacking < MULTIPLE:
        return weight
    return F.pad(weight, [0] * (2 * (weight.dim() - 1 - axis)) + [0, lacking])


def consecutive(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first and the second of each pair of consecutive frames, in the layout of x.

    Args:
        x: (B·T, C, H, W).
        count: T.
    Returns:
        (B·(T−1), C, H, W), twice.
    """
    last = is_channels_last(x)
    clips = (x.permute(0, 2, 3, 1) if last else x).unflatten(0, (-1, count))
    first, second = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
    return (first.permute(0, 3, 1, 2), second.permute(0, 3, 1, 2)) if last else (first, second)
