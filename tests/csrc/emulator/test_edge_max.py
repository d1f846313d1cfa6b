"""csrc/cuda/edge_max*.cu in the emulator, against the float64 reference."""

import math

import emulator
import pytest
import torch

from molkernels import reference

pytestmark = pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler")

GRAPHS = ("channel", "position")
# (dtype, TF32); float32 without it is IEEE.
FORMATS = ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False))
# N, C, P, k: whole tiles and parts of them, one group of neighbours and several, rows that 16 bytes do not divide.
SHAPES = (
    (300, 1, 1, 1),
    (40, 5, 15, 3),
    (2, 32, 64, 4),
    (1, 130, 64, 9),
    (1, 32, 100, 5),
    (1, 128, 15, 2),
    (2, 5, 100, 4),
    (1, 16, 256, 4),
    (1, 40, 72, 16),
)
AMPERE = 99 * 1024  # bytes of shared memory on sm_86, 89 and 120


@pytest.fixture(autouse=True, scope="module")
def _library():
    emulator.load()


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """New memory holds NaN, so that a value that a kernel does not write is noticed."""
    torch.use_deterministic_algorithms(True)
    assert torch.ones(1).new_empty(9).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def arguments(generator, graph, shape, dtype=torch.float32):
    """x, idx, weight1, bias1, weight2, bias2; neighbours drawn at random, so some are drawn twice."""
    n, c, p, k = shape

    def random(*size, scale=1.0):
        return (torch.randn(*size, generator=generator) * scale).to(dtype)

    nodes = c if graph == "channel" else p
    idx = torch.randint(0, nodes, (n, nodes, k), generator=generator, dtype=torch.int32)
    weights = [random(p, p, scale=p**-0.5) for _ in range(2)]
    return [random(n, c, p), idx, weights[0], random(p), weights[1], random(p)]


def backward_arguments(generator, graph, shape, dtype=torch.float32):
    """grad_y, x, idx, weight1, weight2, y, winner: y and winner those of float64."""
    inputs = arguments(generator, graph, shape, dtype)
    x, idx, weight1, _, weight2, _ = inputs
    y, winner = reference.edge_max(*wide(inputs), graph)
    grad_y = torch.randn(*x.shape, generator=generator).to(dtype)
    return [grad_y, x, idx, weight1, weight2, y.to(dtype), winner]


def wide(tensors):
    return [t.double() if t.is_floating_point() else t for t in tensors]


def forward(inputs, graph, tf32=False):
    return torch.ops.molkernels_cuda.edge_max(*inputs, graph, tf32)


def backward(inputs, graph, tf32=False):
    return torch.ops.molkernels_cuda.edge_max_backward(*inputs, graph, tf32)


def error(got, want):
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-30))


def check_error(got, plain, want, dtype, tf32, length):
    """Tolerances: absolute for float32 and TF32; for 16 bits relative to the error of plain PyTorch in that dtype."""
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert got.is_contiguous()
    allowed = 2 * error(plain, want)
    if dtype == torch.float32:
        allowed = 1e-3 if tf32 else 1e-6 * math.sqrt(length)
    assert error(got, want) <= allowed


def check_forward(inputs, graph, dtype, tf32):
    y, winner = forward(inputs, graph, tf32)
    want, _ = reference.edge_max(*wide(inputs), graph)
    plain, _ = reference.edge_max(*inputs, graph)
    check_error(y, plain, want, dtype, tf32, inputs[0].shape[2])
    assert winner.dtype == torch.uint8

    messages = messages_of(*wide(inputs), graph)
    best = messages.max(2).values
    chosen = messages.gather(2, winner.long()[:, :, None])[:, :, 0]  # fails for a winner out of range
    rounded = tf32 or (graph == "channel" and inputs[0].shape[1] > 256)  # the messages, before the maximum
    tolerance = 1e-2 if rounded else 1e-5
    assert (best - chosen).max() <= tolerance * best.abs().max()


def messages_of(x, idx, weight1, bias1, weight2, bias2, graph):
    """(N, C, k, P): the values of which the maximum is taken."""
    n, c, p = x.shape
    if graph == "position":
        return reference.gather_positions(x, idx) @ weight2.mT
    chosen = idx.long().reshape(n, -1, 1).expand(-1, -1, p)
    return (x @ weight2.mT).gather(1, chosen).view(n, c, -1, p)


