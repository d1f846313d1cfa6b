"""A trained network read from its run or checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mol.common.errors import CheckpointError, SettingsError
from mol.network.checkpoint import STATE, find_checkpoint, load_checkpoint, read_state
from mol.networks.interface import Network
from mol.networks.registry import DEFAULT, find_network


class Trained(NamedTuple):
    """A network read from a checkpoint.

    Attributes:
        model: in evaluation mode, on the device that was asked for.
        classes: names in the order of the logits.
        state: everything in state.json.
        network: what kind of network it is.
    """

    model: nn.Module
    classes: list[str]
    state: dict[str, Any]
    network: Network


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Trained:
    """Build the network of a run or checkpoint folder, in evaluation mode.

    Args:
        path: run folder or checkpoint folder.
        device: where to put it.
    Raises:
        CheckpointError: no checkpoint, or one that is damaged, not from this program, or cannot be built.
    """
    folder = find_checkpoint(path)
    state = read_state(folder)
    network = _network_of(state, folder)
    try:
        with torch.random.fork_rng(devices=[]):
            model = network.rebuild(**state["model"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / STATE} has model settings that cannot be built ({error}); it is damaged or from another version"
        ) from error
    state = load_checkpoint(folder, model)
    return Trained(model.to(device).eval(), list(state["classes"]), state, network)


def _network_of(state: dict[str, Any], folder: Path) -> Network:
    try:
        return find_network(state.get("network", DEFAULT))
    except SettingsError as error:
        raise CheckpointError(f"{folder} was trained with a network that is not installed: {error}") from error
