"""The operators on shapes, strides and dtypes that nobody chose, held against the float64 reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import EMULATED, TARGETS, random, slow_on

from molkernels import functional, reference
from molkernels.functional import EdgeParameters, FCCParameters

EPSILON = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}


@pytest.fixture(params=TARGETS, scope="module")
def target(request):
    with request.param.active():
        yield request.param


def examples(target):
    """The emulated GPU takes a thousand times as long as a processor; on a GPU the profile asks for few."""
    return settings(
        max_examples=min(settings().max_examples, 8 if target.slow else 60),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def sides(target):
    return st.integers(1, 9) | st.sampled_from([8, 16] if target.backend == EMULATED else [8, 16, 17, 32, 64])


def layouts():
    return st.sampled_from(["contiguous", "channels-last", "strided", "expanded", "flipped", "transposed"])


def arranged(x, layout):
    """The values of x (for "expanded": of its first map) with other strides."""
    if layout == "channels-last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, -x], -1)[..., 0]
    if layout == "expanded":
        return x[:1].expand_as(x)
    if layout == "flipped":
        return x.flip(1).flip(1)
    if layout == "transposed":
        return x.mT.contiguous().mT
    return x


def close(got, plain, exact, dtype, length):
    """float32 and float64: rounding of sums of `length` terms; 16 bits: within twice the error of the plain formula."""
    norm = exact.norm().clamp_min(1e-30)
    error = float((got.double().cpu() - exact).norm() / norm)
    if dtype in (torch.float32, torch.float64):
        assert error <= 16 * EPSILON[dtype] * length**0.5
    else:
        assert error <= 2 * float((plain.double().cpu() - exact).norm() / norm) + 4 * EPSILON[dtype]


def compare(function, truth, tensors, dtype, length):
    """Outputs and gradients of `function` on its backend, of `truth` in the same dtype and in float64."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    plain = [t.detach().cpu().requires_grad_() for t in tensors]
    exact = [t.detach().cpu().double().requires_grad_() for t in tensors]
    y, y_plain, y_exact = function(*leaves), truth(*plain), truth(*exact)
    if y.numel() == 0:
        assert y.shape == y_exact.shape
        return
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).mul(7).sin().view(y.shape).to(dtype)
    results = [
        [out, *torch.autograd.grad(out, inputs, cotangent.to(out.device, out.dtype))]
        for out, inputs in ((y, leaves), (y_plain, plain), (y_exact, exact))
    ]
    for got, in_dtype, truth_ in zip(*results, strict=True):
        close(got.detach(), in_dtype.detach(), truth_.detach(), dtype, length)


@slow_on("triton-interpreted")
def test_fcc(target):
    @examples(target)
    @given(
        n=st.integers(0, 2 if target.slow else 4),
        half=st.integers(1, 4),
        h=sides(target),
        w=sides(target),
        dtype=st.sampled_from([d for d in EPSILON if target.has(d)]),
        layout=layouts(),
        residual=st.booleans(),
    )
    def check(n, half, h, w, dtype, layout, residual):
        generator = torch.Generator().manual_seed(n + 10 * half + 100 * h + 10000 * w)
        c = 2 * half
        shapes = [(c,)] * 2 + [(c, h), (c, w)] * 2 + [(c,)] * 2
        x = arranged(random(generator, n, c, h, w, dtype=dtype), layout)
        parameters = [random(generator, *shape, dtype=dtype) for shape in shapes]
        wide = reference.statistics_dtype(dtype)
        mean, var = random(generator, 1, c, dtype=wide), random(generator, 1, c, dtype=wide).abs() + 0.1

        def truth(x, *p):
            statistic = reference.statistics_dtype(x.dtype)
            return reference.fcc(x, mean.to(x.device, statistic), var.to(x.device, statistic), *p, 1e-5, residual)

        compare(
            lambda x, *p: functional.fcc(
                x, FCCParameters(*p), mean, var, residual=residual, backend=target.backend
            ),
            truth, [x, *parameters], dtype, 4 * max(n, 1) * h * w,
        )  # fmt: skip

    check()


