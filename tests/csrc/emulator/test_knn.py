"""csrc/cuda/knn.cu in the emulator: exactly the graph of the reference, whatever the precision of the products."""

import emulator
import pytest
import torch

from molkernels import reference

pytestmark = pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# One block of 64 rows, two, several; more than one tile; one component, one node; sizes that 16 bytes don't divide.
SHAPES = (
    (1, 1),
    (2, 1),
    (1, 7),
    (5, 3),
    (16, 16),
    (33, 40),
    (64, 8),
    (100, 31),
    (128, 65),
    (130, 20),
    (257, 12),
    (600, 9),
)
# Multiprocessors: with one, there are enough maps for blocks of 64 rows; with many, blocks have 16.
MULTIPROCESSORS = (1, 1000)


@pytest.fixture(autouse=True, scope="module")
def _library():
    emulator.load()


@pytest.fixture(autouse=True, params=MULTIPROCESSORS, ids=("large blocks", "small blocks"))
def _multiprocessors(request, monkeypatch):
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", str(request.param))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def knn(nodes, k):
    return torch.ops.molkernels_cuda.knn(nodes, k, True)


def layouts(nodes):
    """The same nodes with contiguous components, with contiguous nodes, with neither."""
    return {
        "components": nodes.contiguous(),
        "nodes": nodes.mT.contiguous().mT,
        "neither": nodes.repeat_interleave(2, 2).repeat_interleave(2, 1)[:, ::2, ::2],
    }


def check(nodes, k):
    expected = reference.knn(nodes, k)
    for name, laid_out in layouts(nodes).items():
        idx = knn(laid_out, k)
        assert idx.dtype == torch.int32
        assert torch.equal(idx, expected), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_knn_is_the_references(generator, shape, dtype):
    nodes = torch.randn(2, *shape, generator=generator).to(dtype)
    check(nodes, min(4, shape[0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(128, 256), (256, 128)])
def test_knn_at_the_sizes_of_the_network(generator, shape, dtype):
    check(torch.randn(1, *shape, generator=generator).to(dtype), 4)


@pytest.mark.parametrize("k", range(1, 17))
def test_every_number_of_neighbours(generator, k):
    check(torch.randn(1, 40, 24, generator=generator), k)
    check(torch.randn(1, k, 24, generator=generator), k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_inside_a_larger_tensor(generator, dtype):
    x = torch.randn(3, 40, 6, 64, generator=generator).to(dtype)
    for nodes in (x[1:, 3:35, 2, 1:33], x[:, :, 2, 1:33].mT, x[::2, 8:, 1, 8:40], x[:, 0], x[:1, 0].expand(3, -1, -1)):
        assert torch.equal(knn(nodes, 4), reference.knn(nodes, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_maps_give_none(dtype):
    assert knn(torch.empty(0, 8, 5, dtype=dtype), 3).shape == (0, 8, 3)


@pytest.mark.parametrize("dtype", [DTYPES[0], *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES[1:])])
def test_equal_nodes_go_by_index(generator, dtype):
    nodes = torch.randn(2, 7, 20, generator=generator).to(dtype).repeat(1, 12, 1)
    check(nodes, 6)
    check(nodes * torch.tensor([1, 2, 0.5, 4], dtype=dtype).repeat(21)[:, None], 6)
    check(torch.ones(1, 140, 18, dtype=dtype), 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_opposite_nodes(generator, dtype):
    nodes = torch.randn(2, 80, 20, generator=generator).to(dtype)
    nodes[0, ::3] = 0
    nodes[1, 1::2] = -nodes[1, ::2]
    check(nodes, 16)
    check(torch.zeros(1, 70, 5, dtype=dtype), 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nodes_that_are_not_finite_rank_last(generator, dtype, value):
    nodes = torch.randn(2, 40, 20, generator=generator).to(dtype)
    nodes[0, 5:31, 3] = value
    nodes[0, 33] = 0
    nodes[1, :, 3] = value
    check(nodes, 16)


@pytest.mark.parametrize(
    "scale",
    [1e38, 1e-19, 1e-44, *(pytest.param(x, marks=pytest.mark.slow) for x in (1e30, 1e13, 1e-13, 1e-22, 1e-30, 1e-38))],
)
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_huge_tiny_and_denormal_nodes(generator, dtype, scale):
    nodes = torch.randn(2, 70, 20, generator=generator)
    nodes = nodes.clamp(-3, 3) * scale
    nodes[1, ::2] = torch.randn(35, 20, generator=generator)
    nodes[1, 3] = 0
    nodes[1, 5, 2] = torch.nan
    check(nodes.to(dtype), 10)


def test_float16_at_both_ends_of_its_range(generator):
    nodes = torch.randn(3, 70, 200, generator=generator)
    nodes[0] = nodes[0].sign() * 65504
    nodes[1] *= 2.0**-24
    nodes[2, ::2] *= 2.0**-20
    nodes[2, 1::2] *= 1e4
    check(nodes.half(), 10)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-9])
def test_neighbours_closer_than_the_fast_products_resolve(generator, gap):
    direction = torch.randn(1, 1, 48, generator=generator).double()
    nodes = direction + gap * torch.randn(2, 150, 48, generator=generator).double()
    check(nodes.float(), 8)


@pytest.mark.parametrize("step", [2e-5, 4e-6, 2e-7])
@pytest.mark.parametrize("count", [70, 270])
def test_similarities_in_steps_that_each_stage_can_just_resolve(generator, step, count):
    """Tensor cores, float32 and float64 in turn, also in a list that goes from tile to tile."""
    similarity = 0.9 - step * torch.randperm(count, generator=generator).double()
    away = torch.nn.functional.normalize(torch.randn(count, 47, generator=generator).double(), dim=1)
    nodes = torch.cat([similarity[:, None], (1 - similarity**2).sqrt()[:, None] * away], 1)
    nodes[5] = torch.eye(48)[0]
    nodes = (nodes * (1 + torch.rand(count, 1, generator=generator))).float()[None]
    assert torch.equal(knn(nodes, 9), reference.knn(nodes, 9))


# The other tests run in the order "forward".
@pytest.mark.parametrize(
    "order", [pytest.param(order, marks=[pytest.mark.slow] * (order != "reverse")) for order in emulator.SCHEDULES]
)
def test_every_schedule_gives_the_same_graph(generator, order):
    nodes = torch.randn(2, 140, 33, generator=generator)
    nodes[1] = 1 + 1e-3 * nodes[1]
    with emulator.schedule(order):
        check(nodes, 5)
        several_tiles = nodes[:1].repeat(1, 2, 1)
        assert torch.equal(knn(several_tiles, 5), reference.knn(several_tiles, 5))


def test_the_longest_nodes(generator):
    check(torch.randn(1, 3, 4096, generator=generator), 2)


@pytest.mark.slow
def test_the_most_nodes(generator):
    nodes = torch.randn(1, 4096, 3, generator=generator)
    assert torch.equal(knn(nodes, 3), reference.knn(nodes, 3))


def test_too_little_shared_memory_is_refused(monkeypatch):
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", "16384")
    with pytest.raises(RuntimeError, match="shared memory"):
        knn(torch.ones(1, 8, 8), 2)
