"""Runs that were begun before some settings existed go on as what they were."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache
from tiny_model import with_small_flow

from mol.arguments import read_config
from mol.common.errors import SettingsError
from mol.data.cache import Cache
from mol.loso.run import loso
from mol.loso.settings import LosoConfig
from mol.network.checkpoint import read_state
from mol.networks.trained import load_model
from mol.training.resume import as_begun, changed_settings
from mol.training.settings import ModelConfig, TrainConfig
from mol.training.train import train

FORMS = {"paper": ModelConfig(meeting="side-by-side"), "released": ModelConfig(variant="released")}
"""The forms that version 0.2 knew, as they are named today."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("resume") / "cache", people=3, videos=2)


@pytest.fixture(params=FORMS)
def config(
    request: pytest.FixtureRequest, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainConfig:
    """Two steps of a form that version 0.2 knew, with its defaults."""
    with_small_flow(monkeypatch)
    return TrainConfig(
        cache=str(cache.path),
        run=str(tmp_path / "run"),
        held_out=["s3"],
        steps=2,
        batch_size=2,
        validate_every=0,
        model=FORMS[request.param],
        device="cpu",
    )


def of_version_0_2(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that version 0.2 did not know."""
    old = {name: value for name, value in settings.items() if name not in ("network", "flow_pairs")}
    old["model"] = {name: value for name, value in settings["model"].items() if name != "meeting"}
    old["rates"] = {name: value for name, value in settings["rates"].items() if name != "predictors"}
    return old


def rewrite_yaml(path: Path) -> None:
    path.write_text(yaml.safe_dump(of_version_0_2(yaml.safe_load(path.read_text())), sort_keys=False))


def rewrite_checkpoint(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    state["config"] = of_version_0_2(state["config"])
    del state["model"]["meeting"], state["network"]
    (folder / "state.json").write_text(json.dumps(state))


def weights(run: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "checkpoints" / "last" / "weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_of_version_0_2_goes_on_bit_for_bit_as_it_began(config: TrainConfig) -> None:
    whole = replace(config, run=config.run + "-whole", steps=4)
    train(whole)
    train(config)
    rewrite_yaml(Path(config.run) / "config.yaml")
    rewrite_checkpoint(Path(config.run) / "checkpoints" / "last")
    typed = ["--config", f"{config.run}/config.yaml", "--resume", "--steps", "4"]
    result = train(read_config(TrainConfig, typed, "mol train"))
    assert result.step == 4
    assert same(weights(config.run), weights(whole.run))
    # It says what it is from now on.
    for settings in (
        yaml.safe_load((Path(config.run) / "config.yaml").read_text()),
        read_state(result.checkpoint)["config"],
    ):
        assert (settings["model"]["meeting"], settings["rates"]["predictors"]) == ("side-by-side", None)
        assert (settings["flow_pairs"], settings["network"]) == ("all", "mol")
    assert load_model(result.checkpoint).model.config["meeting"] == "side-by-side"
    train(read_config(TrainConfig, [*typed[:3], "--steps", "5"], "mol train"))


def test_a_run_of_version_0_2_is_not_resumed_with_other_settings(config: TrainConfig) -> None:
    train(config)
    rewrite_yaml(Path(config.run) / "config.yaml")
    rewrite_checkpoint(Path(config.run) / "checkpoints" / "last")
    typed = ["--config", f"{config.run}/config.yaml", "--resume", "--learning_rate", "0.01", "--rates.flow", "0.5"]
    with pytest.raises(SettingsError, match=r"different settings \(learning_rate: .*; rates\.flow: 1\.0 → 0\.5\)"):
        train(read_config(TrainConfig, typed, "mol train"))


@pytest.mark.parametrize("config", ["paper", pytest.param("released", marks=pytest.mark.slow)], indirect=True)
def test_a_leave_one_subject_out_run_of_version_0_2_goes_on_as_it_began(
    config: TrainConfig, cache: Cache, tmp_path: Path
) -> None:
    """One fold done, one interrupted, one not begun."""
    whole = LosoConfig(
        caches=[str(cache.path)],
        protocol="as-labelled",
        run=str(tmp_path / "whole"),
        steps=2,
        batch_size=2,
        checkpoint_every=1,
        model=config.model,
        device="cpu",
    )
    loso(whole)
    begun = replace(whole, run=str(tmp_path / "begun"), folds=["1"])
    loso(begun)
    half = TrainConfig(
        **{name: value for name, value in vars(config).items() if name not in ("run", "held_out", "cache", "protocol")},
        cache=begun.caches,
        protocol="as-labelled",
        run=str(Path(begun.run) / "folds" / "seed0" / "tiny-s2"),
        held_out=["tiny/s2"],
    )
    train(replace(half, steps=1, checkpoint_every=1))
    rewrite_yaml(Path(begun.run) / "loso.yaml")
    for fold in ("tiny-s1", "tiny-s2"):
        folder = Path(begun.run) / "folds" / "seed0" / fold
        rewrite_yaml(folder / "config.yaml")
        rewrite_checkpoint(folder / "checkpoints" / "last")
    result = loso(read_config(LosoConfig, ["--config", f"{begun.run}/loso.yaml", "--resume"], "mol loso"))
    assert (result.done, result.total) == (3, 3)
    for fold in ("tiny-s1", "tiny-s2", "tiny-s3"):
        ours, theirs = (Path(run) / "folds" / "seed0" / fold for run in (begun.run, whole.run))
        assert same(weights(ours), weights(theirs))
        assert load_model(ours).model.config["meeting"] == "side-by-side"
    for table in ("predictions.csv", "scores.csv"):
        assert (Path(begun.run) / table).read_bytes() == (Path(whole.run) / table).read_bytes()


def test_a_run_that_knew_the_settings_keeps_them() -> None:
    config = TrainConfig(cache="c", flow_pairs=8)
    saved = json.loads(json.dumps(asdict(config)))
    assert as_begun(config, saved) == config
    assert changed_settings(saved, config, ()) == []
    assert as_begun(config, {}) == config
    baseline = TrainConfig(cache="c", network="flow-cnn")
    assert as_begun(baseline, json.loads(json.dumps(asdict(baseline)))) == baseline


@pytest.mark.parametrize("form", FORMS)
def test_settings_of_version_0_2_mean_side_by_side_all_pairs_and_one_rate_for_flow(form: str) -> None:
    then = TrainConfig(cache="c", model=FORMS[form])
    saved = of_version_0_2(json.loads(json.dumps(asdict(then))))
    # As read from its file: what is missing there is today's default.
    typed = {name: value for name, value in saved.items() if name not in ("model", "loss", "rates", "augment")}
    today = replace(TrainConfig(**{**typed, "model": replace(then.model, meeting=None), "loss": then.loss}))
    continued = as_begun(today, saved)
    assert continued.model.meeting == "side-by-side"
    assert continued.flow_pairs == "all"
    assert continued.rates.predictors is None
    assert changed_settings(saved, replace(continued, rates=then.rates), ()) == []
    other = replace(continued, rates=then.rates, flow_pairs=16)
    assert changed_settings(saved, other, ()) == ['flow_pairs: "all" → 16']
