"""The reliability diagram of scored probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mol.pictures.reliability import ReliabilityCurve, reliability_picture
from mol.scoring.calibration import Confidence


def draw_reliability(path: Path, scores: Mapping[str, Confidence], title: str, subtitle: str) -> None:
    """Draw the reliability diagram of one or two kinds of probabilities.

    Args:
        path: the picture to write.
        scores: by the name in the legend; the first stands out.
        title, subtitle: first and second line.
    Raises:
        StorageError: the picture could not be written.
    """
    reliability_picture(path, [_curve(name, one) for name, one in scores.items()], title, subtitle)


def _curve(name: str, scores: Confidence) -> ReliabilityCurve:
    return ReliabilityCurve(
        name=name,
        edges=np.array([(one.low, one.high) for one in scores.bins]),
        counts=np.array([one.videos for one in scores.bins]),
        confidence=np.array([one.confidence for one in scores.bins]),
        accuracy=np.array([one.accuracy for one in scores.bins]),
        interval=np.array([(one.accuracy_low, one.accuracy_high) for one in scores.bins]),
    )
