"""Named ablations: what is left out of the network or of its losses, as the options that do it.

    mol loso --ablation no-fcc …     is     mol loso --model.fcc false …

Each is held against the complete network on the same folds and seeds; from one seed, all parts that remain start with
the same values (see `mol.MOL`).
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, TypeVar

from mol.common.errors import SettingsError
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
    """Settings with an ablation's in their place; all others, and the arguments, stay. Twice is as once.

    Args:
        model: the network.
        loss: weights of its losses.
        name: one of `ABLATIONS`.
    Raises:
        SettingsError: there is no ablation of that name, or it leaves no loss.
    """
    if name not in ABLATIONS:
        close = difflib.get_close_matches(name, ABLATIONS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SettingsError(f"there is no ablation {name!r}{hint} (ablations: {', '.join(ABLATIONS)})")
    options = ABLATIONS[name]
    return _replace(model, "model", options), _replace(loss, "loss", options)


def _replace(part: _Part, prefix: str, options: dict[str, Any]) -> _Part:
    own = [option.split(".") for option in options]
    changes = {field: options[f"{section}.{field}"] for section, field in own if section == prefix}
    return dataclasses.replace(part, **changes)
