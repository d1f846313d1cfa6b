"""What training, scoring and prediction know of a network.

Each module of this package that defines a network has it as ``NETWORK``. A network says what it takes from a cache
(`Network.hold`) and from a new video (`Network.window_inputs`), what it gives (`Output`: always logits; flow and
landmarks if it estimates them), its losses and its groups of parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mol.common.errors import SettingsError
from mol.data.cache import ClipSet
from mol.data.clips import Augmentation
from mol.data.order import WHOLE
from mol.network.estimates import FLOW as FLOW
from mol.network.estimates import LANDMARKS as LANDMARKS
from mol.network.units import LearnedUnits


class Batch(Protocol):
    """Clips and their targets, on one device.

    The batches of a network that estimates flow or landmarks hold their targets too, under the names and in the units
    of `mol.data.clips.Batch`.
    """

    @property
    def inputs(self) -> Tensor:
        """(B, …), what the network is called with."""

    @property
    def label(self) -> Tensor:
        """(B,) int64, class index."""

    @property
    def row(self) -> Tensor:
        """(B,) int64, row of the cache."""


@dataclass(frozen=True)
class Part:
    """The clips of a step's batch that one process computes at once.

    Attributes:
        first, last: positions in the batch, `last` excluded.
        wholes: first and last of what all processes compute at once, one after another: the batch, or parts of it.
        place: which of these this belongs to.
    """

    first: int
    last: int
    wholes: tuple[tuple[int, int], ...]
    place: int

    @property
    def whole(self) -> tuple[int, int]:
        """First and last of the clips that all processes compute at once."""
        return self.wholes[self.place]

    @property
    def share(self) -> float:
        """Of the batch."""
        return (self.last - self.first) / self.wholes[-1][1]


class TrainingClips(Protocol):
    """Clips to train on, on a device, in the form in which a network takes them.

    Those for a network that estimates landmarks also have `mean_shape`, as `mol.data.clips.ResidentClips` has it.
    """

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Index rows of the clips."""

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, class indices."""

    @property
    def device(self) -> torch.device:
        """Where they are held."""

    def __len__(self) -> int: ...

    def training_batch(self, step: int, seed: int, batch_size: int) -> Batch:
        """Batch of one training step, varied as the augmentation says; equal for equal (seed, step)."""


class HeldClips(TrainingClips, Protocol):
    """Rows of a cache on a device, in the form in which a network takes them.

    `mol.data.clips.ResidentClips` holds clips with flow and landmarks; networks that estimate either hold theirs as it
    does, or as a subclass.
    """

    def part(
        self, rows: Sequence[int] | np.ndarray, augmentation: Augmentation | None = None, balanced: bool = False
    ) -> HeldClips:
        """Some of these clips, given by their positions; nothing is copied or computed again."""

    def training_batch(self, step: int, seed: int, batch_size: int, cut: slice = WHOLE) -> Batch:
        """As `TrainingClips` has it, of some positions of the batch only; how a clip varies does not depend on them."""

    def evaluation_batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The clips at these positions, not varied."""

    def evaluation_batches(self, batch_size: int, indices: np.ndarray | None = None) -> Iterator[Batch]:
        """All clips, or those at `indices`, in order and in batches of at most `batch_size`."""


class Output(Protocol):
    """A network's estimates for a batch of B clips."""

    @property
    def logits(self) -> Tensor:
        """(B, C)."""

    @property
    def flow(self) -> Tensor | None:
        """(B, T−1, 2, 128, 128), pixels (dx, dy), frame t to t+1; None if the network does not estimate it."""

    @property
    def landmarks(self) -> Tensor | None:
        """(B, T−1, 68, 2), pixels (x, y), of frames 2 to T; None if the network does not estimate them."""


class WindowStream(Protocol):
    """Reads windows of one face under one alignment; what neighbouring windows share is computed once."""

    def read(self, samples: np.ndarray, frames: Mapping[int, np.ndarray]) -> Output:
        """The estimates for some windows, as if each were read alone.

        Args:
            samples: (B, T) frame numbers; no window starts before one of an earlier call.
            frames: number → (S, S) uint8, aligned, of all frames in `samples`.
        """


