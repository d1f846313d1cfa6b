"""Batch norm beyond `nn.BatchNorm2d`: statistics of several groups of samples, and of the batches of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def update_running_statistics(
    norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, var: Tensor, order: Sequence[int] | None = None
) -> None:
    """Fold several batches' statistics into a batch norm's running ones, one after another, in closed form.

    running ← (1 − m)^L · running + Σ_i m (1 − m)^(L − 1 − i) · batch[order[i]],   i = 0 … L − 1

    With momentum None, running is the mean over all batches ever seen. A norm that tracks no statistics stays as it is.

    Args:
        norm: the batch norm; its running statistics and its counter are updated.
        mean, var: (G, C); the variance is unbiased.
        order: rows of `mean` and `var` in the order in which they were seen; by default each once, from the first.
    """
    groups = mean.shape[0]
    seen = range(groups) if order is None else order
    momentum, counter = norm.momentum, norm.num_batches_tracked
    if not norm.track_running_stats or norm.running_mean is None or len(seen) == 0:
        return
    keep: float | Tensor = 1.0 if momentum is None else (1 - momentum) ** len(seen)
    weights = [0.0] * groups
    for age, group in enumerate(reversed(seen)):
        weights[group] += 1.0 if momentum is None else momentum * (1 - momentum) ** age
    # The weights are arguments of a kernel: a tensor of them would be a copy to the device, in each call.
    weighted = torch._foreach_mul((*mean.unbind(0), *var.unbind(0)), weights * 2)
    sums = torch.stack(weighted).view(2, groups, -1).sum(1)
    if momentum is None:
        before = cast(Tensor, counter).to(mean.dtype)
        total = before + len(seen)
        keep, sums = before / total, sums / total
    for running, batch in zip((norm.running_mean, norm.running_var), sums, strict=True):
        cast(Tensor, running).mul_(keep).add_(batch)
    if counter is not None:
        counter.add_(len(seen))


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """As `nn.SyncBatchNorm`, on every device, on batches of unequal size, and over groups of samples.

    Its training statistics are those of the batches of all processes of `process_group` together, so N processes with
    a part of a batch each compute what one process computes with the whole batch. PyTorch's own runs on GPUs only. A
    process may have no sample at all.

    Sample n belongs to group n mod G, and each group has statistics of its own, as in G calls one after another.

    Shapes:
        (N, C, …) → (N, C, …), N a multiple of G.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    def forward(self, x: Tensor, groups: int = 1, order: Sequence[int] | None = None) -> Tensor:
        """Normalise x; `order` as in `update_running_statistics`."""
        return synchronised_batch_norm(self, x, groups, order)

    @classmethod
    def convert(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Replace every batch norm in a module by one of this class with the same parameters and buffers.

        Args:
            module: changed in place, unless it is a batch norm itself.
            process_group: of `torch.distributed`; by default all processes.
        Returns:
            The module, or what takes its place.
        """
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            norm = cls(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
            )
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                setattr(norm, name, value)
            return norm.train(module.training)
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child, process_group))
        return module


SYNCHRONISED = (SyncBatchNorm, nn.SyncBatchNorm)
"""Norms whose training statistics are those of all processes."""


def synchronised_batch_norm(
    norm: SyncBatchNorm | nn.SyncBatchNorm, x: Tensor, groups: int = 1, order: Sequence[int] | None = None
) -> Tensor:
    """What `SyncBatchNorm` computes, for a norm of that class or of PyTorch's own.

    Args:
        norm: its running statistics and its counter are updated in training.
        x, groups, order: as for `SyncBatchNorm`.
    """
    if not norm.training and norm.running_mean is not None:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    channels = x.shape[1]
    wide = x.contiguous().view(-1, groups * channels, *x.shape[2:]) if groups > 1 else x
    mean, var, count = _GlobalMoments.apply(wide, norm.process_group)  # type: ignore[no-untyped-call]
    if norm.training:
        unbiased = var * (count / (count - 1).clamp(min=1))
        update_running_statistics(norm, mean.view(groups, channels), unbiased.view(groups, channels), order)
    scale = (var + norm.eps).rsqrt()
    offset = torch.zeros_like(mean)
    if norm.weight is not None:
        scale = scale * norm.weight.to(scale.dtype).repeat(groups)
    if norm.bias is not None:
        offset = norm.bias.to(scale.dtype).repeat(groups)
    # The mean is subtracted as a constant, so that nothing is lost where it is large; its gradient goes by the offset.
    offset = offset - scale * (mean - mean.detach())
    if not wide.numel():  # which PyTorch's operator refuses
        shape = (1, -1, *[1] * (wide.dim() - 2))
        y = (wide - mean.detach().view(shape)) * scale.view(shape) + offset.view(shape)
        return y.to(x.dtype).view_as(x)  # type: ignore[no-any-return]
    y = F.batch_norm(wide, mean.detach(), torch.ones_like(mean), scale, offset, False, 0.0, 0.0)
    return y.view_as(x)


class _GlobalMoments(torch.autograd.Function):
    """Mean and biased variance (C,) of x (N, C, …) over the processes of a group, and the number of values of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
        channels, others = x.shape[1], [axis for axis in range(x.dim()) if axis != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.numel() // channels
        own = wide.new_zeros(2 * channels + 1)
        if count:
            var, mean = torch.var_mean(wide, others, correction=0)
            own = torch.cat([mean, var * count, own.new_full((1,), count)])
        means, squares, counts = _gathered(own, group).split([channels, channels, 1], 1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        var = (squares + counts * (means - mean).square()).sum(0) / total
        ctx.save_for_backward(x, mean, total)
        ctx.group = group
        ctx.mark_non_differentiable(total)
        return mean, var, total

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor, _: Tensor) -> tuple[Tensor, None]:
        x, mean, total = ctx.saved_tensors
        both = torch.stack([grad_mean, grad_var])
        if _is_shared():
            dist.all_reduce(both, group=ctx.group)
        of_mean, of_var = (both / total).view(2, 1, -1, *[1] * (x.dim() - 2))
        return (of_mean + 2 * of_var * (x - mean.view(of_mean.shape))).to(x.dtype), None


def _gathered(own: Tensor, group: Any) -> Tensor:
    """A vector of each process as the rows of a matrix."""
    if not _is_shared():
        return own[None]
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own, group=group)
    return torch.stack(parts)


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized()
