"""FCC, CCC, F5C as modules: parameters, running statistics, the released storage."""

import copy

import pytest
import torch
from no_host import NoHost
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


def placed(fcc, x):
    """What the norm inside FCC normalises."""
    half, (h, w) = x.shape[1] // 2, fcc.size
    return torch.cat([x[:, :half] + fcc.pe_h[:half, :h, None], x[:, half:] + fcc.pe_w[half:, None, :w]], 1)


def stir(block, generator):
    """Random parameters and statistics: the paper's block starts as the identity."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return block


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_frozen_norm_stays_frozen_in_training(generator, variant):
    block = stir(mk.F5C(4, 3, 2, variant), generator)
    x = torch.randn(3, 4, 3, 3, generator=generator)
    expected = block.eval()(x).detach()
    before = copy.deepcopy(block.fcc.norm.state_dict())
    block.train()
    block.fcc.norm.eval().requires_grad_(False)
    y = block(x)
    torch.testing.assert_close(y.detach(), expected)
    y.square().sum().backward()
    assert all(torch.equal(before[name], value) for name, value in block.fcc.norm.state_dict().items())
    assert block.fcc.norm.weight.grad is None
    assert torch.count_nonzero(block.fcc.weight_h.grad) > 0


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_norm_in_training_uses_the_batch_in_a_block_in_evaluation(generator, variant):
    block = stir(mk.F5C(4, 3, 2, variant), generator)
    x = torch.randn(3, 4, 3, 3, generator=generator)
    expected = copy.deepcopy(block)(x)
    block.eval()
    block.fcc.norm.train()
    torch.testing.assert_close(block(x), expected)
    assert block.fcc.norm.num_batches_tracked == 1


NORMS = {
    "plain": {},
    "cumulative average": {"momentum": None},
    "without statistics": {"track_running_stats": False},
    "without parameters": {"affine": False},
    "neither": {"affine": False, "track_running_stats": False},
}


@pytest.mark.parametrize("options", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("groups", [1, 3])
def test_settings_of_the_norm_mean_what_they_mean_in_batch_norm(generator, options, groups):
    """Beside nn.BatchNorm2d itself, called as a module: its output, running statistics and counter, in both modes."""
    fcc = mk.FCC(4, 3)
    fcc.norm = nn.BatchNorm2d(4, **options)
    stir(fcc, generator) if options in ({}, NORMS["cumulative average"]) else None
    called = copy.deepcopy(fcc)
    seen = []
    called.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for _ in range(3):
        x = torch.randn(6, 4, 3, 3, generator=generator)
        torch.testing.assert_close(fcc(x, groups), called(x, groups))
    assert len(seen) == 3 * groups
    torch.testing.assert_close(seen[-1], placed(fcc, x[groups - 1 :: groups]))
    for name, value in called.norm.state_dict().items():
        torch.testing.assert_close(fcc.norm.state_dict()[name], value, msg=name)
    torch.testing.assert_close(fcc.eval()(x), called.eval()(x))


def test_tracking_that_is_switched_off_later_leaves_the_statistics(generator):
    block = stir(mk.F5C(4, 3, 2, "released"), generator)
    block.fcc.norm.track_running_stats = False
    before = copy.deepcopy(block.fcc.norm.state_dict())
    block(torch.randn(3, 4, 3, 3, generator=generator))
    assert all(torch.equal(before[name], value) for name, value in block.fcc.norm.state_dict().items())


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_norms_of_another_kind_take_their_place(generator, variant):
    x = torch.randn(4, 4, 3, 3, generator=generator)
    block = stir(mk.F5C(4, 3, 2, variant), generator)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block))
    assert isinstance(synchronised.fcc.norm, nn.SyncBatchNorm)
    for training in (True, False):
        torch.testing.assert_close(synchronised.train(training)(x), block.train(training)(x))
    torch.testing.assert_close(synchronised.fcc.norm.running_var, block.fcc.norm.running_var)
    for norm in (nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Identity()):
        block.fcc.norm = norm
        calls = []
        norm.register_forward_hook(lambda module, inputs, output, calls=calls: calls.append(inputs[0]))
        torch.testing.assert_close(block.eval()(x), block.train()(x))
        assert len(calls) == 2
        torch.testing.assert_close(calls[0], placed(block.fcc, x))
        assert block(x).dtype == x.dtype


def test_without_running_statistics_fcc_says_so():
    fcc = mk.FCC(4, 3)
    fcc.norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="keeps no running statistics"):
        fcc.statistics()


def watched(block, register):
    """The names of the block's modules whose hooks fire in a pass forward and backward."""
    fired = set()
    handles = [
        getattr(module, register)(lambda *_, name=name: fired.add(name)) for name, module in block.named_modules()
    ]
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = block(x)
    y.sum().backward()
    for handle in handles:
        handle.remove()
    return fired, y.detach()


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_fire_in_evaluation_as_in_training(generator, variant, register):
    block = stir(mk.F5C(4, 3, 2, variant), generator).eval()
    expected = block(torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))).detach()
    everyone = {name for name, _ in block.named_modules()}
    in_evaluation, y = watched(block, register)
    assert in_evaluation == everyone
    torch.testing.assert_close(y, expected)
    assert watched(block.train(), register)[0] == everyone


