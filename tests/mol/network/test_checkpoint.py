"""Checkpoints: whole or not at all, no pickle, and every way in which one can be wrong."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import TinyMOL

import mol.network.checkpoint
from mol.common.errors import CheckpointError, StorageError
from mol.network.checkpoint import (
    find_checkpoint,
    finish_replacing,
    load_checkpoint,
    read_state,
    read_tensors,
    save_checkpoint,
)

STATE = {"classes": ["a", "b", "c"], "mean_shape": [[0.0, 0.0]] * 68, "step": 3, "seed": 0}


def trained(seed: int = 0) -> tuple[TinyMOL, torch.optim.AdamW]:
    """A model after one step of AdamW, so that there are moments to save."""
    torch.manual_seed(seed)
    model = TinyMOL()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    output = model(torch.randn(2, 1, 8, 128, 128))
    sum(part.square().mean() for part in output).backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoints" / "last"
    save_checkpoint(folder, *trained(), STATE)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewrite_state(folder: Path, **changes: object) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write other weights with a checksum that fits, as somebody would who edits a checkpoint."""
    save_file(tensors, folder / "weights.safetensors")
    fingerprint = mol.network.checkpoint._fingerprint(folder / "weights.safetensors")
    files = json.loads((folder / "state.json").read_text())["files"]
    rewrite_state(folder, files={**files, "weights.safetensors": fingerprint})


def test_weights_and_optimizer_come_back_bit_for_bit(saved: Path) -> None:
    model, optimizer = trained()
    other, moments = trained(seed=1)
    state = load_checkpoint(saved, other, moments)
    assert state["step"] == 3
    assert state["model"] == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    expected, found = optimizer.state_dict(), moments.state_dict()
    assert expected["param_groups"] == found["param_groups"]
    for index, values in expected["state"].items():
        assert all(torch.equal(value, found["state"][index][name]) for name, value in values.items())


def test_moments_take_the_memory_layout_of_their_parameters(saved: Path) -> None:
    model, _ = trained()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    load_checkpoint(saved, model, optimizer)
    moment = optimizer.state[model.conv.weight]["exp_avg"]
    assert moment.stride() == model.conv.weight.stride()


def test_checkpoints_hold_no_pickle(saved: Path) -> None:
    """Published error 9: loading a checkpoint must not be able to run code."""
    assert sorted(contents(saved)) == ["optimizer.safetensors", "state.json", "weights.safetensors"]
    json.loads((saved / "state.json").read_text())
    for name in ("weights", "optimizer"):
        content = (saved / f"{name}.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert isinstance(json.loads(content[8 : 8 + length]), dict)


def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    """Published error 9."""
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(mark),))

    torch.save({"conv.weight": Bomb()}, saved / "weights.safetensors")
    fingerprint = mol.network.checkpoint._fingerprint(saved / "weights.safetensors")
    rewrite_state(saved, files={"weights.safetensors": fingerprint})
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged or not a safetensors file"):
        load_checkpoint(saved, TinyMOL())
    assert not mark.exists()


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(saved: Path) -> None:
    (saved.parent / f"last.tmp-{2**22 + 1}").mkdir()  # of a process that was killed while it wrote
    save_checkpoint(saved, *trained(1), {**STATE, "step": 4})
    assert read_state(saved)["step"] == 4
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


