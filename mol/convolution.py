"""Convolutions that become one matrix product where the map is tiny.

At 2×2 pixels a 3×3 convolution from 1024 to 1024 channels has 38 MB of weights for the 16 KB that it makes of a map.
PyTorch's CPU convolutions rearrange such weights at every call and reach a tenth of the processor's rate in the
gradient; a matrix product over the weights as they lie reaches four times as much (docs/performance.md). On other
devices, and for larger maps, these are PyTorch's own convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Pixels of the smaller map up to which the product was measured to be the faster one, with 14 maps and with 224.
CONV_PIXELS, TRANSPOSED_PIXELS = 4, 16


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution without bias.  x (N, C, H, W), weight (C', C, K, K) → (N, C', H', W')."""
    kernel = weight.shape[-1]
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
    if x.device.type != "cpu" or height * width > CONV_PIXELS:
        return F.conv2d(x, weight, None, stride, padding)
    patches = F.unfold(x, kernel, padding=padding, stride=stride)  # (N, C·K·K, H'·W')
    rows = patches.mT.flatten(0, 1) @ weight.flatten(1).t()  # (N·H'·W', C')
    return rows.view(-1, height, width, weight.shape[0]).permute(0, 3, 1, 2).contiguous()


def conv_transpose2d(x: Tensor, weight: Tensor) -> Tensor:
    """Transposed convolution 4×4, stride 2, padding 1, without bias.  (N, C, H, W), (C, C', 4, 4) → (N, C', 2H, 2W)."""
    channels, height, width = x.shape[1:]
    if x.device.type != "cpu" or height * width > TRANSPOSED_PIXELS:
        return F.conv_transpose2d(x, weight, None, 2, 1)
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels) @ weight.flatten(1)  # (N·H·W, C'·16)
    patches = rows.view(-1, height * width, rows.shape[1]).mT
    # Four patches meet at a pixel: summed in float32 at least, as a convolution does.
    wide = torch.promote_types(patches.dtype, torch.float32)
    return F.fold(patches.to(wide), (2 * height, 2 * width), 4, padding=1, stride=2).to(patches.dtype)
