"""NormalFlow: its formula, what it does not depend on, and where precision counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mol.network.norm import GroupedBatchNorm2d
from mol.network.normal_flow import NormalFlow

CHANNELS, OUTPUTS = 6, 5


def trained(seed: int = 0) -> NormalFlow:
    """In float64, with the values that training gives to norms, biases and the floor."""
    torch.manual_seed(seed)
    module = NormalFlow(CHANNELS, OUTPUTS).double()
    with torch.no_grad():
        for norm in (module.norm_slope, module.norm_change, module.norm):
            for values, low, high in (
                (norm.running_mean, -1.0, 1.0),
                (norm.running_var, 0.5, 2.0),
                (norm.weight, 0.5, 2.0),
                (norm.bias, -1.0, 1.0),
            ):
                values.uniform_(low, high)
        module.log_floor.fill_(-0.7)
    return module


def start(seed: int = 0) -> NormalFlow:
    """In float64 and evaluation mode, as it starts, but without the bias of the slope."""
    torch.manual_seed(seed)
    module = NormalFlow(CHANNELS, OUTPUTS).double().eval()
    nn.init.zeros_(module.slope.bias)
    return module


def features(count: int = 4, side: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Features of two frames, the second a little different from the first."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, CHANNELS, side, side, generator=generator, dtype=torch.float64)
    return first, first + 0.1 * torch.randn(first.shape, generator=generator, dtype=torch.float64)


def normalised(x: Tensor, norm: GroupedBatchNorm2d, training: bool) -> Tensor:
    mean, var = norm.running_mean, norm.running_var
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    scaled = (x - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("training", [True, False])
def test_it_is_change_over_slope(training: bool) -> None:
    module = trained().train(training)
    first, second = features()
    a = torch.einsum(
        "rc,nchw->nrhw", module.slope.weight[..., 0, 0], normalised((first + second) / 2, module.norm_slope, training)
    )
    a = a + module.slope.bias[:, None, None]
    b = torch.einsum(
        "rc,nchw->nrhw", module.change.weight[..., 0, 0], normalised(second - first, module.norm_change, training)
    )
    y = a * b / ((a**2).sum(1, keepdim=True) / OUTPUTS + torch.exp(torch.tensor(-0.7, dtype=torch.float64)))
    expected = normalised(y, module.norm, training)
    torch.testing.assert_close(module(first, second), expected, rtol=1e-9, atol=1e-12)


def test_groups_of_frames_have_batch_statistics_of_their_own() -> None:
    module = trained().train()
    first, second = features(count=6)
    alone = [module(first[group::3], second[group::3]) for group in range(3)]
    torch.testing.assert_close(module(first, second, 3), torch.stack(alone, 1).flatten(0, 1), rtol=1e-9, atol=1e-12)


# What it does not depend on


def test_where_nothing_changes_it_gives_the_bias_of_the_norm() -> None:
    """Whatever the slope: a still face looks the same on everybody."""
    module = start()
    nn.init.uniform_(module.norm.bias)
    first, _ = features()
    expected = module.norm.bias[:, None, None].expand(4, OUTPUTS, 3, 3)
    torch.testing.assert_close(module(first, first), expected, rtol=0, atol=0)


def test_brightness_of_each_position_cancels() -> None:
    """The same motion on skin of more or less contrast: slope and change grow by the same factor."""
    module = start()
    first, second = features()
    contrast = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    brighter = contrast * first, contrast * second
    nn.init.constant_(module.log_floor, -60.0)
    torch.testing.assert_close(module(*brighter), module(first, second), rtol=1e-9, atol=1e-12)
    # The floor holds back what has no slope; for it, twice the contrast is a quarter of the floor.
    nn.init.constant_(module.log_floor, -1.0)
    twice = module(2 * first, 2 * second)
    assert not torch.allclose(twice, module(first, second), rtol=1e-2)
    nn.init.constant_(module.log_floor, -1.0 - 2 * torch.log(torch.tensor(2.0)).item())
    torch.testing.assert_close(twice, module(first, second), rtol=1e-6, atol=1e-9)


def test_going_back_is_the_opposite_and_half_the_change_is_half() -> None:
    module = start()
    first, second = features()
    y = module(first, second)
    torch.testing.assert_close(module(second, first), -y)
    middle, change = (first + second) / 2, second - first
    torch.testing.assert_close(module(middle - change / 4, middle + change / 4), y / 2)


def test_in_training_a_scale_and_an_offset_of_a_channel_cancel() -> None:
    module = trained().train()
    first, second = features(count=8)
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(CHANNELS, 1, 1, generator=generator, dtype=torch.float64) + 0.5
    offset = torch.randn(CHANNELS, 1, 1, generator=generator, dtype=torch.float64)
    module.norm_slope.eps = module.norm_change.eps = 1e-15
    expected = module(first, second)
    torch.testing.assert_close(module(scale * first + offset, scale * second + offset), expected, rtol=1e-9, atol=1e-9)


# Precision


def test_a_change_below_the_resolution_of_bfloat16_is_seen_under_autocast() -> None:
    module = start().float()
    first = features()[0].bfloat16().float()
    change = 1e-4 * torch.randn(first.shape, generator=torch.Generator().manual_seed(4))
    second = first + change * first.abs()
    assert torch.equal(first.bfloat16(), second.bfloat16())
    module.norm_change.eps = 1e-12
    with torch.no_grad():
        module.norm_change.running_var.copy_((second - first).var((0, 2, 3)))
        exact = module(first, second)
        with torch.autocast("cpu", torch.bfloat16):
            rough = module(first, second)
    assert rough.dtype == torch.float32
    assert torch.linalg.vector_norm(rough - exact) < 0.02 * torch.linalg.vector_norm(exact)
    assert torch.linalg.vector_norm(exact) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_of_low_precision_give_float32(dtype: torch.dtype) -> None:
    module = start().float()
    first, second = (part.to(dtype) for part in features())
    y = module(first, second)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, module(first.float(), second.float()))


@pytest.mark.parametrize(("training", "groups"), [(True, 1), (True, 2), (False, 1)])
def test_gradients(training: bool, groups: int) -> None:
    module = trained().train(training)
    names = [name for name, _ in module.named_parameters()]

    def y(first: Tensor, second: Tensor, *values: Tensor) -> Tensor:
        found = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (first, second, groups))
        return F.silu(found)  # the sum of a normalised map does not depend on what was normalised

    inputs = [part.requires_grad_() for part in features(count=4, side=2)]
    assert torch.autograd.gradcheck(y, (*inputs, *(p.detach().requires_grad_() for p in module.parameters())))
