"""The training step: equal to the plain loop, no wait for the host, one graph where there can be one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from no_host import NoHost
from step_batches import RATES, STEP_RATES, random_batch, trained_by
from tiny_cache import write_tiny_cache
from tiny_model import TinyMOL, with_small_flow
from torch import nn

from mol import MOL
from mol.arguments import read_config
from mol.common.errors import SettingsError
from mol.data.clips import Augmentation, ResidentClips
from mol.loso.run import loso
from mol.loso.settings import LosoConfig
from mol.network.checkpoint import load_checkpoint, save_checkpoint
from mol.network.losses import MOLLoss
from mol.networks.mol import NETWORK
from mol.networks.registry import find_network
from mol.training.resume import as_begun
from mol.training.settings import TrainConfig
from mol.training.step import WARM_UP, GraphedStep, LearningRates, TrainingStep, make_step, open_device
from mol.training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def tiny() -> TinyMOL:
    torch.manual_seed(0)
    return TinyMOL()


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def plain_loop(model: nn.Module, steps: int) -> nn.Module:
    """Training as it is usually written, with learning rates as numbers."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(NETWORK.parameter_groups(model, RATES), weight_decay=1e-3, fused=True)
    for number in range(steps):
        torch.manual_seed(number)
        for group in optimizer.param_groups:
            group["lr"] = STEP_RATES[number] * group["rate"]
        batch = random_batch(number)
        optimizer.zero_grad()
        MOLLoss()(model(batch.clips, batch.pairs), batch).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def test_three_steps_are_those_of_a_plain_loop_bit_for_bit(tiny: TinyMOL) -> None:
    stepped, _ = trained_by(TrainingStep, tiny)
    assert same_weights(stepped, plain_loop(tiny, 3))
    assert not same_weights(stepped, tiny)


def test_three_steps_of_the_real_network_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_flow(monkeypatch)
    torch.manual_seed(0)
    model = MOL(3)
    stepped, _ = trained_by(TrainingStep, model)
    assert same_weights(stepped, plain_loop(model, 3))


def test_what_a_step_returns_holds_no_graph(tiny: TinyMOL) -> None:
    optimizer = torch.optim.AdamW(tiny.parameters())
    terms, norm = TrainingStep(NETWORK, tiny, optimizer, MOLLoss())(random_batch(0))
    assert not any(value.requires_grad for value in (*terms, norm) if value is not None)


