"""Settings that follow from the network, and those that are typed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mol.arguments import read_config
from mol.common.errors import SettingsError
from mol.loso.settings import LosoConfig
from mol.networks.interface import Defaults
from mol.networks.mol import OWN, PUBLISHED
from mol.training.settings import LossConfig, ModelConfig, RateConfig, TrainConfig, save_config

FORMS: dict[str, tuple[dict[str, Any], Defaults]] = {
    "paper": ({}, OWN),
    "paper, spelled out": ({"variant": "paper", "meeting": "normal-flow"}, OWN),
    "paper, ablated": ({"f5c": False, "graph": "position", "batch_stats": "frame"}, OWN),
    "side by side": ({"meeting": "side-by-side"}, PUBLISHED),
    "released": ({"variant": "released"}, PUBLISHED),
    "released, spelled out": ({"variant": "released", "meeting": "side-by-side"}, PUBLISHED),
}


def require_defaults(config: TrainConfig | LosoConfig, own: Defaults) -> None:
    """Everything that a network says of its training is in the configuration."""
    for name in ("steps", "batch_size", "learning_rate", "schedule", "warmup_steps", "flow_pairs"):
        assert getattr(config, name) == getattr(own, name), name
    assert config.model.dropout == own.model["dropout"]
    assert asdict(config.loss) == {**own.loss, "w_au": None}
    assert asdict(config.rates) == {"predictors": None, **own.rates}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_mol_has_its_own_defaults(form: str) -> None:
    model, own = FORMS[form]
    require_defaults(TrainConfig(cache="c", model=ModelConfig(**model)), own)
    require_defaults(LosoConfig(caches=["c"], protocol="as-labelled", model=ModelConfig(**model)), own)
    typed = [f"--model.{name}={str(value).lower()}" for name, value in model.items()]
    require_defaults(read_config(TrainConfig, ["--cache", "c", *typed], "mol train"), own)


def test_the_published_form_trains_as_the_published_code() -> None:
    config = TrainConfig(cache="c", model=ModelConfig(variant="released"))
    assert (config.learning_rate, config.schedule, config.flow_pairs) == (1e-4, "constant", "all")
    weights = {"w_me": 1.0, "w_of": 10 / 7, "w_ldm": 3.5, "w_au": None}
    assert (config.model.dropout, asdict(config.loss)) == (0.5, weights)
    assert asdict(config.rates) == {"flow": 1.0, "predictors": None, "emotion": 1.0}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_typed_wins_over_the_defaults_even_where_it_is_zero(form: str, tmp_path: Path) -> None:
    model, own = FORMS[form]
    typed = [f"--model.{name}={str(value).lower()}" for name, value in model.items()]
    line = "--cache c --steps 7 --learning-rate 0.5 --schedule constant --warmup-steps 0 --flow-pairs 0 --loss.w_of 0"
    line += " --rates.predictors 0 --rates.emotion 0.25 --model.dropout 0"
    config = read_config(TrainConfig, [*line.replace("-rate ", "_rate ").split(), *typed], "mol train")
    assert (config.steps, config.learning_rate, config.schedule, config.warmup_steps) == (7, 0.5, "constant", 0)
    assert (config.flow_pairs, config.model.dropout) == (0, 0.0)
    assert asdict(config.loss) == {**own.loss, "w_of": 0.0, "w_au": None}
    assert asdict(config.rates) == {"flow": own.rates["flow"], "predictors": 0.0, "emotion": 0.25}
    save_config(config, tmp_path / "c.yaml")
    assert read_config(TrainConfig, ["--config", str(tmp_path / "c.yaml")], "mol train") == config


@pytest.mark.parametrize("form", FORMS)
def test_defaults_come_back_from_a_file_as_they_were(form: str, tmp_path: Path) -> None:
    model, own = FORMS[form]
    config = TrainConfig(cache="c", model=ModelConfig(**model))
    save_config(config, tmp_path / "c.yaml")
    again = read_config(TrainConfig, ["--config", str(tmp_path / "c.yaml")], "mol train")
    assert again == config
    require_defaults(again, own)
    runs = LosoConfig(caches=["c"], protocol="as-labelled", model=ModelConfig(**model))
    save_config(runs, tmp_path / "l.yaml")
    assert read_config(LosoConfig, ["--config", str(tmp_path / "l.yaml")], "mol loso") == runs


def test_a_changed_configuration_keeps_its_values() -> None:
    config = TrainConfig(cache="c", steps=3, loss=LossConfig(w_of=2.0), rates=RateConfig(flow=0.1))
    changed = replace(config, seed=4)
    assert asdict(changed) == {**asdict(config), "seed": 4}


@pytest.mark.parametrize("network", ["flow-cnn", "apex-difference"])
def test_a_network_without_flow_has_no_pairs(network: str, tmp_path: Path) -> None:
    config = TrainConfig(cache="c", network=network)
    assert config.flow_pairs is None
    save_config(config, tmp_path / "c.yaml")
    assert read_config(TrainConfig, ["--config", str(tmp_path / "c.yaml")], "mol train") == config
    with pytest.raises(SettingsError, match=rf"{network} has no setting flow_pairs; leave it out.* that has it: mol"):
        TrainConfig(cache="c", network=network, flow_pairs=16)


@pytest.mark.parametrize(
    ("ablation", "own"),
    [
        ("no-fcc", OWN),
        ("no-f5c", OWN),
        ("k2", OWN),
        ("position-graph", OWN),
        ("paper-variant", OWN),
        ("released-variant", PUBLISHED),
    ],
)
def test_a_named_ablation_has_the_defaults_of_the_network_that_it_names(ablation: str, own: Defaults) -> None:
    require_defaults(LosoConfig(caches=["c"], protocol="as-labelled", ablation=ablation), own)


def test_an_ablation_of_losses_keeps_the_other_weights() -> None:
    config = LosoConfig(caches=["c"], protocol="as-labelled", ablation="no-flow-loss")
    assert asdict(config.loss) == {**OWN.loss, "w_of": 0.0, "w_au": None}
    config = LosoConfig(
        caches=["c"], protocol="as-labelled", ablation="no-landmark-loss", model=ModelConfig(variant="released")
    )
    assert asdict(config.loss) == {**PUBLISHED.loss, "w_ldm": 0.0, "w_au": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow_pairs": -1}, 'flow_pairs=-1 must be a whole number that is not negative, or "all"'),
        ({"flow_pairs": "some"}, "flow_pairs='some' must be"),
        ({"flow_pairs": 1.5}, "flow_pairs=1.5 must be"),
        ({"flow_pairs": True}, "flow_pairs=true must be a number"),
        ({"flow_pairs": 0, "loss": LossConfig(w_me=0.0, w_ldm=0.0)}, "flow_pairs=0 trains no flow.*nothing to learn"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainConfig(cache="c", **changes)
    assert TrainConfig(cache="c", flow_pairs=0).flow_pairs == 0


@pytest.mark.parametrize("arguments", [["--flow-pairs", "some"], ["--model.meeting", "sideways"], ["--flow-pairs=-2"]])
def test_settings_of_the_new_form_that_make_no_sense_are_refused_on_the_command_line(arguments: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"flow.pairs|meeting"):
        read_config(TrainConfig, ["--cache", "c", *arguments], "mol train")
