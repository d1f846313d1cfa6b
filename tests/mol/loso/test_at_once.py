"""Folds side by side in one process, and folds that several processes train together, leave what folds alone leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache

import mol.training.train
from mol.common.errors import SettingsError
from mol.loso.plan import read_plan
from mol.loso.run import loso
from mol.loso.settings import LosoConfig
from mol.training.resume import TrainingInterrupted

TABLES = ("predictions.csv", "subjects.csv", "scores.csv")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LosoConfig:
    folder = tmp_path_factory.mktemp("at-once")
    cache = write_tiny_cache(folder / "cache", people=4, marked=True)
    return LosoConfig(
        caches=[str(cache.path)],
        protocol="as-labelled",
        run=str(folder / "run"),
        network="flow-cnn",
        steps=4,
        batch_size=4,
        device="cpu",
    )


@pytest.fixture(scope="module")
def alone(config: LosoConfig) -> Path:
    return loso(config).run


def contents(run: Path | str) -> dict[str, bytes]:
    return {name: (Path(run) / name).read_bytes() for name in TABLES}


def weights(run: Path | str) -> dict[str, np.ndarray]:
    return {
        f"{fold.folder} {name}": value.numpy()
        for fold in read_plan(Path(run)).folds
        for name, value in load_file(Path(run) / fold.folder / "checkpoints/last/weights.safetensors").items()
    }


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 9))])
def test_folds_at_once_have_the_weights_of_folds_one_by_one(config, alone, tmp_path, count):
    run = loso(replace(config, run=str(tmp_path / "run"), folds_at_once=count)).run
    assert contents(run) == contents(alone)
    expected, found = weights(alone), weights(run)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_signal_saves_every_fold_that_is_running_and_the_run_goes_on(config, alone, tmp_path, monkeypatch):
    whole = replace(config, run=str(tmp_path / "run"), folds_at_once=3)
    calls, real = iter(range(1000)), mol.training.train.learning_rate

    def rate(settings, step):
        if next(calls) == 4:  # the second step of the second fold
            os.kill(os.getpid(), signal.SIGTERM)
        return real(settings, step)

    with monkeypatch.context() as patch:
        patch.setattr(mol.training.train, "learning_rate", rate)
        with pytest.raises(TrainingInterrupted):
            loso(whole)
    saved = sorted(
        path.parent.parent.parent.name for path in Path(whole.run).glob("folds/*/*/checkpoints/last/state.json")
    )
    assert len(saved) == 3
    assert not (Path(whole.run) / "predictions.csv").exists()
    assert contents(loso(replace(whole, resume=True, folds_at_once=2)).run) == contents(alone)


def test_a_fold_that_fails_ends_the_others_saved_and_is_named(config, tmp_path, monkeypatch):
    real = mol.training.train.learning_rate
    monkeypatch.setattr(
        mol.training.train,
        "learning_rate",
        lambda settings, step: real(settings, step) * (1e30 if "s2" in settings.run else 1),
    )
    broken = replace(config, run=str(tmp_path / "run"), folds_at_once=2, log_every=1)
    with pytest.raises(SettingsError, match="fold tiny/s2, seed 0: training diverged"):
        loso(broken)
    assert (Path(broken.run) / "folds/seed0/tiny-s1/checkpoints/last/state.json").is_file()


def test_what_is_for_one_device_refuses_several():
    for wrong in ({"engine": "ray"}, {"devices": 2}, {"num_nodes": 2}):
        with pytest.raises(SettingsError, match="folds_at_once=2 is for one device"):
            LosoConfig(caches=["c"], protocol="p", folds_at_once=2, **wrong)
    with pytest.raises(SettingsError, match="--engine ray every fold is trained on one device"):
        LosoConfig(caches=["c"], protocol="p", engine="ray", devices=2)


@pytest.mark.slow
def test_folds_on_two_devices_give_the_predictions_of_one(config, alone, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mol", "loso", *config.caches, "--protocol", config.protocol, "--run", str(run)]
    options = ["--network", "flow-cnn", "--steps", "4", "--batch-size", "4", "--device", "cpu", "--devices", "2"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("videos right") == 4
    expected, found = weights(alone), weights(run)
    for name in expected:
        if not name.endswith(("0.bias", "running_mean")):  # noise, see test_ranks.py
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)
    again = subprocess.run(
        [*command, *options, "--resume"], env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "4 already done" in again.stdout
