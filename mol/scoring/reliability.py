"""The reliability diagram of scored probabilities, before and after a temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mol.pictures.reliability import ReliabilityCurve, reliability_picture
from mol.scoring.calibration import Confidence


def draw_reliability(
    path: Path, before: Confidence, after: Confidence | None, temperature: str, title: str, subtitle: str
) -> None:
    """Draw the probabilities as the softmax gives them and, if there is a temperature, at that temperature.

    Args:
        path: the picture to write.
        before, after: their scores; `after` is None without a temperature.
        temperature: what the legend calls `after`.
        title, subtitle: first and second line.
    Raises:
        StorageError: the picture could not be written.
    """
    plain = _curve("not calibrated", before)
    curves = [plain] if after is None else [_curve(temperature, after), plain]
    reliability_picture(path, curves, title, subtitle)


def _curve(name: str, scores: Confidence) -> ReliabilityCurve:
    return ReliabilityCurve(
        name=f"{name}: ECE {scores.ece:.3f}",
        edges=np.array([(one.low, one.high) for one in scores.bins]),
        counts=np.array([one.videos for one in scores.bins]),
        confidence=np.array([one.confidence for one in scores.bins]),
        accuracy=np.array([one.accuracy for one in scores.bins]),
        interval=np.array([(one.accuracy_low, one.accuracy_high) for one in scores.bins]),
    )
