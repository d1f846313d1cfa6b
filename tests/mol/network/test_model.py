"""MOL: recorded outputs and gradients of the released network, frames as one batch, and what it refuses."""

import ast
import copy
import functools
import inspect
import json
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import parity_case
import pytest
import torch
from targets import Target

import mol.network.flownet
import mol.network.heads
import mol.network.losses
import mol.network.model
import mol.network.norm
import mol.network.normal_flow
import molkernels as mk
from mol import MOL
from mol.common.errors import ClipError, SettingsError
from mol.network.losses import MOLLoss
from mol.network.model import MOLOutput
from molkernels import functional, modules, reference


@pytest.fixture(scope="module")
def paper():
    """A network without the zeros that it starts with, which would hide errors."""
    torch.manual_seed(0)
    model = MOL(num_classes=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mix." in name or ".predict" in name:
                parameter.normal_(std=0.02)
    return model


@pytest.fixture
def clips():
    return torch.randn(2, 1, 8, 128, 128, generator=torch.Generator().manual_seed(5))


def relative(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@contextmanager
def neighbours(imposed=None):
    """Record the neighbours that are found within, or put those of another run in their place."""
    found, search = [], functional.knn

    def knn(*arguments, **options):
        found.append(search(*arguments, **options))
        return found[-1] if imposed is None else imposed[len(found) - 1]

    with patch.object(functional, "knn", knn):
        yield found


def _recorded_case(name):
    want = np.load(parity_case.FOLDER / f"{name}.npz", allow_pickle=False)
    return want, json.loads(str(want["meta"]))


def _run_case(case, dtype, backend, imposed=None):
    """Outputs, buffers and gradients in the released layout, and the neighbours that were found."""
    state = parity_case.released_state(case["tag"], case["cls"])
    model = MOL.from_released(state, k=case["k"], dropout=0.0).to(dtype).train(case["train"])
    clips = torch.from_numpy(parity_case.clip(case["tag"], case["batch"])).to(dtype).requires_grad_()
    with mk.backend(backend), neighbours(imposed) as found:
        out = model(clips)
    outputs = (out.logits, out.flow.permute(0, 2, 3, 4, 1), out.landmarks.flatten(2).mT)
    cotangents = [
        torch.from_numpy(parity_case.uniform(f"{case['tag']}/cotangent/{i}", tuple(o.shape)).astype(np.float32))
        for i, o in enumerate(outputs)
    ]
    terms = [o * c for o, c in zip(outputs, cotangents, strict=True)]
    (terms[0].sum() + 10 * terms[1].mean() + 0.1 * terms[2].sum()).backward()
    result = {name: o.detach().clone() for name, o in zip(("logits", "flow", "landmarks"), outputs, strict=True)}
    buffers = {name: value.clone() for name, value in model.released_state_dict().items()}
    return SimpleNamespace(
        **result, buffers=buffers, input=clips.grad, gradients=_gradients_in_released_layout(model), neighbours=found
    )


def _gradients_in_released_layout(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter))
    return model.released_state_dict()


@pytest.fixture(scope="module")
def exact():
    """A recorded case in float64 by the reference, computed once."""
    return functools.cache(lambda name: _run_case(_recorded_case(name)[1], torch.float64, "reference"))


# Recorded cases that `make test` runs: each of them once.
FAST = (("reference", "model_eval"), ("cpu", "model_train"))


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        pytest.param(b, name, marks=[pytest.mark.slow] * ((b, name) not in FAST))
        for b in mk.available_backends("cpu")
        if Target(b, "cpu").has(torch.float64)
        for name in ("model_eval", "model_train")
    ],
)
def test_released_variant_gives_the_recorded_outputs_and_gradients(backend, name, exact):
    """In float64, where the same neighbours and maxima win on every processor.

    In both recorded cases some neighbours are closer to each other than float32 resolves: which one a float32 run takes
    depends on how the processor's convolutions round.
    """
    want, case = _recorded_case(name)
    got = exact(name) if backend == "reference" else _run_case(case, torch.float64, backend)
    names = [str(n) for n in want["grad_names"]]
    samples = [got.gradients[n].flatten() for n in names]
    samples = np.stack([g[torch.linspace(0, g.numel() - 1, 8).long()].numpy() for g in samples])
    errors = {
        "logits": relative(got.logits, want["logits"]),
        "flow": relative(got.flow[:, :, ::4, ::4], want["flow_sub"]),
        "landmarks": relative(got.landmarks, want["landmarks"]),
        "input gradient": relative(got.input[:, :, :, ::16, ::16], want["grad_input_sub"]),
        "gradient samples": relative(samples, want["grad_samples"]),
    }
    for entry in want.files:
        if entry.startswith("buf/"):
            errors[entry] = relative(got.buffers[entry[4:]].reshape(want[entry].shape), want[entry])
    assert {n: e for n, e in errors.items() if not e <= 5e-6} == {}
    # The recorded norms are float32 sums of up to nine million squares.
    assert relative([got.gradients[n].norm().item() for n in names], want["grad_norm"]) <= 1e-4


