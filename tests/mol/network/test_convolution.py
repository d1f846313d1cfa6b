"""Convolutions of tiny maps as matrix products: PyTorch's own, by other means."""

import pytest
import torch
import torch.nn.functional as F

from mol.network import convolution

FORMATS = (torch.contiguous_format, torch.channels_last)


def pair(own, torchs, x, weight):
    """Result and gradients of both ways for the same random cotangent."""
    results = []
    for function in (own, torchs):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = function(*leaves)
        cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
        results.append((y, *torch.autograd.grad(y, leaves, cotangent)))
    return zip(*results, strict=True)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("layout", FORMATS, ids=["nchw", "channels-last"])
@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"), [(2, 3, 1, 1), (4, 3, 2, 1), (8, 3, 2, 1), (2, 2, 2, 0)]
)
def test_conv2d_is_the_convolution(side, kernel, stride, padding, layout):
    x, weight = normal(3, 5, side, side).contiguous(memory_format=layout), normal(7, 5, kernel, kernel, seed=1)
    own, torchs = convolution.conv2d, F.conv2d
    for got, want in pair(
        lambda x, w: own(x, w, stride, padding), lambda x, w: torchs(x, w, None, stride, padding), x, weight
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", FORMATS, ids=["nchw", "channels-last"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 5), (4, 4), (5, 4)])
def test_conv_transpose2d_is_the_transposed_convolution(size, layout):
    x, weight = normal(3, 6, *size).contiguous(memory_format=layout), normal(6, 5, 4, 4, seed=1)
    for got, want in pair(
        convolution.conv_transpose2d, lambda x, w: F.conv_transpose2d(x, w, None, stride=2, padding=1), x, weight
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", FORMATS, ids=["nchw", "channels-last"])
@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 5), (6, 4)])
def test_narrow_conv2d_is_the_convolution(size, outputs, layout):
    x, weight = normal(3, 6, *size).contiguous(memory_format=layout), normal(outputs, 6, 3, 3, seed=1)
    for got, want in pair(convolution.narrow_conv2d, lambda x, w: F.conv2d(x, w, None, padding=1), x, weight):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=["x", "weight"])
def test_narrow_conv2d_gives_the_one_gradient_that_is_asked_for(needs):
    leaves = [t.requires_grad_(need) for t, need in zip((normal(2, 3, 4, 4), normal(2, 3, 3, 3)), needs, strict=True)]
    asked = leaves[needs.index(True)]
    (got,) = torch.autograd.grad(convolution.narrow_conv2d(*leaves).square().sum(), asked)
    (want,) = torch.autograd.grad(F.conv2d(*leaves, padding=1).square().sum(), asked)
    torch.testing.assert_close(got, want)


def test_narrow_conv2d_follows_autocast_and_compiles_without_a_break():
    x, weight = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution.narrow_conv2d(x, weight)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert weight.grad.dtype == torch.float32
    compiled = torch.compile(convolution.narrow_conv2d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), convolution.narrow_conv2d(x, weight))
    compiled(x, weight).sum().backward()


def test_the_smallest_maps_are_a_product_and_larger_ones_are_not():
    weight, transposed = torch.randn(4, 3, 3, 3), torch.randn(3, 4, 4, 4)

    def operators(function, *arguments):
        with torch.profiler.profile() as profile:
            function(*arguments)
        return {event.key for event in profile.key_averages()}

    assert "aten::mm" in operators(convolution.conv2d, torch.randn(2, 3, 2, 2), weight, 1, 1)
    assert "aten::mm" not in operators(convolution.conv2d, torch.randn(2, 3, 3, 3), weight, 1, 1)
    assert "aten::mm" in operators(convolution.conv_transpose2d, torch.randn(2, 3, 4, 4), transposed)
    assert "aten::mm" not in operators(convolution.conv_transpose2d, torch.randn(2, 3, 5, 4), transposed)


def test_a_product_in_bfloat16_is_summed_like_a_convolution_in_bfloat16():
    x, weight = normal(4, 32, 4, 4), normal(32, 16, 4, 4, seed=1)
    exact = F.conv_transpose2d(x, weight, None, 2, 1)

    def error(function):
        result = function(x.bfloat16(), weight.bfloat16())
        assert result.dtype == torch.bfloat16
        return ((result.double() - exact).norm() / exact.norm()).item()

    assert error(convolution.conv_transpose2d) < 2 * error(lambda x, w: F.conv_transpose2d(x, w, None, 2, 1))


def test_a_narrow_convolution_in_bfloat16_is_nearly_as_exact_as_pytorchs():
    x, weight = normal(4, 130, 16, 16), normal(2, 130, 3, 3, seed=1)
    exact = F.conv2d(x, weight, None, 1, 1)

    def error(function):
        return ((function(x.bfloat16(), weight.bfloat16()).double() - exact).norm() / exact.norm()).item()

    assert error(convolution.narrow_conv2d) < 2 * error(lambda x, w: F.conv2d(x, w, None, 1, 1))
