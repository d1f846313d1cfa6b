"""What predictions of small films need: a network that is quick, and landmarks without a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import TinyMOL, instead_of_mol

from mol.network.checkpoint import save_checkpoint


def upright(width: float = 60, centre: tuple[float, float] = (60, 48)) -> np.ndarray:
    """68 points with eyes, nose and mouth where alignment looks for them: (68, 2)."""
    points = np.random.default_rng(0).uniform(-0.45, 0.45, (68, 2))
    points[36:42], points[42:48] = [-0.2, -0.2], [0.2, -0.2]
    points[30], points[48], points[54] = [0, 0.05], [-0.15, 0.25], [0.15, 0.25]
    return width * points + centre


FACE = upright()


def tiny_weights(folder: Path, patch: pytest.MonkeyPatch, classes: Sequence[str] = ("=up", "down")) -> Path:
    """The run folder of a `TinyMOL`, which is read in MOL's place, with two still clips a video."""
    instead_of_mol(patch)
    patch.setattr("mol.prediction.watch.STILL_CLIPS", 2)
    patch.setattr("mol.prediction.watch.NOISE_FACTORS", np.array([0.8, 1.25]))
    torch.manual_seed(0)
    state = {"classes": list(classes), "mean_shape": [[0.0, 0.0]] * 68, "step": 5, "normalisation": "clip"}
    save_checkpoint(folder / "run" / "checkpoints" / "last", TinyMOL(len(classes)), None, state)
    return folder / "run"