@pytest.mark.parametrize("name", ["model_eval", pytest.param("model_train", marks=pytest.mark.slow)])
def test_float32_follows_float64_on_the_same_graph(name, exact):
    """Outputs to rounding, gradients to 2 %, and the neighbours but for one in a thousand.

    Where rounding carries one activation of a 2×2 map across zero, or gives a maximum to another neighbour, gradients
    move by up to 0.5 %. They are held to rounding in float64 above, and operator by operator in test_ops.py.
    """
    _, case = _recorded_case(name)
    exact = exact(name)
    for backend in mk.available_backends("cpu"):
        got = _run_case(case, torch.float32, backend, exact.neighbours)
        errors = {output: relative(getattr(got, output), getattr(exact, output)) for output in MOLOutput._fields}
        means = [n for n in exact.buffers if n.endswith(("running_mean", "running_var"))]
        errors |= {n: relative(got.buffers[n], exact.buffers[n]) for n in means}
        assert {n: e for n, e in errors.items() if not e <= 2e-5} == {}, backend
        gradients = {n: relative(got.gradients[n], g) for n, g in exact.gradients.items() if g.count_nonzero()}
        gradients["input"] = relative(got.input, exact.input)
        assert {n: e for n, e in gradients.items() if not e <= 2e-2} == {}, backend
        other = [(a != b).float().mean().item() for a, b in zip(got.neighbours, exact.neighbours, strict=True)]
        assert max(other) <= 1e-3, backend


def test_released_variant_has_the_parameters_of_the_released_network():
    model = MOL(num_classes=5, variant="released")

    def count(module):
        return sum(p.numel() for p in module.parameters())

    # The released network counts FCC's ffn, which it never calls; here it is kept as buffers, for the checkpoint.
    ffn = sum(b.numel() for n, b in model.unused.named_buffers() if n.endswith(("weight", "bias")))
    assert count(model) + ffn == 44_105_379
    assert count(model.flow) == 39_730_282
    assert count(model.landmarks) == 3_318_440
    assert count(model.emotion) == 738_853
    assert count(model.f5c1.ccc) == count(model.f5c2.ccc) == 131_584
    assert count(model.stack) == 19_048


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_output_shapes(variant, clips):
    with torch.no_grad():
        out = MOL(num_classes=4, variant=variant).eval()(clips[:1])
    assert out.logits.shape == (1, 4)
    assert out.flow.shape == (1, 7, 2, 128, 128)
    assert out.landmarks.shape == (1, 7, 68, 2)


