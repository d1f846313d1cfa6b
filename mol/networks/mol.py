"""MOL behind the interface of a network (`mol.network` has the network itself)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from mol.common.devices import upload
from mol.common.errors import SettingsError
from mol.data.cache import ClipSet
from mol.data.clips import CROP, Augmentation, Batch, ResidentClips, grey_statistics, normalise_clips
from mol.network.estimates import FLOW, LANDMARKS
from mol.network.flownet import FlowNetC
from mol.network.losses import LossTerms, LossTermsWithUnits, MOLLoss
from mol.network.model import FRAMES, MOL, MOLOutput, MOLUnitsOutput
from mol.network.streaming import MOLStream
from mol.network.units import LearnedUnits
from mol.networks.interface import Defaults, Emotion, Loss, Network, Output, Part, Terms, TrainingClips

OWN = Defaults(
    steps=1000,
    batch_size=32,
    learning_rate=1.5e-3,
    schedule="cosine",
    warmup_steps=20,
    flow_pairs=16,
    model={"dropout": 0.3},
    loss={"w_me": 1.0, "w_of": 20.0, "w_ldm": 3.5},
    rates={"flow": 0.3, "predictors": 0.02, "emotion": 1.0},
)
"""How the network with normal flow is trained (docs/learning.md)."""

PUBLISHED = Defaults(
    flow_pairs="all",
    model={"dropout": 0.5},
    loss={"w_me": MOLLoss.w_me, "w_of": MOLLoss.w_of, "w_ldm": MOLLoss.w_ldm},
    rates={"flow": 1.0, "emotion": 1.0},
)
"""How the published code trains; in the terms of `mol.network.losses`."""

# This module's stream of random numbers; 1 to 3 belong to mol.data.
_PAIRS = 4


class PartBatch(NamedTuple):
    """A part of a step's batch, as `mol.data.clips.Batch`, with what the other parts have.

    Attributes:
        pairs_at_once: pairs that all processes train at once.
        pairs_of_step: pairs of the step.
    """

    clips: Tensor
    flow: Tensor
    landmarks: Tensor
    label: Tensor
    row: Tensor
    pairs: Tensor
    pairs_at_once: int
    pairs_of_step: int
    action_units: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What the network is called with: the clips."""
        return self.clips


