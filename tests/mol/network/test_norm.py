"""Batch norm of groups: statistics, gradients and layout are those of one call per group."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mol.network.layout import is_channels_last
from mol.network.norm import GroupedBatchNorm2d


def maps(dtype=torch.float64):
    return torch.randn(12, 5, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype) * 2 + 1


def with_values(norm):
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 5))
            norm.bias.copy_(torch.linspace(-1, 1, 5))
    return norm.double()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_are_normalised_as_by_one_call_each_in_the_layout_they_come_in(affine, layout):
    grouped = with_values(GroupedBatchNorm2d(5, affine=affine))
    alone = nn.BatchNorm2d(5, affine=affine).double()
    alone.load_state_dict(grouped.state_dict())
    x = maps().contiguous(memory_format=layout).requires_grad_()
    y = grouped(x, 3, slope=0.1)
    other = maps().requires_grad_()
    expected = torch.stack([F.leaky_relu(alone(other[group::3]), 0.1) for group in range(3)], 1).flatten(0, 1)
    torch.testing.assert_close(y, expected)
    assert is_channels_last(y) == (layout == torch.channels_last)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    for name, value in grouped.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name])
    for mine, theirs in zip(grouped.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_without_running_statistics_groups_keep_their_own_in_evaluation():
    norm = GroupedBatchNorm2d(5, track_running_stats=False).double()
    assert torch.equal(norm.eval()(maps(), 3), norm.train()(maps(), 3))
    assert not torch.allclose(norm(maps(), 3), norm(maps(), 1))


def test_bfloat16_maps_have_float32_statistics():
    norm = GroupedBatchNorm2d(5)
    wide = copy.deepcopy(norm)
    x = maps(torch.bfloat16)
    assert norm(x, 3).dtype == torch.bfloat16
    wide(x.float(), 3)
    torch.testing.assert_close(norm.running_var, wide.running_var, rtol=1e-4, atol=0)
