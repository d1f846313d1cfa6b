"""Weights to start from: what is taken over, what stays new and is said so, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_cache import write_tiny_cache
from tiny_model import TinyMOL, instead_of_mol

from mol import MOL
from mol.common.errors import CheckpointError, SettingsError
from mol.data.cache import Cache
from mol.loso.run import loso
from mol.loso.settings import LosoConfig
from mol.network.checkpoint import read_state
from mol.networks.registry import NETWORKS, find_network
from mol.networks.trained import load_model
from mol.report.report import ReportConfig, report
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.scoring.evaluation import read_evaluation
from mol.training.resume import TrainingInterrupted
from mol.training.settings import TrainConfig
from mol.training.starting import (
    StartingWeights,
    read_metadata,
    read_starting_weights,
    start_from,
    write_starting_weights,
)
from mol.training.train import train

CLASSES = ["happiness", "surprise", "disgust"]
FACTS = {"network": "apex-difference", "classes": CLASSES, "people": ["else/p1"], "licence": "Give credit."}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("starting") / "cache", people=4, videos=3, marked=True)


@pytest.fixture
def config(cache: Cache, tmp_path: Path) -> TrainConfig:
    """One step so small that the weights stay where they started."""
    return TrainConfig(
        network="apex-difference",
        cache=str(cache.path),
        run=str(tmp_path / "run"),
        held_out=["s4"],
        steps=2,
        batch_size=4,
        learning_rate=1e-12,
        schedule="constant",
        validate_every=0,
        device="cpu",
    )


def network(name: str = "apex-difference", classes: int = 3, seed: int = 5) -> torch.nn.Module:
    torch.manual_seed(seed)
    return find_network(name).rebuild(num_classes=classes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Starting weights of the apex-difference network."""
    path = tmp_path / "start.safetensors"
    write_starting_weights(path, network(), FACTS)
    return path


def trained_weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "checkpoints" / "last" / "weights.safetensors")


def parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in module.named_parameters()}


# The file


def test_a_file_gives_back_weights_and_what_it_says_of_them(file: Path) -> None:
    start = read_starting_weights(file)
    assert (start.network, start.classes, start.people) == ("apex-difference", CLASSES, ["else/p1"])
    assert start.model == network().config
    for name, value in network().state_dict().items():
        assert torch.equal(start.tensors[name], value)
    known = read_metadata(file)
    assert known["licence"] == "Give credit."
    assert known["classes"] == CLASSES


