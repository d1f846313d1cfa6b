"""A trained network read from its run or checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mol.common.errors import CheckpointError, SettingsError
from mol.network.checkpoint import STATE, check_shapes, find_checkpoint, load_checkpoint, read_state
from mol.network.units import LearnedUnits
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
    with torch.device("meta"):
        check_shapes(folder, _built(network, state, folder))
    model = _built(network, state, folder)
    state = load_checkpoint(folder, model)
    return Trained(model.to(device).eval(), list(state["classes"]), state, network)


def _built(network: Network, state: dict[str, Any], folder: Path) -> nn.Module:
    """A network of the checkpoint's settings, on PyTorch's current device."""
    try:
        with torch.random.fork_rng(devices=[]):
            return network.rebuild(**state["model"])
    except Exception as error:  # whatever a constructor raises that gets settings which no version has written
        raise CheckpointError(
            f"{folder / STATE} has model settings that cannot be built ({error}); it is damaged or from another version"
        ) from error


def _network_of(state: dict[str, Any], folder: Path) -> Network:
    try:
        network = find_network(state.get("network", DEFAULT))
    except SettingsError as error:
        raise CheckpointError(f"{folder} was trained with a network that is not installed: {error}") from error
    facts, told = state.get("action_units"), state["model"].get("action_units")
    if facts is None and told is None:
        return network
    if facts is None or facts["units"] != told:
        named = "(absent)" if facts is None else facts["units"]
        raise CheckpointError(
            f"{folder / STATE}: action_units.units are {named}, and the network tells {told}; use another checkpoint "
            "or train again"
        )
    lists = {name: tuple(facts[name]) for name in ("units", "annotated", "shown")}
    return network.with_action_units(LearnedUnits(**lists, clips=facts["clips"]))
