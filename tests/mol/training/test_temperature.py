"""The temperature that training leaves in its checkpoints: who it is fitted on, and who has no influence on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_cache import CLASSES, write_tiny_cache
from tiny_model import instead_of_mol

import mol.training.train
from mol.data.cache import Cache
from mol.network.checkpoint import read_state
from mol.scoring.calibration import MINIMUM_VIDEOS, temperature_of
from mol.training.settings import TrainConfig
from mol.training.train import train

VIDEOS = MINIMUM_VIDEOS + 1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("temperature") / "cache", people=4, videos=VIDEOS)


@pytest.fixture
def config(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    instead_of_mol(monkeypatch)
    return TrainConfig(
        cache=str(cache.path),
        run=str(tmp_path / "run"),
        held_out=["s4"],
        inner_validation=0.3,
        steps=60,
        batch_size=4,
        learning_rate=1e-2,
        schedule="constant",
        validate_every=0,
        device="cpu",
    )


def calibration_of(config: TrainConfig, checkpoint: str = "last") -> dict[str, Any]:
    found = read_state(Path(config.run) / "checkpoints" / checkpoint)["calibration"]
    assert isinstance(found, dict)
    return found


def relabel(monkeypatch: pytest.MonkeyPatch, people: set[str]) -> None:
    """Give these people's clips other classes wherever a cache is opened."""
    real = Cache.open

    def opened(path: str | Path) -> Cache:
        found = real(path)
        rows = [
            {**row, "label": (row["label"] + 1) % len(CLASSES)}
            if f"{row['dataset']}/{row['subject']}" in people
            else row
            for row in found.rows
        ]
        return replace(found, rows=rows)

    monkeypatch.setattr(Cache, "open", opened)


def test_only_the_people_set_aside_fit_the_temperature(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config)
    found = calibration_of(config)
    state = read_state(Path(config.run) / "checkpoints" / "last")
    (aside,) = state["inner_validation_people"]
    assert (found["videos"], found["clips"], found["people"]) == (VIDEOS, VIDEOS, 1)
    assert found["value"] is not None, found["note"]
    with monkeypatch.context() as patch:
        relabel(patch, {"tiny/s4"})
        train(replace(config, run=config.run + "-held-out-relabelled"))
    assert calibration_of(replace(config, run=config.run + "-held-out-relabelled")) == found
    with monkeypatch.context() as patch:
        relabel(patch, {aside})
        train(replace(config, run=config.run + "-set-aside-relabelled"))
    other = read_state(Path(config.run + "-set-aside-relabelled") / "checkpoints" / "last")
    assert other["files"]["weights.safetensors"] == state["files"]["weights.safetensors"]
    assert other["calibration"] != found


def test_without_people_set_aside_there_is_no_temperature(config: TrainConfig) -> None:
    train(replace(config, inner_validation=0.0, steps=4))
    state = read_state(Path(config.run) / "checkpoints" / "last")
    assert "calibration" not in state
    assert temperature_of(state).describe() == "not calibrated: train with --inner-validation 0.2"


def test_the_checkpoint_that_is_chosen_has_the_temperature_of_its_own_weights(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0])
    names = ("epe", "zero_flow_epe", "nme", "mean_shape_nme", "accuracy", "uf1")
    scores = lambda *arguments: {"loss": next(losses), **dict.fromkeys(names, 0.5)}  # noqa: E731
    monkeypatch.setattr(mol.training.train, "validation_scores", scores)
    chosen = replace(config, selection="inner-val", validate_every=20)
    train(chosen)
    assert read_state(Path(config.run) / "checkpoints" / "best")["step"] == 40
    shorter = replace(config, run=config.run + "-shorter", steps=40)
    train(shorter)
    assert calibration_of(chosen, "best") == calibration_of(shorter)
    assert calibration_of(chosen, "last") != calibration_of(shorter)


def test_too_few_videos_set_aside_are_named_before_and_after(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_tiny_cache(tmp_path / "few", people=4, videos=3, windows=2)
    train(replace(config, cache=str(few.path), steps=4))
    found = calibration_of(config)
    assert (found["value"], found["videos"], found["clips"], found["people"]) == (None, 3, 5, 1)
    assert "only 3 videos of the people set aside" in found["note"]
    assert "people set aside have 3 videos" in " ".join(capsys.readouterr().out.split())


def test_a_checkpoint_of_an_unfinished_training_has_none(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[bool] = []
    real = mol.training.train.save_checkpoint

    def recording(folder: Path, model: object, optimizer: object, state: dict[str, Any]) -> None:
        saved.append("calibration" in state)
        real(folder, model, optimizer, state)

    monkeypatch.setattr("mol.training.train.save_checkpoint", recording)
    train(replace(config, steps=4, checkpoint_every=2))
    assert saved == [False, True]