@contextmanager
def checks_of_the_cpu_left_out(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The network looks for NaN in clips on the CPU only."""
    with patch.context() as inside:
        inside.setattr("mol.network.model.check_clips", lambda clips: None)
        inside.setattr("mol.network.model.check_pairs", lambda pairs, clips: None)
        yield


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [({"variant": "paper"}, 5), ({"variant": "paper"}, 0), ({"variant": "released"}, None)],
    ids=["paper", "emotion-and-landmarks", "released"],
)
def test_a_step_never_needs_the_host(
    settings: dict[str, Any], pairs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mol.network.convolution.BY_PRODUCT", ())  # as on a GPU
    torch.manual_seed(0)
    model = MOL(3, **settings)
    model.flow.pad = True
    optimizer = torch.optim.AdamW(NETWORK.parameter_groups(model, RATES), fused=True)
    rates, step = LearningRates(optimizer, CPU), TrainingStep(NETWORK, model, optimizer, MOLLoss(), 1.0)
    batch = random_batch(0, pairs=pairs)
    with checks_of_the_cpu_left_out(monkeypatch), NoHost():
        rates.set(1e-3)
        step(batch)


def test_the_check_of_the_host_finds_a_step_that_needs_it(tiny: TinyMOL) -> None:
    def watchful(output: Any, batch: Any) -> Any:
        terms = MOLLoss()(output, batch)
        assert terms.total.isfinite()
        return terms

    step = TrainingStep(NETWORK, tiny, torch.optim.AdamW(tiny.parameters()), watchful)
    with pytest.raises(AssertionError, match=r"_local_scalar_dense|is_nonzero"), NoHost():
        step(random_batch(0))


def test_cutting_a_batch_from_resident_clips_never_needs_the_host(tmp_path: Any) -> None:
    cache = write_tiny_cache(tmp_path / "cache", people=2, videos=2, windows=1)
    clips = ResidentClips(cache, range(len(cache)), augmentation=Augmentation(flip=True, gamma=0.3, drift=0.1))
    places, light = torch.tensor([[0, 3, 1], [0, 16, 5], [2, 0, 7], [0, 1, 1]]), torch.rand(2, 3)
    with NoHost():
        clips._crop(*places.unbind(0), light)


# Learning rates


def test_rates_are_tensors_that_follow_the_schedule(tiny: TinyMOL) -> None:
    optimizer = torch.optim.AdamW(NETWORK.parameter_groups(tiny, RATES))
    rates = LearningRates(optimizer, CPU)
    tensors = [group["lr"] for group in optimizer.param_groups]
    rates.set(0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [
        0.5 * group["rate"] for group in optimizer.param_groups
    ]
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))


def test_a_checkpoint_holds_rates_as_numbers(tiny: TinyMOL, tmp_path: Any) -> None:
    optimizer = torch.optim.AdamW(NETWORK.parameter_groups(tiny, RATES), fused=True)
    rates = LearningRates(optimizer, CPU)
    rates.set(0.25)
    TrainingStep(NETWORK, tiny, optimizer, MOLLoss())(random_batch(0))
    state = {"classes": ["a", "b", "c"], "mean_shape": None, "step": 1}
    save_checkpoint(tmp_path / "last", tiny, optimizer, state)
    other = copy.deepcopy(tiny)
    fresh = torch.optim.AdamW(NETWORK.parameter_groups(other, RATES), fused=True)
    load_checkpoint(tmp_path / "last", other, fresh)
    assert [group["lr"] for group in fresh.param_groups] == [0.25 * group["rate"] for group in fresh.param_groups]
    assert not any(group["capturable"] for group in fresh.param_groups)


# The graph, with a pretended device: a capture changes nothing, a replay computes on the held batch


def _in_order(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class PretendedDevice:
    """Puts itself in the place of torch.cuda's graphs and streams."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.fails, self.captures, self.replays = fails, 0, 0
        self.step: GraphedStep | None = None
        stream = SimpleNamespace(wait_stream=lambda other: None, device=CPU)
        patch.setattr(torch.cuda, "Stream", lambda device: stream)
        patch.setattr(torch.cuda, "current_stream", lambda device: stream)
        patch.setattr(torch.cuda, "stream", lambda stream: contextmanager(lambda: (yield))())
        patch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        patch.setattr(torch.cuda, "graph", self.graph)

    def made(self, *arguments: Any, **named: Any) -> GraphedStep:
        self.step = GraphedStep(*arguments, **named)
        return self.step

    @contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        assert self.step is not None
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        optimizer, model = self.step._optimizer, self.step._model
        assert all(group["capturable"] for group in optimizer.param_groups)
        kept = [parameter.grad for parameter in model.parameters()]
        assert kept == [None] * len(kept)
        weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        for group in optimizer.param_groups:  # the CPU's optimizer can't be captured
            group["capturable"] = False
        with torch.random.fork_rng():
            yield
        self.captures += 1
        model.load_state_dict(weights)
        for parameter, moments in zip(_in_order(optimizer), state["state"].values(), strict=True):
            for name, value in moments.items():
                optimizer.state[parameter][name].copy_(value)

    def replay(self) -> None:
        assert self.step is not None
        self.replays += 1
        terms, norm = self.step._compute(self.step._batch)
        for held, given in zip(
            (*self.step._result.terms, self.step._result.gradient_norm), (*terms, norm), strict=True
        ):
            held.copy_(given)


def test_graphed_steps_train_as_eager_ones_do(tiny: TinyMOL, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, losses = trained_by(TrainingStep, tiny, 5)
    device = PretendedDevice(monkeypatch)
    graphed, found = trained_by(device.made, tiny, 5)
    assert found == losses
    assert same_weights(graphed, eager)
    assert (device.captures, device.replays) == (1, 5 - WARM_UP)


def test_a_step_that_cannot_be_captured_goes_on_without_a_graph(
    tiny: TinyMOL, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    eager, losses = trained_by(TrainingStep, tiny, 5)
    graphed, found = trained_by(PretendedDevice(monkeypatch, fails=True).made, tiny, 5)
    assert found == losses
    assert same_weights(graphed, eager)
    said = " ".join(capsys.readouterr().out.split())
    assert "could not be captured in a CUDA graph (operation not permitted when stream is capturing)" in said
    assert said.count("could not be captured") == 1


def test_a_required_graph_that_cannot_be_captured_is_an_error(tiny: TinyMOL, monkeypatch: pytest.MonkeyPatch) -> None:
    device = PretendedDevice(monkeypatch, fails=True)
    with pytest.raises(SettingsError, match=r"could not be captured.*train with --graph false"):
        trained_by(device.made, tiny, 5, required=True)


def test_auto_captures_mol_on_a_cuda_device_only(tiny: TinyMOL, monkeypatch: pytest.MonkeyPatch) -> None:
    PretendedDevice(monkeypatch)
    rest = (tiny, torch.optim.AdamW(tiny.parameters()), MOLLoss())
    cuda, baseline = torch.device("cuda"), find_network("flow-cnn")
    kinds = [
        type(make_step("auto", NETWORK, CPU, *rest)),
        type(make_step("auto", baseline, cuda, *rest)),
        type(make_step(False, NETWORK, cuda, *rest)),
        type(make_step("auto", NETWORK, cuda, *rest)),
        type(make_step(True, NETWORK, cuda, *rest)),
    ]
    assert kinds == [TrainingStep, TrainingStep, TrainingStep, GraphedStep, GraphedStep]
    with pytest.raises(SettingsError, match=r"graph=true: only the steps of mol are captured.*not those of flow-cnn"):
        make_step(True, baseline, cuda, *rest)


# Settings


def test_a_graph_is_refused_on_the_cpu_before_any_data_is_read(tmp_path: Any) -> None:
    arguments = [
        "--cache",
        str(tmp_path / "none"),
        "--run",
        str(tmp_path / "run"),
        "--graph",
        "true",
        "--device",
        "cpu",
    ]
    config = read_config(TrainConfig, arguments, "mol train")
    with pytest.raises(
        SettingsError, match="graph=true: a CUDA graph needs a CUDA device, and the training runs on cpu"
    ):
        train(config)
    with pytest.raises(SettingsError, match="graph=true: a CUDA graph needs a CUDA device"):
        loso(LosoConfig(caches=["none"], protocol="as-labelled", run=str(tmp_path / "loso"), graph=True, device="cpu"))


def test_auto_is_float32_in_the_usual_order_on_a_cpu() -> None:
    fabric, config = open_device(TrainConfig(cache="c", device="cpu"))
    assert (fabric.device.type, config.precision, config.channels_last, config.graph) == ("cpu", "32", False, "auto")
    _, config = open_device(TrainConfig(cache="c", device="cpu", precision="bf16-mixed", channels_last=True))
    assert (config.precision, config.channels_last) == ("bf16-mixed", True)


@pytest.mark.parametrize("network", ["mol", "flow-cnn"])
def test_auto_continues_what_a_run_began_with(network: str) -> None:
    saved = {"precision": "bf16-mixed", "channels_last": True}
    config = as_begun(TrainConfig(cache="c", network=network), saved)
    assert (config.precision, config.channels_last) == ("bf16-mixed", True)
    typed = as_begun(TrainConfig(cache="c", network=network, precision="32", channels_last=False), saved)
    assert (typed.precision, typed.channels_last) == ("32", False)


@pytest.mark.parametrize(
    ("typed", "value"),
    [(["--graph", "auto"], "auto"), (["--graph=false"], False), (["--graph"], True), (["--no-such"], None)],
)
def test_the_graph_is_true_false_or_auto_on_the_command_line(typed: list[str], value: Any) -> None:
    if value is None:
        with pytest.raises(SettingsError):
            read_config(TrainConfig, ["--cache", "c", *typed], "mol train")
    else:
        assert read_config(TrainConfig, ["--cache", "c", *typed], "mol train").graph == value


def test_a_graph_that_is_neither_is_refused_in_words() -> None:
    with pytest.raises(SettingsError, match="graph"):
        read_config(TrainConfig, ["--cache", "c", "--graph", "sometimes"], "mol train")
