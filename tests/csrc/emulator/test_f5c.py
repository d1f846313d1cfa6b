"""csrc/cuda/f5c.cu in the emulator: the block against the reference in float64, and against its own operators."""

import emulator
import pytest
import torch

from molkernels import reference

pytestmark = pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler")

EPS = 1e-5
# (dtype, TF32); float32 without it is IEEE.
PRECISIONS = ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False))
# With one multiprocessor a block of the mix has 128 rows, with many 64.
MULTIPROCESSORS = (1, 1000)


@pytest.fixture(autouse=True, scope="module")
def _library():
    emulator.load()


@pytest.fixture(autouse=True, params=MULTIPROCESSORS, ids=("large blocks", "small blocks"))
def _multiprocessors(request, monkeypatch):
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", str(request.param))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


def block(generator, shape, dtype, *, mixes, biases=True):
    """Random arguments of the block, up to `k`, in a dtype."""
    n, channels, height, width = shape
    positions = height * width

    def random(*size, scale=1.0):
        return (torch.randn(*size, generator=generator) * scale).to(dtype)

    mean, var = random(1, channels).float(), random(1, channels).float().abs() + 0.5
    norm = random(channels), random(channels)
    axes = [random(channels, height), random(channels, width)]
    kernels = [random(channels, height, scale=height**-0.5), random(channels, width, scale=width**-0.5)]

    def mix():
        if not mixes:
            return None, None
        return random(channels, channels, scale=channels**-0.5), random(channels) if biases else None

    def edge():
        return random(positions, positions, scale=positions**-0.5), random(positions)

    x = random(n, channels, height, width)
    biases_hw = random(channels), random(channels)
    return [x, mean, var, *norm, *axes, *kernels, *biases_hw, *mix(), *edge(), *edge(), *mix()]


def f5c(arguments, k, graph, tf32):
    return torch.ops.molkernels_cuda.f5c(*arguments, k, graph, EPS, tf32, tf32)


def truth(arguments, k, graph, dtype=torch.float64):
    """The reference in a dtype (statistics in the dtype of statistics)."""
    wide = [a if a is None else a.to(dtype) for a in arguments]
    wide[1:3] = [a.to(reference.statistics_dtype(dtype)) for a in arguments[1:3]]
    return reference.f5c(*wide, k, graph, EPS)


def error(y, expected):
    return ((y.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("graph", ["channel", "position"])
@pytest.mark.parametrize("mixes", [False, True], ids=("released", "paper"))
@pytest.mark.parametrize(("dtype", "tf32"), PRECISIONS)
def test_f5c_on_a_certain_graph(generator, dtype, tf32, mixes, graph):
    # Rounding cannot change the graph: all channels are neighbours, or each position is its own (order would matter).
    shape, k = ((2, 12, 6, 7), 12) if graph == "channel" else ((3, 70, 3, 5), 1)
    arguments = block(generator, shape, dtype, mixes=mixes)
    expected = truth(arguments, k, graph)
    y = f5c(arguments, k, graph, tf32)
    assert y.dtype == dtype
    assert y.is_contiguous()
    plain = error(truth(arguments, k, graph, dtype), expected)
    allowed = 2e-3 if tf32 else 1e-5 if dtype == torch.float32 else 2 * plain
    assert error(y, expected) <= allowed


@pytest.mark.parametrize("graph", ["channel", "position"])
@pytest.mark.parametrize("shape", [(2, 16, 8, 8), (1, 130, 5, 4), (2, 6, 9, 3)])
def test_f5c_in_ieee_float32(generator, shape, graph):
    arguments = block(generator, shape, torch.float32, mixes=True, biases=shape[1] != 6)
    expected = truth(arguments, 4, graph)
    assert error(f5c(arguments, 4, graph, False), expected) <= 1e-5


@pytest.mark.parametrize("shape", [(2, 10, 8, 8), (1, 6, 3, 5), (1, 300, 2, 4)])  # even rows or odd; many channels
@pytest.mark.parametrize("graph", ["channel", "position"])
@pytest.mark.parametrize(("dtype", "tf32"), PRECISIONS)
def test_f5c_is_its_operators(generator, dtype, tf32, graph, shape):
    """Though one kernel adds the residual, and writes no winners."""
    arguments = block(generator, shape, dtype, mixes=False)
    ops = torch.ops.molkernels_cuda
    z = ops.fcc(*arguments[:11], EPS, True, tf32).flatten(2)
    idx = ops.knn(reference.graph_nodes(z, graph), 3, tf32)
    edges, _winner = ops.edge_max(z, idx, *arguments[13:17], graph, tf32)
    assert torch.equal(f5c(arguments, 3, graph, tf32).flatten(2), z + edges)


@pytest.mark.parametrize("mixes", [False, True])
def test_no_maps_give_none(generator, mixes):
    arguments = block(generator, (0, 8, 4, 4), torch.float32, mixes=mixes)
    assert f5c(arguments, 3, "channel", False).shape == (0, 8, 4, 4)


def test_a_channels_last_map_and_views_of_weights(generator):
    arguments = block(generator, (2, 16, 4, 4), torch.float32, mixes=True)
    expected = f5c(arguments, 4, "channel", False)
    strided = [arguments[0].to(memory_format=torch.channels_last), *arguments[1:]]
    for i in (11, 13, 15, 17):
        strided[i] = arguments[i].mT.contiguous().mT
    # A start that is not a multiple of 16 bytes: the mix then stages element by element.
    strided[11] = torch.cat([torch.zeros(1), arguments[11].flatten()])[1:].view(16, 16)
    assert torch.equal(f5c(strided, 4, "channel", False), expected)


@pytest.mark.parametrize("order", emulator.SCHEDULES)
@pytest.mark.parametrize("tf32", [False, True])
def test_every_schedule_gives_the_same_bits(generator, order, tf32):
    arguments = block(generator, (1, 70, 4, 5), torch.float32, mixes=True)
    with emulator.schedule("forward"):
        expected = f5c(arguments, 4, "channel", tf32)
    with emulator.schedule(order):
        assert torch.equal(f5c(arguments, 4, "channel", tf32), expected)
