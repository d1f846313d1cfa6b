"""Batch norm over groups of samples: frames that run as one batch and still have statistics of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mol.network.layout import is_channels_last
from molkernels.batch_norm import SYNCHRONISED, SyncBatchNorm, synchronised_batch_norm, update_running_statistics


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with separate training statistics for groups of samples.

    Sample n belongs to group n mod G. With G groups the result is that of G separate calls, one per group, and the
    running statistics are what those calls would leave; with one group this is BatchNorm2d.

    Maps that come in channels-last order leave in it.

    Shapes:
        (N, C, H, W) → (N, C, H, W), N a multiple of G.
    """

    def forward(self, x: Tensor, groups: int = 1, order: Sequence[int] | None = None, slope: float = 1.0) -> Tensor:
        """Normalise x; negative values of the result are multiplied by `slope`, as LeakyReLU does.

        `order` lists the groups in the order in which (and as often as) their statistics enter the running ones.
        """
        if groups == 1 or not (self.training or self.running_mean is None):
            return _activate(super().forward(x), slope)
        channels, last = x.shape[1], is_channels_last(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        # Momentum 1 leaves the batch's own mean and unbiased variance in the buffers.
        mean, var = x.new_zeros(2, groups * channels, dtype=dtype)
        wide = _side_by_side(x, groups) if last else x.contiguous().view(-1, groups * channels, *x.shape[2:])
        weight, bias = (None if p is None else p.repeat(groups) for p in (self.weight, self.bias))
        y = F.batch_norm(wide, mean, var, weight, bias, True, 1.0, self.eps)
        if self.training:
            update_running_statistics(self, mean.view(groups, channels), var.view(groups, channels), order)
        # Before the view: autograd copies the whole map if a view is changed in place.
        y = _activate(y, slope)
        return _one_after_another(y, groups) if last else y.view_as(x)


def normalise(
    norm: GroupedBatchNorm2d | SyncBatchNorm | nn.SyncBatchNorm,
    x: Tensor,
    groups: int = 1,
    order: Sequence[int] | None = None,
    slope: float = 1.0,
) -> Tensor:
    """What `GroupedBatchNorm2d` computes, by one or by what several processes have in its place."""
    if isinstance(norm, SYNCHRONISED):
        return _activate(synchronised_batch_norm(norm, x, groups, order), slope)
    return norm(x, groups, order, slope)  # type: ignore[no-any-return]


def _side_by_side(x: Tensor, groups: int) -> Tensor:
    """The groups' channels side by side, without leaving channels-last.  (N, C, H, W) → (N/G, G·C, H, W)."""
    rows = x.permute(0, 2, 3, 1).unflatten(0, (-1, groups)).permute(0, 2, 3, 1, 4)
    return rows.flatten(3).permute(0, 3, 1, 2)


def _one_after_another(x: Tensor, groups: int) -> Tensor:
    """The inverse of `_side_by_side`.  (N/G, G·C, H, W) → (N, C, H, W)."""
    rows = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).permute(0, 3, 1, 2, 4)
    return rows.flatten(0, 1).permute(0, 3, 1, 2)


def _activate(y: Tensor, slope: float) -> Tensor:
    return y if slope == 1.0 else F.leaky_relu_(y, slope)
