"""Named ablations of the network or its losses, and the options that they stand for.

    mol loso --ablation no-fcc …     means     mol loso --model.fcc false …

Each is compared with the complete network on the same folds and seeds; from the same seed, all parts that remain start
with the same values (see `mol.MOL`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from mol.common.checks import unknown_name
from mol.training.settings import LossConfig, ModelConfig

ABLATIONS: dict[str, dict[str, Any]] = {
    "no-fcc": {"model.fcc": False},
    "no-ccc": {"model.ccc": False},
    "no-f5c": {"model.f5c": False},
    "no-flow-loss": {"loss.w_of": 0.0},
    "no-landmark-loss": {"loss.w_ldm": 0.0},
    "emotion-loss-only": {"loss.w_of": 0.0, "loss.w_ldm": 0.0},
    "k1": {"model.k": 1},
    "k2": {"model.k": 2},
    "k8": {"model.k": 8},
    "k16": {"model.k": 16},
    "channel-graph": {"model.graph": "channel"},
    "position-graph": {"model.graph": "position"},
    "paper-variant": {"model.variant": "paper"},
    "released-variant": {"model.variant": "released"},
}
"""Name → dotted options and their values."""

_Part = TypeVar("_Part", ModelConfig, LossConfig)


def apply_ablation(model: ModelConfig, loss: LossConfig, name: str) -> tuple[ModelConfig, LossConfig]:
    """Settings with those of an ablation in their place; the arguments stay as they are.

    Args:
        model: the network.
        loss: weights of its losses.
        name: one of `ABLATIONS`.
    Raises:
        SettingsError: an unknown ablation, or one that leaves no loss to train with.
    """
    if name not in ABLATIONS:
        raise unknown_name("ablation", name, ABLATIONS)
    options = ABLATIONS[name]
    return _replace(model, "model", options), _replace(loss, "loss", options)


def _replace(part: _Part, prefix: str, options: dict[str, Any]) -> _Part:
    own = [option.split(".") for option in options]
    changes = {field: options[f"{section}.{field}"] for section, field in own if section == prefix}
    return dataclasses.replace(part, **changes)
