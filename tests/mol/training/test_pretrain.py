"""`mol pretrain`: clips rendered while training, one file at the end, and trainings that start from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from places import environment
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache
from tiny_model import TinyMOLWithUnits, instead_of_mol

from mol.arguments import read_config
from mol.cli import main
from mol.common.errors import CacheError, CheckpointError, InUseError, SettingsError
from mol.common.locks import lock
from mol.data.cache import Cache
from mol.networks.trained import load_model
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.synth.clip_plan import SynthSettings
from mol.training.pretrain import PretrainConfig, pretrain
from mol.training.resume import TrainingInterrupted
from mol.training.settings import TrainConfig, save_config
from mol.training.starting import read_metadata, read_starting_weights
from mol.training.train import train

SYNTH = SynthSettings(
    sources=("astronaut", "grace_hopper"), clips=4, emotions=("happiness", "surprise"), amplitude=(1.0, 3.0), seed=1
)


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    """Three steps on one person; the other one is held out."""
    return PretrainConfig(
        network="apex-difference",
        run=str(tmp_path / "run"),
        synth=SYNTH,
        held_out=["grace_hopper"],
        steps=3,
        batch_size=2,
        log_every=1,
        validate_every=0,
        workers=1,
        ahead=1,
        device="cpu",
        precision="32",
        channels_last=False,
    )


def mol(*parts: str) -> int:
    """Run a command as it is typed."""
    return main(" ".join(parts).split())


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "checkpoints" / "last" / "weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def requested(stop):
        stop.requested = "SIGINT"
        return stop

    monkeypatch.setattr("mol.training.resume.StopSignal.__enter__", requested)


# From clips to a file, and from the file to another training


def test_action_units_are_learned_from_clips_that_are_rendered(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_mol(monkeypatch, TinyMOLWithUnits)
    settings = {"synth": config.synth, "run": config.run, "held_out": config.held_out, "steps": 3, "batch_size": 2}
    own = PretrainConfig(**settings, action_units="auto", flow_pairs=4, tvl1_pairs=0, validate_every=0, device="cpu")
    result = pretrain(own)
    start = read_starting_weights(result.weights)
    # Those of happiness and surprise: each is in at least one of their three sets.
    assert start.model["action_units"] == [1, 2, 5, 6, 12, 25, 26]
    assert result.evaluation.action_units is not None
    assert [one.unit for one in result.evaluation.action_units.units] == [1, 2, 5, 6, 12, 25, 26]


def test_from_nothing_to_a_file_and_from_the_file_to_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two commands, as they are typed."""
    monkeypatch.chdir(tmp_path)
    cache = write_tiny_cache(tmp_path / "cache", people=3, marked=True)
    made = mol(
        "pretrain --network apex-difference --steps 3 --batch-size 4 --validate-every 2 --held-out [astronaut]",
        "--synth.sources [astronaut,grace_hopper] --synth.clips 4 --workers 1 --device cpu --out start.safetensors",
    )
    assert made == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "new clips of 1 people to train on, 1 people held out; 3 steps of 4 clips on cpu" in out
    assert "the network computed for " in out
    start = read_starting_weights("start.safetensors")
    assert f"starting weights: {start.name}, start.safetensors" in out
    assert "next: mol loso CACHE --protocol PROTOCOL --init start.safetensors" in out
    used = mol(
        f"train --network apex-difference --cache {cache.path} --held-out [s3] --steps 2 --batch-size 2 --run tuned",
        "--validate-every 0 --device cpu --init start.safetensors",
    )
    assert used == 0
    out = capsys.readouterr().out
    assert "it knows the classes happiness, surprise, disgust, repression, sadness, others, here they are" in out
    state = load_model("tuned").state
    assert state["starting_weights"]["file"] == "start.safetensors"
    assert state["starting_weights"]["fingerprint"] == start.fingerprint


def test_the_file_says_what_it_holds_how_it_was_made_and_what_it_reaches(config: PretrainConfig) -> None:
    result = pretrain(replace(config, tvl1_pairs=0))
    assert result.weights == Path(config.run) / "apex-difference.safetensors"
    known = read_metadata(result.weights)
    assert known["network"] == "apex-difference"
    assert known["model"] == load_model(config.run).model.config
    assert known["classes"] == ["happiness", "surprise"]
    assert known["people"] == ["synthetic/astronaut"]
    assert known["held_out_people"] == ["synthetic/grace_hopper"]
    recipe = known["recipe"]
    assert (recipe["seed"], recipe["steps"]) == (0, 3)
    assert recipe["clips"]["amplitude"] == [1.0, 3.0]
    assert recipe["training"]["batch_size"] == 2
    assert recipe["training"]["learning_rate"] == 2e-3
    assert not {"run", "out", "device", "workers"} & recipe["training"].keys()
    assert known["versions"]["torch"] == torch.__version__
    assert "Apache-2.0" in known["licence"]
    assert "NASA" in known["licence"]
    accuracy = next(score for score in known["scores"]["scores"] if score["score"] == "Accuracy")
    assert accuracy["ours"] == result.evaluation.recognition.accuracy
    assert (accuracy["baseline"], accuracy["rival"]) == (0.5, "always happiness")
    assert known["scores"]["videos"] == 4
    start = read_starting_weights(result.weights)
    assert same(dict(start.tensors), weights(config.run))


