"""Action units from the annotations of a cache to the report: training, resuming, starting weights, scores."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache
from tiny_model import TinyMOLWithUnits, instead_of_mol

from mol.common.errors import CheckpointError, DataError, SettingsError
from mol.data.cache import Cache
from mol.loso.run import LosoResult, loso
from mol.loso.settings import LosoConfig
from mol.network.checkpoint import read_state
from mol.network.units import NOT_SHOWN, SHOWN, UNKNOWN
from mol.networks.trained import load_model
from mol.report.report import ReportConfig, report
from mol.scoring.action_units import UnitVotes, read_unit_votes, unit_scores, write_unit_votes
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.scoring.evaluation import read_evaluation
from mol.scoring.table import score_rows
from mol.training.settings import LossConfig, ModelConfig, TrainConfig
from mol.training.train import train

UNITS = ("4+L12", "12?", "AU4")
"""What is annotated for each class: 4 in two thirds of the clips, 12 in one, and in one nobody knows."""


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> object:
    with pytest.MonkeyPatch.context() as patch:
        instead_of_mol(patch, TinyMOLWithUnits)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("units") / "cache", people=4, videos=3, windows=2, units=UNITS)


@pytest.fixture
def config(cache: Cache, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        cache=str(cache.path),
        run=str(tmp_path / "run"),
        held_out=["s4"],
        steps=4,
        batch_size=4,
        log_every=2,
        validate_every=0,
        device="cpu",
        action_units=[4, 12],
    )


def log_of(run: str) -> list[dict[str, str]]:
    with open(Path(run) / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "checkpoints" / "last" / "weights.safetensors")


def test_a_training_logs_the_term_and_records_what_it_learns(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(config, validate_every=4))
    said = capsys.readouterr().out
    assert "the network also learns to tell AUs 4, 12" in said
    assert "action_units 0." in said
    assert all(float(row["loss_action_units"]) > 0 for row in log_of(config.run) if row["split"] == "train")
    state = read_state(Path(config.run) / "checkpoints" / "last")
    # s1 to s3: three videos each, of each class one; the first of a person has one sub-clip, the others two.
    assert state["action_units"] == {"units": [4, 12], "annotated": [15, 10], "shown": [10, 5], "clips": 15}
    assert state["model"]["action_units"] == [4, 12]
    assert load_model(config.run).network.action_units.units == (4, 12)


def test_off_leaves_no_trace(config: TrainConfig) -> None:
    train(replace(config, action_units=None))
    assert "loss_action_units" not in log_of(config.run)[0]
    state = read_state(Path(config.run) / "checkpoints" / "last")
    assert "action_units" not in state
    assert "action_units" not in state["model"]
    assert not [name for name in weights(config.run) if name.startswith("action_units")]


def test_a_weight_of_nothing_leaves_all_other_weights_as_without_units(config: TrainConfig) -> None:
    train(replace(config, action_units=None))
    watched = replace(config, run=f"{config.run}-watched", loss=replace(config.loss, w_au=0.0))
    train(watched)
    without, found = weights(config.run), weights(watched.run)
    for name, value in without.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_parts_of_a_batch_learn_what_the_whole_does(config: TrainConfig) -> None:
    # Batch norms take the statistics of a part and dropout draws differ: one step, and the head's own bias.
    losses = {}
    for parts in (1, 2):
        own = replace(config, run=f"{config.run}-{parts}", steps=1, accumulate=parts, flow_pairs=0, log_every=1)
        train(own)
        losses[parts] = float(log_of(own.run)[0]["loss_action_units"])
    # The head starts with the same chances for every clip, so the loss depends on the targets alone.
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)


def test_the_emotion_path_alone_trains_units_too(config: TrainConfig) -> None:
    train(replace(config, flow_pairs=0, loss=replace(config.loss, w_ldm=0.0)))
    (first, *_) = log_of(config.run)
    assert (first["loss_flow"], first["loss_landmarks"]) == ("", "")
    assert float(first["loss_action_units"]) > 0


def test_a_run_resumes_with_its_units_only(config: TrainConfig) -> None:
    train(config)
    whole = weights(config.run)
    with pytest.raises(SettingsError, match=r"different settings \(action_units: \[4, 12\] → \[4\]\)"):
        train(replace(config, action_units=[4], resume=True))
    with pytest.raises(SettingsError, match=r"action_units: \[4, 12\] → null"):
        train(replace(config, action_units=None, resume=True))
    half = replace(config, run=f"{config.run}-half", steps=2)
    train(half)
    longer = replace(half, steps=4, resume=True)
    if config.schedule == "constant":
        train(longer)
        assert all(torch.equal(value, weights(half.run)[name]) for name, value in whole.items())


def test_a_head_of_other_units_is_new_and_said_so(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(config)
    start = {"init": config.run, "learning_rate": 1e-12, "weight_decay": 0.0, "steps": 1}
    same = replace(config, run=f"{config.run}-same", **start)
    train(same)
    head = "action_units.fc1.weight"
    assert torch.allclose(weights(same.run)[head], weights(config.run)[head])
    capsys.readouterr()
    other = replace(config, run=f"{config.run}-other", action_units=[4], **start)
    train(other)
    assert (
        "it tells AUs 4, 12, here they are AU 4: their head is new (action_units.fc1.weight" in capsys.readouterr().out
    )
    assert not torch.allclose(weights(other.run)[head], weights(config.run)[head])
    assert torch.allclose(weights(other.run)["conv.weight"], weights(config.run)["conv.weight"])
    none = replace(config, run=f"{config.run}-none", action_units=None, **start)
    train(none)
    assert "here no action units are told: their head is left out" in capsys.readouterr().out
    assert head not in weights(none.run)


def test_an_evaluation_scores_each_unit_beside_the_baselines(config: TrainConfig) -> None:
    train(config)
    result = evaluate(EvaluateConfig(config.run, device="cpu", tvl1_pairs=0, pictures=False))
    scores = result.action_units
    assert scores is not None
    four, twelve = scores.units
    assert (four.unit, four.videos, four.shown) == (4, 3, 2)
    assert (twelve.unit, twelve.videos, twelve.shown) == (12, 2, 1)
    assert four.always_f1 == pytest.approx(0.8)
    assert four.frequency_f1 == pytest.approx(2 * (2 * 2 / 3) / (3 * 2 / 3 + 2))
    assert scores.f1 == pytest.approx((four.f1 + twelve.f1) / 2)
    assert read_evaluation(Path(config.run) / "evaluation.json").action_units == scores
    rows = [row.score for row in score_rows(result) if row.task == "action units"]
    assert rows == ["mean F1 of 2", "AU 4 (2 of 3)", "AU 12 (1 of 2)"]
    votes = read_unit_votes(Path(config.run) / "action_units.csv", [4, 12], "")
    assert [name for *_, name in votes.names] == ["v1", "v2", "v3"]
    answers = votes.probabilities[:, 0] >= 0.5
    truth = votes.targets[:, 0] == SHOWN
    assert four.f1 == pytest.approx(2 * (answers & truth).sum() / (answers.sum() + truth.sum()))


def test_scores_by_hand() -> None:
    names = [("lab", "p", f"v{i}") for i in range(4)]
    targets = np.array([[SHOWN, UNKNOWN], [SHOWN, NOT_SHOWN], [NOT_SHOWN, NOT_SHOWN], [UNKNOWN, NOT_SHOWN]], np.int8)
    votes = UnitVotes([4, 12], names, targets, np.array([[0.5, 0.1], [0.4, 0.1], [0.9, 0.9], [0.9, 0.2]]))
    scores = unit_scores([(votes, [0.25, 0.5])])
    four, twelve = scores.units
    assert (four.videos, four.shown, four.precision, four.recall) == (3, 2, 0.5, 0.5)
    assert (four.f1, four.always_f1) == (0.5, pytest.approx(0.8))
    assert four.frequency_f1 == pytest.approx(2 * 0.5 / (0.75 + 2))
    assert (twelve.videos, twelve.shown, twelve.f1) == (3, 0, None)
    assert scores.f1 == 0.5


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("lab,p,v1,1", "lab,p,v1,2", "line 2, AU4: '2' must be 1, 0 or empty"),
        ("0.500000", "1.5", "line 2: probabilities must be from 0 to 1"),
        ("0.500000", "nan", "line 2: probabilities must be from 0 to 1"),
        ("0.500000", "x", "line 2: could not convert"),
        ("AU4", "AU5", "lacks the column AU4"),
    ],
)
def test_a_damaged_table_of_votes_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    votes = UnitVotes([4], [("lab", "p", "v1")], np.array([[SHOWN]], np.int8), np.array([[0.5]]))
    write_unit_votes(tmp_path, votes)
    path = tmp_path / "action_units.csv"
    path.write_text(path.read_text().replace(old, new, 1) if old != "AU4" else path.read_text().replace(old, new))
    with pytest.raises(DataError, match=named):
        read_unit_votes(path, [4], "run it again")


# Settings and caches that cannot work


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"action_units": [9]}, "no clip of .* shows AU 9; its clips show AUs 4, 12"),
        ({"action_units": "auto"}, "at least 10 training videos show"),
    ],
)
def test_units_that_the_cache_does_not_show(config: TrainConfig, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        train(replace(config, **changes))
    assert not (Path(config.run) / "log.csv").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"action_units": [3]}, "has no unit 3"),
        ({"action_units": [4, 4]}, "must be different numbers"),
        ({"action_units": []}, "must be different numbers"),
        ({"action_units": "all"}, "must be different numbers"),
        ({"action_units": ["AU4"]}, "has no unit 'AU4'"),
        ({"model": ModelConfig(variant="released")}, "model.variant=released"),
        ({"model": ModelConfig(meeting="side-by-side")}, "model.meeting=side-by-side"),
        ({"network": "apex-difference"}, "apex-difference has no setting action_units.*has it: mol"),
        ({"action_units": None, "loss": LossConfig(w_au=1.0)}, "loss.w_au=1.0 weighs action units"),
    ],
)
def test_settings_that_cannot_work(cache: Cache, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        TrainConfig(**{"cache": str(cache.path), "action_units": [4], **changes})


def test_a_cache_without_annotations_and_one_whose_texts_cannot_be_read(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = write_tiny_cache(tmp_path / "silent", people=2, videos=1, units=("", "", "?"))
    with pytest.raises(SettingsError, match=r"no clip of .*silent has action units that can be read"):
        train(replace(config, cache=str(silent.path), held_out=["s2"], batch_size=1))
    odd = write_tiny_cache(tmp_path / "odd", people=2, videos=3, units=("4", "four", "0"))
    train(replace(config, cache=str(odd.path), held_out=["s2"], batch_size=2, action_units=[4]))
    said = capsys.readouterr().out
    assert "note: 2 of 6 clips take no part in the learning of action units" in said
    assert "'four' cannot be read" in said


def test_a_checkpoint_whose_units_are_not_those_of_its_network_is_refused(config: TrainConfig) -> None:
    train(config)
    path = Path(config.run) / "checkpoints" / "last" / "state.json"
    state = json.loads(path.read_text())
    for units in ({**state["action_units"], "units": [4, 14]}, None):
        path.write_text(json.dumps({**state, "action_units": units}))
        with pytest.raises(CheckpointError, match=r"action_units.units are .* and the network tells \[4, 12\]"):
            load_model(config.run)
    path.write_text(json.dumps({**state, "action_units": {**state["action_units"], "shown": [1]}}))
    with pytest.raises(CheckpointError, match="not the same number of units and counts"):
        load_model(config.run)


# Leave one subject out


@pytest.fixture(scope="module")
def done(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> LosoResult:
    config = LosoConfig(
        caches=[str(cache.path)],
        protocol="as-labelled",
        run=str(tmp_path_factory.mktemp("units") / "loso"),
        steps=2,
        batch_size=4,
        device="cpu",
        action_units=[4, 12],
    )
    return loso(config)


def test_folds_are_pooled_per_unit(done: LosoResult) -> None:
    assert done.scores is not None
    scores = done.scores["action_units"]["0"]
    assert [(one["unit"], one["videos"], one["shown"]) for one in scores["units"]] == [(4, 12, 8), (12, 8, 4)]
    assert scores["always_f1"] == pytest.approx((2 * 8 / 20 + 2 * 4 / 12) / 2)


def test_the_report_has_a_section_of_units(done: LosoResult, tmp_path: Path) -> None:
    page = report(ReportConfig([str(done.run)], out=str(tmp_path), pictures=False)).read_text()
    assert 'id="action-units"' in page
    assert '<th scope="row">AU 12</th><td>8</td><td>4</td>' in page
    with open(tmp_path / "action-units.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["unit"] for row in rows] == ["AU4", "AU12", "mean"]
    assert float(rows[0]["f1"]) == pytest.approx(done.scores["action_units"]["0"]["units"][0]["f1"], abs=1e-6)


def test_a_fold_whose_votes_are_gone_is_named(done: LosoResult) -> None:
    table = done.run / "folds" / "seed0" / "tiny-s1" / "action_units.csv"
    kept = table.read_text()
    table.unlink()
    try:
        with pytest.raises(DataError, match=r"action_units\.csv is missing; delete the folder"):
            report(ReportConfig([str(done.run)], pictures=False))
    finally:
        table.write_text(kept)