def test_a_full_disk_overwrites_nothing(saved: Path) -> None:
    before = contents(saved.parent)
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"checkpoints/last: .*the previous one is untouched.*--resume"):
            save_checkpoint(saved, *trained(1), {**STATE, "step": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert contents(saved.parent) == before
    load_checkpoint(saved, *trained(1))


@pytest.mark.parametrize("call", range(6))
def test_a_disk_that_fails_at_any_sync_or_rename_overwrites_nothing(
    saved: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = contents(saved.parent), iter(range(99))

    def failing(real):
        def run(*arguments: object) -> object:
            if next(calls) == call:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        return run

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "rename", failing(os.rename))
    with pytest.raises(StorageError, match="No space left on device"):
        save_checkpoint(saved, *trained(1), {**STATE, "step": 4})
    assert contents(saved.parent) == before


def test_the_old_checkpoint_is_found_when_the_process_died_between_the_renames(saved: Path) -> None:
    saved.rename(saved.with_name("last.old"))
    run = saved.parent.parent
    assert find_checkpoint(run).name == "last.old"
    save_checkpoint(saved, *trained(1), {**STATE, "step": 4})
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


def copy_of(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_beside_a_complete_checkpoint_is_removed(saved: Path) -> None:
    before = contents(saved)
    copy_of(saved, "last.old")
    copy_of(saved, f"last.tmp-{2**22 + 1}")
    (copy_of(saved, "best.old") / "weights.safetensors").unlink()  # it was killed again, while it removed the old one
    copy_of(saved, "best")
    finish_replacing(saved.parent)
    assert names(saved.parent) == ["best", "last"]
    assert contents(saved) == before


@pytest.mark.parametrize("new", ["missing", "damaged"])
def test_an_old_checkpoint_is_kept_for_want_of_a_complete_new_one(saved: Path, new: str) -> None:
    before = contents(copy_of(saved, "last.old"))
    if new == "missing":
        shutil.rmtree(saved)
    else:
        (saved / "weights.safetensors").write_bytes(b"")
    finish_replacing(saved.parent)
    kept = saved if new == "missing" else saved.with_name("last.old")
    assert contents(kept) == before


def test_unfinished_checkpoints_of_processes_that_run_are_left_alone(saved: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        copy_of(saved, f"last.tmp-{other.pid}")
        for clear in (lambda: save_checkpoint(saved, *trained(1), STATE), lambda: finish_replacing(saved.parent)):
            clear()
            assert names(saved.parent) == ["last", f"last.tmp-{other.pid}"]
        other.kill()
    finish_replacing(saved.parent)
    assert names(saved.parent) == ["last"]


def test_a_run_without_checkpoints_has_nothing_to_finish(tmp_path: Path) -> None:
    finish_replacing(tmp_path / "checkpoints")
    assert list(tmp_path.iterdir()) == []


def test_a_run_or_checkpoint_folder_leads_to_the_checkpoint(saved: Path, tmp_path: Path) -> None:
    run = saved.parent.parent
    assert find_checkpoint(run) == find_checkpoint(saved) == saved
    save_checkpoint(run / "checkpoints" / "best", trained()[0], None, STATE)
    assert find_checkpoint(run).name == "best"
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is a file"):
        find_checkpoint(saved / "state.json")


# Damaged and foreign checkpoints


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_files_are_named(saved: Path, name: str, keep: int) -> None:
    path = saved / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=rf"{name} has \d+ bytes instead of \d+: it was truncated"):
        load_checkpoint(saved, *trained())


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    path = saved / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged: its checksum"):
        load_checkpoint(saved, TinyMOL())


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_missing_files_are_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing"):
        load_checkpoint(saved, *trained())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"step": 3}', "\x80\x04\x95"])
def test_a_state_that_is_none_of_ours_is_refused(saved: Path, text: str) -> None:
    (saved / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json(: format is missing| cannot be read|: its content is)"):
        load_checkpoint(saved, TinyMOL())


def test_a_newer_format_is_refused(saved: Path) -> None:
    rewrite_state(saved, format=2)
    with pytest.raises(CheckpointError, match="format 2; this version reads 1: upgrade"):
        read_state(saved)


def test_another_models_settings_are_shown(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="k: 4 → 2"):
        load_checkpoint(saved, TinyMOL(k=2))


def test_missing_extra_and_misshapen_weights_are_named_and_change_nothing(saved: Path) -> None:
    weights = load_file(saved / "weights.safetensors")
    model = TinyMOL()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    spoilt = {
        r"lacks conv\.weight": {name: value for name, value in weights.items() if name != "conv.weight"},
        r"entries that the model lacks: extra": {**weights, "extra": torch.zeros(1)},
        r"emotion\.bias is \(4,\) torch\.float32, the model needs \(3,\)": {**weights, "emotion.bias": torch.zeros(4)},
        r"emotion\.bias is \(3,\) torch\.float16": {**weights, "emotion.bias": torch.zeros(3).half()},
        r"emotion\.bias has NaN": {**weights, "emotion.bias": torch.full((3,), float("nan"))},
    }
    for message, tensors in spoilt.items():
        replace_weights(saved, tensors)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(saved, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_optimizer_over_other_parameters_is_refused(saved: Path) -> None:
    model, _ = trained()
    with pytest.raises(CheckpointError, match="an optimizer of other parameters"):
        load_checkpoint(saved, model, torch.optim.AdamW(list(model.parameters())[:3]))
    shutil.copy(saved / "weights.safetensors", saved / "optimizer.safetensors")
    digest = json.loads((saved / "state.json").read_text())["files"]["weights.safetensors"]
    rewrite_state(saved, files={"weights.safetensors": digest})
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors, param_groups: its content is null"):
        load_checkpoint(saved, model, torch.optim.AdamW(model.parameters()))


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="is a pipe; give an ordinary file"):
        read_tensors(tmp_path / "weights.safetensors")