class MOLNetwork(Network):
    """MOL, trained on crops of 128×128 pixels with their flow and landmarks."""

    name = "mol"
    title = "MOL"
    summary = "Emotion, optical flow and landmarks from raw grey frames by F5C blocks."
    source = (
        "Shao et al., MOL: Joint Estimation of Micro-Expression, Optical Flow, and Landmark via "
        "Transformer-Graph-Style Convolution, IEEE TPAMI 2025"
    )
    usual = OWN
    settings = (
        "model",
        "loss",
        "rates",
        "normalisation",
        "augment.gamma",
        "augment.drift",
        "flow_pairs",
        "action_units",
    )
    estimates = (FLOW, LANDMARKS)
    terms = tuple(name for name in LossTerms._fields if name != "total")
    graphed = True

    def defaults(self, model: Mapping[str, Any]) -> Defaults:
        """Those of the published code for its own form, and ours for the network with normal flow."""
        return PUBLISHED if model["variant"] == "released" or model["meeting"] == "side-by-side" else OWN

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
        return normalise_clips(torch.from_numpy(_centre(frames)).to(device)).unsqueeze(1)

    def window_stream(self, model: nn.Module, anchor: np.ndarray, device: torch.device) -> CropStream | None:
        """`MOLStream` on centre crops, for MOL with its flow network."""
        if not isinstance(model, MOL) or not isinstance(model.flow, FlowNetC):
            return None
        return CropStream(model, anchor, device)

    def rebuild(self, **config: Any) -> nn.Module:
        """`MOL` with these arguments; checkpoints of versions up to 0.2 know one meeting only."""
        return MOL(**{"meeting": "side-by-side", **config})

    def build(self, num_classes: int, model: Mapping[str, Any], clips: TrainingClips) -> nn.Module:
        """MOL at the baselines: the mean shape of the clips, and no motion.

        Raises:
            SettingsError: settings with which it cannot be built.
        """
        try:
            network = MOL(num_classes, **model)
        except ValueError as error:
            raise SettingsError(f"the network {self.name} cannot have these settings: {error}") from error
        network.initialise_outputs(cast(ResidentClips, clips).mean_shape())
        return network

    def loss(self, weights: Mapping[str, float | None]) -> MOLLoss:
        """The weighted sum of three losses."""
        return MOLLoss(**_given(weights))

    def with_action_units(self, units: LearnedUnits) -> MOLWithUnits:
        """MOL with a head for action units."""
        return MOLWithUnits(units)

    def parameter_groups(self, module: nn.Module, rates: Mapping[str, float | None]) -> list[dict[str, Any]]:
        """A group for each part that has a rate of its own, and one for the rest."""
        given = {"rest": 1.0, **{part: rate for part, rate in rates.items() if rate is not None}}
        groups: dict[str, list[nn.Parameter]] = {part: [] for part in given}
        for name, parameter in module.named_parameters():
            part = name.split(".")[0]
            if name.startswith("flow.predict") and "predictors" in given:
                part = "predictors"
            groups[part if part in given else "rest"].append(parameter)
        return [{"params": members, "rate": given[part]} for part, members in groups.items() if members]

    def training_batch(
        self,
        clips: TrainingClips,
        step: int,
        seed: int,
        batch_size: int,
        flow_pairs: int | str | None,
        part: Part | None = None,
    ) -> Batch | PartBatch:
        """Random crops, and the pairs whose flow is trained: as evenly over the clips as their number allows."""
        batch = cast(Batch, super().training_batch(clips, step, seed, batch_size, flow_pairs, part))
        if flow_pairs == "all":
            return batch
        every = (FRAMES - 1) * batch_size
        generator = np.random.default_rng((seed, _PAIRS, step))
        # Row by row a permutation of the clips, column by column one of a clip's pairs.
        starts = generator.permuted(np.tile(np.arange(FRAMES - 1), (batch_size, 1)), axis=1)
        order = generator.permuted(np.tile(np.arange(batch_size), (FRAMES - 1, 1)), axis=1)
        clip = order.flatten()
        start = starts[order, np.arange(FRAMES - 1)[:, None]].flatten()
        chosen = np.stack([clip, start])[:, : min(int(cast(int, flow_pairs)), every)]
        if part is None:
            return batch._replace(pairs=upload(torch.from_numpy(chosen), batch.clips.device))
        every_whole = _spread(np.stack([clip, start]), chosen.shape[1], part.wholes)
        at_once = every_whole[part.place]
        here = at_once[:, (part.first <= at_once[0]) & (at_once[0] < part.last)]
        pairs = upload(torch.from_numpy(here - np.array([[part.first], [0]])), batch.clips.device)
        of_step = sum(some.shape[1] for some in every_whole)
        return PartBatch(*batch[:5], pairs, at_once.shape[1], of_step, batch.action_units)

    def shared(self, loss: Loss, terms: Terms, batch: Any, part: Part) -> LossTerms | LossTermsWithUnits:
        """The flow's loss is a mean over pairs, the others are means over clips."""
        weights, found = cast(MOLLoss, loss), cast(LossTerms | LossTermsWithUnits, terms)
        emotion, landmarks, flow = found.emotion * part.share, found.landmarks, found.flow
        if landmarks is not None:
            landmarks = landmarks * part.share
        if flow is not None:
            flow = flow * (part.share if batch.pairs is None else batch.pairs.shape[1] / batch.pairs_of_step)
        units = found.action_units * part.share if isinstance(found, LossTermsWithUnits) else None
        return weights.weighted(emotion, flow, landmarks, units)

    def run(self, model: Any, batch: Any, loss: Loss) -> Output:
        """All three outputs; the emotion alone if no flow is trained and landmarks weigh nothing."""
        if batch.pairs is None:
            return cast(Output, model(batch.clips))
        elsewhere = getattr(batch, "pairs_at_once", 0) > 0
        if not (batch.pairs.shape[1] or elsewhere or cast(MOLLoss, loss).w_ldm):
            return Emotion(model.recognise(batch.clips))
        if elsewhere:
            return cast(Output, model(batch.clips, batch.pairs, elsewhere))
        return cast(Output, model(batch.clips, batch.pairs))