def test_the_metadata_can_be_read_without_this_program(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        texts = opened.metadata()
    assert texts["network"] == "apex-difference"
    assert json.loads(texts["classes"]) == CLASSES


# What is taken over


def test_a_run_starts_from_the_weights(config: TrainConfig, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(replace(config, init=str(file)))
    ours = trained_weights(config.run)
    for name, value in parameters(network()).items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-8, msg=name)
    start = read_starting_weights(file)
    state = read_state(result.checkpoint)
    assert state["starting_weights"] == start.facts([])
    assert state["config"]["init"] == str(file)
    out = capsys.readouterr().out
    assert f"starting weights: start.safetensors (fingerprint {start.fingerprint[:16]})\n" in out


def test_a_run_without_starting_weights_is_what_it_was(config: TrainConfig) -> None:
    result = train(config)
    assert read_state(result.checkpoint)["starting_weights"] is None


@pytest.mark.parametrize("other", [["happiness", "surprise"], ["a", "b", "c"], ["surprise", "happiness", "disgust"]])
def test_with_other_classes_the_last_layer_is_new_and_said_so(
    config: TrainConfig, tmp_path: Path, other: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.safetensors"
    write_starting_weights(file, network(classes=len(other)), {**FACTS, "classes": other})
    train(config)
    fresh = trained_weights(config.run)
    shutil.rmtree(config.run)
    train(replace(config, init=str(file)))
    ours, theirs = trained_weights(config.run), parameters(network(classes=len(other)))
    for name in ("classes.weight", "classes.bias"):
        torch.testing.assert_close(ours[name], fresh[name], rtol=0, atol=1e-8)
    for name in theirs.keys() - {"classes.weight", "classes.bias"}:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-8, msg=name)
    out = capsys.readouterr().out
    assert f"it knows the classes {', '.join(other)}, here they are {', '.join(CLASSES)}: the last layer of the" in out
    new = load_model(config.run).state["starting_weights"]["new_parameters"]
    assert new == ["classes.weight", "classes.bias"]


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_last_layer_of_mol_is_that_of_the_emotion_head(variant: str) -> None:
    torch.manual_seed(0)
    trained, module = MOL(6, variant=variant), MOL(3, variant=variant)
    config = {**trained.config, "dropout": 0.1}
    start = StartingWeights(Path("f"), "0", "mol", config, list("abcdef"), [], trained.state_dict())
    before = module.emotion.fc2.weight.clone()
    assert start_from(start, module, NETWORKS["mol"], CLASSES) == ["emotion.fc2.weight", "emotion.fc2.bias"]
    assert torch.equal(module.emotion.fc2.weight, before)
    assert torch.equal(module.emotion.fc1.weight, trained.emotion.fc1.weight)
    assert torch.equal(module.stack[0].weight, trained.stack[0].weight)


def test_a_run_or_checkpoint_folder_can_be_started_from(config: TrainConfig, tmp_path: Path) -> None:
    first = train(replace(config, run=str(tmp_path / "first"), held_out=["s3", "s4"], learning_rate=1e-2))
    for number, folder in enumerate((first.run, first.checkpoint)):
        run = str(tmp_path / f"second{number}")
        train(replace(config, run=run, init=str(folder)))
        ours, theirs = trained_weights(run), trained_weights(str(first.run))
        torch.testing.assert_close(ours["classes.weight"], theirs["classes.weight"], rtol=0, atol=1e-8)
        assert load_model(run).state["starting_weights"]["people"] == ["tiny/s1", "tiny/s2"]
    # Everybody that anything before was trained on is remembered.
    assert read_starting_weights(tmp_path / "second0").people == ["tiny/s1", "tiny/s2", "tiny/s3"]


def test_people_that_the_weights_were_trained_on_cannot_be_held_out(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "seen.safetensors"
    write_starting_weights(file, network(), {**FACTS, "people": ["tiny/s4", "else/p1"]})
    with pytest.raises(SettingsError, match=r"was trained on tiny/s4, who are held out here"):
        train(replace(config, init=str(file)))
    train(replace(config, init=str(file), held_out=["s1"]))
    with pytest.raises(SettingsError, match="trained on"):
        evaluate(EvaluateConfig(weights=config.run, people=["s4"], pictures=False, device="cpu"))
    assert evaluate(EvaluateConfig(weights=config.run, pictures=False, device="cpu")).people == ["tiny/s1"]
    with pytest.raises(SettingsError, match="held out here"):
        loso(loso_config(config, tmp_path, file))


def test_evaluation_names_the_starting_weights(config: TrainConfig, file: Path) -> None:
    train(replace(config, init=str(file)))
    evaluate(EvaluateConfig(weights=config.run, pictures=False, device="cpu"))
    found = read_evaluation(Path(config.run) / "evaluation.json")
    assert found.starting_weights == {
        "file": "start.safetensors",
        "fingerprint": read_starting_weights(file).fingerprint,
    }
    assert "started from start.safetensors (fingerprint " in found.note


# Resuming


def test_the_checkpoint_of_a_resumed_run_wins_and_it_says_so(
    config: TrainConfig, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, init=str(file), learning_rate=1e-2)
    train(replace(config, run=config.run + "-whole"))
    stop_after_one_step(monkeypatch)
    with pytest.raises(TrainingInterrupted):
        train(config)
    monkeypatch.undo()
    file.unlink()
    train(replace(config, resume=True))
    assert f"the starting weights {file} are not read again" in capsys.readouterr().out
    ours, whole = trained_weights(config.run), trained_weights(config.run + "-whole")
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
    assert load_model(config.run).state["starting_weights"]["file"] == "start.safetensors"


def test_a_run_cannot_get_other_starting_weights_afterwards(config: TrainConfig, file: Path) -> None:
    train(config)
    with pytest.raises(SettingsError, match=r"different settings \(init: null → \".*start.safetensors\"\)"):
        train(replace(config, init=str(file), resume=True))
    with pytest.raises(SettingsError, match="already holds a run"):
        train(replace(config, init=str(file)))


def stop_after_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mol.training.resume.StopSignal.__enter__", lambda self: _requested(self))


def _requested(stop):
    stop.requested = "SIGINT"
    return stop


# Leave one subject out


def loso_config(config: TrainConfig, tmp_path: Path, file: Path | None) -> LosoConfig:
    return LosoConfig(
        network=config.network,
        caches=[str(config.cache)],
        protocol="as-labelled",
        run=str(tmp_path / "loso"),
        steps=2,
        batch_size=4,
        learning_rate=1e-12,
        schedule="constant",
        init=None if file is None else str(file),
        device="cpu",
    )


def test_every_fold_starts_from_the_weights_and_the_report_says_so(
    config: TrainConfig, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = loso(loso_config(config, tmp_path, file))
    start = read_starting_weights(file)
    assert f"every fold begins with the starting weights {start.name}" in capsys.readouterr().out
    assert result.done == 4
    for person in range(1, 5):
        ours = trained_weights(str(result.run / f"folds/seed0/tiny-s{person}"))
        assert (ours["convolutions.0.weight"] - start.tensors["convolutions.0.weight"]).abs().max() < 1e-8
    assert f"every fold started from {start.name}" in result.scores["notes"]
    page = report(ReportConfig(runs=[str(result.run)], failures=1)).read_text(encoding="utf-8")
    assert start.name in page


def test_a_shared_run_refuses_starting_weights_whose_content_is_another(
    config: TrainConfig, tmp_path: Path, file: Path
) -> None:
    first = replace(loso_config(config, tmp_path, file), folds="1")
    loso(first)
    moved = tmp_path / "moved" / "start.safetensors"
    moved.parent.mkdir()
    file.rename(moved)
    loso(replace(first, init=str(moved), folds="2", resume=True))
    write_starting_weights(moved, network(seed=6), FACTS)
    with pytest.raises(SettingsError, match=r"starting weights: start.safetensors \(fingerprint \w+\) → start.safe"):
        loso(replace(first, init=str(moved), folds="3", resume=True))
    with pytest.raises(SettingsError, match=r"starting weights: start.safetensors .* → none"):
        loso(replace(first, init=None, folds="3", resume=True))


# What is refused


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickled(path: Path) -> None:
    torch.save(network().state_dict(), path)


def without_metadata(path: Path) -> None:
    save_file(network().state_dict(), path)


def newer(path: Path) -> None:
    save_file(network().state_dict(), path, metadata={"format": "molkernels starting weights 2"})


def lacking_classes(path: Path) -> None:
    save_file(network().state_dict(), path, metadata={"format": "molkernels starting weights 1", "network": "mol"})


def not_finite(path: Path) -> None:
    module = network()
    torch.nn.init.constant_(module.classes.bias, torch.nan)
    write_starting_weights(path, module, FACTS)


def of_another_network(path: Path) -> None:
    write_starting_weights(path, network("flow-cnn"), {**FACTS, "network": "flow-cnn"})


def with_other_filters(path: Path) -> None:
    write_starting_weights(path, NETWORKS["apex-difference"].rebuild(num_classes=3, filters=(4, 4, 4)), FACTS)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (a_pipe, "is a pipe; give an ordinary file"),
        (damaged, "is damaged .its fingerprint is not the one in its metadata.; copy it again"),
        (halved, "is damaged or not a safetensors file"),
        (pickled, "is a pickle, which can run any code .* MOL.from_released"),
        (without_metadata, "does not say what it holds .*; mol pretrain makes such a file"),
        (newer, "has the format 'molkernels starting weights 2'; .*upgrade"),
        (lacking_classes, "its metadata lacks model, classes, people, fingerprint"),
        (not_finite, "classes.bias has NaN or infinite values"),
        (of_another_network, "weights of the network flow-cnn, not of apex-difference; .*--network flow-cnn"),
        (with_other_filters, r"other settings \(there → here: filters: \[4, 4, 4\] → \[16, 32, 64\]\)"),
        (Path.unlink, "there are no starting weights at .* .No such file"),
    ],
)
def test_files_that_cannot_be_started_from_are_refused_with_a_reason(
    config: TrainConfig, file: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(file)
    with pytest.raises(CheckpointError, match=said):
        train(replace(config, init=str(file)))
    assert not Path(config.run, "checkpoints").exists()


@pytest.mark.parametrize("length", [0x0280, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    """The first bytes of a safetensors file are the length of its header, here those of a pickle."""
    path = tmp_path / "odd.safetensors"
    header = json.dumps({"__metadata__": {"format": "another"}}).ljust(length).encode()
    path.write_bytes(length.to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="does not say what it holds"):
        read_starting_weights(path)


def test_a_pickle_is_refused_by_its_name_too_and_never_opened_as_one(config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "released.pth"
    path.write_bytes(b"anything")
    with pytest.raises(CheckpointError, match="is a pickle, which can run any code"):
        train(replace(config, init=str(path)))


def test_weights_out_of_a_checkpoint_folder_are_refused_with_the_remedy(config: TrainConfig, tmp_path: Path) -> None:
    first = train(replace(config, run=str(tmp_path / "first")))
    with pytest.raises(CheckpointError, match="give the folder that it lies in"):
        train(replace(config, init=str(first.checkpoint / "weights.safetensors")))
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        train(replace(config, init=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"variant": "released"}, 'variant: "released" → "paper"'),
        ({"meeting": "side-by-side"}, 'meeting: "side-by-side" → "normal-flow"'),
        ({"fcc": False}, "fcc: false → true"),
        ({"graph": "position"}, 'graph: "position" → "channel"'),
    ],
)
def test_mol_of_another_variant_or_meeting_is_refused_and_left_alone(changes: dict, named: str) -> None:
    with torch.device("meta"):
        module, other = MOL(3), MOL(3, **changes)
    start = StartingWeights(Path("f"), "0", "mol", other.config, CLASSES, [], other.state_dict())
    with pytest.raises(CheckpointError) as caught:
        start_from(start, module, NETWORKS["mol"], CLASSES)
    assert named in str(caught.value)


def test_the_tiny_network_in_place_of_mol_takes_over_flow_and_landmarks_too(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_mol(monkeypatch)
    config = replace(config, network="mol", learning_rate=1e-12)
    first = train(replace(config, run=str(tmp_path / "first"), learning_rate=1e-2))
    train(replace(config, init=str(first.run)))
    ours, theirs = trained_weights(config.run), trained_weights(str(first.run))
    assert isinstance(load_model(config.run).model, TinyMOL)
    for name in ("landmarks.weight", "flow.weight", "emotion.weight"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-7)
