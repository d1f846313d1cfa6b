"""csrc/cuda/cost_volume.cu in the emulator, against the float64 reference."""

import emulator
import pytest
import torch

from molkernels import reference

pytestmark = pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler")

FORMATS = [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False)]
# (N, C, H, W), radius_y, radius_x, stride
SHAPES = [
    ((2, 20, 16, 16), 7, 7, 2),
    ((1, 70, 16, 16), 10, 10, 2),
    ((1, 8, 16, 16), 3, 3, 1),
    ((2, 5, 8, 8), 2, 4, 2),
    ((1, 3, 32, 32), 2, 1, 2),
    ((1, 9, 12, 24), 3, 4, 2),
    ((1, 4, 6, 64), 1, 2, 1),
    ((1, 33, 7, 5), 3, 2, 2),
    ((1, 4, 13, 9), 1, 5, 3),
    ((2, 3, 1, 1), 2, 2, 2),
    ((1, 2, 5, 40), 0, 1, 50),
    ((1, 1, 33, 63), 1, 0, 1),
]


@pytest.fixture(scope="module")
def ops():
    emulator.load()
    return torch.ops.molkernels_cuda


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("slope", [1.0, 0.1, 0.0])
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize(("shape", "radius_y", "radius_x", "stride"), SHAPES)
def test_cost_volume(ops, generator, shape, radius_y, radius_x, stride, dtype, tf32, slope):
    a, b = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    settings = (radius_y, radius_x, stride, slope)
    expected = reference.cost_volume(a.double(), b.double(), *settings)
    out = ops.cost_volume(a, b, *settings, tf32)
    assert out.shape == expected.shape
    _, valid = reference.displaced_positions(*shape[2:], radius_y, radius_x, stride, "cpu")
    assert not out[:, ~valid.mT.reshape(-1, *shape[2:])].any()
    assert_close(out, expected, lambda: reference.cost_volume(a, b, *settings), tf32, shape[1])

    grad_out = torch.randn(out.shape, generator=generator).to(dtype)
    expected = reference.cost_volume_backward(grad_out.double(), a.double(), b.double(), out.double(), *settings)
    plain = reference.cost_volume_backward(grad_out, a, b, out, *settings)
    grads = ops.cost_volume_backward(grad_out, a, b, out, *settings, tf32)
    for grad, wanted, usual in zip(grads, expected, plain, strict=True):
        assert_close(grad, wanted, lambda usual=usual: usual, tf32, out.shape[1])


def assert_close(result, expected, plain, tf32, length):
    """Float32 and TF32 by the norm of the error; 16 bits by the error of plain PyTorch in the same dtype."""
    error = (result.double() - expected).norm()
    if result.dtype == torch.float32:
        assert error <= (1e-3 if tf32 else 1e-6 * length**0.5) * expected.norm()
    else:
        assert error <= 2 * (plain().double() - expected).norm() + 1e-30
    assert not result.isnan().any()


@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize(("shape", "radius"), [((1, 70, 16, 16), 7), ((1, 70, 5, 7), 2), ((1, 4, 32, 32), 3)])
def test_no_bit_depends_on_the_schedule(ops, generator, monkeypatch, shape, radius, dtype, tf32):
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", "1")  # several tiles of channels per block
    a, b = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    settings = (radius, radius, 2, 0.1)
    seen = []
    for order in emulator.SCHEDULES:
        with emulator.schedule(order):
            out = ops.cost_volume(a, b, *settings, tf32)
            seen.append((out, *ops.cost_volume_backward(out.cos(), a, b, out, *settings, tf32)))
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("processors", ["1", "1000"])
def test_few_and_many_blocks_give_the_same(ops, generator, monkeypatch, processors):
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", processors)
    a, b = (torch.randn(2, 150, 16, 16, generator=generator) for _ in range(2))
    settings = (7, 7, 2, 0.1)
    out = ops.cost_volume(a, b, *settings, False)
    wide = (a.double(), b.double())
    assert_close(out, reference.cost_volume(*wide, *settings), None, False, 150)
    grads = ops.cost_volume_backward(out, a, b, out, *settings, False)
    expected = reference.cost_volume_backward(out.double(), *wide, out.double(), *settings)
    for grad, wanted in zip(grads, expected, strict=True):
        assert_close(grad, wanted, None, False, 225)


def test_any_strides_and_no_maps(ops, generator):
    a = torch.randn(2, 16, 16, 6, generator=generator).permute(0, 3, 1, 2)
    b = torch.randn(3, 2, 6, 16, 16, generator=generator)[1]
    askew = torch.randn(2 * 6 * 256 + 1, generator=generator)[1:].view(2, 6, 16, 16)
    settings = (3, 2, 2, 0.1)
    for one, two in ((a, b), (askew, b), (b, askew)):
        out = ops.cost_volume(one, two, *settings, False)
        assert_close(out, reference.cost_volume(one.double(), two.double(), *settings), None, False, 6)
        grads = ops.cost_volume_backward(out.mT, one, two, out, *settings, False)
        wide = (t.double() for t in (out.mT, one, two, out))
        for grad, wanted in zip(grads, reference.cost_volume_backward(*wide, *settings), strict=True):
            assert_close(grad, wanted, None, False, 35)
    none = torch.empty(0, 6, 16, 16)
    out = ops.cost_volume(none, none, *settings, False)
    assert out.shape == (0, 35, 16, 16)
    assert [g.shape for g in ops.cost_volume_backward(out, none, none, out, *settings, False)] == [none.shape] * 2


def test_nan_stays_with_the_pixels_that_meet_it(ops, generator):
    a, b = (torch.randn(1, 4, 16, 16, generator=generator) for _ in range(2))
    a[0, 2, 5, 7] = torch.nan
    b[0, 1, 4, 10] = torch.nan
    out = ops.cost_volume(a, b, 7, 7, 2, 0.1, False)
    expected = reference.cost_volume(a, torch.ones_like(b), 7, 7, 2, 0.1).isnan()
    target, valid = reference.displaced_positions(16, 16, 7, 7, 2, "cpu")
    hit = ((target == 4 * 16 + 10) & valid).mT.reshape(225, 16, 16)
    inside = valid.mT.reshape(225, 16, 16)
    assert torch.equal(out[0].isnan(), (expected[0] & inside) | hit)
