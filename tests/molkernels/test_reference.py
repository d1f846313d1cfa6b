"""The reference operators against their formulas, written as loops over all indices."""

import math

import pytest
import torch

import molkernels as mk
from molkernels import dispatch, known_answers, reference


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20)


def random(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def fcc_parameters(generator, channels, height, width):
    sizes = [(channels,)] * 2 + [(channels, height), (channels, width)] * 2 + [(channels,)] * 2
    return [random(generator, *size) for size in sizes]


def fcc_by_loops(x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w, eps, residual):
    n_, c_, h_, w_ = x.shape
    y = torch.zeros_like(x)
    for n in range(n_):
        group = n % mean.shape[0]
        for c in range(c_):
            rows_first = c < c_ // 2
            pe = pe_h[c][:, None] if rows_first else pe_w[c][None, :]
            u = (x[n, c] + pe - mean[group, c]) / math.sqrt(var[group, c] + eps) * gamma[c] + beta[c]

            def along_h(u, c=c):
                return (
                    torch.stack([sum(weight_h[c, t] * u[(i + t) % h_] for t in range(h_)) for i in range(h_)])
                    + bias_h[c]
                )

            def along_w(u, c=c):
                columns = [sum(weight_w[c, t] * u[:, (j + t) % w_] for t in range(w_)) for j in range(w_)]
                return torch.stack(columns, 1) + bias_w[c]

            out = along_w(along_h(u) + pe_w[c][None, :]) if rows_first else along_h(along_w(u) + pe_h[c][:, None])
            y[n, c] = out + x[n, c] if residual else out
    return y


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (6, 1)])
@pytest.mark.parametrize("residual", [False, True])
def test_fcc_is_two_circular_correlations_as_long_as_the_axes(generator, size, residual):
    x = random(generator, 4, 6, *size)
    mean, var = random(generator, 2, 6), random(generator, 2, 6).abs()
    parameters = fcc_parameters(generator, 6, *size)
    torch.testing.assert_close(
        reference.fcc(x, mean, var, *parameters, 1e-5, residual),
        fcc_by_loops(x, mean, var, *parameters, 1e-5, residual),
    )


def test_fcc_statistics_are_those_of_each_group_by_itself(generator):
    x, pe_h, pe_w = random(generator, 6, 4, 3, 5), random(generator, 4, 3), random(generator, 4, 5)
    mean, var = reference.fcc_statistics(x, pe_h, pe_w, 3)
    for group in range(3):
        placed = reference.add_position(x[group::3], pe_h, pe_w)
        torch.testing.assert_close(mean[group], placed.mean((0, 2, 3)))
        torch.testing.assert_close(var[group], placed.var((0, 2, 3), correction=0))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_fcc_backward_is_the_gradient_of_fcc(generator, training, groups):
    x = random(generator, 4, 4, 3, 5).requires_grad_()
    parameters = [p.requires_grad_() for p in fcc_parameters(generator, 4, 3, 5)]
    if training:
        y, mean, var = reference.fcc_train(x, *parameters, groups, 1e-5, True)
    else:
        mean, var = random(generator, groups, 4), random(generator, groups, 4).abs()
        y = reference.fcc(x, mean, var, *parameters, 1e-5, True)
    cotangent = random(generator, *y.shape)
    expected = torch.autograd.grad(y, [x, *parameters], cotangent)
    got = reference.fcc_backward(cotangent, x, mean, var, *parameters, 1e-5, True, training)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e)


def test_knn_is_the_nodes_of_largest_cosine(generator):
    nodes = random(generator, 2, 9, 5)
    idx = reference.knn(nodes, 4)
    for n in range(2):
        for m in range(9):
            cosine = [float(torch.cosine_similarity(nodes[n, m], nodes[n, q], dim=0)) for q in range(9)]
            expected = sorted(range(9), key=lambda q, m=m, cosine=cosine: (q != m, -cosine[q], q))[:4]
            assert idx[n, m].tolist() == expected