def check_backward(inputs, graph, dtype, tf32):
    n, c, p = inputs[1].shape
    want = reference.edge_max_backward(*wide(inputs), graph)
    plain = reference.edge_max_backward(*inputs, graph)
    lengths = (p * inputs[2].shape[2], n * c, n * c * inputs[2].shape[2], n * c)
    for values in zip(backward(inputs, graph, tf32), plain, want, lengths, strict=True):
        check_error(*values[:3], dtype, tf32, values[3])


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_agrees_with_float64(generator, graph, shape, dtype, tf32):
    check_forward(arguments(generator, graph, shape, dtype), graph, dtype, tf32)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_agrees_with_float64(generator, graph, shape, dtype, tf32):
    check_backward(backward_arguments(generator, graph, shape, dtype), graph, dtype, tf32)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("k", range(1, 17))
def test_every_number_of_neighbours(generator, graph, k):
    shape = (2, 20, 24, k)
    check_forward(arguments(generator, graph, shape, torch.bfloat16), graph, torch.bfloat16, False)
    check_backward(backward_arguments(generator, graph, shape, torch.bfloat16), graph, torch.bfloat16, False)


@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
def test_more_channels_than_a_block_holds(generator, dtype, tf32):
    shape = (2, 300, 9, 4)
    check_forward(arguments(generator, "channel", shape, dtype), "channel", dtype, tf32)
    check_backward(backward_arguments(generator, "channel", shape, dtype), "channel", dtype, tf32)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("multiprocessors", [1, 1000])
def test_tiles_for_few_and_for_many_multiprocessors(generator, monkeypatch, graph, multiprocessors):
    monkeypatch.setenv("MOLKERNELS_EMULATED_MULTIPROCESSORS", str(multiprocessors))
    shape = (2, 70, 136, 3)
    check_forward(arguments(generator, graph, shape), graph, torch.float32, False)
    check_backward(backward_arguments(generator, graph, shape), graph, torch.float32, False)


# On the smallest chips, and less: the position graph then has blocks of 32, 16, 8 and 4 channels.
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize(
    ("graph", "shape", "shared"),
    [
        ("position", (1, 70, 256, 4), AMPERE),
        ("position", (1, 33, 576, 2), 70_000),
        ("position", (1, 19, 576, 2), 43_000),
        pytest.param("position", (1, 5, 1521, 1), 48_000, marks=pytest.mark.slow),
        ("channel", (1, 256, 64, 16), AMPERE),
        ("channel", (1, 256, 100, 4), 70_000),
    ],
)
def test_tiles_for_less_shared_memory(generator, monkeypatch, graph, shape, shared, dtype, tf32):
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", str(shared))
    check_forward(arguments(generator, graph, shape, dtype), graph, dtype, tf32)
    check_backward(backward_arguments(generator, graph, shape, dtype), graph, dtype, tf32)


def test_channel_sums_move_to_global_memory_where_they_do_not_fit(generator, monkeypatch):
    inputs = backward_arguments(generator, "channel", (2, 130, 70, 4))
    expected = backward(inputs, "channel")
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", "16000")
    for got, want in zip(backward(inputs, "channel"), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tf32"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("shared", [AMPERE, 227 * 1024])
def test_the_largest_map(generator, monkeypatch, dtype, tf32, shared):
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", str(shared))
    shape = (1, 9, 4096, 2)
    check_forward(arguments(generator, "position", shape, dtype), "position", dtype, tf32)
    check_backward(backward_arguments(generator, "position", shape, dtype), "position", dtype, tf32)


def test_too_little_shared_memory_is_refused(generator, monkeypatch):
    inputs = arguments(generator, "position", (1, 2, 1024, 1))
    monkeypatch.setenv("MOLKERNELS_EMULATED_SHARED", "20000")
    with pytest.raises(RuntimeError, match="graph of 1024 positions needs more shared memory than the 20000 bytes"):
        forward(inputs, "position")


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
def test_equal_messages_go_to_the_lowest_neighbour(generator, graph, dtype, tf32):
    inputs = arguments(generator, graph, (2, 24, 40, 7), dtype)
    idx = inputs[1]
    idx[:, :, 1::2] = idx[:, :, 0:-1:2]  # each neighbour twice
    _, winner = forward(inputs, graph, tf32)
    assert (winner % 2 == 0).all()
    idx[:] = idx[:, :, :1]
    assert (forward(inputs, graph, tf32)[1] == 0).all()


@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
def test_equal_channels_tie(generator, dtype, tf32):
    inputs = arguments(generator, "channel", (1, 24, 40, 6), dtype)
    inputs[0][:] = inputs[0][:, :1]
    assert (forward(inputs, "channel", tf32)[1] == 0).all()


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
def test_the_first_nan_message_wins(generator, graph, dtype, tf32):
    inputs = arguments(generator, graph, (2, 24, 40, 7), dtype)
    x, idx = inputs[:2]
    x[0, 3, 5] = x[1, 20, 39] = torch.nan
    idx[idx == 5] = 6
    idx[0, 7, 3:] = 5
    want, want_winner = reference.edge_max(*wide(inputs), graph)
    y, winner = forward(inputs, graph, tf32)
    assert 0 < want.isnan().sum() < want.numel()
    assert torch.equal(y.isnan(), want.isnan())
    nan_message = messages_of(*wide(inputs), graph).isnan().any(2)
    assert torch.equal(winner[nan_message], want_winner[nan_message])


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 1e-40, 0.0])
def test_extreme_inputs_give_winners_in_range(generator, graph, value):
    inputs = arguments(generator, graph, (1, 24, 40, 7))
    inputs[0][:] = value
    y, winner = forward(inputs, graph)
    assert (winner < 7).all()
    if math.isfinite(value):
        assert torch.equal(y, reference.edge_max(*inputs, graph)[0])


