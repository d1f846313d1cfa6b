"""The operators as PyTorch sees them, on every backend that can run here, compared with the float64 reference."""

import itertools
import subprocess
import sys

import pytest
import torch
from targets import INTERPRETED, TARGETS, here, random, slow_on
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import molkernels as mk
from molkernels import dispatch, functional, reference
from molkernels.functional import EdgeParameters, FCCParameters, MixParameters

GRAPHS = ("channel", "position")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(31)


@pytest.fixture(params=TARGETS)
def target(request):
    """A backend and its device, on which `random` then creates its tensors."""
    with request.param.active():
        yield request.param


@pytest.fixture
def backend(target):
    return target.backend


@pytest.fixture
def wide(target):
    """The widest dtype of the backend."""
    return target.widest


def skip_without(target, dtype):
    if not target.has(dtype):
        pytest.skip(
            f"{target.backend} on {target.device}: {dispatch.BACKENDS[target.backend].missing(target.device, dtype)}"
        )


def fcc_arguments(generator, n=4, c=4, h=3, w=5, **options):
    shapes = [(c,)] * 2 + [(c, h), (c, w)] * 2 + [(c,)] * 2
    return random(generator, n, c, h, w, **options), FCCParameters(*(random(generator, *s, **options) for s in shapes))


def edge_arguments(generator, n=2, c=4, p=6, **options):
    shapes = ((p, p), (p,), (p, p), (p,))
    return random(generator, n, c, p, **options), EdgeParameters(*(random(generator, *s, **options) for s in shapes))


def f5c(generator, *arguments):
    """A block with random parameters only: the paper's starts as the identity, which would hide errors."""
    block = mk.F5C(*arguments)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return here(block)


def graph_of(x, k, graph, generator):
    """A fixed graph without repeated neighbours, so that no two messages of a node are equal."""
    nodes = x.shape[1] if graph == "channel" else x.shape[2]
    rows = [torch.randperm(nodes, generator=generator)[:k] for _ in range(x.shape[0] * nodes)]
    return here(torch.stack(rows).view(x.shape[0], nodes, k).to(torch.int32))


def clear_edges(generator, k, graph, dtype=torch.float64, requires_grad=False):
    """Arguments of edge_max in which no message is so near to the largest, or to zero, that 16 bits decide."""
    while True:
        x, edge = edge_arguments(generator)
        idx = graph_of(x, k, graph, generator)
        lifted = edge._replace(bias1=edge.bias1 + 1000)  # above zero, where ReLU changes nothing
        messages = [reference.edge_max(x, idx[:, :, j : j + 1], *lifted, graph)[0] - 1000 for j in range(k)]
        best = torch.stack(messages).sort(0, descending=True).values[:2]
        if best[0].abs().min() > 0.1 and (k == 1 or (best[0] - best[1]).min() > 0.1):
            x, *edge = (t.to(dtype).requires_grad_(requires_grad) for t in (x, *edge))
            return x, idx, edge


def statistics(generator, groups, channels, dtype=torch.float64):
    return random(generator, groups, channels, dtype=dtype), random(
        generator, groups, channels, dtype=dtype
    ).abs() + 0.1


def calls(generator, backend, **options):
    """Each operator with small arguments, as (name, function, differentiable tensors)."""
    dtype = options.get("dtype", torch.float64)
    wide = reference.statistics_dtype(dtype)
    x, fcc = fcc_arguments(generator, **options)
    mean, var = statistics(generator, 1, 4, wide)
    yield "fcc", lambda x, *p: functional.fcc(x, FCCParameters(*p), mean, var, backend=backend), (x, *fcc)
    for groups, residual in ((1, False), (2, True)):

        def train(x, *p, groups=groups, residual=residual):
            return functional.fcc_train(x, FCCParameters(*p), groups=groups, residual=residual, backend=backend)[0]

        yield f"fcc_train-{groups}", train, (x, *fcc)
    for graph, k in itertools.product(GRAPHS, (1, 3)):
        x, idx, edge = clear_edges(generator, k, graph, **options)

        def edges(x, *p, idx=idx, graph=graph):
            return functional.edge_max(x, idx, EdgeParameters(*p), graph=graph, backend=backend)[0]

        yield f"edge_max-{graph}-{k}", edges, (x, *edge)
    for radius, stride, compact in ((2, 1, False), (3, 2, True)):
        maps = random(generator, 2, 3, 4, 5, **options), random(generator, 2, 3, 4, 5, **options)

        def cost(a, b, radius=radius, stride=stride, compact=compact):
            return functional.cost_volume(
                a, b, radius=radius, stride=stride, negative_slope=0.1, compact=compact, backend=backend
            )

        yield f"cost_volume-{radius}", cost, maps


