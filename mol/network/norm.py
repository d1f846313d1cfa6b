"""Batch norm over groups of samples: frames that run as one batch and still have statistics of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from molkernels.modules import update_running_statistics


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with separate training statistics for groups of samples.

    Sample n belongs to group n mod G. With G groups the result is that of G separate calls, one per group, and the
    running statistics are what those calls would leave; with one group this is BatchNorm2d.

    Shapes:
        (N, C, H, W) → (N, C, H, W), N a multiple of G.
    """

    def forward(self, x: Tensor, groups: int = 1, order: Sequence[int] | None = None, slope: float = 1.0) -> Tensor:
        """Normalise x; negative values of the result are multiplied by `slope`, as LeakyReLU does.

        `order` lists the groups in the order in which (and as often as) their statistics enter the running ones.
        """
        if groups == 1 or not self.training:
            return _activate(super().forward(x), slope)
        channels = x.shape[1]
        # Momentum 1 leaves the batch's own mean and unbiased variance in the buffers.
        mean, var = x.new_zeros(2, groups * channels, dtype=self.weight.dtype)
        wide = x.contiguous().view(-1, groups * channels, *x.shape[2:])
        weight, bias = self.weight.repeat(groups), self.bias.repeat(groups)
        y = F.batch_norm(wide, mean, var, weight, bias, True, 1.0, self.eps)
        update_running_statistics(self, mean.view(groups, channels), var.view(groups, channels), order)
        # Before the view: autograd copies the whole map if a view is changed in place.
        return _activate(y, slope).view_as(x)


def _activate(y: Tensor, slope: float) -> Tensor:
    return y if slope == 1.0 else F.leaky_relu_(y, slope)
