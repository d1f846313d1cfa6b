"""Leave-one-subject-out: who is trained on and tested, what is pooled, stopping and going on, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from places import ROOT, environment
from tiny_cache import moving_clip
from tiny_model import TinyMOL, instead_of_mol

import mol.loso.progress
import mol.loso.run
import mol.loso.train_fold
import mol.network.checkpoint
import mol.networks.mol
import mol.training.train
from mol.arguments import read_config
from mol.common.errors import DataError, SettingsError
from mol.data.cache import Cache, CacheSettings, CacheWriter
from mol.data.clips import ResidentClips
from mol.data.pool import Pool
from mol.data.split import person
from mol.loso.folds import Fold, choose_folds, plan_folds
from mol.loso.latex import latex_table
from mol.loso.plan import read_plan
from mol.loso.results import FoldResult, Video
from mol.loso.run import LosoResult, loso, run_loso
from mol.loso.scores import latex_scores, write_tables
from mol.loso.settings import LosoConfig, resume_command
from mol.network.checkpoint import OPTIMIZER, read_state
from mol.networks.trained import load_model
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.scoring.metrics import recognition_scores
from mol.training.resume import TrainingInterrupted
from mol.training.settings import TrainConfig
from mol.training.train import train

EMOTIONS = ("disgust", "happiness", "surprise")
PEOPLE = [("one", "s1"), ("one", "s2"), ("one", "s10"), ("two", "s1")]
FOLDS = [f"{dataset}/{subject}" for dataset, subject in PEOPLE]
TABLES = ("predictions.csv", "subjects.csv", "confusion-seed0.csv", "scores.csv", "scores.tex", "scores.json")


def write_cache(path: Path, rows: list[dict[str, Any]], seed: int = 0, **settings: Any) -> Cache:
    with CacheWriter(path, CacheSettings(**{"kind": "extracted", "classes": EMOTIONS, **settings}), rows) as writer:
        for i in writer.pending():
            writer.write(i, *moving_clip(np.random.default_rng((seed, i)), (i % 2, 1)))
        writer.finish()
    return Cache.open(path)


def rows_of(dataset: str, subjects: list[str], videos: int = 3) -> list[dict[str, Any]]:
    """Three videos a person, one of each emotion; the first has one sub-clip, the others two."""
    return [
        {
            "dataset": dataset,
            "subject": subject,
            "clip": f"v{video}",
            "start": start,
            "interval": 2,
            "label": (p + video) % 3,
            "emotion": EMOTIONS[(p + video) % 3],
        }
        for p, subject in enumerate(subjects)
        for video in range(videos)
        for start in range(min(video, 1) + 1)
    ]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sets; both number a person s1."""
    folder = tmp_path_factory.mktemp("loso")
    one = write_cache(folder / "one", rows_of("one", ["s10", "s2", "s1"]))
    two = write_cache(folder / "two", rows_of("two", ["s1"]), seed=1)
    return [str(one.path), str(two.path)]


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of_mol(monkeypatch)


@pytest.fixture
def config(caches: list[str], tmp_path: Path) -> LosoConfig:
    return LosoConfig(
        caches=caches,
        protocol="as-labelled",
        run=str(tmp_path / "run"),
        steps=3,
        batch_size=4,
        checkpoint_every=2,
        learning_rate=3e-3,
        schedule="constant",
        device="cpu",
    )


@pytest.fixture(scope="module")
def done(caches: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LosoResult]:
    """A whole run with the tiny network."""
    with pytest.MonkeyPatch.context() as patch:
        instead_of_mol(patch)
        run = tmp_path_factory.mktemp("loso") / "run"
        yield loso(
            LosoConfig(
                caches=caches,
                protocol="as-labelled",
                run=str(run),
                steps=3,
                batch_size=4,
                checkpoint_every=2,
                learning_rate=3e-3,
                schedule="constant",
                device="cpu",
            )
        )


@pytest.fixture(scope="module")
def half(done: LosoResult, caches: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LosoResult]:
    """Its first two folds."""
    with pytest.MonkeyPatch.context() as patch:
        instead_of_mol(patch)
        config = read_config(LosoConfig, ["--config", str(done.run / "loso.yaml")], "mol loso")
        yield loso(replace(config, folds="1,2", run=str(tmp_path_factory.mktemp("loso") / "half")))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def fold_folder(run: Path | str, dataset: str, subject: str, seed: int = 0) -> Path:
    return Path(run) / "folds" / f"seed{seed}" / f"{dataset}-{subject}"


def contents(run: Path | str, names: tuple[str, ...] = TABLES) -> dict[str, bytes]:
    return {name: (Path(run) / name).read_bytes() for name in names}


# Who is trained on, who is tested, what is pooled


