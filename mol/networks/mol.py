"""MOL behind the interface of a network (`mol.network` has the network itself)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mol.data.cache import ClipSet
from mol.data.clips import CROP, Augmentation, ResidentClips, normalise_clips
from mol.network.losses import LossTerms, MOLLoss
from mol.network.model import MOL
from mol.networks.interface import FLOW, LANDMARKS, HeldClips, Network


class MOLNetwork(Network):
    """MOL, trained on crops of 128×128 pixels with their flow and landmarks."""

    name = "mol"
    title = "MOL"
    summary = "Emotion, optical flow and landmarks from raw grey frames by F5C blocks."
    source = (
        "Shao et al., MOL: Joint Estimation of Micro-Expression, Optical Flow, and Landmark via "
        "Transformer-Graph-Style Convolution, IEEE TPAMI 2025"
    )
    settings = ("model", "loss", "rates", "normalisation", "augment.gamma", "augment.drift")
    estimates = (FLOW, LANDMARKS)
    terms = tuple(name for name in LossTerms._fields if name != "total")

    def hold(
        self,
        cache: ClipSet,
        rows: Sequence[int] | np.ndarray,
        device: torch.device | str = "cpu",
        normalisation: str = "clip",
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> ResidentClips:
        """`ResidentClips`: frames, flow and landmarks."""
        return ResidentClips(cache, rows, device, normalisation, augmentation, balanced)

    def window_inputs(self, frames: np.ndarray, device: torch.device) -> Tensor:
        """Centre crops, normalised: (B, 1, T, 128, 128)."""
        margin = (frames.shape[-1] - CROP) // 2
        crops = frames[..., margin : margin + CROP, margin : margin + CROP]
        return normalise_clips(torch.from_numpy(np.ascontiguousarray(crops)).to(device)).unsqueeze(1)

    def rebuild(self, **config: Any) -> nn.Module:
        """`MOL` with these arguments."""
        return MOL(**config)

    def build(self, num_classes: int, model: Mapping[str, Any], clips: HeldClips) -> nn.Module:
        """MOL at the baselines: the mean shape of the clips, and no motion."""
        network = MOL(num_classes, **model)
        network.initialise_outputs(cast(ResidentClips, clips).mean_shape())
        return network

    def loss(self, weights: Mapping[str, float]) -> MOLLoss:
        """The weighted sum of three losses."""
        return MOLLoss(**weights)

    def parameter_groups(self, module: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """A group for each part that has a rate of its own, and one for the rest."""
        groups: dict[str, list[nn.Parameter]] = {"": [], **{part: [] for part in rates}}
        for name, parameter in module.named_parameters():
            part = name.split(".")[0]
            groups[part if part in rates else ""].append(parameter)
        return [{"params": members, "rate": rates.get(part, 1.0)} for part, members in groups.items() if members]


NETWORK = MOLNetwork()
