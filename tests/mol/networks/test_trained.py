"""Trained networks read from their folders: which kind they are, and everything that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_model import TinyMOL, instead_of_mol

from mol.common.errors import CheckpointError
from mol.network.checkpoint import save_checkpoint
from mol.networks.trained import load_model

STATE = {"classes": ["a", "b", "c"], "mean_shape": [[0.0, 0.0]] * 68, "step": 3, "seed": 0}


@pytest.fixture
def model() -> TinyMOL:
    torch.manual_seed(0)
    return TinyMOL()


@pytest.fixture
def saved(model: TinyMOL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint as earlier versions wrote it: it names no network."""
    instead_of_mol(monkeypatch)
    folder = tmp_path / "run" / "checkpoints" / "last"
    save_checkpoint(folder, model, None, STATE)
    return folder


def rewrite_state(folder: Path, **changes: object) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_network_is_built_in_evaluation_mode(saved: Path, model: TinyMOL) -> None:
    before = torch.get_rng_state()
    found = load_model(saved.parent.parent)
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.model.training
    assert found.classes == ["a", "b", "c"]
    assert torch.equal(found.model.conv.weight, model.conv.weight)


def test_a_checkpoint_that_names_no_network_is_of_mol(saved: Path) -> None:
    assert load_model(saved).network.name == "mol"


def test_a_network_that_this_installation_lacks_is_named(saved: Path) -> None:
    rewrite_state(saved, network="swin")
    with pytest.raises(CheckpointError, match=r"not installed: unknown network 'swin'.*networks: mol"):
        load_model(saved)


@pytest.mark.parametrize("config", [{"num_classes": 1}, {"colour": "red", "num_classes": None}, {}, 5])
def test_settings_that_cannot_be_built_are_refused(saved: Path, config: object) -> None:
    rewrite_state(saved, model=config)
    with pytest.raises(CheckpointError, match=r"settings"):
        load_model(saved)
