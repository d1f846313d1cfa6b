"""csrc/cuda/fcc.cu in the emulator, against the float64 reference."""

import math

import emulator
import pytest
import torch

from molkernels import reference

pytestmark = pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler")

FORMATS = [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False)]
SQUARE = [(8, 8), (16, 16), (32, 32)]  # with kernels of their own
SIZES = [*SQUARE, (5, 7), (1, 1), (16, 8), (33, 17), (64, 64), (1, 9), (64, 3)]
EPS = 1e-5
NAMES = ("x", "gamma", "beta", "pe_h", "pe_w", "weight_h", "weight_w", "bias_h", "bias_w")


@pytest.fixture(scope="module")
def ops():
    emulator.load()
    return torch.ops.molkernels_cuda


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """New memory, outputs and scratch alike, holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def arguments(generator, n, c, size, dtype):
    """x, grad_y and the parameters."""
    h, w = size
    shapes = [(n, c, h, w)] * 2 + [(c,)] * 2 + [(c, h), (c, w)] * 2 + [(c,)] * 2
    x, grad_y, *parameters = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, grad_y, parameters


def statistics(x, parameters, groups):
    mean, var = reference.fcc_statistics(x.double(), parameters[2].double(), parameters[3].double(), groups)
    return mean.float(), var.float()


def double(tensors):
    return [t.double() for t in tensors]


def assert_close(result, expected, plain, tf32, length, scale=None, what=""):
    """Norm and direction of the error: float32 and TF32 by their rounding, 16 bits by the error of plain PyTorch.

    `scale` is the size of the terms whose difference is `expected`, if that is close to zero itself.
    """
    assert result.shape == expected.shape
    assert result.is_contiguous()
    assert not result.isnan().any(), what
    wide = result.double()
    size = max(expected.norm(), torch.tensor(0.0) if scale is None else scale.norm())
    if result.dtype == torch.float32:
        limit = (1e-3 if tf32 else 1e-6 * math.sqrt(length)) * size
    else:
        limit = max(2 * (plain.double() - expected).norm(), torch.finfo(result.dtype).eps / 2 * size)
    assert (wide - expected).norm() <= limit, (what, float((wide - expected).norm() / size), float(limit / size))
    if limit < 0.05 * expected.norm():
        assert torch.cosine_similarity(wide.flatten(), expected.flatten(), 0) > 0.998, what


def assert_gradients_close(ops, tensors, statistics, residual, training, tf32):
    x, grad_y, parameters = tensors
    settings = (EPS, residual, training)
    grads = ops.fcc_backward(grad_y, x, *statistics, *parameters, *settings, tf32)
    wide = double([grad_y, x, *statistics, *parameters])
    expected = reference.fcc_backward(*wide, *settings)
    scales = reference.fcc_backward(*wide, EPS, residual, False)
    plain = reference.fcc_backward(grad_y, x, *statistics, *parameters, *settings)
    length = x[:, 0].numel()
    for grad, e, p, s, name in zip(grads, expected, plain, scales, NAMES, strict=True):
        assert grad.dtype == x.dtype
        assert_close(grad, e, p, tf32, length, s, name)


def shape_of(size):
    """N, C: enough channels for the norm of an error in 16 bits to be representative."""
    return (6, 24) if size in SQUARE else (4, 2) if size == (64, 64) else (6, 4)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_forward(ops, generator, size, dtype, tf32, groups, residual):
    x, _, parameters = arguments(generator, *shape_of(size), size, dtype)
    wide, length = double(parameters), size[0] * size[1]

    y, mean, var = ops.fcc_train(x, *parameters, groups, EPS, residual, tf32)
    expected, *moments = reference.fcc_train(x.double(), *wide, groups, EPS, residual)
    plain = reference.fcc_train(x, *parameters, groups, EPS, residual)[0]
    assert y.dtype == dtype
    assert_close(y, expected, plain, tf32, length)
    for got, e in zip((mean, var), moments, strict=True):
        torch.testing.assert_close(got, e.float(), rtol=1e-5, atol=1e-6)

    given = (torch.randn(groups, x.shape[1], generator=generator), 0.1 + torch.rand(groups, x.shape[1]))
    y = ops.fcc(x, *given, *parameters, EPS, residual, tf32)
    expected = reference.fcc(x.double(), *double(given), *wide, EPS, residual)
    assert_close(y, expected, reference.fcc(x, *given, *parameters, EPS, residual), tf32, length)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_backward(ops, generator, size, dtype, tf32, groups, residual, training):
    tensors = arguments(generator, *shape_of(size), size, dtype)
    given = statistics(tensors[0], tensors[2], groups)
    assert_gradients_close(ops, tensors, given, residual, training, tf32)


@pytest.mark.parametrize("processors", ["1", "100000"])
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize(
    ("size", "n"),
    [((8, 8), 74), ((16, 16), 45), pytest.param((32, 32), 22, marks=pytest.mark.slow), ((3, 5), 30)],
)
def test_many_samples_in_few_and_in_many_blocks(ops, generator, monkeypatch, size, n, dtype, tf32, processors):
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", processors)
    x, grad_y, parameters = arguments(generator, n, 16, size, dtype)
    y, mean, var = ops.fcc_train(x, *parameters, 1, EPS, True, tf32)
    expected, *moments = reference.fcc_train(x.double(), *double(parameters), 1, EPS, True)
    plain = reference.fcc_train(x, *parameters, 1, EPS, True)[0]
    assert_close(y, expected, plain, tf32, size[0] * size[1])
    for got, e in zip((mean, var), moments, strict=True):
        torch.testing.assert_close(got, e.float(), rtol=1e-5, atol=1e-6)
    for training in (False, True):
        assert_gradients_close(ops, (x, grad_y, parameters), (mean, var), True, training, tf32)


@pytest.mark.parametrize("resident", ["1", "3", "1000"])
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS[:3])
@pytest.mark.parametrize("size", [(16, 16), (3, 5)])
def test_samples_are_shared_out_among_the_resident_blocks(ops, generator, monkeypatch, size, dtype, tf32, resident):
    """In one wave: the same bits however many samples a block takes."""
    x, grad_y, parameters = arguments(generator, 45, 4, size, dtype)
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", "4")

    def results():
        y, mean, var = ops.fcc_train(x, *parameters, 1, EPS, True, tf32)
        return y, ops.fcc_backward(grad_y, x, mean, var, *parameters, EPS, True, True, tf32)[0]

    expected = results()
    monkeypatch.setenv("MOLKERNELS_EMULATED_RESIDENT", resident)
    assert all(torch.equal(one, two) for one, two in zip(expected, results(), strict=True))
    given = statistics(x, parameters, 1)
    wanted = reference.fcc(x.double(), *double(given), *double(parameters), EPS, True)
    plain = reference.fcc(x, *given, *parameters, EPS, True)
    assert_close(ops.fcc(x, *given, *parameters, EPS, True, tf32), wanted, plain, tf32, size[0] * size[1])


@pytest.mark.parametrize("groups", [3, 24])
@pytest.mark.parametrize("size", [(16, 16), (2, 3)])
def test_many_groups(ops, generator, size, groups):
    x, grad_y, parameters = arguments(generator, 24, 2, size, torch.float32)
    y, mean, var = ops.fcc_train(x, *parameters, groups, EPS, False, False)
    expected, *moments = reference.fcc_train(x.double(), *double(parameters), groups, EPS, False)
    assert_close(y, expected, None, False, size[0] * size[1])
    for got, e in zip((mean, var), moments, strict=True):
        torch.testing.assert_close(got, e.float(), rtol=1e-5, atol=1e-6)
    assert_gradients_close(ops, (x, grad_y, parameters), (mean, var), False, True, False)


@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (5, 7)])
def test_no_bit_depends_on_the_schedule(ops, generator, monkeypatch, size, dtype, tf32):
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", "1")
    x, grad_y, parameters = arguments(generator, 18, 8, size, dtype)
    seen = []
    for order in emulator.SCHEDULES:
        with emulator.schedule(order):
            y, mean, var = ops.fcc_train(x, *parameters, 1, EPS, True, tf32)
            results = [y, mean, var]
            for training in (False, True):
                results += ops.fcc_backward(grad_y, x, mean, var, *parameters, EPS, True, training, tf32)
            seen.append(results)
    for other in seen[1:]:
        assert all(torch.equal(one, two) for one, two in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("size", [(16, 16), (5, 7)])
def test_variance_survives_a_mean_far_from_zero(ops, generator, size):
    """One-pass sums of squares would lose it completely."""
    x, _, parameters = arguments(generator, 40, 4, size, torch.float32)
    x += 3000
    _, mean, var = ops.fcc_train(x, *parameters, 1, EPS, False, False)
    expected = reference.fcc_statistics(x.double(), parameters[2].double(), parameters[3].double(), 1)
    torch.testing.assert_close(mean.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), expected[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (5, 7)])
def test_any_strides(ops, generator, size, tf32):
    x, grad_y, parameters = arguments(generator, 6, 4, size, torch.float32)
    askew = torch.empty(x.numel() + 1)[1:].view(x.shape).copy_(x)
    given = statistics(x, parameters, 2)
    turned = [p.T.contiguous().T if p.ndim == 2 else torch.stack([p, p], 1)[:, 0] for p in parameters]
    for other in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT, askew):
        assert_gradients_close(ops, (other, grad_y.mT.contiguous().mT, turned), given, True, True, tf32)
        y = ops.fcc(other, *given, *turned, EPS, False, tf32)
        expected = reference.fcc(x.double(), *double(given), *double(parameters), EPS, False)
        assert_close(y, expected, None, tf32, size[0] * size[1])
    assert_gradients_close(ops, (x, askew, parameters), given, True, False, tf32)


@pytest.mark.parametrize("size", [(16, 16), (5, 7)])
def test_no_samples_give_zero_gradients(ops, generator, size):
    x, grad_y, parameters = arguments(generator, 0, 4, size, torch.float32)
    y, mean, var = ops.fcc_train(x, *parameters, 2, EPS, True, False)
    assert y.shape == x.shape
    assert torch.equal(mean, torch.zeros(2, 4))
    assert torch.equal(var, torch.zeros(2, 4))
    assert ops.fcc(x, mean, var, *parameters, EPS, True, False).shape == x.shape
    for training in (False, True):
        grad_x, *grads = ops.fcc_backward(grad_y, x, mean, var, *parameters, EPS, True, training, False)
        assert grad_x.shape == x.shape
        for grad, parameter in zip(grads, parameters, strict=True):
            assert torch.equal(grad, torch.zeros_like(parameter))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (5, 7)])
def test_nan_stays_in_its_map(ops, generator, size, dtype, tf32, value):
    x, grad_y, parameters = arguments(generator, 9, 4, size, dtype)
    given = statistics(x, parameters, 1)
    x[4, 1, 2, 3] = value
    others = torch.ones(9, 4, dtype=torch.bool)
    others[4, 1] = False
    y = ops.fcc(x, *given, *parameters, EPS, True, tf32)
    assert not y[4, 1].isfinite().any()
    assert y[others].isfinite().all()
    grad_y[4, 1, 0, 0] = value
    grads = ops.fcc_backward(grad_y, x, *given, *parameters, EPS, True, False, tf32)
    assert not grads[0][4, 1].isfinite().any()
    assert grads[0][others].isfinite().all()
    for grad in grads[1:]:
        assert grad[[0, 2, 3]].isfinite().all()


def test_a_small_device_is_told_what_it_lacks(ops, generator, monkeypatch):
    x, _, parameters = arguments(generator, 2, 2, (64, 64), torch.float32)
    given = statistics(x, parameters, 1)
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", str(99 * 1024))
    ops.fcc_backward(x, x, *given, *parameters, EPS, True, True, False)
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", "20000")
    with pytest.raises(RuntimeError, match=r"fcc needs .* bytes of shared memory a block; this device grants 20000"):
        ops.fcc(x, *given, *parameters, EPS, True, False)
