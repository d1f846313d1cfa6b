"""The temperature of a network, fitted on the people set aside from its training people."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from mol.data.split import person
from mol.networks.interface import HeldClips, Loss
from mol.scoring.calibration import MINIMUM_VIDEOS, fit_temperature, vote_logits
from mol.scoring.estimate import by_video, estimate


def too_few_videos(set_aside: HeldClips | None) -> str:
    """A warning if the people set aside have too few videos to fit a temperature on; empty otherwise.

    Args:
        set_aside: all clips of the people of ``inner_validation``; None if there are none.
    """
    videos = len({(person(row), row["clip"]) for row in set_aside.rows}) if set_aside is not None else MINIMUM_VIDEOS
    if videos >= MINIMUM_VIDEOS:
        return ""
    return (
        f"note: the people set aside have {videos} videos; confidence can't be calibrated on fewer than "
        f"{MINIMUM_VIDEOS}: raise inner_validation"
    )


def calibration_facts(
    model: nn.Module, set_aside: HeldClips | None, loss: Loss, mean_shape: Tensor | None, batch_size: int
) -> dict[str, Any]:
    """What a checkpoint records about the calibration of its probabilities.

    Args:
        model: the network as it is saved; left in evaluation mode.
        set_aside: all clips of the people of ``inner_validation``; None if there are none.
        loss, mean_shape, batch_size: as for `estimate`.
    Returns:
        ``{"calibration": …}`` with the fields of `mol.scoring.calibration.Temperature`, or nothing without such people.
    """
    if set_aside is None:
        return {}
    found = estimate(model, set_aside, loss, mean_shape, batch_size)
    videos = by_video(set_aside.rows, set_aside.labels, found.probabilities.numpy())
    fitted = dataclasses.replace(
        fit_temperature(vote_logits(videos.probabilities), videos.labels),
        videos=len(videos.names),
        clips=len(set_aside),
        people=len({person(row) for row in set_aside.rows}),
    )
    return {"calibration": dataclasses.asdict(fitted)}