def test_the_credit_that_the_database_asks_for_is_in_the_licence_note() -> None:
    from mol.synth.faces import SOURCES, TERMS

    assert tuple(TERMS) == SOURCES
    assert "please give credit to AT&T Laboratories Cambridge" in TERMS["orl"]


def test_flow_and_landmarks_are_scored_beside_their_baselines(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_mol(monkeypatch)
    changes = {"network": "mol", "validate_every": 2, "tvl1_pairs": 2, "learning_rate": 1e-4}
    result = pretrain(replace(config, **changes))
    scores = {score["score"]: score for score in read_metadata(result.weights)["scores"]["scores"]}
    assert {"EPE", "EPE, 2 pairs", "NME", "Accuracy", "UF1"} <= scores.keys()
    assert scores["EPE"]["rival"] == "zero flow"
    assert scores["NME"]["rival"] == "mean shape"
    assert 0 < scores["NME"]["baseline"] < 30
    log = (Path(config.run) / "log.csv").read_text()
    assert log.count("held_out") == 2


def test_people_held_out_are_never_rendered_for_training(config: PretrainConfig) -> None:
    pretrain(config)
    held_out = Cache.open(Path(config.run) / "held-out")
    assert held_out.subjects == ["grace_hopper"]
    assert len(held_out) == 4
    state = load_model(config.run).state
    assert state["train_people"] == ["synthetic/astronaut"]
    assert state["held_out_people"] == ["synthetic/grace_hopper"]
    assert state["training_videos"] == [1, 1]


def test_a_run_of_pretrain_can_be_evaluated_again(config: PretrainConfig) -> None:
    result = pretrain(config)
    again = evaluate(EvaluateConfig(weights=config.run, tvl1_pairs=0, pictures=False, device="cpu"))
    assert again.recognition == result.evaluation.recognition


def test_weights_are_the_same_however_many_workers_render(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(config)
    pretrain(replace(config, run=str(tmp_path / "other"), workers=2, ahead=4))
    assert same(weights(config.run), weights(str(tmp_path / "other")))
    files = [
        read_starting_weights(run / "apex-difference.safetensors") for run in (Path(config.run), tmp_path / "other")
    ]
    assert files[0].fingerprint == files[1].fingerprint


def test_a_pretraining_can_start_from_weights_too_and_remembers_their_people(
    config: PretrainConfig, tmp_path: Path
) -> None:
    first = pretrain(config)
    with pytest.raises(SettingsError, match="held out here"):
        pretrain(replace(config, run=str(tmp_path / "swapped"), held_out=["astronaut"], init=str(first.weights)))
    second = pretrain(replace(config, run=str(tmp_path / "second"), init=str(first.weights), seed=1))
    assert read_metadata(second.weights)["recipe"]["starting_weights"]["file"] == "apex-difference.safetensors"
    assert read_starting_weights(second.weights).people == ["synthetic/astronaut"]


# Interrupted and resumed


def test_a_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(replace(config, run=str(tmp_path / "whole")))
    stop_at_the_next_step(monkeypatch)
    with pytest.raises(TrainingInterrupted) as stopped:
        pretrain(config)
    monkeypatch.undo()
    assert stopped.value.step == 1
    assert not config.weights.exists()
    command = f"mol pretrain --config {config.run}/pretrain.yaml --resume"
    assert stopped.value.command == command
    resumed = read_config(PretrainConfig, command.split()[2:], "mol pretrain")
    assert resumed == replace(config, resume=True)
    pretrain(replace(resumed, workers=2))
    assert same(weights(config.run), weights(str(tmp_path / "whole")))
    assert config.weights.exists()


def test_a_finished_run_resumed_writes_its_file_again(config: PretrainConfig) -> None:
    result = pretrain(config)
    before = read_starting_weights(result.weights).fingerprint
    result.weights.unlink()
    again = pretrain(replace(config, resume=True))
    assert read_starting_weights(again.weights).fingerprint == before
    assert again.timing.steps == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_ctrl_c_saves_and_says_how_to_go_on(config: PretrainConfig, tmp_path: Path) -> None:
    settings = replace(config, steps=100000, workers=2)
    path = tmp_path / "settings.yaml"
    save_config(settings, path)
    command = [sys.executable, "-m", "mol", "pretrain", "--config", str(path)]
    log = Path(config.run) / "log.csv"
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") > 3):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    assert f"mol pretrain --config {config.run}/pretrain.yaml --resume" in " ".join(out.split())
    assert load_model(config.run).state["step"] >= 3


# What is refused


def test_a_run_or_file_that_is_there_is_not_overwritten(config: PretrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_text("mine")
    with pytest.raises(SettingsError, match=r"mine.safetensors already exists; .* another --out"):
        pretrain(replace(config, out=str(out)))
    assert out.read_text() == "mine"
    pretrain(config)
    with pytest.raises(SettingsError, match="already holds a run"):
        pretrain(config)


def test_a_run_resumed_with_other_clips_or_people_is_refused(config: PretrainConfig) -> None:
    pretrain(config)
    changed = replace(config, synth=replace(SYNTH, noise=2.0), resume=True)
    with pytest.raises(SettingsError, match=r"different settings \(synth.noise: 1.5 → 2.0\)"):
        pretrain(changed)
    with pytest.raises(SettingsError, match="held_out"):
        pretrain(replace(config, held_out=["astronaut"], resume=True))
    with pytest.raises(SettingsError, match="different settings"):
        train(TrainConfig(cache="c", network=config.network, run=config.run, resume=True))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"balanced": True}, "no setting balanced: every clip is new"),
        ({"normalisation": "released-subject", "network": "mol"}, "no setting normalisation"),
        ({"inner_validation": 0.2}, "no setting inner_validation"),
        ({"workers": -1}, "workers=-1 must not be negative"),
        ({"ahead": 0}, "ahead=0 must be"),
        ({"synth": replace(SYNTH, frames=9)}, r"synth.frames=9.*must be 8"),
        ({"synth": replace(SYNTH, size=100, amplitude=(1.0, 2.0))}, "synth.size=100.*at least 128"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: PretrainConfig, changes: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"held_out": ["nobody"]}, "no person 'nobody'"),
        ({"held_out": ["astronaut", "grace_hopper"]}, "the training part of the split is empty"),
        ({"init": "nowhere.safetensors"}, "there are no starting weights at nowhere.safetensors"),
    ],
)
def test_people_and_weights_that_are_not_there_are_named(config: PretrainConfig, changes: dict, said: str) -> None:
    with pytest.raises((SettingsError, CheckpointError), match=said):
        pretrain(replace(config, **changes))


