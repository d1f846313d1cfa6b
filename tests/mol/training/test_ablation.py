"""Ablations: every switch changes the function as it says and nothing else, trains, is kept with the checkpoint."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache
from tiny_model import with_small_flow
from torch import Tensor, nn

import mol.network.model
import molkernels as mk
from mol import MOL
from mol.arguments import read_config, spell_out
from mol.common.errors import CheckpointError, SettingsError
from mol.data.cache import Cache
from mol.network.checkpoint import load_checkpoint, read_state, save_checkpoint
from mol.network.losses import MOLLoss
from mol.networks.trained import load_model
from mol.training.ablation import ABLATIONS, apply_ablation
from mol.training.settings import LossConfig, ModelConfig, TrainConfig, save_config
from mol.training.train import train

OFF = {"no-fcc": {"fcc": False}, "no-ccc": {"ccc": False}, "no-f5c": {"f5c": False}}
OFF_OR_OTHER_GRAPH = {**OFF, "position-graph": {"graph": "position"}, "channel-graph": {"graph": "channel"}}
STATE = {"classes": ["a", "b", "c"], "mean_shape": [[0.0, 0.0]] * 68, "step": 3}


@pytest.fixture
def small_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_flow(monkeypatch)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("ablations") / "cache", people=3, videos=2)


@pytest.fixture
def config(cache: Cache, tmp_path: Path, small_flow: None) -> TrainConfig:
    """Two steps on two people, with weight decay that would show."""
    return TrainConfig(
        cache=str(cache.path),
        run=str(tmp_path / "run"),
        held_out=["s3"],
        steps=2,
        batch_size=2,
        log_every=1,
        validate_every=2,
        validation_clips=1,
        learning_rate=1e-3,
        schedule="constant",
        weight_decay=1.0,
        device="cpu",
    )


def network(variant: str = "paper", seed: int = 0, **switches: object) -> MOL:
    """A network from a seed, without the zeros that it starts with, which would hide what is missing."""
    torch.manual_seed(seed)
    model = MOL(3, variant=variant, dropout=0.0, **switches)  # type: ignore[arg-type]
    with torch.no_grad():
        for i, (name, parameter) in enumerate(model.named_parameters()):
            if ".mix." in name or ".predict" in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(i))
    return model


def composed(whole: mk.F5C, x: Tensor, groups: int = 1, fcc: bool = True, ccc: bool = True, f5c: bool = True) -> Tensor:
    """An F5C block from its pieces, as the paper's or the released formula."""
    if not f5c:
        return x
    f = whole.fcc(x, groups)
    z = x if not fcc else x + f if whole.variant == "paper" else f
    y = whole.ccc(z)
    return z if not ccc else z + (y if whole.mix is None else whole.mix(y))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", OFF)
