"""The published form that the benchmarks compare with computes the released function, and nothing else."""

import pytest
import torch

import molkernels as mk
from bench import network
from bench.baselines import layout, published, usual
from bench.groups import relative_error
from mol import MOL
from mol.network.losses import MOLLoss
from molkernels import reference
from molkernels.functional import EdgeParameters, FCCParameters

EXACT = 1e-9  # float64


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 128, 16, 16, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def released_state():
    return {name: t.double() if t.is_floating_point() else t for name, t in network.random_state().items()}


def block_in_our_layout(state):
    """A molkernels.F5C with the entries of the first block of a released-layout state dict."""
    block = mk.F5C(variant="released").double()
    fcc = {name.removeprefix("FCC_1."): value for name, value in state.items() if name.startswith("FCC_1.")}
    ccc = {name.removeprefix("CCC_1."): value for name, value in state.items() if name.startswith("CCC_1.")}
    gamma, beta, *axes = layout.fcc_parameters(fcc)
    mean, var = layout.fcc_statistics(fcc)
    norm = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    block.fcc.norm.load_state_dict(norm, strict=False)
    block.fcc.load_state_dict(dict(zip(layout.FCCParameters._fields[2:], axes, strict=True)), strict=False)
    block.ccc.load_state_dict(layout.edge_parameters(ccc)._asdict())
    return block


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_published_block_is_the_released_f5c(features, released_state, training):
    loop = published.PublishedMOL().double()
    loop.load_state_dict(released_state)
    block = block_in_our_layout(released_state)
    loop.train(training)
    block.train(training)
    with torch.no_grad():
        assert relative_error(loop.f5c_1(features), block(features)) < EXACT


def test_published_channel_loop_is_ccc_on_the_channel_graph(features):
    loop = published.ChannelCCC().double()
    expected = mk.functional.ccc(features, layout.edge_parameters(loop.state_dict()), k=4, graph="channel")
    assert relative_error(loop(features), expected) < EXACT


def same_results_and_gradients(form, exact, tensors, dtype):
    """Both functions of the same random tensors, and their gradients for the same cotangent, agree."""
    results = form(*tensors), exact(*tensors)
    cotangent = torch.randn(results[0].shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)
    both = [(y.detach(), *torch.autograd.grad(y, tensors, cotangent)) for y in results]
    limit = EXACT if dtype == torch.float64 else 1e-5
    return all(relative_error(got, want) < limit for got, want in zip(*both, strict=True))


def random_tensors(shapes, dtype):
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("graph", ["channel", "position"])
def test_usual_ccc_and_its_gradients_are_those_of_the_reference(graph, dtype):
    tensors = random_tensors(((2, 24, 36), (36, 36), (36,), (36, 36), (36,)), dtype)
    nodes = reference.graph_nodes(tensors[0].detach(), graph)
    idx = usual.ccc(tensors[0], EdgeParameters(*tensors[1:]), 3, graph)[1]
    assert torch.equal(idx.sort().values, reference.knn(nodes, 3).long().sort().values)
    assert same_results_and_gradients(
        lambda x, *given: usual.ccc(x, EdgeParameters(*given), 3, graph)[0],
        lambda x, *given: reference.ccc(x, *given, 3, graph),
        tensors,
        dtype,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("training", [False, True], ids=["given-statistics", "batch-statistics"])
def test_usual_fcc_and_its_gradients_are_those_of_the_reference(training, dtype):
    c, h, w = 6, 5, 4
    tensors = random_tensors([(3, c, h, w), *[(c,)] * 2, *[(c, h), (c, w)] * 2, *[(c,)] * 2], dtype)
    mean, var = torch.linspace(-1, 1, c, dtype=dtype), torch.linspace(0.5, 2, c, dtype=dtype)
    statistics = (None, None) if training else (mean, var)

    def exact(x, *given):
        if training:
            return reference.fcc_train(x, *given, 1, 1e-5, True)[0]
        return reference.fcc(x, mean[None], var[None], *given, 1e-5, True)

    def form(x, *given):
        return usual.fcc(x, *statistics, FCCParameters(*given), 1e-5)

    assert same_results_and_gradients(form, exact, tensors, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_usual_cost_volume_and_its_gradients_are_those_of_the_reference(dtype):
    assert same_results_and_gradients(
        lambda a, b: usual.cost_volume(a, b, 3, 2),
        lambda a, b: reference.cost_volume(a, b, 3, 3, 2, 1.0),
        random_tensors([(2, 8, 5, 6)] * 2, dtype),
        dtype,
    )


def test_published_cost_volume_and_its_gradients(features):
    a, b = features[:1].clone().requires_grad_(), features[1:].clone().requires_grad_()
    loop, ours = published.cost_volume(a, b), mk.functional.cost_volume(a, b, radius=10, stride=2)
    cotangent = torch.randn(loop.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert relative_error(loop, ours) < EXACT
    pairs = zip(torch.autograd.grad(loop, (a, b), cotangent), torch.autograd.grad(ours, (a, b), cotangent), strict=True)
    assert max(relative_error(got, want) for got, want in pairs) < EXACT


@pytest.mark.slow
def test_published_network_is_the_released_mol(released_state):
    loop = published.PublishedMOL().double().eval()
    loop.load_state_dict(released_state)
    clips = network.random_batch(1).double().clips
    with torch.no_grad():
        outputs, expected = loop(clips), MOL.from_released(released_state).double().eval()(clips)
    for got, want in zip(outputs, expected, strict=True):
        assert relative_error(got, want) < EXACT


@pytest.mark.slow
def test_published_training_pass_has_the_loss_and_gradients_of_mol():
    state, batch = network.random_state(), network.random_batch(1).double()
    keys = ("published-loop-float32", "reference-float32")
    loss, gradients = zip(
        *(network.loss_and_gradients(network.in_float64(key, state), batch) for key in keys), strict=True
    )
    assert relative_error(*loss) < EXACT
    assert relative_error(*gradients) < EXACT


def test_published_loss_is_the_sum_of_the_three_terms():
    batch = network.random_batch(3)
    generator = torch.Generator().manual_seed(5)
    outputs = published.Outputs(
        torch.randn(3, 5, generator=generator),
        torch.randn(batch.flow.shape, generator=generator),
        torch.rand(batch.landmarks.shape, generator=generator) * 128,
    )
    sample_by_sample = published.training_loss(outputs, batch.flow, batch.landmarks, batch.label)
    assert relative_error(sample_by_sample, MOLLoss()(outputs, batch).total) < 1e-5