def test_clips_of_people_held_out_that_are_of_another_run_are_named(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(config)
    (tmp_path / "other").mkdir()
    (Path(config.run) / "held-out").rename(tmp_path / "other" / "held-out")
    with pytest.raises(CacheError, match=r"synth|noise|settings"):
        pretrain(replace(config, run=str(tmp_path / "other"), synth=replace(SYNTH, noise=2.0)))


def test_a_configuration_comes_back_from_its_file(config: PretrainConfig) -> None:
    pretrain(config)
    path = Path(config.run) / "pretrain.yaml"
    assert read_config(PretrainConfig, ["--config", str(path)], "mol pretrain") == config
    assert yaml.safe_load(path.read_text())["synth"]["emotions"] == ["happiness", "surprise"]
    changed = read_config(PretrainConfig, ["--config", str(path), "--synth.noise", "0.5"], "mol pretrain")
    assert changed.synth == replace(SYNTH, noise=0.5)


@pytest.mark.slow
def test_mol_itself_is_trained_and_started_from(config: PretrainConfig, tmp_path: Path) -> None:
    settings = {"network": "mol", "steps": 2, "tvl1_pairs": 0, "flow_pairs": 2, "learning_rate": 1e-4}
    result = pretrain(replace(config, **settings))
    cache = write_tiny_cache(tmp_path / "cache", people=2)
    run = str(tmp_path / "tuned")
    common = {"held_out": ["s2"], "steps": 1, "batch_size": 2, "validate_every": 0, "device": "cpu"}
    train(TrainConfig(cache=str(cache.path), run=run, init=str(result.weights), learning_rate=1e-12, **common))
    ours, theirs = weights(run), read_starting_weights(result.weights).tensors
    new = load_model(run).state["starting_weights"]["new_parameters"]
    assert new == ["emotion.fc2.weight", "emotion.fc2.bias"]
    for name in ("stack.0.weight", "flow.predict0.weight", "landmarks.fc2.bias", "emotion.fc1.weight"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6, msg=name)
    with safe_open(result.weights, framework="pt") as file:
        assert file.metadata()["network"] == "mol"


def test_a_run_folder_is_for_one_process(config: PretrainConfig) -> None:
    with lock(Path(config.run) / ".lock", "mol pretrain"), pytest.raises(InUseError, match="choose another --run"):
        pretrain(config)
