"""Which network is trained: its defaults, settings that it does not have, resuming, classes that it can't learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache
from tiny_model import instead_of_mol

from mol.arguments import read_config
from mol.common.errors import SettingsError
from mol.data.cache import Cache
from mol.data.clips import Augmentation
from mol.loso.settings import LosoConfig
from mol.network.checkpoint import read_state
from mol.networks.registry import NETWORKS
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.training.settings import LossConfig, ModelConfig, RateConfig, TrainConfig, save_config
from mol.training.train import train


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("networks") / "cache", people=3, videos=3, marked=True)


@pytest.fixture
def config(cache: Cache, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        cache=str(cache.path),
        run=str(tmp_path / "run"),
        network="apex-difference",
        held_out=["s3"],
        steps=4,
        batch_size=3,
        validate_every=0,
        device="cpu",
    )


def test_a_run_takes_the_defaults_of_its_network() -> None:
    for name, network in NETWORKS.items():
        config = TrainConfig(cache="c", network=name)
        own = network.usual
        assert (config.steps, config.batch_size) == (own.steps, own.batch_size)
        assert (config.learning_rate, config.schedule) == (own.learning_rate, own.schedule)
    assert TrainConfig(cache="c").steps == 1000
    assert TrainConfig(cache="c", network="flow-cnn", steps=1000, schedule="constant").schedule == "constant"


def test_a_configuration_comes_back_from_its_file(config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    save_config(config, path)
    assert read_config(TrainConfig, ["--config", str(path)], "mol train") == config
    # Version 0.1 knew one network.
    settings = yaml.safe_load(path.read_text())
    del settings["network"]
    path.write_text(yaml.safe_dump(settings))
    assert read_config(TrainConfig, ["--config", str(path)], "mol train").network == "mol"
    typed = read_config(TrainConfig, ["--cache", "c", "--network", "flow-cnn", "--batch_size", "8"], "mol train")
    assert (typed.steps, typed.batch_size) == (NETWORKS["flow-cnn"].usual.steps, 8)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"unknown network 'stst'.*networks: mol, apex-difference, flow-cnn"):
        TrainConfig(cache="c", network="stst")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": ModelConfig(k=2, f5c=False)}, "model.k, model.f5c"),
        ({"loss": LossConfig(w_of=0.0)}, "loss.w_of"),
        ({"rates": RateConfig(emotion=2.0)}, "rates.emotion"),
        ({"augment": Augmentation(gamma=0.1)}, "augment.gamma"),
        ({"normalisation": "released-subject"}, "normalisation"),
    ],
)
def test_settings_of_mol_are_refused_for_a_network_without_them(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"flow-cnn has no setting {named}; leave it out.* that has it: mol"):
        TrainConfig(cache="c", network="flow-cnn", **changes)
    TrainConfig(cache="c", **changes)
    # Mirroring is for every network.
    TrainConfig(cache="c", network="flow-cnn", augment=Augmentation(flip=False))


def test_an_ablation_of_mol_is_refused_for_a_network_without_it() -> None:
    with pytest.raises(SettingsError, match=r"flow-cnn has no setting model\.ccc"):
        LosoConfig(caches=["c"], protocol="as-labelled", network="flow-cnn", ablation="no-ccc")


def test_a_run_of_one_network_is_not_resumed_with_another(config: TrainConfig) -> None:
    train(config)
    with pytest.raises(SettingsError, match="holds a run of the network apex-difference, not of flow-cnn"):
        train(replace(config, network="flow-cnn", resume=True))


def test_a_baseline_resumes_bit_for_bit(config: TrainConfig) -> None:
    whole = replace(config, run=config.run + "-whole", schedule="constant", steps=6)
    train(whole)
    train(replace(whole, run=config.run, steps=3))
    train(replace(whole, run=config.run, resume=True))
    a, b = (load_file(Path(run) / "checkpoints" / "last" / "weights.safetensors") for run in (whole.run, config.run))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_baseline_is_calibrated_on_the_people_set_aside(config: TrainConfig) -> None:
    train(replace(config, inner_validation=0.5))
    calibration = read_state(Path(config.run) / "checkpoints" / "last")["calibration"]
    assert (calibration["people"], calibration["videos"]) == (1, 3)


def test_a_small_network_trains_with_one_thread_and_leaves_the_setting(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    real = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda *a: threads.append(torch.get_num_threads()) or real(*a))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        train(config)
        assert set(threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_class_without_a_training_clip_is_named(
    cache: Cache, config: TrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_mol(monkeypatch)
    for network in ("mol", "apex-difference"):
        run = replace(config, network=network, run=f"{config.run}-{network}", batch_size=2)
        rows = [row for row in cache.rows if row["subject"] == "s3" or row["emotion"] != "surprise"]
        keep = [cache.rows.index(row) for row in rows]
        few = replace(
            cache,
            rows=rows,
            **{name: getattr(cache, name)[keep] for name in ("frames", "flow", "landmarks", "checksums")},
        )
        monkeypatch.setattr("mol.training.train.open_clips", lambda *_, few=few: few)
        monkeypatch.setattr("mol.scoring.evaluate.open_clips", lambda *_, few=few: few)
        train(run)
        assert "note: no training clip of class 'surprise': it cannot be learned" in capsys.readouterr().out
        assert read_state(Path(run.run) / "checkpoints" / "last")["training_videos"][1] == 0
        result = evaluate(EvaluateConfig(weights=run.run, device="cpu", pictures=False, tvl1_pairs=0))
        assert "no training clip of class 'surprise'" in result.note


def test_what_takes_the_place_of_a_missing_apex_is_said(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = write_tiny_cache(tmp_path / "cache", people=3, videos=1)
    train(replace(config, cache=str(cache.path), batch_size=2))
    out = capsys.readouterr().out
    assert out.count("note: 3 of 3 clips have no apex (3 of tiny): apex-difference takes") == 1
    result = evaluate(EvaluateConfig(weights=config.run, device="cpu", pictures=False))
    assert "3 of 3 clips have no apex (3 of tiny)" in result.note