def test_everybody_is_tested_once_by_a_network_that_never_met_them(done: LosoResult) -> None:
    assert (done.done, done.total) == (4, 4)
    rows = table(done.run / "predictions.csv")
    assert [f"{row['dataset']}/{row['subject']}" for row in rows] == [name for name in FOLDS for _ in range(3)]
    for dataset, subject in PEOPLE:
        state = read_state(fold_folder(done.run, dataset, subject) / "checkpoints" / "last")
        assert state["held_out_people"] == [f"{dataset}/{subject}"]
        assert sorted(state["train_people"]) == sorted(set(FOLDS) - {f"{dataset}/{subject}"})


def test_subjects_of_the_same_name_in_two_sets_are_two_people(done: LosoResult) -> None:
    rows = [row for row in table(done.run / "subjects.csv") if row["subject"] == "s1"]
    assert [(row["dataset"], row["videos"]) for row in rows] == [("one", "3"), ("two", "3")]


def test_scores_are_pooled_over_folds_per_video(done: LosoResult) -> None:
    """Published error 6: scores counted sub-clips; also a mean of folds is no pooled score."""
    rows = table(done.run / "predictions.csv")
    for name, members in (("composite", rows), ("one", [row for row in rows if row["dataset"] == "one"])):
        labels, predictions = ([EMOTIONS.index(row[key]) for row in members] for key in ("label", "prediction"))
        expected = recognition_scores(labels, predictions, 3)
        found = done.scores["seeds"]["0"][name]
        assert found["videos"] == len(members)
        for score in ("accuracy", "war", "uar", "wf1", "uf1"):
            assert found[score] == pytest.approx(getattr(expected, score))
    confusion = table(done.run / "confusion-seed0.csv")
    counted = [[int(row[name]) for name in EMOTIONS] for row in confusion]
    assert np.sum(counted) == 12
    assert np.trace(counted) == sum(row["label"] == row["prediction"] for row in rows)