@torch.no_grad()
def test_frames_as_one_batch_are_the_pairs_one_after_another(clips):
    """Batch statistics and running averages of the released variant are those of a loop over the pairs."""
    torch.manual_seed(3)
    one = MOL(variant="released", dropout=0.0).double()  # the same neighbours, however a convolution rounds
    loop, clips = copy.deepcopy(one), clips.double()
    out = one(clips)
    flows, landmarks = [], []
    for t in range(7):
        pair = clips[:, :, t : t + 2].transpose(1, 2).flatten(0, 1)
        stacked = loop.stack(pair).unflatten(0, (2, 2))
        f, g = loop.f5c1(stacked[:, 0]), loop.f5c2(stacked[:, 1])
        flows.append(loop.flow(pair, torch.cat([f, g], 1), 2, per_frame=True))
        landmarks.append(loop.landmarks(g))
    torch.testing.assert_close(out.flow, torch.stack(flows, 1), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(out.landmarks, torch.stack(landmarks, 1), rtol=1e-6, atol=1e-9)
    for (name, ours), (_, theirs) in zip(one.named_buffers(), loop.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=name)


def test_samples_of_a_batch_do_not_touch_each_other_in_evaluation(paper, clips):
    paper.eval()
    exact, clips = copy.deepcopy(paper).double(), clips.double()  # the same neighbours, however a convolution rounds
    with torch.no_grad():
        both, one = exact(clips), exact(clips[1:])
    for together, alone in zip(both, one, strict=True):
        torch.testing.assert_close(together[1:], alone, rtol=1e-7, atol=1e-9)


def test_stack_and_flow_encoder_run_once_a_frame(paper, clips):
    paper.eval()
    seen = {}
    layers = {"stack": paper.stack[0], "encoder": paper.flow.conv2, "cost": paper.flow.cost}
    hooks = [
        layer.register_forward_hook(lambda _m, inputs, _o, name=name: seen.setdefault(name, []).append(len(inputs[0])))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        paper(clips)
    for hook in hooks:
        hook.remove()
    assert seen == {"stack": [16], "encoder": [16], "cost": [14]}


def test_dead_cost_channels_are_never_multiplied(paper, clips):
    """The weights of the 216 displacements that cannot reach the map get no part in the product."""
    assert len(paper.flow.live_inputs) == 32 + 225 + 256
    with torch.no_grad():
        before = paper.eval()(clips[:1]).flow
        dead = sorted(set(range(32 + 441 + 256)) - set(paper.flow.live_inputs.tolist()))
        paper.flow.conv3_1.conv.weight[:, dead] = float("nan")
        after = paper(clips[:1]).flow
        paper.flow.conv3_1.conv.weight[:, dead] = 0.0
    assert len(dead) == 216
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    "module",
    [
        mol.network.model,
        mol.network.flownet,
        mol.network.heads,
        mol.network.norm,
        mol.network.normal_flow,
        mol.network.losses,
        modules,
        reference,
    ],
)
def test_no_python_loop_over_frames_nodes_neighbours_or_samples(module):
    """Loops in forward code run over names and settings only: none indexes or stacks tensors in its body."""
    allowed = {"__init__", "update_running_statistics", "reset_parameters", "_pair", "initialise", "keep_variance"}
    for function in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(function, ast.FunctionDef) and function.name not in allowed:
            assert not [n for n in ast.walk(function) if isinstance(n, ast.For | ast.While)], function.name


def test_training_starts_at_the_baselines(clips):
    model = MOL(num_classes=3).train()
    shape = torch.rand(68, 2) * 128
    model.initialise_outputs(shape)
    out = model(clips)
    assert torch.equal(out.landmarks, shape.expand(2, 7, 68, 2))
    assert torch.count_nonzero(out.flow) == 0
    targets = SimpleNamespace(
        flow=torch.randn(2, 7, 2, 128, 128), landmarks=torch.rand(2, 7, 68, 2), label=torch.tensor([0, 2])
    )
    MOLLoss()(out, targets).total.backward()
    assert model.landmarks.fc2.weight.grad.norm() > 0
    assert model.flow.predict0.weight.grad.norm() > 0
    with pytest.raises(ClipError, match="mean_shape"):
        model.initialise_outputs(torch.zeros(68, 3))


def test_config_rebuilds_the_model():
    model = MOL(num_classes=4, k=2, variant="released", batch_stats="clip", dropout=0.1)
    again = MOL(**json.loads(json.dumps(model.config)))
    assert again.config == model.config
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_gives_empty_outputs(paper, training):
    out = paper.train(training)(torch.empty(0, 1, 8, 128, 128))
    assert [tuple(o.shape) for o in out] == [(0, 3), (0, 7, 2, 128, 128), (0, 7, 68, 2)]


def test_the_network_runs_on_the_meta_device():
    with torch.device("meta"):
        out = MOL()(torch.empty(3, 1, 8, 128, 128))
    assert out.flow.shape == (3, 7, 2, 128, 128)


def test_bfloat16_autocast_stays_close_to_float32(paper, clips):
    paper.eval()
    with torch.no_grad():
        exact = paper(clips[:1])
        with torch.autocast("cpu", torch.bfloat16):
            rough = paper(clips[:1])
    for e, r in zip(exact, rough, strict=True):
        assert torch.linalg.vector_norm(e - r.float()) < 0.1 * torch.linalg.vector_norm(e)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_network_compiles_without_a_graph_break(variant, clips):
    torch._dynamo.reset()
    model = MOL(variant=variant, dropout=0.0).double()  # the same neighbours, however a convolution rounds
    with torch.no_grad():
        model.eval()
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
        for batch in (2, 3):
            x = torch.randn(batch, 1, 8, 128, 128, dtype=torch.float64)
            for ours, eager in zip(compiled(x), model(x), strict=True):
                torch.testing.assert_close(ours, eager, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        (torch.zeros(1, 8, 128, 128), "shape (1, 8, 128, 128); (B, 1, 8, 128, 128) is needed"),
        (torch.zeros(1, 1, 7, 128, 128), "(1, 1, 7, 128, 128)"),
        (torch.zeros(1, 1, 8, 128, 128, dtype=torch.uint8), "clips is torch.uint8; a floating tensor is needed"),
        ("clip.mp4", "clips is str"),
        (torch.full((1, 1, 8, 128, 128), float("nan")), "NaN or infinite values in clip(s) [0]"),
        (torch.full((1, 1, 8, 128, 128), float("inf")), "NaN or infinite values"),
    ],
)
def test_clips_that_cannot_be_used_are_refused(paper, clips, words):
    with pytest.raises(ClipError) as caught:
        paper(clips)
    assert words in str(caught.value)


def test_a_single_clip_is_trained_on_with_the_running_statistics(clips):
    """Between the linear layers one clip has no statistics of its own; all other norms have, over its positions."""
    model = MOL(num_classes=3, dropout=0.0).train()
    before = {name: value.clone() for name, value in model.emotion.norm2.named_buffers()}
    logits = model.recognise(clips[:1])
    assert logits.shape == (1, 3)
    logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.emotion.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.emotion.norm2.named_buffers())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"variant": "published"}, "variant is 'published'; must be 'paper' or 'released'"),
        ({"batch_stats": "batch"}, "batch_stats is 'batch'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"k": 17}, "k is 17"),
        ({"meeting": "sideways"}, "meeting is 'sideways'; must be 'normal-flow' or 'side-by-side'"),
        ({"meeting": "normal-flow", "variant": "released"}, "the released variant has 'side-by-side' only"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with torch.device("meta"), pytest.raises((SettingsError, ValueError)) as caught:
        MOL(**settings)
    assert words in str(caught.value)