@slow_on("triton-interpreted")
def test_edge_max(target):
    @examples(target)
    @given(
        n=st.integers(0, 3),
        c=st.integers(1, 10),
        h=st.integers(1, 6),
        w=st.integers(1, 6) | st.sampled_from([16]),
        dtype=st.sampled_from([d for d in EPSILON if target.has(d)]),
        layout=layouts(),
        graph=st.sampled_from(["channel", "position"]),
        k=st.integers(1, 16),
        wide_index=st.booleans(),
    )
    def check(n, c, h, w, dtype, layout, graph, k, wide_index):
        generator = torch.Generator().manual_seed(n + 10 * c + 1000 * h + 10000 * w + k)
        p = h * w
        nodes = c if graph == "channel" else p
        k = min(k, nodes)
        x = arranged(random(generator, n, c, h, w, dtype=dtype), layout)
        parameters = [random(generator, *shape, dtype=dtype) for shape in ((p, p), (p,), (p, p), (p,))]
        # No neighbour twice: the gradient of equal messages is a matter of which one wins.
        rows = [torch.randperm(nodes, generator=generator)[:k] for _ in range(n * nodes)]
        idx = torch.stack(rows).view(n, nodes, k) if rows else torch.zeros(0, nodes, k, dtype=torch.int64)
        idx = idx.to(x.device, torch.int64 if wide_index else torch.int32)
        tensors = [t.detach().requires_grad_() for t in (x, *parameters)]
        y, winner = functional.edge_max(
            tensors[0], idx, EdgeParameters(*tensors[1:]), graph=graph, backend=target.backend
        )
        if n == 0:
            assert y.shape == winner.shape == x.shape
            return
        cotangent = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).mul(7).sin().view(y.shape).to(y)
        got = [y.detach(), *torch.autograd.grad(y, tensors, cotangent)]
        # Messages that are equal to rounding may change places against float64: gradients are those of the backend's
        # own winners, whose messages are to be as large as the largest.
        held = (y.detach().flatten(2).cpu(), winner.flatten(2).cpu().long(), idx.cpu().long(), graph)
        plain, exact = (
            edge_max_of_winners(cotangent, *(t.detach().cpu().to(kind) for t in (x, *parameters)), *held)
            for kind in (dtype, torch.float64)
        )
        for ours, same, truth in zip(got, plain, exact[:-1], strict=False):
            close(ours.view(truth.shape), same, truth, dtype, 16 * n * c * p)
        close(exact[-1], plain[0], exact[0], dtype, 16 * n * c * p)

    check()


def edge_max_of_winners(cotangent, x, weight1, bias1, weight2, bias2, y, winner, idx, graph):
    """Maximum, gradients where `winner` has given `y`, and the messages of `winner`, each after its ReLU."""
    x, parameters = x.flatten(2), (weight1, bias1, weight2, bias2)
    best, _ = reference.edge_max(x, idx, *parameters, graph)
    grad = cotangent.flatten(2).to(x)
    grad_x, grad1, grad2, bias = reference.edge_max_backward(grad, x, idx, weight1, weight2, y, winner, graph)
    messages = [reference.edge_max(x, idx[:, :, j : j + 1], *parameters, graph)[0] for j in range(idx.shape[2])]
    return best, grad_x, grad1, bias, grad2, bias, torch.stack(messages).gather(0, winner[None])[0]


@slow_on("triton-interpreted")
def test_knn(target):
    @examples(target)
    @given(
        n=st.integers(0, 3),
        c=st.integers(1, 20),
        h=sides(target),
        w=st.integers(1, 6),
        dtype=st.sampled_from([d for d in EPSILON if target.has(d)]),
        layout=layouts(),
        graph=st.sampled_from(["channel", "position"]),
        k=st.integers(1, 16),
        few_values=st.booleans(),
    )
    def check(n, c, h, w, dtype, layout, graph, k, few_values):
        generator = torch.Generator().manual_seed(n + 10 * c + 1000 * h + 10000 * w + k)
        x = random(generator, n, c, h, w, dtype=dtype)
        x = arranged(x.sign() * (x.abs() > 1) if few_values else x, layout)  # few values: many ties and zero nodes
        k = min(k, c if graph == "channel" else h * w)
        expected = reference.knn(reference.graph_nodes(x.flatten(2).cpu(), graph), k)
        assert torch.equal(functional.knn(x, k, graph=graph, backend=target.backend).cpu(), expected)

    check()


@slow_on("triton-interpreted")
def test_cost_volume(target):
    @examples(target)
    @given(
        n=st.integers(0, 3),
        c=st.integers(1, 9),
        h=sides(target),
        w=st.integers(1, 12),
        dtype=st.sampled_from([d for d in EPSILON if target.has(d)]),
        layout=layouts(),
        radius=st.integers(0, 5),
        stride=st.integers(1, 3),
        slope=st.sampled_from([0.1, 1.0]),
        compact=st.booleans(),
    )
    def check(n, c, h, w, dtype, layout, radius, stride, slope, compact):
        generator = torch.Generator().manual_seed(n + 10 * c + 1000 * h + 10000 * w)
        a = arranged(random(generator, n, c, h, w, dtype=dtype), layout)
        b = random(generator, n, c, h, w, dtype=dtype)
        reach = [functional.reachable_radius(radius, stride, side) if compact else radius for side in (h, w)]
        compare(
            lambda a, b: functional.cost_volume(
                a, b, radius=radius, stride=stride, negative_slope=slope, compact=compact, backend=target.backend
            ),
            lambda a, b: reference.cost_volume(a, b, *reach, stride, slope),
            [a, b], dtype, 4 * c * (2 * radius + 1) ** 2,
        )  # fmt: skip

    check()
