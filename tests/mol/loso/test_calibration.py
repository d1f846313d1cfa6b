"""Calibration in leave-one-subject-out runs: each fold has the temperature of its own people set aside."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_cache import CLASSES, write_tiny_cache
from tiny_model import instead_of_mol

from mol.common.devices import start_fabric
from mol.loso.run import loso
from mol.loso.saved_run import LosoRun, read_run
from mol.loso.settings import LosoConfig
from mol.network.checkpoint import read_state
from mol.report.misread import confident_failures, read_again
from mol.scoring.calibration import MINIMUM_VIDEOS, apply_temperature
from mol.scoring.evaluate import EvaluateConfig, evaluate


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LosoRun:
    """One fold, made with the tiny network, whose inner validation is large enough for a temperature."""
    folder = tmp_path_factory.mktemp("calibration")
    cache = write_tiny_cache(folder / "cache", people=3, videos=MINIMUM_VIDEOS, windows=2)
    with pytest.MonkeyPatch.context() as patch:
        instead_of_mol(patch)
        loso(
            LosoConfig(
                caches=[str(cache.path)],
                protocol="as-labelled",
                run=str(folder / "run"),
                folds="1",
                inner_validation=0.5,
                steps=60,
                batch_size=4,
                learning_rate=1e-2,
                device="cpu",
            )
        )
    return read_run(folder / "run")


def shares_in(path: Path) -> np.ndarray:
    with open(path, newline="") as file:
        return np.array([[float(row[f"p_{name}"]) for name in sorted(CLASSES)] for row in csv.DictReader(file)])


def test_a_fold_is_calibrated_on_people_set_aside_from_its_training_people(run: LosoRun) -> None:
    (result,) = run.results
    state = read_state(run.folder(result.fold) / "checkpoints" / "last")
    assert result.temperature.value is not None, result.temperature.note
    assert state["calibration"] == json.loads((run.folder(result.fold) / "fold.json").read_text())["calibration"]
    assert (result.temperature.videos, result.temperature.people) == (MINIMUM_VIDEOS, 1)
    assert result.fold.person not in state["inner_validation_people"]
    for video in result.videos:
        assert video.uncalibrated is not None
        np.testing.assert_allclose(
            video.probabilities, apply_temperature(video.uncalibrated, result.temperature.value), atol=1e-5
        )
        assert video.prediction == video.uncalibrated.argmax()


def test_an_evaluation_of_the_fold_gives_the_same_probabilities(
    run: LosoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_mol(monkeypatch)
    folder = run.folder(run.results[0].fold)
    evaluate(EvaluateConfig(weights=str(folder), out=str(tmp_path), device="cpu", tvl1_pairs=0, pictures=False))
    for name in ("predictions.csv", "predictions-uncalibrated.csv"):
        np.testing.assert_allclose(shares_in(tmp_path / name), shares_in(folder / name), atol=1e-5)


def test_misread_videos_are_recognised_at_their_temperature(run: LosoRun, monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of_mol(monkeypatch)
    failures = confident_failures(run.videos, 3)
    assert failures, "the tiny network misreads none"
    assert max(np.abs(one.video.probabilities - one.video.means).max() for one in failures) > 0.05
    read = read_again(run, failures, start_fabric("cpu", "32").device)
    assert [failure.reason for failure in read] == [""] * len(failures)
