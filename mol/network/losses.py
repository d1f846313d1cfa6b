"""The three losses of MOL, on the device, for the whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mol.network.model import MOLOutput
from mol.vision.points import interocular_distance


class Targets(Protocol):
    """What a batch must hold to be scored."""

    @property
    def flow(self) -> Tensor:
        """(B, T−1, 2, H, W), pixels."""

    @property
    def landmarks(self) -> Tensor:
        """(B, T−1, 68, 2), pixels."""

    @property
    def label(self) -> Tensor:
        """(B,) long."""


class LossTerms(NamedTuple):
    """Scalars on the device; `total` is the weighted sum of the others."""

    total: Tensor
    emotion: Tensor
    flow: Tensor
    landmarks: Tensor


@dataclass(frozen=True)
class MOLLoss:
    """L = w_me · CE(logits, label) + w_of · L_of + w_ldm · L_ldm.

    The defaults are the weights that the released code's settings come to in these terms. A term of weight 0 is
    computed to be watched; no gradient comes from it.
    """

    w_me: float = 1.0
    """Weight of the cross entropy."""
    w_of: float = 10 / 7
    """Weight of `flow_loss`."""
    w_ldm: float = 3.5
    """Weight of `landmark_loss`."""

    def __call__(self, output: MOLOutput, targets: Targets) -> LossTerms:
        """The losses of a batch; float32 at least, no synchronisation with the host.

        Args:
            output: of `mol.MOL` for B clips.
            targets: flow (B, T−1, 2, H, W) px, landmarks (B, T−1, 68, 2) px, label (B,) long.
        """
        emotion = F.cross_entropy(_wide(_watched(output.logits, self.w_me)), targets.label)
        flow = flow_loss(_watched(output.flow, self.w_of), targets.flow)
        landmarks = landmark_loss(_watched(output.landmarks, self.w_ldm), targets.landmarks)
        weighted = ((self.w_me, emotion), (self.w_of, flow), (self.w_ldm, landmarks))
        # A sum of the terms that weigh something: 0 · NaN is NaN.
        total = sum((weight * term for weight, term in weighted if weight), torch.zeros_like(emotion))
        return LossTerms(total, emotion, flow, landmarks)


def flow_loss(flow: Tensor, target: Tensor) -> Tensor:
    """L_of: the mean over clips, pairs, components and pixels of (flow − target)², px²."""
    return F.mse_loss(_wide(flow), _wide(target))


def landmark_loss(landmarks: Tensor, target: Tensor) -> Tensor:
    """L_ldm: the mean over clips, pairs and points of ``(|Δx| + |Δy|) / d``, d the target's `interocular_distance`."""
    distance = interocular_distance(_wide(target))
    error = (_wide(landmarks) - _wide(target)).abs().sum(-1)
    return (error / distance[..., None]).mean()


def _watched(output: Tensor, weight: float) -> Tensor:
    """An output that weighs nothing, without its graph: zeros run back would let weight decay shrink its head."""
    return output if weight else output.detach()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