@pytest.mark.parametrize("fast_mode", [True, pytest.param(False, marks=pytest.mark.slow)])
@slow_on("reference")
def test_gradients_in_float64(generator, backend, wide, fast_mode):
    """Along random directions in the fast mode, every entry of the Jacobian otherwise."""
    if wide != torch.float64:
        pytest.skip(f"{backend} has no float64 kernels; its gradients are held against float64 below")
    for name, function, tensors in calls(generator, backend, requires_grad=True):
        assert torch.autograd.gradcheck(function, tensors, fast_mode=fast_mode), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_forward_and_gradients_agree_with_float64(generator, target, backend, dtype):
    """float32 to rounding; bfloat16 and float16 within twice the error of the plain PyTorch path."""
    skip_without(target, dtype)
    seed = generator.initial_seed()
    ours = list(calls(torch.Generator().manual_seed(seed), backend, dtype=dtype, requires_grad=True))
    plain = list(calls(torch.Generator().manual_seed(seed), "reference", dtype=dtype, requires_grad=True))
    exact = list(calls(torch.Generator().manual_seed(seed), "reference", dtype=torch.float64, requires_grad=True))
    for (name, function, tensors), (_, same, copies), (_, truth, originals) in zip(ours, plain, exact, strict=True):
        originals = [t.detach().double().requires_grad_() for t in tensors]
        expected = _with_gradients(truth, originals)
        got, baseline = _with_gradients(function, tensors), _with_gradients(same, copies)
        for i, (e, g, b) in enumerate(zip(expected, got, baseline, strict=True)):
            limit = 1e-5 if dtype == torch.float32 else 2 * _relative(b, e) + 1e-3
            assert g.dtype == dtype
            assert _relative(g, e) <= limit, (name, i)


def _with_gradients(function, tensors):
    y = function(*tensors)
    cotangent = torch.linspace(-1, 1, y.numel()).view(y.shape).sin().to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, tensors, cotangent)]


def _relative(got, want):
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("graph", GRAPHS)
def test_knn_agrees_with_the_reference(generator, backend, graph):
    x = random(generator, 3, 8, 4, 4, dtype=torch.float32)
    idx = functional.knn(x, 4, graph=graph, backend=backend)
    expected = reference.knn(reference.graph_nodes(x.flatten(2), graph), 4)
    assert idx.dtype == torch.int32
    assert idx.is_contiguous()
    assert torch.equal(idx, expected)


def opcheck_cases(generator, backend):
    ops = torch.ops.molkernels
    for requires_grad in (False, True):
        x, fcc = fcc_arguments(generator, dtype=torch.float32, requires_grad=requires_grad)
        mean, var = statistics(generator, 2, 4, torch.float32)
        yield ops.fcc, (x, mean, var, *fcc, 1e-5, True, backend)
        yield ops.fcc_train, (x, *fcc, 2, 1e-5, False, backend)
        flat, edge = edge_arguments(generator, dtype=torch.float32, requires_grad=requires_grad)
        for graph in GRAPHS:
            yield ops.edge_max, (flat, graph_of(flat, 2, graph, generator), *edge, graph, backend)
        a, b = random(generator, 2, 3, 4, 5, dtype=torch.float32), random(generator, 2, 3, 4, 5, dtype=torch.float32)
        yield ops.cost_volume, (a.requires_grad_(requires_grad), b.requires_grad_(requires_grad), 2, 1, 1, 0.1, backend)
    yield ops.knn, (flat.detach(), 3, backend)
    x, fcc = fcc_arguments(generator, h=2, w=3, dtype=torch.float32)
    _, edge = edge_arguments(generator, dtype=torch.float32)
    weight, bias = random(generator, 4, 4, dtype=torch.float32), random(generator, 4, dtype=torch.float32)
    for graph, mixes in (("channel", (weight, bias)), ("position", (None, None))):
        yield ops.f5c, (x, mean, var, *fcc, *mixes, *edge, *mixes, 2, graph, 1e-5, backend)