class Emotion(NamedTuple):
    """The output of a network that estimates the emotion only."""

    logits: Tensor
    flow: None = None
    landmarks: None = None


class Terms(Protocol):
    """The losses of a batch: a named tuple of scalars, `total` first, then one for each of `Network.terms`.

    None: what the term scores was not estimated.
    """

    @property
    def total(self) -> Tensor:
        """What is minimised."""

    def __iter__(self) -> Iterator[Tensor | None]: ...


class EmotionTerms(NamedTuple):
    """The losses of a network that estimates the emotion only."""

    total: Tensor
    emotion: Tensor


Loss = Callable[[Any, Any], Terms]
"""(output, batch) → terms."""


def emotion_loss(output: Output, batch: Batch) -> EmotionTerms:
    """Cross entropy of the logits, in float32 at least."""
    logits = output.logits if output.logits.dtype == torch.float64 else output.logits.float()
    loss = F.cross_entropy(logits, batch.label)
    return EmotionTerms(loss, loss)


@dataclass(frozen=True)
class Defaults:
    """How a network is trained where a run says nothing else: values of settings of the same names.

    Attributes:
        steps: optimisation steps.
        batch_size: clips per step.
        learning_rate: of AdamW, at its peak.
        schedule: "constant" or "cosine".
        warmup_steps: steps over which the learning rate rises.
        flow_pairs: pairs of frames per step on which flow is trained; None for a network without flow.
        model, loss, rates: values of those sections, for a network that has them.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    flow_pairs: int | str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, Any] = field(default_factory=dict)


class Network(ABC):
    """A kind of network: how it is made, fed, trained and asked.

    Attributes:
        name: on the command line and in checkpoints.
        title: in tables and pictures.
        summary: one sentence on what it is.
        source: the publication.
        usual: how it is trained unless a run says otherwise.
        settings: settings that only some networks have and this one does: of "model", "loss", "rates", "normalisation",
            "augment.gamma", "augment.drift", "flow_pairs", "action_units".
        estimates: what it gives besides logits, of `FLOW` and `LANDMARKS`.
        terms: names of its losses, in the order of its `Terms` after the total.
        window_note: how it reads a window of a new video, where that needs saying.
        threads: of PyTorch in training on a CPU; None leaves its setting. Several threads spend longer waiting for one
            another than a layer of a small network takes.
        graphed: whether its training step can be captured in a CUDA graph: its shapes are the same in every step, and
            it decides nothing by a number on the device.
        action_units: facial action units that it also tells; None for a network without them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    usual: ClassVar[Defaults] = Defaults()
    settings: ClassVar[tuple[str, ...]] = ()
    estimates: ClassVar[tuple[str, ...]] = ()
    terms: ClassVar[tuple[str, ...]] = ("emotion",)
    window_note: ClassVar[str] = ""
    threads: ClassVar[int | None] = None
    graphed: ClassVar[bool] = False
    action_units: LearnedUnits | None = None

    def defaults(self, model: Mapping[str, Any]) -> Defaults:
        """How it is trained where a run says nothing else, given the settings of the network, if it has any."""
        return self.usual

    def has_setting(self, name: str) -> bool:
        """Whether a dotted setting such as "model.k" is among `settings`, or in a section that is."""
        return any(name == section or name.startswith(f"{section}.") for section in self.settings)

    @abstractmethod
    def hold(
        self,
        cache: ClipSet,
        rows: Sequence[int] | np.ndarray,
        device: torch.device | str = "cpu",
        normalisation: str = "clip",
        augmentation: Augmentation | None = None,
        balanced: bool = False,
    ) -> HeldClips:
        """Put rows of a cache onto a device.

        Args:
            cache: an opened cache or pool.
            rows: which of its rows.
            device: where to hold them.
            normalisation: of grey values, for networks that have the setting.
            augmentation: how training clips vary.
            balanced: draw every class equally often in training instead of every clip.
        Raises:
            ClipError: a row that cannot be used, such as one without a label; the message names it.
            SettingsError: no rows.
        """

    @abstractmethod
    def window_inputs(self, frames: np.ndarray, device: torch.device) -> Tensor:
        """The inputs for windows of a new video: as `HeldClips.evaluation_batch` gives them for the same frames.

        Args:
            frames: (B, T, S, S) uint8, aligned.
            device: where to put them.
        """

    def window_stream(self, model: nn.Module, anchor: np.ndarray, device: torch.device) -> WindowStream | None:
        """What reads windows that share frames, under one alignment, without computing anything twice.

        Args:
            model: of this network, in evaluation mode.
            anchor: (T, S, S) uint8, aligned frames whose grey statistics all windows take.
            device: where the model is.
        Returns:
            None if the network reads whole windows only.
        """
        return None

    @abstractmethod
    def rebuild(self, **config: Any) -> nn.Module:
        """The module from its ``config``, which every checkpoint holds."""

    def build(self, num_classes: int, model: Mapping[str, Any], clips: TrainingClips) -> nn.Module:
        """A module at the start of its training, on the CPU, with random weights of PyTorch's current seed.

        Args:
            num_classes: number of emotions.
            model: settings of the network, if it has any.
            clips: to be trained on, for a start that depends on them.
        Returns:
            A module with a ``config`` such that ``rebuild(**config)`` gives the same; inputs (B, …) → `Output`.
        """
        return self.rebuild(num_classes=num_classes)

    def loss(self, weights: Mapping[str, float]) -> Loss:
        """The losses, given the settings of their weights, if the network has any."""
        return emotion_loss

    def parameter_groups(self, module: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Groups of parameters, each with its learning rate relative to that of the run.

        Args:
            module: of this network.
            rates: settings of the relative rates, if the network has any.
        Returns:
            ``[{"params": […], "rate": 1.0}, …]``.
        """
        return [{"params": list(module.parameters()), "rate": 1.0}]

    def training_batch(
        self,
        clips: TrainingClips,
        step: int,
        seed: int,
        batch_size: int,
        flow_pairs: int | str | None,
        part: Part | None = None,
    ) -> Batch:
        """The batch of a training step, and what of it is trained on; equal for equal (seed, step).

        Args:
            clips: to draw from.
            step: counted from 0.
            seed: of the run.
            batch_size: number of clips.
            flow_pairs: the setting, for a network that estimates flow.
            part: which of the clips; all by default. How each varies does not depend on it.
        """
        if part is None:
            return clips.training_batch(step, seed, batch_size)
        return cast(HeldClips, clips).training_batch(step, seed, batch_size, slice(part.first, part.last))

    def shared(self, loss: Loss, terms: Terms, batch: Batch, part: Part) -> Terms:
        """The share of a part of a batch in the losses of the whole: their sum over the parts is that loss.

        Every loss is taken for a mean over clips; a network with others overrides this.

        Args:
            loss: of the network.
            terms: of the part.
            batch: the part.
            part: which it is.
        """
        return cast(Terms, type(terms)(*(None if term is None else term * part.share for term in terms)))

    def run(self, model: Any, batch: Batch, loss: Loss) -> Output:
        """The estimates that the losses of a training batch need.

        Args:
            model: of this network, in training mode.
            batch: of `training_batch`.
            loss: of `Network.loss`; what weighs nothing may be left out.
        """
        output: Output = model(batch.inputs)
        return output

    def with_action_units(self, units: LearnedUnits) -> Network:
        """This kind of network with a further output, ``action_units``: a logit for each of some action units.

        Raises:
            SettingsError: it has none.
        """
        raise SettingsError(f"the network {self.name} tells no action units; leave action_units out")

    def notes(self, cache: ClipSet) -> list[str]:
        """What a reader of scores must know of how this network takes the cache's rows; empty if nothing is unusual."""
        return []
