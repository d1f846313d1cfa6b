"""FCC, CCC, F5C as modules: parameters, running statistics, the released storage."""

import copy

import pytest
import torch
from torch import nn

import molkernels as mk
from molkernels.modules import update_running_statistics


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(42)


def test_fcc_equals_circular_depthwise_convolutions(generator):
    """The equivalent PyTorch code in the README: circular padding and depthwise convolutions as long as the axes."""
    fcc = mk.FCC(4, (5, 6)).double().eval()
    x = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    half = 2

    def along(u, weight, bias, dim):
        length = weight.shape[1]
        padded = torch.cat([u, u.narrow(dim, 0, length - 1)], dim)
        kernel = weight[:, None, :, None] if dim == 2 else weight[:, None, None, :]
        return nn.functional.conv2d(padded, kernel, bias, groups=weight.shape[0])

    a = fcc.norm(torch.cat([x[:, :half] + fcc.pe_h[:half, :, None], x[:, half:] + fcc.pe_w[half:, None, :]], 1))
    first = along(a[:, :half], fcc.weight_h[:half], fcc.bias_h[:half], 2) + fcc.pe_w[:half, None, :]
    first = along(first, fcc.weight_w[:half], fcc.bias_w[:half], 3)
    second = along(a[:, half:], fcc.weight_w[half:], fcc.bias_w[half:], 3) + fcc.pe_h[half:, :, None]
    second = along(second, fcc.weight_h[half:], fcc.bias_h[half:], 2)
    torch.testing.assert_close(fcc(x), fcc.mix(torch.cat([first, second], 1)))


@pytest.mark.parametrize("groups", [1, 3])
def test_training_leaves_the_running_statistics_of_calls_one_after_another(generator, groups):
    together = mk.FCC(4, 3, "released")
    apart = copy.deepcopy(together)
    x = torch.randn(6, 4, 3, 3, generator=generator)
    y = together(x, groups)
    for group in range(groups):
        torch.testing.assert_close(apart(x[group::groups]), y[group::groups])
    torch.testing.assert_close(together.norm.running_mean, apart.norm.running_mean)
    torch.testing.assert_close(together.norm.running_var, apart.norm.running_var)
    assert together.norm.num_batches_tracked == groups


def test_running_statistics_are_those_of_batch_norm(generator):
    fcc, plain = mk.FCC(4, 3, "released"), nn.BatchNorm2d(4)
    x = torch.randn(5, 4, 3, 3, generator=generator)
    fcc(x)
    plain(torch.cat([x[:, :2] + fcc.pe_h[:2, :3, None], x[:, 2:] + fcc.pe_w[2:, None, :3]], 1))
    torch.testing.assert_close(fcc.norm.running_mean, plain.running_mean)
    torch.testing.assert_close(fcc.norm.running_var, plain.running_var)


def test_running_statistics_can_see_a_group_more_than_once(generator):
    mean, var = torch.randn(2, 4, generator=generator), torch.rand(2, 4, generator=generator)
    closed, folded = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    order = [0, 1, 1, 0, 1]
    update_running_statistics(closed, mean, var, order)
    for group in order:
        update_running_statistics(folded, mean[group : group + 1], var[group : group + 1])
    torch.testing.assert_close(closed.running_mean, folded.running_mean)
    torch.testing.assert_close(closed.running_var, folded.running_var)
    assert closed.num_batches_tracked == folded.num_batches_tracked == 5


def test_released_fcc_crops_what_it_stores_and_never_trains_the_rest(generator):
    fcc = mk.FCC(4, (3, 5), "released")
    assert fcc.weight_h.shape == (4, 32)
    fcc(torch.randn(2, 4, 3, 5, generator=generator)).square().sum().backward()
    for stored, length in ((fcc.weight_h, 3), (fcc.pe_h, 3), (fcc.weight_w, 5), (fcc.pe_w, 5)):
        assert torch.count_nonzero(stored.grad[:, length:]) == 0
        assert torch.count_nonzero(stored.grad[:, :length]) > 0


def test_released_fcc_can_resize_what_it_stores(generator):
    fcc = mk.FCC(4, (3, 40), "released", resize="interpolate")
    with torch.no_grad():
        fcc.weight_h.copy_(torch.linspace(0, 31, 32).expand(4, 32))
    torch.testing.assert_close(fcc.parameters_for_axes().weight_h, torch.tensor([0.0, 15.5, 31.0]).expand(4, 3))
    assert fcc.parameters_for_axes().weight_w.shape == (4, 40)
    assert fcc(torch.randn(2, 4, 3, 40, generator=generator)).shape == (2, 4, 3, 40)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("size", [1, 2, (3, 7), 8, (16, 5), (64, 2)])
def test_f5c_takes_any_size(generator, variant, size):
    if variant == "released" and size == (64, 2):
        block = mk.F5C(4, size, 2, variant, resize="interpolate")
    else:
        block = mk.F5C(4, size, 1 if size == 1 else 2, variant)
    h, w = (size, size) if isinstance(size, int) else size
    x = torch.randn(3, 4, h, w, generator=generator, requires_grad=True)
    y = block(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_the_papers_block_starts_as_the_identity_and_learns(generator):
    block = mk.F5C(4, 3, 2)
    x = torch.randn(3, 4, 3, 3, generator=generator)
    assert torch.equal(block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        block(x).square().sum().backward()
        optimizer.step()
    assert all(torch.count_nonzero(p.grad) > 0 for p in block.parameters())


def test_state_dict_round_trip(generator):
    for variant in ("paper", "released"):
        block, other = mk.F5C(4, 3, 2, variant), mk.F5C(4, 3, 2, variant)
        block(torch.randn(4, 4, 3, 3, generator=generator))
        other.load_state_dict(block.state_dict())
        x = torch.randn(2, 4, 3, 3, generator=generator)
        assert torch.equal(block.eval()(x), other.eval()(x))