def test_a_hook_of_one_module_can_change_its_output_without_gradients(generator):
    for name in ("fcc", "fcc.norm", "fcc.mix", "ccc", "mix"):
        block = stir(mk.F5C(4, 3, 2), generator).eval()
        x = torch.randn(2, 4, 3, 3, generator=generator)
        with torch.no_grad():
            before = block(x)
            block.get_submodule(name).register_forward_hook(lambda module, inputs, output: output + 1)
            assert not torch.allclose(block(x), before), name


def test_hooks_for_all_modules_fire_in_evaluation(generator):
    block = stir(mk.F5C(4, 3, 2), generator).eval()
    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(type(module).__name__))
    try:
        block(torch.randn(2, 4, 3, 3, generator=generator))
    finally:
        handle.remove()
    assert seen == {"F5C", "FCC", "BatchNorm2d", "Conv2d", "CCC"}


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


PARAMETERS = ("fcc.weight_h", "fcc.pe_w", "fcc.norm.weight", "fcc.mix.weight", "ccc.weight1", "mix.bias")


@pytest.mark.parametrize("name", PARAMETERS)
def test_parametrizations_count_in_both_modes(generator, name):
    owner, _, parameter = name.rpartition(".")
    block, plain = (stir(mk.F5C(4, 3, 2), torch.Generator().manual_seed(4)) for _ in range(2))
    nn.utils.parametrize.register_parametrization(block.get_submodule(owner), parameter, Doubled())
    with torch.no_grad():
        plain.get_parameter(name).mul_(2)
    x = torch.randn(3, 4, 3, 3, generator=generator)
    for training in (True, False):
        torch.testing.assert_close(block.train(training)(x), plain.train(training)(x))


@pytest.mark.parametrize("kind", ["parametrization", "hook"])
def test_spectral_norm_holds_in_evaluation(generator, kind):
    block = stir(mk.F5C(4, 3, 2), generator)
    wrap = nn.utils.parametrizations.spectral_norm if kind == "parametrization" else nn.utils.spectral_norm
    wrap(block.mix)
    x = torch.randn(2, 4, 3, 3, generator=generator)
    for _ in range(30):
        block(x)
    block.eval()
    with torch.no_grad():
        y, z = block(x), x + block.fcc(x)
        torch.testing.assert_close(y, z + block.mix(block.ccc(z)))
    assert float(torch.linalg.matrix_norm(block.mix.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=1e-3)


def test_modules_of_the_user_are_called_in_both_modes(generator):
    x = torch.randn(3, 4, 3, 3, generator=generator)
    replacements = {
        "fcc": nn.Identity(),
        "ccc": nn.Tanh(),
        "mix": nn.Conv2d(4, 4, 3, padding=1),
        "fcc.mix": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
    }
    for name, module in replacements.items():
        block = stir(mk.F5C(4, 3, 2), generator)
        block.fcc.norm.eval()
        block.set_submodule(name, module)
        block.eval()
        y = block(x)
        z = x + block.fcc(x)
        torch.testing.assert_close(y, z + block.mix(block.ccc(z)), msg=name)
        block.train()
        if name != "fcc":
            block.fcc.norm.eval()
        torch.testing.assert_close(block(x), y, msg=name)


def test_a_method_of_an_instance_is_called(generator):
    block = stir(mk.F5C(4, 3, 2), generator).eval()
    block.ccc.forward = torch.zeros_like
    x = torch.randn(2, 4, 3, 3, generator=generator)
    z = x + block.fcc(x)
    torch.testing.assert_close(block(x), z + block.mix.bias[:, None, None])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_training_step_neither_waits_for_the_device_nor_copies_to_it(variant, momentum, device, backend):
    """As a CUDA graph needs it: from the block's input to the gradients, on a device that may be far behind."""
    block = mk.F5C(4, 4, 2, variant, backend).to(device)
    block.fcc.norm.momentum = momentum
    x = torch.ones(6, 4, 4, 4, device=device, requires_grad=True)
    with NoHost():
        block(x, groups=3).square().sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    ("wait", "message"),
    [
        (lambda x: x.sum().item(), "a number read"),
        (lambda x: bool((x > 0).all()), "a number read|truth value"),
        (lambda x: x[x > 0], "depends on data"),
        (lambda x: x * torch.tensor([1.0, 2.0]), "made from Python's numbers"),
        (lambda x: x.to("meta"), "a copy between cpu, meta"),
    ],
)
def test_the_guard_sees_waits_and_copies(wait, message):
    with NoHost(), pytest.raises(AssertionError, match=message):
        wait(torch.ones(2))