def test_a_vote_is_the_mean_over_the_sub_clips_of_a_video(config: LosoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published error 6, in this pipeline: two windows that contradict each other are one answer."""
    seen: list[torch.Tensor] = []
    real = mol.loso.train_fold.estimate

    def estimate(*arguments: Any) -> Any:
        found = real(*arguments)
        seen.append(found.probabilities)
        return found

    monkeypatch.setattr(mol.loso.train_fold, "estimate", estimate)
    result = loso(replace(config, folds=["two/s1"]))
    rows = table(result.run / "predictions.csv")
    assert seen[0].shape == (5, 3)
    votes = [seen[0][0], seen[0][1:3].mean(0), seen[0][3:5].mean(0)]
    found = [[float(row[f"p_{name}"]) for name in EMOTIONS] for row in rows]
    np.testing.assert_allclose(found, torch.stack(votes), atol=1e-6)


def test_means_over_folds_stand_beside_and_say_what_they_are(done: LosoResult) -> None:
    means = done.scores["fold_mean"]
    assert "not comparable with the pooled scores" in means["what"]
    folds = [read_json(fold_folder(done.run, *who) / "fold.json") for who in PEOPLE]
    assert means["seeds"]["0"]["composite"]["uf1"] == pytest.approx(np.mean([fold["uf1"] for fold in folds]))
    assert means["mean"]["two"]["accuracy"] == folds[3]["accuracy"]


def test_flow_and_landmark_errors_are_means_over_all_sub_clips(done: LosoResult) -> None:
    folds = [read_json(fold_folder(done.run, *who) / "fold.json") for who in PEOPLE]
    weights = [fold["clips"] for fold in folds]
    assert weights == [5, 5, 5, 5]
    for name in ("epe_px", "zero_flow_epe_px", "nme", "failure_rate"):
        expected = np.average([fold[name] for fold in folds], weights=weights)
        assert done.scores["seeds"]["0"]["composite"][name] == pytest.approx(expected)
    assert folds[0]["zero_flow_epe_px"] == pytest.approx((2**0.5 * 2 + 1 * 3) / 5, abs=0.1)


def test_a_run_of_everything_that_is_asked_for_is_reportable(done: LosoResult) -> None:
    assert done.scores["reportable"] is True
    assert done.scores["notes"] == []
    assert done.scores["mean"]["composite"]["uf1"] == done.scores["seeds"]["0"]["composite"]["uf1"]
    assert done.scores["sd"]["composite"]["uf1"] is None


def test_seeds_give_mean_and_deviation(config: LosoConfig) -> None:
    result = loso(replace(config, seeds=[3, 5], folds=["1", "4"]))
    assert [row["seed"] for row in table(result.run / "predictions.csv")] == ["3"] * 6 + ["5"] * 6
    assert (result.run / "confusion-seed3.csv").is_file()
    values = [result.scores["seeds"][seed]["composite"]["nme"] for seed in ("3", "5")]
    assert values[0] != values[1]
    assert result.scores["mean"]["composite"]["nme"] == pytest.approx(np.mean(values))
    assert result.scores["sd"]["composite"]["nme"] == pytest.approx(np.std(values, ddof=1))
    states = [read_state(fold_folder(result.run, "one", "s1", seed) / "checkpoints" / "last") for seed in (3, 5)]
    assert [state["seed"] for state in states] == [3, 5]


def test_tables_for_papers_escape_names_and_carry_the_warning() -> None:
    values = dict.fromkeys(("accuracy", "war", "uar", "wf1", "uf1", "epe_px", "nme"), 0.5)
    scores = {
        "protocol": "a_b",
        "selection": "test-peek",
        "not_reportable": ["not reportable: 100 % wrong"],
        "seeds": {"0": {}, "1": {}},
        "mean": {"my_set": values},
        "sd": {"my_set": {**values, "uf1": 0.0126}},
    }
    text = latex_scores(scores)
    assert r"a\_b" in text
    assert r"Not reportable: 100 \% wrong." in text
    assert r"my\_set & 0.500 $\pm$ 0.500 &" in text
    assert r"0.500 $\pm$ 0.013" in text
    assert text.count(r"\\") == 2


def test_no_row_of_a_latex_table_is_an_option_of_the_one_before() -> None:
    rows = [["[/x]", "[1]"], ["*", "a*b"], ["two\n\nlines", "\x1b[31m"]]
    text = latex_table(["[head]", "score"], rows, "a\n\nb [c]", "tab:[x]")
    assert not re.search(r"(\\\\|rule)\s*[\[*]", text)
    assert r"{[}/x{]} & {[}1{]} \\" in text
    assert r"{*} & a{*}b \\" in text
    assert r"two lines & {[}31m \\" in text
    assert r"\caption{a b {[}c{]}}" in text
    assert "\n\n" not in text


def test_a_class_that_a_fold_lacks_still_counts_in_the_pool(tmp_path: Path, done: LosoResult) -> None:
    plan = read_plan(done.run)
    folds = [replace(fold, dataset="one", subject=f"p{i}") for i, fold in enumerate(plan.folds[:2])]
    facts = {"clips": 1, "correct": 1, "videos": 1, **dict.fromkeys(("accuracy", "war", "uar", "wf1", "uf1"), 1.0)}
    facts |= dict.fromkeys(("epe_px", "zero_flow_epe_px", "nme", "mean_shape_nme", "failure_rate"), 0.0)
    surprise = EMOTIONS.index("surprise")
    results = [
        FoldResult(fold, facts, [Video(0, "one", fold.subject, "c", label, surprise, np.eye(3)[surprise])])
        for fold, label in zip(folds, (surprise, EMOTIONS.index("disgust")), strict=True)
    ]
    scores = write_tables(tmp_path, replace(plan, folds=folds, datasets=["one"]), results)
    assert scores["seeds"]["0"]["composite"]["uar"] == pytest.approx(0.5)
    assert scores["seeds"]["0"]["composite"]["uf1"] == pytest.approx((2 / 3 + 0) / 2)


def plan_of(done: LosoResult) -> list:
    pool = Pool.load([cache["path"] for cache in read_json(done.run / "folds.json")["caches"]], "as-labelled")
    return plan_folds(pool, [0])


# What the published training got wrong


def test_every_fold_trains_in_training_mode(config: LosoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published error 1: after the first evaluation training went on without dropout and with frozen BatchNorm."""
    modes: list[bool] = []
    real = TinyMOL.forward

    def forward(model: TinyMOL, clips: torch.Tensor, pairs: torch.Tensor | None = None) -> Any:
        modes.append(model.training and model.norm.training and model.dropout.training)
        return real(model, clips, pairs)

    monkeypatch.setattr(TinyMOL, "forward", forward)
    result = loso(replace(config, folds=["1", "2"], batch_size=5, validate_every=1, validation_clips=2))
    fold = [True, False] * 3 + [False]  # three steps, a look after each, the test
    assert modes == fold * 2
    for subject in ("s1", "s2"):
        weights = load_model(fold_folder(result.run, "one", subject)).model.state_dict()
        assert int(weights["norm.num_batches_tracked"]) == 3


def test_the_test_fold_is_read_through_centre_crops(config: LosoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published error 2: the test fold was built with the training crops."""
    crops: list[tuple[set[str], bool]] = []
    real = ResidentClips._crop

    def crop(self: ResidentClips, index: torch.Tensor, top: Any, left: Any, flip: Any, light: Any) -> Any:
        centred = bool((top == 8).all() and (left == 8).all() and not flip.any()) and light is None
        batch = real(self, index, top, left, flip, light)
        crops.append(({FOLDS_OF[int(row)] for row in batch.row}, centred))
        return batch

    pool = Pool.load(config.caches, config.protocol)
    FOLDS_OF = [person(row) for row in pool.rows]
    monkeypatch.setattr(ResidentClips, "_crop", crop)
    loso(replace(config, folds=["two/s1"]))
    tested = [centred for people, centred in crops if "two/s1" in people]
    assert tested == [True, True]  # five sub-clips in batches of four
    assert [centred for people, centred in crops if "two/s1" not in people] == [False] * 3


def test_folds_leave_the_data_that_they_share_as_it_was(config: LosoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published error 3: every crop shifted the stored landmarks, and so would every fold."""
    held: list[ResidentClips] = []
    monkeypatch.setattr(mol.networks.mol, "ResidentClips", lambda *rest: held.append(ResidentClips(*rest)) or held[-1])
    loso(replace(config, folds=["1", "2"]))
    pool = Pool.load(config.caches, config.protocol)
    fresh = ResidentClips(pool, range(len(pool)))
    assert len(held) == 1
    for name in ("frames", "flow", "landmarks"):
        assert torch.equal(getattr(held[0]._held, name), getattr(fresh._held, name))


def scripted_looks(monkeypatch: pytest.MonkeyPatch, accuracies: list[float], looks: list[set[str]]) -> None:
    values = iter(accuracies)

    def scores(model: object, clips: ResidentClips, *rest: object) -> dict[str, float]:
        looks.append({person(row) for row in clips.rows})
        value = next(values)
        names = ("epe", "zero_flow_epe", "nme", "mean_shape_nme", "uf1")
        return {"loss": 1 - value, "accuracy": value, **dict.fromkeys(names, 0.5)}

    monkeypatch.setattr(mol.training.train, "validation_scores", scores)


def test_the_last_step_is_tested_whatever_the_test_fold_said_before(
    config: LosoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published error 4: the checkpoint was chosen on the test fold."""
    scripted_looks(monkeypatch, [0.9, 0.1, 0.1], [])
    result = loso(replace(config, folds=["two/s1"], validate_every=1))
    fold = read_json(fold_folder(result.run, "two", "s1") / "fold.json")
    assert (fold["step"], fold["checkpoint"], fold["selection"]) == (3, "checkpoints/last", "last")


def test_test_peek_does_as_published_and_is_never_reportable(
    config: LosoConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published error 4, by its name."""
    looks: list[set[str]] = []
    scripted_looks(monkeypatch, [0.2, 0.4, 0.4] * 2, looks)
    config = replace(config, selection="test-peek", validate_every=1, validation_clips=1, folds="1,2")
    run_loso(config)
    assert looks == [{name} for name in FOLDS[:2] for _ in range(3)]
    fold = read_json(fold_folder(config.run, "one", "s2") / "fold.json")
    assert (fold["step"], fold["checkpoint"]) == (2, "checkpoints/best")
    scores = read_json(Path(config.run) / "scores.json")
    assert (scores["reportable"], scores["selection"]) == (False, "test-peek")
    assert "not reportable: checkpoints were chosen on the test subjects" in scores["notes"]
    assert "chosen on the test subjects" in (Path(config.run) / "scores.tex").read_text()
    assert "NOT REPORTABLE" in capsys.readouterr().out


def test_an_evaluation_of_a_peeking_checkpoint_says_so(config: LosoConfig) -> None:
    config = replace(config, selection="test-peek", validate_every=1, folds=["two/s1"])
    loso(config)
    result = evaluate(
        EvaluateConfig(weights=str(fold_folder(config.run, "two", "s1")), device="cpu", tvl1_pairs=0, pictures=False)
    )
    assert result.people == ["two/s1"]
    assert "chosen on the test subjects" in result.note


def test_inner_validation_chooses_by_people_of_the_training_fold(
    config: LosoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[set[str]] = []
    scripted_looks(monkeypatch, [0.2, 0.9, 0.4] * 2, looks)
    settings = {"selection": "inner-val", "inner_validation": 0.34, "validate_every": 1, "batch_size": 2}
    result = loso(replace(config, **settings, folds="1,2"))
    for i, (dataset, subject) in enumerate(PEOPLE[:2]):
        state = load_model(fold_folder(result.run, dataset, subject)).state
        assert state["step"] == 2
        assert looks[3 * i] == set(state["inner_validation_people"])
        assert not looks[3 * i] & {f"{dataset}/{subject}", *state["train_people"]}
    assert result.scores["not_reportable"] == ["incomplete: 2 of 4 folds are done (missing: one/s10, two/s1)"]


def test_every_fold_has_a_checkpoint_of_its_own(done: LosoResult) -> None:
    """Published error 5: every fold wrote to the first fold's file name."""
    networks = [load_model(fold_folder(done.run, *who)).model.state_dict() for who in PEOPLE]
    for i, network in enumerate(networks):
        assert not any(torch.equal(network["conv.weight"], other["conv.weight"]) for other in networks[:i])


def test_folders_of_people_with_odd_names_are_never_the_same(tmp_path: Path) -> None:
    """Published error 5."""
    cache = write_cache(tmp_path / "odd", rows_of("one", ["a b", "a_b", "A/B", "ä", "s2"], videos=1))
    folders = [fold.folder for fold in plan_folds(Pool.load([cache.path], "as-labelled"), [0, 1])]
    assert len({folder.lower() for folder in folders}) == len(folders) == 10
    assert all(len(Path(folder).parts) == 3 for folder in folders)


def test_the_published_normalisation_is_named_in_the_scores(config: LosoConfig) -> None:
    """Published error 7, by its name."""
    result = loso(replace(config, folds=["1"], normalisation="released-subject"))
    assert any("normalisation released-subject" in note for note in result.scores["notes"])
    assert result.scores["normalisation"] == "released-subject"


def test_a_run_holds_no_pickle(done: LosoResult) -> None:
    """Published error 9: loading a pickle runs code."""
    files = [path for path in done.run.rglob("*") if path.is_file()]
    kinds = {path.suffix or path.name for path in files if "tfevents" not in path.name}
    assert kinds == {".yaml", ".json", ".csv", ".tex", ".safetensors"}
    for path in files:
        start = path.read_bytes()[:4]
        assert start[:1] != b"\x80", path  # a pickle's first byte
        assert start != b"PK\x03\x04", path  # torch.save's container


# What a run leaves


def test_a_run_folder_explains_itself(done: LosoResult) -> None:
    run = done.run
    assert yaml.safe_load((run / "loso.yaml").read_text())["protocol"] == "as-labelled"
    assert read_json(run / "environment.json")["versions"]["torch"] == torch.__version__
    head = read_json(run / "folds.json")
    assert head["classes"] == list(EMOTIONS)
    assert [fold["subject"] for fold in head["folds"]] == ["s1", "s2", "s10", "s1"]
    assert [len(cache["fingerprint"]) for cache in head["caches"]] == [64, 64]
    assert head["counts"]["two"] == dict.fromkeys(EMOTIONS, 1)
    fold = fold_folder(run, "two", "s1")
    for name in ("config.yaml", "environment.json", "log.csv", "predictions.csv", "fold.json"):
        assert (fold / name).is_file()
    assert list((fold / "tensorboard").glob("events*"))
    assert not list(run.rglob("*.tmp*"))


def test_the_plan_of_an_earlier_version_lacks_the_newest_entries(done: LosoResult, tmp_path: Path) -> None:
    head = read_json(done.run / "folds.json")
    for name in ("ablation", "starting_weights"):
        del head[name]
    (tmp_path / "folds.json").write_text(json.dumps(head))
    assert read_plan(tmp_path) == read_plan(done.run)


def test_a_fold_is_what_mol_train_makes_of_its_configuration(done: LosoResult, tmp_path: Path) -> None:
    fold = fold_folder(done.run, "one", "s2")
    config = read_config(TrainConfig, ["--config", str(fold / "config.yaml")], "mol train")
    alone = train(replace(config, run=str(tmp_path / "alone")))
    expected, found = (load_model(folder).model.state_dict() for folder in (fold, alone.run))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_only_the_weights_of_the_chosen_checkpoint_stay(config: LosoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    result = loso(replace(config, folds=["1"], selection="test-peek", validate_every=1))
    assert names_of_checkpoints(result.run) == {"best": {"state.json", "weights.safetensors"}}
    result = loso(replace(config, folds=["1"], run=config.run + "-last"))
    assert names_of_checkpoints(result.run) == {"last": {"state.json", "weights.safetensors"}}
    assert load_model(fold_folder(result.run, "one", "s1")).state["step"] == 3
    result = loso(replace(config, folds=["1"], run=config.run + "-none", keep_checkpoints=False))
    assert not (fold_folder(result.run, "one", "s1") / "checkpoints").exists()
    assert read_json(fold_folder(result.run, "one", "s1") / "fold.json")["checkpoint"] is None
    assert loso(replace(config, folds=["1"], run=config.run + "-none", keep_checkpoints=False, resume=True)).done == 1


def names_of_checkpoints(run: Path) -> dict[str, set[str]]:
    folder = fold_folder(run, "one", "s1") / "checkpoints"
    return {checkpoint.name: {path.name for path in checkpoint.iterdir()} for checkpoint in folder.iterdir()}


def test_a_process_killed_before_it_tidied_up_is_tidied_up_after(config: LosoConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mol.loso.run, "tidy", lambda *_: None)
        result = loso(replace(config, folds=["1"]))
    assert (fold_folder(result.run, "one", "s1") / "checkpoints" / "last" / OPTIMIZER).is_file()
    loso(replace(config, folds=["1"], resume=True))
    assert names_of_checkpoints(result.run) == {"last": {"state.json", "weights.safetensors"}}


def test_the_share_of_time_spent_on_batches_is_measured(done: LosoResult) -> None:
    fold = read_json(fold_folder(done.run, "one", "s1") / "fold.json")
    timing = fold["timing"]
    assert timing["steps"] == 3
    assert 0 < timing["data_seconds"] < timing["seconds"] < fold["seconds"]
    assert timing["busy_share"] == pytest.approx(1 - timing["data_seconds"] / timing["seconds"])
    assert 0 < (done.busy_share or 0) < 1


def test_one_line_a_fold_and_a_table_at_the_end(config: LosoConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run_loso(replace(config, folds=["one/s2", "4"]))
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "videos right" in line]
    assert len(lines) == 2
    assert lines[0].startswith("2/4  one/s2: ")
    assert "left" in lines[0]
    assert lines[1].startswith("4/4  two/s1: ")
    assert "over 6 videos" in lines[1]
    for part in (
        "4 people, 12 videos, 20 clips of one, two",
        "UF1",
        "composite",
        "incomplete: 2 of 4 folds",
        "batches",
    ):
        assert part in output
    assert "training" not in output


# Stopping, going on, sharing


def test_the_same_seed_gives_the_same_tables_byte_for_byte(config: LosoConfig, done: LosoResult) -> None:
    torch.manual_seed(99)  # whatever ran before
    assert contents(loso(config).run) == contents(done.run)


def test_an_interrupted_run_goes_on_to_the_same_tables(
    config: LosoConfig, done: LosoResult, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = iter(range(1000))
    real = mol.training.train.learning_rate

    def rate(settings: TrainConfig, step: int) -> float:
        if next(calls) == 4:  # the second step of the second fold
            os.kill(os.getpid(), signal.SIGINT)
        return real(settings, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mol.training.train, "learning_rate", rate)
        with pytest.raises(TrainingInterrupted):
            loso(config)
    assert f"mol loso --config {config.run}/loso.yaml --resume" in capsys.readouterr().out
    assert len(table(Path(config.run) / "predictions.csv")) == 3
    scores = read_json(Path(config.run) / "scores.json")
    assert (scores["reportable"], scores["notes"]) == (
        False,
        ["incomplete: 1 of 4 folds are done (missing: one/s2, one/s10, two/s1)"],
    )
    resumed = read_config(LosoConfig, resume_command(config).split()[2:], "mol loso")
    assert contents(loso(resumed).run) == contents(done.run)


@pytest.mark.parametrize(
    ("module", "broken", "call"),
    [
        (mol.loso.train_fold, "load_model", 2),
        (mol.loso.train_fold, "write_predictions", 2),
        (mol.loso.train_fold, "write_json", 3),  # each fold writes fold.json, then the list of its checkpoint's files
        (mol.loso.progress, "write_tables", 2),
    ],
    ids=["model", "predictions", "fold", "tables"],
)
def test_a_run_that_broke_off_between_training_and_tables_goes_on_to_the_same_tables(
    config: LosoConfig, half: LosoResult, module: Any, broken: str, call: int
) -> None:
    class PowerCutError(Exception):
        pass

    calls = iter(range(1, 1000))
    real = getattr(module, broken)

    def breaking(*arguments: Any) -> Any:
        if next(calls) == call:
            raise PowerCutError
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, broken, breaking)
        with pytest.raises(PowerCutError):
            loso(replace(config, folds="1,2"))
    assert contents(loso(replace(config, folds="1,2", resume=True)).run) == contents(half.run)


def test_a_killed_process_leaves_nothing_half_done(config: LosoConfig, half: LosoResult) -> None:
    """SIGKILL, once when a fold begins to train and once when the next has just saved a checkpoint."""
    program = f"""
        import mol.networks.mol
        from mol.loso.run import loso
        from mol.loso.settings import LosoConfig
        from tiny_model import TinyMOL
        mol.networks.mol.MOL = TinyMOL
        loso(LosoConfig(
            caches={config.caches!r}, protocol="as-labelled", run={config.run!r}, steps=3, batch_size=4,
            checkpoint_every=2, learning_rate=3e-3, schedule="constant", device="cpu", resume=True, folds="1,2"))
    """
    for moment in ("one-s1/log.csv", "one-s2/checkpoints/last/state.json"):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdout=subprocess.DEVNULL,
            env=environment(OMP_NUM_THREADS=str(torch.get_num_threads())),
        )
        reached = Path(config.run) / "folds" / "seed0" / moment
        deadline = time.monotonic() + 120
        while not reached.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert reached.is_file()
    assert contents(loso(replace(config, resume=True, folds="1,2")).run) == contents(half.run)


def test_processes_that_share_a_run_add_up_to_it(config: LosoConfig, done: LosoResult) -> None:
    loso(replace(config, folds="4,one/s2", resume=True))
    result = loso(replace(config, folds=["1", "3"], resume=True))
    assert (result.done, result.total) == (4, 4)
    assert contents(result.run) == contents(done.run)


def test_a_fold_in_another_process_is_left_to_it(config: LosoConfig, capsys: pytest.CaptureFixture[str]) -> None:
    held = fold_folder(config.run, "one", "s2")
    program = f"""
        import sys
        from pathlib import Path
        from mol.loso.sharing import locked
        with locked(Path({str(held)!r}), wait=False) as ours:
            print(ours, flush=True)
            sys.stdin.readline()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    result = loso(replace(config, folds=["1", "2"]))
    assert result.done == 1
    said = capsys.readouterr().out
    assert f"2/4  one/s2: process {process.pid} on {socket.gethostname()} (mol loso, since " in said
    process.kill()  # the lock goes with its process
    process.wait()
    assert loso(replace(config, folds=["2"], resume=True)).done == 2


def test_what_is_done_is_not_done_again(config: LosoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    loso(replace(config, folds=["1"]))
    monkeypatch.setattr(mol.loso.run, "train_and_test", lambda *_: pytest.fail("trained again"))
    result = loso(replace(config, folds=["1"], resume=True))
    assert (result.done, result.busy_share) == (1, None)


def test_a_damaged_fold_is_named_and_run_again_once_its_folder_is_deleted(config: LosoConfig) -> None:
    before = loso(replace(config, folds=["1"]))
    tables = contents(before.run)
    folder = fold_folder(config.run, "one", "s1")
    path = folder / "predictions.csv"
    path.write_text(path.read_text()[:-40].rsplit("\n", 1)[0] + "\n")
    with pytest.raises(DataError, match=r"one-s1/predictions\.csv has 2 videos, fold\.json says 3; ") as error:
        loso(replace(config, folds=["1"], resume=True))
    assert f"delete the folder {folder} and run mol loso with --resume" in str(error.value)
    shutil.rmtree(folder)
    assert contents(loso(replace(config, folds=["1"], resume=True)).run) == tables


# What is refused


def test_a_run_folder_is_not_overwritten_and_other_settings_are_shown(config: LosoConfig) -> None:
    loso(replace(config, folds=["1"]))
    before = contents(config.run)
    with pytest.raises(SettingsError, match="already holds a run; resume it with --resume"):
        loso(config)
    changes = {"steps": 4, "seeds": [1], "balanced": True, "ablation": "no-flow-loss"}
    with pytest.raises(SettingsError, match="was started with different settings") as error:
        loso(replace(config, **changes, resume=True))
    for part in (
        "steps: 3 → 4",
        "seeds: [0] → [1]",
        "loss.w_of: 20",
        "balanced: false → true",
        'null → "no-flow-loss"',
    ):
        assert part in str(error.value)
    assert contents(config.run) == before


def test_other_data_is_refused(config: LosoConfig, tmp_path: Path) -> None:
    loso(replace(config, folds=["1"]))
    two = write_cache(tmp_path / "two", rows_of("two", ["s1"]), seed=2)
    with pytest.raises(SettingsError, match=r"the content of .*two has changed"):
        loso(replace(config, caches=[config.caches[0], str(two.path)], resume=True))
    with pytest.raises(SettingsError, match="number of caches: 2 → 1"):
        loso(replace(config, caches=config.caches[:1], resume=True))


def test_the_run_of_another_command_is_refused(config: LosoConfig) -> None:
    Path(config.run).mkdir()
    (Path(config.run) / "config.yaml").write_text("steps: 1\n")
    with pytest.raises(SettingsError, match="holds a run of mol train"):
        loso(config)


def megc(tmp_path: Path, **changes: Any) -> LosoConfig:
    """Two people of CASME II by name, with far too few videos."""
    cache = write_cache(tmp_path / "casme2", rows_of("casme2", ["sub01", "sub02"]))
    settings = {"protocol": "megc2019", "steps": 1, "batch_size": 2, "device": "cpu", "run": str(tmp_path / "run")}
    return LosoConfig(caches=[str(cache.path)], **settings | changes)


def test_partial_data_is_refused_or_noted(tmp_path: Path) -> None:
    config = megc(tmp_path, sets=["casme2"])
    with pytest.raises(DataError, match="casme2 negative: 88 clips expected, 2 found"):
        loso(config)
    assert not Path(config.run).exists()
    scores = loso(replace(config, counts="warn")).scores
    assert scores["reportable"] is False
    assert any("casme2 negative: 88 clips expected, 2 found" in note for note in scores["notes"])
    assert any("without samm, smic" in note for note in scores["notes"])
    assert scores["classes"] == ["negative", "positive", "surprise"]


def test_sets_of_the_protocol_without_a_cache_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no cache holds samm, smic; .* --sets '\[\"casme2\"\]'"):
        loso(megc(tmp_path, counts="warn"))


def test_caches_of_sets_that_are_not_meant_are_refused(config: LosoConfig) -> None:
    with pytest.raises(SettingsError, match="the caches hold two, which --sets does not name"):
        loso(replace(config, sets=["one"]))


@pytest.mark.parametrize(
    "made", [{"kind": "synthetic"}, {"settings": {"synthetic": True}}], ids=["rendered", "extracted from a layout"]
)
def test_synthetic_clips_give_no_reportable_scores(tmp_path: Path, made: dict[str, Any]) -> None:
    cache = write_cache(tmp_path / "synth", rows_of("synth", ["s1", "s2"]), **made)
    config = LosoConfig(
        caches=[str(cache.path)],
        protocol="as-labelled",
        run=str(tmp_path / "run"),
        steps=1,
        batch_size=2,
        device="cpu",
    )
    scores = loso(config).scores
    assert scores["reportable"] is False
    assert "not recognition results" in scores["notes"][0]


def test_one_person_cannot_be_left_out(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "one", rows_of("one", ["s1"]))
    with pytest.raises(SettingsError, match="holds 1 person"):
        plan_folds(Pool.load([cache.path], "as-labelled"), [0])


def test_folds_are_chosen_by_name_number_or_range(done: LosoResult) -> None:
    plan = plan_of(done)

    def chosen(*names: str) -> list[str]:
        return [fold.person for fold in choose_folds(plan, list(names))]

    assert [fold.person for fold in choose_folds(plan, None)] == FOLDS
    assert chosen("s1") == ["one/s1", "two/s1"]
    assert chosen("two/s1", "2") == ["one/s2", "two/s1"]
    assert chosen("2-9") == FOLDS[1:]
    for name in ("s9", "5", "0", "002"):
        with pytest.raises(SettingsError, match=f"no fold '{name}'; there are 4 people: 1 one/s1"):
            chosen(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds="),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"selection": "test-peek"}, "needs validate_every > 0"),
        ({"selection": "inner-val"}, "needs inner_validation > 0"),
        ({"ablation": "no-fc"}, "did you mean no-fcc"),
        ({"counts": "no"}, "counts='no'"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(
    config: LosoConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(config, **changes)


def test_a_training_that_diverges_names_its_fold(config: LosoConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mol.training.train, "learning_rate", lambda *_: 1e30)
        with pytest.raises(SettingsError, match="fold one/s1, seed 0: training diverged"):
            loso(config)


@pytest.mark.parametrize("written", ["006,2", "['006', 2]", "[006,2]", "[samm/006,2-2]"])
def test_numbers_that_are_names_keep_their_zeros_on_the_command_line(written: str) -> None:
    plan = [Fold(i, 0, "samm", f"{subject:03}", "") for i, subject in enumerate((7, 9, 6, 11, 12, 13), 1)]
    config = read_config(LosoConfig, ["--caches", "[a]", "--protocol", "p", "--folds", written], "mol loso")
    assert [fold.subject for fold in choose_folds(plan, config.folds)] == ["009", "006"]


def test_options_of_the_command_line() -> None:
    words = "--caches ['a','b'] --protocol megc2019 --seeds [0,1] --steps 9 --model.k 2 --ablation no-fcc --resume"
    config = read_config(LosoConfig, words.split(), "mol loso")
    assert (config.caches, config.folds, config.seeds) == (["a", "b"], None, [0, 1])
    assert (config.steps, config.model.k, config.model.fcc, config.resume) == (9, 2, False, True)
    assert config.validate_every == 0


def test_the_page_on_the_published_training_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "released-training.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| \d \|", line)]
    assert [row.split("|")[1].strip() for row in rows] == [str(i) for i in range(1, 10)]
    for row in rows:
        named = row.rsplit("|", 2)[1]
        files = re.findall(r"`(test_\w+\.py)`", named)
        text = "".join(path.read_text() for file in files for path in (ROOT / "tests").rglob(file))
        tests = re.findall(r"`(test_\w+)`", named)
        assert tests
        assert all(f"def {test}(" in text for test in tests), named
