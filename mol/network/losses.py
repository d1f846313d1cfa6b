"""The losses of MOL, on the device, for the whole batch at once: three, and a fourth with action units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mol.network.units import NOT_SHOWN, LearnedUnits
from mol.vision.points import interocular_distance


class Estimated(Protocol):
    """What is scored: `mol.MOLOutput`, or a part of it."""

    @property
    def logits(self) -> Tensor:
        """(B, C)."""

    @property
    def flow(self) -> Tensor | None:
        """(B, T−1, 2, H, W), or (M, 2, H, W) of the targets' pairs; None if it was not estimated."""

    @property
    def landmarks(self) -> Tensor | None:
        """(B, T−1, 68, 2); None if they were not estimated."""


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
    """Scalars on the device; `total` is the weighted sum of the others. None: not estimated."""

    total: Tensor
    emotion: Tensor
    flow: Tensor | None
    landmarks: Tensor | None


class LossTermsWithUnits(NamedTuple):
    """`LossTerms` of a network that tells action units."""

    total: Tensor
    emotion: Tensor
    flow: Tensor | None
    landmarks: Tensor | None
    action_units: Tensor


@dataclass(frozen=True)
class MOLLoss:
    """L = w_me · CE(logits, label) + w_of · L_of + w_ldm · L_ldm + w_au · L_au.

    The defaults are the weights that the released code's settings come to in these terms. A term of weight 0 is
    computed to be watched; no gradient comes from it.
    """

    w_me: float = 1.0
    """Weight of the cross entropy."""
    w_of: float = 10 / 7
    """Weight of `flow_loss`."""
    w_ldm: float = 3.5
    """Weight of `landmark_loss`."""
    w_au: float = 1.0
    """Weight of `action_unit_loss`."""
    units: LearnedUnits | None = None
    """Action units that the network tells; without any, the last term is missing."""

    def __call__(self, output: Estimated, targets: Targets) -> LossTerms | LossTermsWithUnits:
        """The losses of a batch; float32 at least, no synchronisation with the host.

        Args:
            output: of `mol.MOL` for B clips; what was not estimated has no loss.
            targets: flow (B, T−1, 2, H, W) px, landmarks (B, T−1, 68, 2) px, label (B,) long; if the flow of some pairs
                only was estimated, also those, pairs (2, M) long, as in `mol.MOL.forward`; with action units, also
                action_units (B, `CODES`) int8.
        """
        emotion = F.cross_entropy(_wide(_watched(output.logits, self.w_me)), targets.label)
        flow = landmarks = None
        pairs = getattr(targets, "pairs", None)
        if output.flow is not None and (output.flow.numel() or getattr(targets, "pairs_at_once", 0)):
            wanted = targets.flow if pairs is None else targets.flow[pairs[0], pairs[1]]
            flow = flow_loss(_watched(output.flow, self.w_of), wanted)
        if output.landmarks is not None:
            landmarks = landmark_loss(_watched(output.landmarks, self.w_ldm), targets.landmarks)
        units = None
        if self.units is not None:
            logits = _watched(output.action_units, self.w_au)  # type: ignore[attr-defined]
            units = action_unit_loss(logits, targets.action_units, self.units)  # type: ignore[attr-defined]
        return self.weighted(emotion, flow, landmarks, units)

    def weighted(
        self, emotion: Tensor, flow: Tensor | None, landmarks: Tensor | None, units: Tensor | None = None
    ) -> LossTerms | LossTermsWithUnits:
        """The terms with their weighted sum."""
        # A sum of the terms that weigh something: 0 · NaN is NaN.
        terms = ((self.w_me, emotion), (self.w_of, flow), (self.w_ldm, landmarks), (self.w_au, units))
        weighted = (weight * term for weight, term in terms if weight and term is not None)
        total = sum(weighted, torch.zeros_like(emotion))
        if units is None:
            return LossTerms(total, emotion, flow, landmarks)
        return LossTermsWithUnits(total, emotion, flow, landmarks, units)


def flow_loss(flow: Tensor, target: Tensor) -> Tensor:
    """L_of: the mean over clips, pairs, components and pixels of (flow − target)², px²."""
    if not flow.numel():  # this process has no pair of those that are trained
        return _wide(flow).sum()
    return F.mse_loss(_wide(flow), _wide(target))


def landmark_loss(landmarks: Tensor, target: Tensor) -> Tensor:
    """L_ldm: the mean over clips, pairs and points of ``(|Δx| + |Δy|) / d``, d the target's `interocular_distance`."""
    distance = interocular_distance(_wide(target))
    error = (_wide(landmarks) - _wide(target)).abs().sum(-1)
    return (error / distance[..., None]).mean()


def action_unit_loss(logits: Tensor, targets: Tensor, learned: LearnedUnits) -> Tensor:
    """L_au: the binary cross entropy over clips and units, shown ones weighted by `LearnedUnits.weights`.

    What is unknown counts as 0, and the mean is divided by the share of the training clips' entries that is known: in
    the mean over batches this is the mean over known entries, and parts of a batch still add up to the whole.

    Args:
        logits: (B, A) of the learned units.
        targets: (B, `CODES`) int8, as `mol.data.action_units.unit_targets` gives them.
        learned: the units.
    """
    logits = _wide(logits)
    columns, weights = _constants(learned, logits.device)
    wanted = targets[:, columns]
    shown = wanted.clamp(min=NOT_SHOWN).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, shown, pos_weight=weights.to(logits.dtype), reduction="none") * (
        wanted >= NOT_SHOWN
    )
    return each.mean() / learned.known_share


@cache
def _constants(learned: LearnedUnits, device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns of the units and their weights; kept on the device, as no step may wait for a copy."""
    with torch.inference_mode(False):
        return torch.tensor(learned.units, device=device), torch.tensor(learned.weights, device=device)


def _watched(output: Tensor, weight: float) -> Tensor:
    """An output that weighs nothing, without its graph: zeros run back would let weight decay shrink its head."""
    return output if weight else output.detach()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
