"""What only a GPU can show: graphs, streams, other devices, very large tensors.

test_ops.py and test_properties.py compare the operators on every backend, dtype and shape with float64; their GPU cases
have the same mark: `pytest -m gpu` runs them all.
"""

import pytest
import torch

import molkernels as mk
from molkernels import functional, precision, reference

pytestmark = pytest.mark.gpu

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

BACKENDS = [name for name in mk.available_backends("cuda") if name != "reference"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
VARIANTS = ("paper", "released")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


def block(variant, backend, dtype=torch.float32, device="cuda", channels=128, size=16):
    made = mk.F5C(channels, size, 4, variant, backend)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return made.to(device, dtype)


def step(module, x):
    """Output and all gradients."""
    x = x.detach().requires_grad_()
    y = module(x)
    grads = torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y), allow_unused=True)
    return [y.detach(), *(g for g in grads if g is not None)]


def relative(got, want):
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("graph", ["channel", "position"])
def test_full_size_operators_agree_with_float64(backend, dtype, graph):
    x = torch.randn(6, 128, 16, 16, device="cuda", dtype=dtype, requires_grad=True)
    edge = functional.EdgeParameters(
        *((0.06 * torch.randn(*s, device="cuda")).to(dtype).requires_grad_() for s in ((256, 256), (256,)) * 2)
    )
    idx = functional.knn(x, 4, graph=graph, backend=backend)
    assert torch.equal(idx, reference.knn(reference.graph_nodes(x.detach().flatten(2), graph), 4))
    y, winner = functional.edge_max(x, idx, edge, graph=graph, backend=backend)
    exact = reference.edge_max(x.double().flatten(2), idx, *(p.double() for p in edge), graph)[0]
    plain = reference.edge_max(x.flatten(2), idx, *edge, graph)[0]
    limit = 2e-5 if dtype == torch.float32 else 2 * relative(plain, exact) + 1e-3
    assert relative(y.flatten(2), exact) <= limit
    assert int(winner.max()) < 4


def test_tf32_is_used_only_where_torch_allows_it(backend):
    x = torch.randn(4, 128, 16, 16, device="cuda")
    made = block("released", backend).eval()
    with torch.no_grad():
        exact = made.double()(x.double()) if backend == "reference" else _float64(made, x)
        for allowed, limit in ((False, 2e-5), (True, 5e-3)):
            with precision.tf32(allowed):
                assert relative(made.float()(x), exact) <= limit


def _float64(module, x):
    with mk.backend("reference"):
        twin = mk.F5C(128, 16, 4, module.variant, "reference").to("cuda").double().eval()
        twin.load_state_dict(module.state_dict())
        return twin(x.double())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_captured_graph_replays_to_the_same_bits(backend, variant):
    module, x = block(variant, backend), torch.randn(4, 128, 16, 16, device="cuda")
    module.requires_grad_(True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(module, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(module, x)
    other = torch.randn_like(x)
    x.copy_(other)
    graph.replay()
    for got, want in zip(captured, step(module, other), strict=True):
        assert torch.equal(got, want)


def test_kernels_run_on_the_current_stream(backend):
    """The stream's earlier work takes long: a kernel on another stream would read the input before it is written."""
    module = block("released", backend).eval()
    x, want = torch.randn(4, 128, 16, 16, device="cuda"), None
    with torch.no_grad():
        want = module(x)
        late, stream = torch.zeros_like(x), torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            late.copy_(x)
            got = module(late)
        stream.synchronize()
    assert torch.equal(got, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_kernels_run_on_the_tensors_device(backend):
    module = block("paper", backend, device="cuda:1")
    x = torch.randn(4, 128, 16, 16, device="cuda:1")
    assert torch.cuda.current_device() == 0
    results = step(module, x)
    assert all(r.device == x.device for r in results)
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        for got, want in zip(results, step(module, x), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_each_run_at_full_size(backend, variant, dtype):
    module, x = block(variant, backend, dtype), torch.randn(14, 128, 16, 16, device="cuda", dtype=dtype)
    for got, want in zip(step(module, x), step(module, x), strict=True):
        assert torch.equal(got, want)


def test_more_than_two_to_the_31_elements(backend):
    """Offsets past 2³¹: the last maps of a batch of 2³¹ + elements are those of the same maps alone."""
    maps = 2**31 // (256 * 32 * 32) + 2
    needed = 6 * maps * 256 * 32 * 32
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free device memory")
    shapes = [(256,)] * 2 + [(256, 32)] * 4 + [(256,)] * 2
    parameters = functional.FCCParameters(*(torch.randn(*s, device="cuda", dtype=torch.bfloat16) for s in shapes))
    mean, var = torch.zeros(256, device="cuda"), torch.ones(256, device="cuda")
    x = torch.empty(maps, 256, 32, 32, device="cuda", dtype=torch.bfloat16).normal_()
    y = functional.fcc(x, parameters, mean, var, backend=backend)
    alone = functional.fcc(x[-2:], parameters, mean, var, backend=backend)
    assert torch.equal(y[-2:], alone)