def test_a_block_is_what_its_remaining_pieces_make(name: str, variant: str, training: bool, small_flow: None) -> None:
    whole, ablated = network(variant).train(training), network(variant, **OFF[name]).train(training)
    ablated.f5c2.load_state_dict({n: v for n, v in whole.f5c2.state_dict().items() if n in ablated.f5c2.state_dict()})
    x = torch.randn(4, 128, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole.double(), ablated.double()  # the same neighbours, however a convolution rounds
    pieces = copy.deepcopy(whole.f5c2)
    ours, complete = ablated.f5c2(x, 2), whole.f5c2(x, 2)
    torch.testing.assert_close(ours, composed(pieces, x, 2, **OFF[name]))
    assert not torch.allclose(ours, complete, rtol=1e-2, atol=1e-2)
    running = dict(whole.f5c2.named_buffers())
    for key, statistic in ablated.f5c2.named_buffers():
        torch.testing.assert_close(statistic, running[key], msg=key)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", mk.available_backends("cpu"))
@pytest.mark.parametrize(("variant", "graph"), [("paper", "position"), ("released", "channel")])
def test_the_graph_can_be_that_of_the_other_variant(
    variant: str, graph: str, backend: str, training: bool, small_flow: None
) -> None:
    usual, other = (network(variant, **kind).f5c1.double().train(training) for kind in ({}, {"graph": graph}))
    x = torch.randn(2, 128, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with mk.backend(backend), torch.no_grad():
        f = copy.deepcopy(other.fcc)(x)
        z = x + f if variant == "paper" else f
        y = mk.functional.ccc(z, other.ccc.edge_parameters(), k=4, graph=graph)
        torch.testing.assert_close(other(x), z + (other.mix(y) if other.mix else y))
        assert not torch.allclose(other(x), usual(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("missing", ["fcc", "ccc"])
def test_a_part_left_out_is_a_part_that_adds_nothing(missing: str) -> None:
    """The outputs of the whole paper network in which the part's 1×1 convolution is zero."""
    whole, ablated = network().eval(), network(**{missing: False}).eval()
    silenced = copy.deepcopy(whole)
    for block in (silenced.f5c1, silenced.f5c2):
        convolution = block.fcc.mix if missing == "fcc" else block.mix
        for parameter in convolution.parameters():
            nn.init.zeros_(parameter)
    ablated.load_state_dict({n: v for n, v in whole.state_dict().items() if n in ablated.state_dict()})
    clips = torch.randn(1, 1, 8, 128, 128, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for ours, silent, complete in zip(ablated(clips), silenced(clips), whole(clips), strict=True):
            torch.testing.assert_close(ours, silent, rtol=1e-4, atol=1e-4)
            assert torch.linalg.vector_norm(ours - complete) > 1e-3 * torch.linalg.vector_norm(complete)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", OFF_OR_OTHER_GRAPH)
def test_what_remains_starts_as_in_the_whole_network(name: str, variant: str, small_flow: None) -> None:
    torch.manual_seed(7)
    whole = MOL(3, variant=variant).state_dict()
    torch.manual_seed(7)
    ablated = MOL(3, variant=variant, **OFF_OR_OTHER_GRAPH[name])
    assert ablated.state_dict().keys() <= whole.keys()
    assert [n for n, v in ablated.state_dict().items() if not torch.equal(v, whole[n])] == []


def test_switches_at_their_defaults_change_no_bit(small_flow: None) -> None:
    torch.manual_seed(8)
    plain = MOL(3)
    torch.manual_seed(8)
    spelled_out = MOL(3, fcc=True, ccc=True, f5c=True, graph="channel")
    assert type(plain.f5c1) is type(spelled_out.f5c1) is mk.F5C
    assert plain.config == spelled_out.config
    spelled_out.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", OFF_OR_OTHER_GRAPH)
def test_gradients_reach_all_that_remains(name: str, variant: str, small_flow: None) -> None:
    def without_gradient(model: MOL) -> set[str]:
        clips = torch.randn(2, 1, 8, 128, 128, generator=torch.Generator().manual_seed(4))
        sum(out.square().mean() for out in model.train()(clips)).backward()
        return {n for n, p in model.named_parameters() if p.grad is None or not torch.count_nonzero(p.grad)}

    assert without_gradient(network(variant, **OFF_OR_OTHER_GRAPH[name])) == without_gradient(network(variant)) == set()


@pytest.mark.parametrize(
    ("variant", "switches", "parameters"),
    [
        ("paper", {}, 43_754_017),
        ("paper", {"fcc": False}, 43_754_017 - 50_432),
        ("paper", {"ccc": False}, 43_754_017 - 296_192),
        ("paper", {"f5c": False}, 43_754_017 - 50_432 - 296_192),
        ("paper", {"fcc": False, "ccc": False}, 43_754_017 - 50_432 - 296_192),
        ("paper", {"graph": "position"}, 43_754_017),
        ("paper", {"meeting": "side-by-side"}, 43_776_415),
        ("released", {}, 44_103_583),
        ("released", {"fcc": False}, 44_103_583 - 33_792),
        ("released", {"ccc": False}, 44_103_583 - 263_168),
        ("released", {"f5c": False}, 44_103_583 - 33_792 - 263_168),
        ("released", {"graph": "channel"}, 44_103_583),
    ],
)
def test_parameters_are_as_many_as_documented(variant: str, switches: dict, parameters: int) -> None:
    with torch.device("meta"):
        model = MOL(5, variant=variant, **switches)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert f"{parameters:,}" in (MOL.__doc__ or "") or switches


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", OFF_OR_OTHER_GRAPH)
def test_an_ablated_network_takes_an_empty_batch_and_autocast(name: str, variant: str, small_flow: None) -> None:
    model = network(variant, **OFF_OR_OTHER_GRAPH[name]).eval()
    clips = torch.randn(1, 1, 8, 128, 128, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert model(clips[:0]).logits.shape == (0, 3)
        exact = model(clips)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(clips)
    for e, r in zip(exact, rough, strict=True):
        assert torch.linalg.vector_norm(e - r.float()) < 0.1 * torch.linalg.vector_norm(e)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fcc": "no"}, "fcc is 'no'; must be True or False"),
        ({"ccc": 0}, "ccc is 0; must be True or False"),
        ({"f5c": None}, "f5c is None"),
        ({"graph": "nodes"}, "graph is 'nodes'; must be 'channel' or 'position'"),
    ],
)
def test_switches_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with torch.device("meta"), pytest.raises(SettingsError) as caught:
        MOL(**settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("switches", "words"),
    [({"fcc": False}, "fcc=False"), ({"f5c": False}, "f5c=False"), ({"graph": "channel"}, "graph='channel'")],
)
def test_only_the_whole_released_network_has_the_released_layout(switches: dict, words: str) -> None:
    with torch.device("meta"):
        model = MOL(variant="released", **switches)
    with pytest.raises(SettingsError, match=f"this network has {words}; the released layout"):
        model.released_state_dict()


# Losses


def test_a_negative_weight_or_no_loss_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"w_of=-1\.0 must not be negative"):
        LossConfig(w_of=-1.0)
    with pytest.raises(SettingsError, match="all 0"):
        LossConfig(w_me=0.0, w_of=0.0, w_ldm=0.0)


# Training and checkpoints


# One of each kind that `make test` trains.
FAST = ("no-ccc", "no-flow-loss", "k2", "position-graph")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
        for name in ABLATIONS
        if name not in ("channel-graph", "paper-variant")
    ],
)
def test_every_ablation_trains_and_goes_on_from_its_checkpoint(name: str, config: TrainConfig) -> None:
    model, loss = apply_ablation(config.model, config.loss, name)
    config = replace(config, model=model, loss=loss)
    train(replace(config, steps=1))
    result = train(replace(config, resume=True))
    with open(Path(config.run) / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["split"] == "train"] == ["1", "2"]
    assert all(float(row["loss_flow"]) > 0 and float(row["loss_landmarks"]) > 0 for row in rows if row["loss_flow"])
    trained = load_model(result.checkpoint)
    whole = {"k": 4, "variant": "paper", "fcc": True, "ccc": True, "f5c": True}
    for option, usual in whole.items():
        assert trained.model.config[option] == ABLATIONS[name].get(f"model.{option}", usual)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no-fcc", "no-ccc", "no-f5c", "no-flow-loss", "position-graph"])
def test_ablations_train_with_the_flow_network_of_the_paper(name: str, cache: Cache, tmp_path: Path) -> None:
    model, loss = apply_ablation(ModelConfig(), LossConfig(), name)
    run = str(tmp_path / "run")
    config = TrainConfig(cache=str(cache.path), run=run, held_out=["s3"], model=model, loss=loss)
    train(replace(config, steps=2, batch_size=2, device="cpu"))
    assert load_model(run).state["step"] == 2
    shutil.rmtree(run)  # half a gigabyte, which pytest would keep


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", OFF)
def test_ablated_blocks_compile_without_a_graph_break(
    name: str, variant: str, training: bool, small_flow: None
) -> None:
    torch._dynamo.reset()
    block = network(variant, **OFF[name]).f5c1.double().train(training)
    x = torch.randn(2, 128, 16, 16, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
    torch.testing.assert_close(torch.compile(block, fullgraph=True)(x), block(x))


def test_an_ablated_checkpoint_does_not_load_into_the_whole_network(tmp_path: Path, small_flow: None) -> None:
    folder = tmp_path / "last"
    save_checkpoint(folder, network(ccc=False), None, STATE)
    with pytest.raises(CheckpointError, match="ccc: false → true"):
        load_checkpoint(folder, network())
    assert load_model(folder).model.config["ccc"] is False


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_checkpoint_from_before_the_switches_loads_as_the_whole_network(
    variant: str, tmp_path: Path, small_flow: None
) -> None:
    folder, model = tmp_path / "last", network(variant)
    save_checkpoint(folder, model, None, STATE)
    state = read_state(folder)
    for switch in ("fcc", "ccc", "f5c", "graph"):
        del state["model"][switch]
    (folder / "state.json").write_text(json.dumps(state))
    loaded = load_model(folder).model
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    load_checkpoint(folder, network(variant))
    with pytest.raises(CheckpointError, match="fcc: true → false"):
        load_checkpoint(folder, network(variant, fcc=False))


# Settings


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_named_ablation_changes_what_it_says_and_nothing_else(name: str) -> None:
    before = {"model": ModelConfig(k=3, dropout=0.25), "loss": LossConfig(w_me=2.0)}
    after = dict(zip(before, apply_ablation(before["model"], before["loss"], name), strict=True))  # type: ignore[arg-type]
    flat = {f"{part}.{field}": v for part, values in after.items() for field, v in asdict(values).items()}
    kept = {f"{part}.{field}": v for part, values in before.items() for field, v in asdict(values).items()}
    assert flat == {**kept, **ABLATIONS[name]}
    assert apply_ablation(after["model"], after["loss"], name) == (after["model"], after["loss"])  # type: ignore[arg-type]


def test_an_unknown_ablation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="unknown ablation 'no-fc'; did you mean no-fcc"):
        apply_ablation(ModelConfig(), LossConfig(), "no-fc")


def test_switches_come_from_the_command_line_and_back_from_a_file(tmp_path: Path) -> None:
    line = ["--cache", "c", "--model.fcc", "false", "--model.graph", "position", "--model.k", "2", "--loss.w_of", "0"]
    config = read_config(TrainConfig, spell_out(TrainConfig, (), line), "mol train")
    assert config.model == ModelConfig(k=2, dropout=0.3, fcc=False, graph="position")
    assert config.loss == LossConfig(w_me=1.0, w_of=0.0, w_ldm=3.5)
    save_config(config, tmp_path / "config.yaml")
    assert read_config(TrainConfig, ["--config", str(tmp_path / "config.yaml")], "mol train") == config


def test_settings_from_before_the_switches_are_those_of_the_whole_network(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("cache: c\nmodel: {k: 4, variant: paper, batch_stats: null, dropout: 0.5, backend: auto}\n")
    assert read_config(TrainConfig, ["--config", str(path)], "mol train").model == ModelConfig(dropout=0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.graph", "nodes"], "graph"),
        (["--model.fcc", "perhaps"], "fcc"),
        (["--loss.w_of", "-1"], "w_of"),
        (["--loss.w_me", "0", "--loss.w_of", "0", "--loss.w_ldm", "0"], "nothing to learn from"),
    ],
)
def test_switches_that_make_no_sense_are_refused_on_the_command_line(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_config(TrainConfig, ["--cache", "c", *arguments], "mol train")


# A loss of weight 0 is watched and teaches nothing.


@pytest.mark.parametrize(("weight", "head"), [("w_ldm", "landmarks"), ("w_of", "flow")])
def test_a_loss_of_weight_zero_leaves_its_head_as_it_began(weight: str, head: str, config: TrainConfig) -> None:
    """Gradients of zero would not: weight decay acts on every parameter that has a gradient."""

    def head_after(steps: int, weights: LossConfig) -> dict[str, Tensor]:
        run = f"{config.run}-{steps}-{getattr(weights, weight)}"
        train(replace(config, run=run, steps=steps, loss=weights))
        saved = load_file(Path(run) / "checkpoints" / "last" / "weights.safetensors")
        return {name: value for name, value in saved.items() if name.startswith(head)}

    none, whole = LossConfig(**{weight: 0.0}), LossConfig()
    first, last = head_after(1, none), head_after(2, none)
    assert [name for name in first if not torch.equal(first[name], last[name])] == []
    first, last = head_after(1, whole), head_after(2, whole)
    assert [name for name in first if torch.equal(first[name], last[name])] == []


@pytest.mark.parametrize(("weight", "output"), [("w_me", "logits"), ("w_of", "flow"), ("w_ldm", "landmarks")])
def test_a_loss_of_weight_zero_sends_nothing_back_and_is_still_measured(weight: str, output: str) -> None:
    generator = torch.Generator().manual_seed(6)
    shapes = {"logits": (2, 3), "flow": (2, 7, 2, 4, 4), "landmarks": (2, 7, 68, 2)}
    outputs = {name: torch.randn(shape, generator=generator, requires_grad=True) for name, shape in shapes.items()}
    targets = SimpleNamespace(
        flow=torch.randn(shapes["flow"], generator=generator),
        landmarks=torch.randn(shapes["landmarks"], generator=generator),
        label=torch.tensor([0, 2]),
    )
    terms = MOLLoss(**{weight: 0.0})(mol.network.model.MOLOutput(**outputs), targets)
    terms.total.backward()
    assert [name for name, value in outputs.items() if value.grad is None] == [output]
    whole = MOLLoss()(mol.network.model.MOLOutput(**outputs), targets)
    assert terms[1:] == whole[1:]


def test_a_watched_loss_that_is_not_finite_does_not_spoil_the_others() -> None:
    outputs = mol.network.model.MOLOutput(
        torch.zeros(1, 3), torch.full((1, 7, 2, 4, 4), torch.inf), torch.zeros(1, 7, 68, 2)
    )
    landmarks = torch.randn(1, 7, 68, 2, generator=torch.Generator().manual_seed(9))
    targets = SimpleNamespace(flow=torch.zeros(1, 7, 2, 4, 4), landmarks=landmarks, label=torch.tensor([0]))
    assert torch.isfinite(MOLLoss(w_of=0.0)(outputs, targets).total)
