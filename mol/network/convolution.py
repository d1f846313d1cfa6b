"""Convolutions that become matrix products where PyTorch's own are slow on the CPU: tiny maps, few output channels.

At 2×2 pixels a 3×3 convolution from 1024 to 1024 channels reads 38 MB of weights to write a map of 16 KB.
PyTorch's CPU convolutions rearrange such weights at every call and reach a tenth of the processor's rate in the
gradient; a matrix product over the weights in place reaches four times as much (docs/performance.md). A convolution
to two channels fills a fraction of its vectors: PyTorch's reach a twentieth of the processor's rate. On other devices,
for larger maps, and in a graph that is exported, these are PyTorch's own convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Devices on which products are faster than PyTorch's convolutions.
BY_PRODUCT = ("cpu",)
# Pixels of the smaller map up to which the product was measured to be faster, with 14 maps and with 224.
CONV_PIXELS, TRANSPOSED_PIXELS = 4, 16


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution without bias.  x (N, C, H, W), weight (C', C, K, K) → (N, C', H', W')."""
    kernel = weight.shape[-1]
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
    if not _by_product(x) or height * width > CONV_PIXELS:
        return F.conv2d(x, weight, None, stride, padding)
    patches = F.unfold(x, kernel, padding=padding, stride=stride)  # (N, C·K·K, H'·W')
    rows = patches.mT.flatten(0, 1) @ weight.flatten(1).t()  # (N·H'·W', C')
    return rows.view(-1, height, width, weight.shape[0]).permute(0, 3, 1, 2).contiguous()


def conv_transpose2d(x: Tensor, weight: Tensor) -> Tensor:
    """Transposed convolution 4×4, stride 2, padding 1, without bias.  (N, C, H, W), (C, C', 4, 4) → (N, C', 2H, 2W)."""
    channels, height, width = x.shape[1:]
    if not _by_product(x) or height * width > TRANSPOSED_PIXELS:
        return F.conv_transpose2d(x, weight, None, 2, 1)
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels) @ weight.flatten(1)  # (N·H·W, C'·16)
    patches = rows.view(-1, height * width, rows.shape[1]).mT
    # Four patches meet at a pixel: summed in float32 at least, as a convolution does.
    wide = torch.promote_types(patches.dtype, torch.float32)
    return F.fold(patches.to(wide), (2 * height, 2 * width), 4, padding=1, stride=2).to(patches.dtype)


def narrow_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution 3×3, padding 1, without bias, to a few channels.  x (N, C, H, W), (C', C, 3, 3) → (N, C', H, W)."""
    if not _by_product(x):
        return F.conv2d(x, weight, None, 1, 1)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    with torch.autocast("cpu", enabled=False):
        narrow: Tensor = _NarrowConv2d.apply(x, weight)
        return narrow


def _by_product(x: Tensor) -> bool:
    """Whether products take the place of convolutions; a graph that is exported may run anywhere, so it has none."""
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()
    return x.device.type in BY_PRODUCT and not exporting


class _NarrowConv2d(torch.autograd.Function):
    """Each tap's C' channels as rows of one product, W (9·C', C) · x (C, H·W), whose nine maps are shifted and added.

    The gradients are products with the nine shifted copies of the output's gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        (count, channels, height, width), outputs = x.shape, weight.shape[0]
        rows = weight.permute(2, 3, 0, 1).reshape(9 * outputs, channels)
        taps = (rows @ x.flatten(2)).view(count, 3, 3, outputs, height, width)
        # Summed in float32 at least, as a convolution does.
        y = taps[:, 1, 1].to(torch.promote_types(x.dtype, torch.float32), copy=True)
        for down in range(3):
            for right in range(3):
                if (down, right) != (1, 1):
                    (to_rows, from_rows), (to_columns, from_columns) = _overlap(down, height), _overlap(right, width)
                    # Not +=, which copies the slice onto itself once more.
                    y[..., to_rows, to_columns].add_(taps[:, down, right, :, from_rows, from_columns])
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        (count, channels, height, width), outputs = x.shape, weight.shape[0]
        windows = F.pad(grad, (1, 1, 1, 1)).unfold(2, height, 1).unfold(3, width, 1)  # (N, C', 3, 3, H, W)
        shifted = windows.reshape(count, 9 * outputs, height * width)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            rows = weight.flip(2, 3).permute(0, 2, 3, 1).reshape(9 * outputs, channels)
            grad_x = (rows.t() @ shifted).view_as(x)
        if ctx.needs_input_grad[1]:
            products = (shifted @ x.flatten(2).mT).sum(0)  # (C'·9, C)
            grad_weight = products.view(outputs, 3, 3, channels).flip(1, 2).permute(0, 3, 1, 2).contiguous()
        return grad_x, grad_weight


def _overlap(tap: int, length: int) -> tuple[slice, slice]:
    """Where output and input of a tap (0, 1 or 2) lie on an axis: output i takes input i + tap − 1."""
    return slice(max(0, 1 - tap), length - max(0, tap - 1)), slice(max(0, tap - 1), length - max(0, 1 - tap))