@pytest.mark.parametrize("graph", GRAPHS)
def test_all_messages_minus_infinity(generator, graph):
    inputs = arguments(generator, graph, (1, 8, 40, 3))
    inputs[0].abs_()
    inputs[2].zero_()
    inputs[4].fill_(-torch.inf)
    assert (forward(inputs, graph)[1] == 0).all()


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_node_that_everybody_chooses(generator, graph):
    inputs = backward_arguments(generator, graph, (2, 20, 72, 4))
    inputs[2].fill_(11)
    check_backward(inputs, graph, torch.float32, False)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_64_bit_neighbours_give_the_same_bits(generator, graph, dtype):
    inputs = arguments(generator, graph, (2, 24, 40, 7), dtype)
    expected = forward(inputs, graph)
    inputs[1] = inputs[1].long()
    assert all(torch.equal(a, b) for a, b in zip(forward(inputs, graph), expected, strict=True))
    inputs = backward_arguments(generator, graph, (2, 24, 40, 7), dtype)
    expected = backward(inputs, graph)
    inputs[2] = inputs[2].long()
    assert all(torch.equal(a, b) for a, b in zip(backward(inputs, graph), expected, strict=True))


def misplaced(tensor):
    """The same values, contiguous, at an address that is not aligned for wide accesses."""
    memory = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
    memory[1:] = tensor.flatten()
    return memory[1:].view(tensor.shape)


def strided(tensor):
    return tensor.repeat_interleave(2, tensor.ndim - 1)[..., ::2]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("laid_out", [misplaced, strided])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_address_and_any_stride_give_the_same_bits(generator, graph, laid_out, dtype):
    inputs = arguments(generator, graph, (1, 24, 64, 3), dtype)
    got, want = forward([laid_out(t) for t in inputs], graph), forward(inputs, graph)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    inputs = backward_arguments(generator, graph, (1, 24, 64, 3), dtype)
    got, want = backward([laid_out(t) for t in inputs], graph), backward(inputs, graph)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
def test_no_maps_give_no_outputs_and_zero_gradients(generator, graph, dtype, tf32):
    inputs = arguments(generator, graph, (0, 12, 20, 3), dtype)
    y, winner = forward(inputs, graph, tf32)
    assert y.shape == winner.shape == (0, 12, 20)
    x, idx, weight1, _, weight2, _ = inputs
    grad_x, *grads = backward([x, x, idx, weight1, weight2, y, winner], graph, tf32)
    assert grad_x.shape == x.shape
    assert [g.shape for g in grads] == [(20, 20), (20, 20), (20,)]
    assert all((g == 0).all() for g in grads)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("dtype", "tf32"), FORMATS)
@pytest.mark.parametrize("shape", [(2, 40, 72, 6), (1, 70, 144, 4)])
def test_every_schedule_gives_the_same_bits(generator, graph, dtype, tf32, shape):
    inputs = arguments(generator, graph, shape, dtype)
    gradients = backward_arguments(generator, graph, shape, dtype)
    seen = []
    for order in emulator.SCHEDULES:
        with emulator.schedule(order):
            seen.append([*forward(inputs, graph, tf32), *backward(gradients, graph, tf32)])
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, seen[0], strict=True))