class EmotionAndUnits(NamedTuple):
    """The output where neither flow nor landmarks are estimated."""

    logits: Tensor
    flow: None
    landmarks: None
    action_units: Tensor


class MOLWithUnits(MOLNetwork):
    """MOL that also tells action units.

    Args:
        units: which, and how often its training clips show them.
    """

    terms = tuple(name for name in LossTermsWithUnits._fields if name != "total")

    def __init__(self, units: LearnedUnits) -> None:
        self.action_units = units

    def build(self, num_classes: int, model: Mapping[str, Any], clips: TrainingClips) -> nn.Module:
        """As MOL; each unit begins at the chance with which the weighted training clips show it."""
        units = cast(LearnedUnits, self.action_units)
        network = super().build(num_classes, {**model, "action_units": units.units}, clips)
        odds = zip(units.frequencies, units.weights, strict=True)
        cast(Any, network).action_units.start_at([f * weight / (f * weight + 1 - f) for f, weight in odds])
        return network

    def loss(self, weights: Mapping[str, float | None]) -> MOLLoss:
        """The weighted sum of four losses."""
        return MOLLoss(**_given(weights), units=self.action_units)

    def run(self, model: Any, batch: Any, loss: Loss) -> Output:
        """As MOL; where that estimates the emotion alone, emotion and action units."""
        needs_more = batch.pairs is None or batch.pairs.shape[1] or getattr(batch, "pairs_at_once", 0) > 0
        if needs_more or cast(MOLLoss, loss).w_ldm:
            return super().run(model, batch, loss)
        logits, units = model.recognise_units(batch.clips)
        return EmotionAndUnits(logits, None, None, units)


def _given(weights: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: weight for name, weight in weights.items() if weight is not None}


class CropStream:
    """`MOLStream` on aligned frames: cut to the centre, and normalised by the statistics of one window.

    Args:
        model: in evaluation mode.
        anchor: (T, S, S) uint8, the window.
        device: where the model is.
    """

    def __init__(self, model: MOL, anchor: np.ndarray, device: torch.device) -> None:
        self._device = device
        self._stream = MOLStream(model)
        mean, deviation = grey_statistics(torch.from_numpy(_centre(anchor)).to(device))
        self._mean, self._deviation = mean[0], deviation[0]

    def read(self, samples: np.ndarray, frames: Mapping[int, np.ndarray]) -> MOLOutput | MOLUnitsOutput:
        """The estimates for some windows; see `mol.networks.interface.WindowStream`."""
        new = self._stream.missing(samples)
        crops = [torch.from_numpy(_centre(frames[number])).to(self._device) for number in new]
        normalised = [(crop - self._mean) / self._deviation for crop in crops]
        return self._stream.read(samples, dict(zip(new, normalised, strict=True)))


def _centre(frames: np.ndarray) -> np.ndarray:
    """Centre crops of aligned frames (..., S, S)."""
    margin = (frames.shape[-1] - CROP) // 2
    return np.ascontiguousarray(frames[..., margin : margin + CROP, margin : margin + CROP])


def _spread(pairs: np.ndarray, count: int, wholes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The first `count` of all pairs (2, n), as evenly as possible over parts of the batch, the last never with fewer.

    Gradients are exchanged with the last part, so that none may be missing there.
    """
    found = []
    for place, (first, last) in enumerate(wholes):
        share = count * (place + 1) // len(wholes) - count * place // len(wholes)
        inside = (first <= pairs[0]) & (pairs[0] < last)
        found.append(pairs[:, inside][:, :share])
    return found


NETWORK = MOLNetwork()