@slow_on("reference", "cuda-emulated", "triton-interpreted")
def test_opcheck(generator, backend):
    for op, arguments in opcheck_cases(generator, backend):
        torch.library.opcheck(op.default, arguments)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_f5c_inference_operator_is_the_composition(generator, backend, wide, variant):
    block = f5c(generator, 6, (3, 4), 2, variant, backend).to(wide).eval()
    for statistic in (block.fcc.norm.running_mean, block.fcc.norm.running_var):
        statistic.copy_(torch.rand(6, generator=generator) + 0.5)
    x = random(generator, 3, 6, 3, 4, dtype=wide)
    with torch.no_grad():
        fused = block(x)
    torch.testing.assert_close(fused, block(x).detach())
    f = block.fcc(x)
    z = x + f if variant == "paper" else f
    edges = block.ccc(z)
    torch.testing.assert_close(fused, (z + (edges if block.mix is None else block.mix(edges))).detach())


@pytest.mark.parametrize("variant", ["paper", "released"])
@slow_on("reference", "cuda-emulated", "triton-interpreted")
def test_f5c_compiles_without_a_graph_break_for_any_batch(generator, target, backend, variant):
    torch._dynamo.reset()
    block = f5c(generator, 4, 3, 2, variant, backend)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counter)
    compiled(random(generator, 2, 4, 3, 3, dtype=torch.float32, requires_grad=True))
    count = counter.frame_count
    for n in (2, 7) if target.slow else (2, 3, 5, 7):
        x = random(generator, n, 4, 3, 3, dtype=torch.float32, requires_grad=True)
        y = compiled(x)
        torch.testing.assert_close(y, block(x))
        y.sum().backward()
        assert x.grad is not None
    assert counter.frame_count == count
    block.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x))