def test_knn_breaks_ties_by_lowest_index(generator):
    base = random(generator, 1, 3, 6)
    nodes = base[:, [0, 1, 1, 2, 1, 0, 1]]
    idx = reference.knn(nodes, 4)[0]
    assert idx[4].tolist() == [4, 1, 2, 6]
    assert idx[0, :2].tolist() == [0, 5]
    scaled = nodes * torch.tensor([1.0, 3.0, 0.1, 1.0, 7.0, 1.0, 1e-3], dtype=torch.float64)[:, None]
    assert reference.knn(scaled, 4)[0, 4].tolist() == [4, 1, 2, 6]


def test_knn_gives_zero_and_nan_nodes_a_defined_order(generator):
    nodes = random(generator, 1, 6, 4)
    nodes[0, 2] = 0
    zero = reference.knn(nodes, 6)[0, 2]
    assert zero.tolist() == [2, 0, 1, 3, 4, 5]
    nodes[0, 2] = math.nan
    idx = reference.knn(nodes, 6)[0]
    assert idx[2].tolist() == [2, 0, 1, 3, 4, 5]
    assert idx[[0, 1, 3, 4, 5], -1].tolist() == [2] * 5


def test_knn_tells_neighbours_apart_that_float32_similarity_does_not(generator):
    first = torch.zeros(1, 3, 64)
    first[0, 0] = torch.rand(64, generator=generator)
    first[0, 1] = first[0, 0] + 0.3 * torch.rand(64, generator=generator)
    first[0, 2] = first[0, 1]
    first[0, 2, 5] += 1e-6
    wide = first.double()
    exact = torch.cosine_similarity(wide[0, 0], wide[0, 1:], dim=1)
    assert exact[0] != exact[1]
    assert reference.knn(first, 2)[0, 0, 1] == 1 + int(exact.argmax())


def edge_max_by_loops(x, idx, weight1, bias1, weight2, bias2, graph):
    n_, c_, p_ = x.shape
    k = idx.shape[2]
    y, winner = torch.zeros_like(x), torch.zeros(x.shape, dtype=torch.uint8)
    for n in range(n_):
        for c in range(c_):
            for p in range(p_):
                values = []
                for j in range(k):
                    if graph == "channel":
                        difference = x[n, idx[n, c, j]] - x[n, c]
                    else:
                        difference = x[n, c, idx[n, :, j].long()] - 2 * x[n, c]
                    values.append(float(weight1[p] @ x[n, c] + bias1[p] + weight2[p] @ difference + bias2[p]))
                winner[n, c, p] = values.index(max(values))
                y[n, c, p] = max(0.0, *values)
    return y, winner


@pytest.mark.parametrize(("graph", "nodes"), [("channel", 4), ("position", 6)])
@pytest.mark.parametrize("k", [1, 3])
def test_edge_max_is_the_maximum_over_edges(generator, graph, nodes, k):
    x = random(generator, 2, 4, 6)
    idx = torch.stack([torch.randperm(nodes, generator=generator)[:k] for _ in range(2 * nodes)]).view(2, nodes, k)
    parameters = [random(generator, *size) for size in ((6, 6), (6,), (6, 6), (6,))]
    y, winner = reference.edge_max(x, idx, *parameters, graph)
    expected_y, expected_winner = edge_max_by_loops(x, idx, *parameters, graph)
    torch.testing.assert_close(y, expected_y)
    assert torch.equal(winner, expected_winner)


def test_edge_max_breaks_ties_by_lowest_neighbour(generator):
    x = random(generator, 1, 3, 4)
    idx = torch.tensor([[[0, 1, 1], [2, 2, 0], [1, 1, 1]]])
    parameters = [random(generator, *size) for size in ((4, 4), (4,), (4, 4), (4,))]
    _, winner = reference.edge_max_channel(x, idx, *parameters)
    assert (winner[0, 0] <= 1).all()
    assert (winner[0, 1] != 1).all()
    assert (winner[0, 2] == 0).all()


