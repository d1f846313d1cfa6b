"""What version 0.1 wrote is read today: a cache, training runs and a leave-one-subject-out run (data/version-0.1)."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from places import DATA
from safetensors.torch import load_file
from tiny_model import SmallestMOL, instead_of_mol
from torch import Tensor

from mol.arguments import read_config
from mol.data.cache import Cache
from mol.loso.run import loso
from mol.loso.settings import LosoConfig
from mol.report.report import ReportConfig, report
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.training.settings import TrainConfig
from mol.training.train import train


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what version 0.1 wrote; its paths are relative to this folder."""
    instead_of_mol(monkeypatch, SmallestMOL)
    shutil.copytree(DATA / "version-0.1", tmp_path / "then")
    monkeypatch.chdir(tmp_path / "then")
    return tmp_path / "then"


def weights(run: str) -> dict[str, Tensor]:
    return load_file(Path(run) / "checkpoints" / "last" / "weights.safetensors")


def training_rows(run: str) -> list[dict[str, str]]:
    with open(Path(run) / "log.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "train"]


def test_a_cache_of_version_0_1_is_read(folder: Path) -> None:
    cache = Cache.open("cache")
    assert [(row["subject"], row["clip"], row["emotion"]) for row in cache.rows] == [
        ("s1", "v0", "happiness"),
        ("s1", "v1", "surprise"),
        ("s2", "v0", "happiness"),
        ("s2", "v1", "surprise"),
    ]
    cache.verify()
    y, x = np.mgrid[:144, :144]
    expected = (127 + 100 * np.sin((x - 2 * 3) / 9) * np.cos(y / 8)).round()
    np.testing.assert_array_equal(cache.frames[1][3], expected.astype(np.uint8))
    assert (cache.flow[1][:, 0] == 2).all()
    assert cache.landmarks[1][3, 0].tolist() == [118.0, 72.0]


def test_a_run_of_version_0_1_is_evaluated(folder: Path) -> None:
    with open("run/log.csv", newline="") as file:
        recorded = [row for row in csv.DictReader(file) if row["split"] == "held_out"][-1]
    result = evaluate(EvaluateConfig(weights="run", device="cpu", pictures=False, tvl1_pairs=0, out="evaluation"))
    assert (result.people, result.videos, result.step) == (["one/s2"], 2, 4)
    assert result.flow.epe == pytest.approx(float(recorded["epe"]), rel=1e-4)
    assert result.landmarks.nme == pytest.approx(float(recorded["nme"]), rel=1e-4)
    assert result.recognition.accuracy == float(recorded["accuracy"])
    assert result.calibration is not None
    assert result.calibration.temperature.describe() == "not calibrated: train with --inner-validation 0.2"
    assert not Path("evaluation/predictions-uncalibrated.csv").exists()


def test_an_interrupted_run_of_version_0_1_goes_on_to_the_same_weights(folder: Path) -> None:
    before = weights("interrupted")
    config = read_config(TrainConfig, ["--config", "interrupted/config.yaml", "--resume"], "mol train")
    assert train(config).step == 4
    assert not torch.equal(weights("interrupted")["emotion.weight"], before["emotion.weight"])
    # The recording's rounding is another processor's: the losses agree closely, weights within the two steps' length.
    losses = [[float(row["loss"]) for row in training_rows(run)] for run in ("interrupted", "run")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    found, recorded = weights("interrupted"), weights("run")
    assert found.keys() == recorded.keys()
    for name in recorded:
        torch.testing.assert_close(found[name], recorded[name], rtol=1e-4, atol=4 * config.learning_rate)


def test_a_leave_one_subject_out_run_of_version_0_1_is_scored_and_reported(folder: Path) -> None:
    recorded = json.loads(Path("loso/scores.json").read_text())
    config = read_config(LosoConfig, ["--config", "loso/loso.yaml", "--resume"], "mol loso")
    result = loso(config)
    assert (result.done, result.total) == (2, 2)
    assert result.scores["seeds"] == recorded["seeds"]
    page = report(ReportConfig(runs=["loso"], device="cpu")).read_text()
    assert "as-labelled" in page
    assert f"{recorded['mean']['composite']['uf1']:.3f}" in page
    shutil.rmtree("loso/folds/seed0/one-s2")
    again = loso(replace(config, folds=["2"]))
    assert again.done == 2
    assert again.scores["seeds"]["0"]["composite"]["epe_px"] == pytest.approx(
        recorded["seeds"]["0"]["composite"]["epe_px"], rel=1e-4
    )