def test_cost_volume_compiles_without_a_graph_break(generator, backend, wide):
    torch._dynamo.reset()
    cost = mk.CostVolume(2, 1, negative_slope=0.1, compact=True, backend=backend)
    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager")
    a, b = random(generator, 2, 3, 4, 4, dtype=wide), random(generator, 2, 3, 4, 4, dtype=wide)
    torch.testing.assert_close(compiled(a, b), cost(a, b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_chooses_the_dtype_and_gradients_keep_theirs(generator, target, backend, dtype):
    skip_without(target, dtype)
    for variant in ("paper", "released"):
        block = f5c(generator, 4, 3, 2, variant, backend)
        x = random(generator, 2, 4, 3, 3, dtype=torch.float32, requires_grad=True)
        with torch.autocast(x.device.type, dtype):
            y = block(x)
        y.float().sum().backward()
        assert y.dtype == dtype
        assert x.grad.dtype == torch.float32
        assert all(p.grad.dtype == torch.float32 for p in block.parameters() if p.grad is not None)
        assert block.fcc.norm.running_mean.dtype == torch.float32
        block.eval()
        with torch.no_grad(), torch.autocast(x.device.type, dtype):
            assert block(x).dtype == dtype


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_meta_device_gives_shapes(variant):
    with torch.device("meta"):
        block = mk.F5C(6, (4, 5), 3, variant)
        x = torch.empty(7, 6, 4, 5)
        assert block(x).shape == x.shape
        assert block.eval()(x).shape == x.shape
        assert mk.CostVolume(3, 1)(x, x).shape == (7, 49, 4, 5)


def layouts(x):
    yield "channels-last", x.contiguous(memory_format=torch.channels_last)
    yield "strided", torch.stack([x, -x], -1)[..., 0]
    yield "transposed", x.mT.contiguous().mT
    yield "expanded", x[:1].expand_as(x)
    yield "flipped through numpy", here(torch.from_numpy(x.cpu().numpy()[:, ::-1].copy())).flip(1)


@pytest.mark.parametrize("variant", ["paper", "released"])
@slow_on("triton-interpreted")
def test_any_strides_give_the_same_contiguous_result(generator, backend, wide, variant):
    x = random(generator, 3, 4, 3, 5, dtype=wide)
    block = f5c(generator, 4, (3, 5), 2, variant, backend).to(wide)
    for training in (True, False):
        block.train(training)
        for name, view in layouts(x):
            y = block(view)
            torch.testing.assert_close(y, block(view.clone(memory_format=torch.contiguous_format)), msg=name)
            assert y.is_contiguous(), name
    for name, view in layouts(x):
        plain = view.clone(memory_format=torch.contiguous_format)
        cost, same = (functional.cost_volume(v, v, radius=1, stride=1, backend=backend) for v in (view, plain))
        torch.testing.assert_close(cost, same, msg=name)


def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(generator, backend):
    for variant in ("paper", "released"):
        for training in (True, False):
            block = f5c(generator, 4, (3, 5), 2, variant, backend).train(training)
            before = block.fcc.norm.running_mean.clone()
            x = here(torch.empty(0, 4, 3, 5)).requires_grad_()
            y = block(x)
            y.sum().backward()
            assert y.shape == x.shape == x.grad.shape
            assert torch.equal(block.fcc.norm.running_mean, before)
            assert all(torch.count_nonzero(p.grad) == 0 for p in block.parameters() if p.grad is not None)
    empty = here(torch.empty(0, 3, 4, 4))
    assert functional.cost_volume(empty, empty, radius=2, stride=1, backend=backend).shape == (0, 25, 4, 4)


@slow_on("triton-interpreted")
def test_requires_grad_on_some_inputs_only(generator, target, backend, wide):
    for _, function, tensors in calls(generator, backend, dtype=wide):
        leaves = [t.detach().requires_grad_() for t in tensors]
        together = torch.autograd.grad(function(*leaves).sum(), leaves)
        for i in range(0, len(tensors), 4 if target.slow else 1):
            some = [t.detach().requires_grad_(j == i) for j, t in enumerate(tensors)]
            (one,) = torch.autograd.grad(function(*some).sum(), [some[i]])
            torch.testing.assert_close(one, together[i])


@slow_on("triton-interpreted")
def test_the_same_bits_each_run(generator, target, backend):
    if (target.backend, target.device) == ("reference", "cuda"):
        pytest.skip("torch's own scatter_add adds in any order on a GPU")
    for name, function, tensors in calls(generator, backend, dtype=torch.float32, requires_grad=True):
        first, second = _with_gradients(function, tensors), _with_gradients(function, tensors)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), name


@pytest.fixture
def poison():
    """New memory is filled with NaN: torch.empty, and what the compiled libraries get from torch's allocator."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


def test_every_element_of_outputs_and_gradients_is_written(generator, backend, poison):
    for name, function, tensors in calls(generator, backend, dtype=torch.float32, requires_grad=True):
        assert all(t.isfinite().all() for t in _with_gradients(function, tensors)), name
    for variant in ("paper", "released"):
        block = f5c(generator, 6, (3, 5), 2, variant, backend).eval()
        with torch.no_grad():
            assert block(random(generator, 3, 6, 3, 5, dtype=torch.float32)).isfinite().all()


@pytest.mark.parametrize("graph", GRAPHS)
def test_knn_breaks_ties_by_lowest_neighbour_and_ranks_nan_last(generator, backend, graph):
    nodes = random(generator, 1, 9, 7, dtype=torch.float32)
    nodes[:, 5], nodes[:, 7] = nodes[:, 2], 2 * nodes[:, 2]  # same direction
    nodes[:, 4] = 0
    nodes[:, 1, 3] = float("nan")
    nodes[:, 6] *= 1e-42  # denormal: practically zero
    x = nodes if graph == "channel" else nodes.mT.contiguous()
    idx = functional.knn(x, 9, graph=graph, backend=backend)
    assert torch.equal(idx, reference.knn(nodes, 9))
    assert idx[0, 2, :3].tolist() == [2, 5, 7]
    assert idx[0, 7, :3].tolist() == [7, 2, 5]
    assert idx[0, 0, -1] == 1
    assert torch.equal(idx[0, 4], torch.tensor([4, 0, 2, 3, 5, 6, 7, 8, 1], dtype=torch.int32, device=idx.device))
    assert torch.equal(idx[0, 1], torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, 8], dtype=torch.int32, device=idx.device))


def test_knn_tells_apart_neighbours_that_float32_does_not(generator, backend):
    """Similarities 1 − 2e-9 and 1 − 8e-9: float32 sees 1 and 1."""
    nodes = random(generator, 1, 3, 2, dtype=torch.float32)
    for row, angle in enumerate((0.0, 1.3e-4, 6e-5)):
        nodes[0, row] = torch.tensor([1.0, angle])
    assert functional.knn(nodes, 3, backend=backend)[0, 0].tolist() == [0, 2, 1]


@pytest.mark.parametrize("graph", GRAPHS)
def test_edge_max_breaks_ties_by_lowest_neighbour_and_passes_nan_on(generator, backend, graph):
    x, edge = edge_arguments(generator, dtype=torch.float32)
    x, edge = x.mul(3).round(), EdgeParameters(*(p.mul(3).round() for p in edge))  # sums without rounding
    idx = graph_of(x, 1, graph, generator).repeat(1, 1, 3)
    y, winner = functional.edge_max(x, idx, edge, graph=graph, backend=backend)
    assert torch.count_nonzero(winner) == 0
    x[0, 1, 2] = float("nan")
    y, _ = functional.edge_max(x, idx, edge, graph=graph, backend=backend)
    expected = reference.edge_max(x, idx, *edge, graph)[0]
    assert torch.equal(y.isnan(), expected.isnan())
    assert y[1].isfinite().all()


@slow_on("triton-interpreted")
def test_second_derivatives(generator, target, backend, wide):
    for name, function, tensors in calls(generator, backend, dtype=wide, requires_grad=True):
        if wide == torch.float64:
            assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True), name
            continue
        twice = _second_derivative(function, tensors)
        assert all(t.isfinite().all() for t in twice), name


@slow_on("triton-interpreted")
def test_second_derivatives_agree_in_float32_and_float64(backend):
    seeds = [torch.Generator().manual_seed(5) for _ in range(2)]
    ours = calls(seeds[0], backend, dtype=torch.float32, requires_grad=True)
    truths = calls(seeds[1], "reference", requires_grad=True)
    for (name, function, tensors), (_, truth, _) in zip(ours, truths, strict=True):
        exact = [t.detach().double().requires_grad_() for t in tensors]
        for got, want in zip(_second_derivative(function, tensors), _second_derivative(truth, exact), strict=True):
            assert _relative(got, want) < 1e-4, name


def _second_derivative(function, tensors):
    """The gradient of the squared gradient of the squared output."""
    first = torch.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)
    again = torch.autograd.grad(sum(g.square().sum() for g in first), tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(again, tensors, strict=True)]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_transforms_of_torch_func(generator, backend):
    """grad, jacrev, jacfwd, jvp and hessian against autograd and finite differences."""
    for name, function, tensors in calls(generator, backend, requires_grad=True):
        plain = tuple(t.detach() for t in tensors)
        every = tuple(range(len(plain)))
        expected = torch.autograd.grad(function(*tensors).square().sum(), tensors)
        found = torch.func.grad(lambda *t, f=function: f(*t).square().sum(), argnums=every)(*plain)
        torch.testing.assert_close(found, expected, msg=name)
        tangents = tuple(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in plain)
        tangent = torch.func.jvp(function, plain, tangents)[1]
        ahead, behind = (
            function(*(t + step * d for t, d in zip(plain, tangents, strict=True))) for step in (1e-6, -1e-6)
        )
        torch.testing.assert_close(tangent, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5, msg=name)
        torch.testing.assert_close(torch.func.jacrev(function)(*plain), torch.func.jacfwd(function)(*plain), msg=name)


def test_gradients_without_the_private_names_of_pytorch(capsys):
    """`torch.library.register_autograd` then does the same, more slowly."""
    code = """
import torch
from molkernels import functional
x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(1, 2, 3, 4).requires_grad_()
y = functional.cost_volume(x, x.square(), radius=1, stride=1, negative_slope=0.5)
(first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
(second,) = torch.autograd.grad(first.square().sum(), x)
print(type(y.grad_fn).__name__)
print(first.tolist(), second.tolist())
"""
    exec(code, {})
    without = "import torch\ntorch._C.DispatchKeySet = lambda key: object()  # has no raw_repr\n" + code
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True)
    results = [out.split("\n") for out in (capsys.readouterr().out, done.stdout)]
    assert [names[0] for names in results] == [
        "molkernels_cost_volumeBackward",
        "GeneratedBackwardFor_molkernels_cost_volume_defaultBackward",
    ]
    assert results[0][1:] == results[1][1:]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_forward_mode_with_dual_tensors(generator, backend):
    for name, function, tensors in calls(generator, backend):
        tangents = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, tangents, strict=True)]
            tangent = forward_ad.unpack_dual(function(*duals)).tangent
            without = function(*tensors)
        assert torch.equal(without, function(*tensors)), name
        torch.testing.assert_close(tangent, torch.func.jvp(function, tuple(tensors), tuple(tangents))[1], msg=name)


def test_hessian_by_every_route(generator):
    a, b = (random(generator, 1, 2, 2, 3) for _ in range(2))

    def loss(x):
        return functional.cost_volume(x, b, radius=1, stride=1, negative_slope=0.5).square().sum()

    expected = torch.func.hessian(loss)(a)
    torch.testing.assert_close(torch.autograd.functional.hessian(loss, a), expected)
    torch.testing.assert_close(torch.autograd.functional.hessian(loss, a, vectorize=True), expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(a), expected)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_gradients_per_sample(generator, variant):
    block = f5c(generator, 4, 3, 2, variant).double().eval()
    x = random(generator, 3, 4, 3, 3)
    parameters, buffers = dict(block.named_parameters()), dict(block.named_buffers())

    def loss(parameters, sample):
        return torch.func.functional_call(block, (parameters, buffers), (sample[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        one = torch.autograd.grad(block(x[i : i + 1]).square().sum(), list(parameters.values()), allow_unused=True)
        for (name, many), want in zip(each.items(), one, strict=True):
            torch.testing.assert_close(many[i], torch.zeros_like(many[i]) if want is None else want, msg=name)
    torch.testing.assert_close(torch.func.vmap(block)(x[:, None])[:, 0], block(x))


def test_transforms_follow_autocast(generator):
    x, fcc = fcc_arguments(generator, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value, tangent = torch.func.jvp(lambda x: functional.fcc_train(x, fcc)[0], (x,), (x,))
    assert value.dtype == tangent.dtype == torch.bfloat16


def test_transforms_compile(generator):
    torch._dynamo.reset()
    x, fcc = fcc_arguments(generator, dtype=torch.float32)

    def gradient(x):
        return torch.func.grad(lambda x: functional.fcc_train(x, fcc, backend="auto")[0].square().sum())(x)

    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), gradient(x))


def test_a_named_backend_without_the_derivative_says_so(generator):
    x = random(generator, 1, 2, 3, 3)

    def cost(x):
        return functional.cost_volume(x, x, radius=1, backend="cpu").sum()

    with pytest.raises(RuntimeError, match=r"'cpu' was requested but cannot run cost_volume inside torch\.func"):
        torch.func.grad(cost)(x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode tangents"):
        cost(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("bad", [-1, 6, 10**8, 2**32, -(2**40)])
def test_a_neighbour_outside_the_graph_is_an_error(generator, target, backend, graph, bad):
    if target.device != "cpu":
        pytest.skip("on a GPU the check would have to wait for the device")
    x, edge = edge_arguments(generator, c=6, p=6, dtype=torch.float32)
    idx = graph_of(x, 2, graph, generator).long()
    idx[-1, -1, -1] = bad
    kinds = [torch.int64, torch.int32] if abs(bad) < 2**31 else [torch.int64]
    for kind in kinds:
        with pytest.raises(IndexError, match=rf"neighbour {bad}; the graph has 6 nodes.*between 0 and 5"):
            functional.edge_max(x, idx.to(kind), edge, graph=graph, backend=backend)


@pytest.mark.parametrize("spread", [1.0, pytest.param(1e-3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("embedding", ["constant", "of one column", "alternating"])
@pytest.mark.parametrize("size", [(1, 1), (8, 1), (1, 5), (7, 9), (16, 16)])
def test_batch_statistics_beside_a_large_mean(generator, target, backend, size, embedding, spread):
    """A mean of the map or of its embedding that is 20,000 times the spread costs no more than in plain PyTorch.

    Kernels for a GPU keep means in float32: of 20,000 that is 1e-3.
    """
    limit = 5e-3 if backend not in ("cpu", "reference") else 1e-4
    if target.slow and size == (7, 9):
        pytest.skip("an emulated GPU is slow; the other sizes take the same paths")
    for offset, shift in ((300.0, 0.0), (2e4, 0.0), (0.0, 2e4), (2e4, -2e4)):
        x, fcc = fcc_arguments(generator, 4, 4, *size, dtype=torch.float32)
        x = x * spread + shift * spread
        pe_h, pe_w = (torch.full_like(t, offset * spread) for t in (fcc.pe_h, fcc.pe_w))
        if embedding == "of one column":
            pe_h[:, 1:], pe_w[:, 1:] = 0, 0
        elif embedding == "alternating":
            pe_h[:, 1::2] *= -1
            pe_w[:, 1::2] *= -1
        fcc = fcc._replace(pe_h=pe_h, pe_w=pe_w)
        y, _, var = functional.fcc_train(x, fcc, backend=backend)
        true = reference.fcc_train(x.double(), *(t.double() for t in fcc), 1, 1e-5, False)
        plain = reference.fcc_train(x, *fcc, 1, 1e-5, False)
        error, usual = (((v - true[2]) / true[2]).abs().max() for v in (var.double(), plain[2].double()))
        assert y.isfinite().all()
        assert (var >= 0).all()
        assert error <= max(20 * usual, limit), (offset, shift)


def test_batch_statistics_of_equal_values_have_no_variance(generator, backend):
    for value in (0.0, 0.1, 12345.678, 1e30):
        x, fcc = fcc_arguments(generator, 4, 4, 5, 3, dtype=torch.float32)
        fcc = fcc._replace(pe_h=torch.zeros_like(fcc.pe_h), pe_w=torch.zeros_like(fcc.pe_w))
        y, mean, var = functional.fcc_train(torch.full_like(x, value), fcc, backend=backend)
        assert y.isfinite().all()
        assert (var >= 0).all()
        assert (var <= (1e-6 * value) ** 2).all()
        torch.testing.assert_close(mean, torch.full_like(mean, value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_cost_volume_divides_before_it_overflows(generator, target, backend, dtype, stride):
    skip_without(target, dtype)
    for channels, width in ((1, 4), (3, 8), (64, 16), (100, 4)):
        a = here(torch.full((1, channels, 3, width), 3e38)).to(dtype)
        b = torch.ones_like(a)
        y = functional.cost_volume(a, b, radius=1, stride=stride, backend=backend)
        expected = functional.cost_volume(a.double(), b.double(), radius=1, stride=stride, backend="reference")
        rtol = 1e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=0)
        settings = (1, 1, stride, 1.0)
        huge = torch.full_like(y, 3e38) * (y != 0)
        b *= 0.25  # of up to nine terms
        grads = torch.ops.molkernels.cost_volume_backward(huge, b, b, y, *settings, backend)
        expected = reference.cost_volume_backward(huge.double(), b.double(), b.double(), y.double(), *settings)
        for grad, e in zip(grads, expected, strict=True):
            if float(e.max()) < torch.finfo(dtype).max:
                torch.testing.assert_close(grad.double(), e, rtol=rtol, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("graph", GRAPHS)
def test_edge_max_keeps_nan_with_the_nodes_that_see_it(generator, backend, target, graph, dtype):
    """In the map of the forward pass, and in a gradient that nothing was drawn from."""
    skip_without(target, dtype)
    x, edge = edge_arguments(generator, 2, 5, 7, dtype=dtype)
    idx = graph_of(x, 2, graph, generator)
    x[0, 3, 0] = float("nan")
    y, _ = functional.edge_max(x, idx, edge, graph=graph, backend=backend)
    expected = reference.edge_max(x.double(), idx, *(t.double() for t in edge), graph)[0]
    assert torch.equal(y.isnan(), expected.isnan())

    x = x.nan_to_num(nan=1.0).requires_grad_()
    y, _ = functional.edge_max(x, idx, edge, graph=graph, backend=backend)
    off = (y == 0).nonzero()
    assert len(off) > 0
    cotangent = torch.ones_like(y)
    cotangent[tuple(off.T)] = float("nan")  # where the ReLU lets nothing through
    (grad,) = torch.autograd.grad(y, x, cotangent)
    assert grad.isfinite().all()


def test_cost_volume_ignores_gradients_of_displacements_that_leave_the_map(generator, target, backend, wide):
    a, b = (random(generator, 1, 2, 3, 3, dtype=wide, requires_grad=True) for _ in range(2))
    y = functional.cost_volume(a, b, radius=2, stride=2, backend=backend)
    cotangent = torch.ones_like(y)
    cotangent[y == 0] = float("nan")
    assert all(g.isfinite().all() for g in torch.autograd.grad(y, (a, b), cotangent))


def test_cost_volume_compact_keeps_exactly_the_reachable_displacements(generator, target, backend, wide):
    a, b = random(generator, 2, 3, 16, 16, dtype=wide), random(generator, 2, 3, 16, 16, dtype=wide)
    full = functional.cost_volume(a, b, radius=10, stride=2, backend=backend)
    compact = functional.cost_volume(a, b, radius=10, stride=2, compact=True, backend=backend)
    live = functional.reachable_displacements(10, 2, 16)
    assert len(live) == 225
    if target.backend == INTERPRETED and target.slow:  # the rounding of NumPy's products depends on their shapes
        torch.testing.assert_close(full[:, live], compact, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(full[:, live], compact)
    dead = sorted(set(range(441)) - set(live))
    assert torch.count_nonzero(full[:, dead]) == 0


def test_f5c_mix_parameters_may_have_no_bias(generator, backend, wide):
    x, fcc = fcc_arguments(generator, h=2, w=3, dtype=wide)
    _, edge = edge_arguments(generator, dtype=wide)
    mean, var = statistics(generator, 1, 4, wide)
    mix = MixParameters(random(generator, 4, 4, dtype=wide), None)
    zero = MixParameters(mix.weight, torch.zeros_like(mix.weight[0]))
    options = {"k": 2, "backend": backend}
    torch.testing.assert_close(
        functional.f5c(x, fcc, mean, var, edge, fcc_mix=mix, ccc_mix=mix, **options),
        functional.f5c(x, fcc, mean, var, edge, fcc_mix=zero, ccc_mix=zero, **options),
    )