@pytest.mark.parametrize(("graph", "nodes"), [("channel", 4), ("position", 6)])
def test_edge_max_backward_is_the_gradient_of_edge_max(generator, graph, nodes):
    x = random(generator, 2, 4, 6).requires_grad_()
    idx = torch.randint(0, nodes, (2, nodes, 3), generator=generator)
    parameters = [random(generator, *size).requires_grad_() for size in ((6, 6), (6,), (6, 6), (6,))]
    y, winner = reference.edge_max(x, idx, *parameters, graph)
    cotangent = random(generator, *y.shape)
    expected = torch.autograd.grad(y, [x, *parameters], cotangent)
    grad_x, grad1, grad2, bias = reference.edge_max_backward(
        cotangent, x, idx, parameters[0], parameters[2], y, winner, graph
    )
    for e, g in zip(expected, (grad_x, grad1, bias, grad2, bias), strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize(("size", "radius", "stride"), [((4, 5), (1, 2), 1), ((3, 3), (2, 2), 2), ((1, 4), (0, 1), 3)])
def test_cost_volume_is_the_correlation_at_each_displacement(generator, size, radius, stride):
    a, b = random(generator, 2, 3, *size), random(generator, 2, 3, *size)
    out = reference.cost_volume(a, b, *radius, stride, 0.1)
    (height, width), (ry, rx) = size, radius
    for d, (dy, dx) in enumerate((dy, dx) for dy in range(-ry, ry + 1) for dx in range(-rx, rx + 1)):
        for y in range(height):
            for x in range(width):
                v, u = y + stride * dy, x + stride * dx
                inside = 0 <= v < height and 0 <= u < width
                value = (a[:, :, y, x] * b[:, :, v, u]).mean(1) if inside else torch.zeros(2, dtype=torch.float64)
                torch.testing.assert_close(out[:, d, y, x], torch.where(value > 0, value, 0.1 * value))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_cost_volume_backward_is_the_gradient_of_cost_volume(generator, slope):
    a, b = random(generator, 2, 3, 4, 5).requires_grad_(), random(generator, 2, 3, 4, 5).requires_grad_()
    out = reference.cost_volume(a, b, 2, 3, 1, slope)
    cotangent = random(generator, *out.shape)
    expected = torch.autograd.grad(out, [a, b], cotangent)
    got = reference.cost_volume_backward(cotangent, a, b, out, 2, 3, 1, slope)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e)


def test_the_reference_is_differentiable_twice(generator):
    x = random(generator, 2, 4, 3, 3).requires_grad_()
    parameters = fcc_parameters(generator, 4, 3, 3)
    assert torch.autograd.gradgradcheck(lambda x: reference.fcc_train(x, *parameters, 1, 1e-5, False)[0], (x,))


needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="torch finds no Apple GPU (mps)")


@needs_mps
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", dispatch.OPERATORS)
def test_every_operator_and_its_gradient_are_right_on_an_apple_gpu(op, dtype):
    def there(name):
        def run(*arguments):
            moved = [a.to("mps") if isinstance(a, torch.Tensor) else a for a in arguments]
            found = dispatch.BACKENDS["reference"].kernel(name)(*moved)
            return found.cpu() if isinstance(found, torch.Tensor) else tuple(f.cpu() for f in found)

        return run

    error = known_answers.largest_error(op, there, dtype, torch.device("cpu"))
    assert error <= known_answers.LIMITS[str(dtype).removeprefix("torch.")]


@needs_mps
def test_a_block_computes_and_learns_on_an_apple_gpu():
    torch.manual_seed(1)
    block = mk.F5C(8, 4, 3).to("mps")
    x = torch.randn(2, 8, 4, 4, device="mps", requires_grad=True)
    y = block(x)
    y.square().sum().backward()
    assert y.device.type == x.grad.device.type == "mps"
    assert all(p.grad.isfinite().all() for p in block.parameters() if p.grad is not None)
    copy = mk.F5C(8, 4, 3, backend="reference")
    copy.load_state_dict({name: value.cpu() for name, value in block.state_dict().items()})
    torch.testing.assert_close(block.eval()(x).cpu(), copy.eval()(x.detach().cpu()), rtol=1e-3, atol=1e-3)
