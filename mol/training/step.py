"""One step of the optimizer, made so that a GPU never waits for the program: eager, or captured in one CUDA graph.

Nothing in a step reads a number back from the device: the norm of the gradient, the losses and whether they are finite
stay there until the log reads them (`mol.training.runlog`). Shapes are the same in every step, because passes over the
clips follow each other without an incomplete batch (`mol.data.order`). Random numbers come from PyTorch's generator of
the device, which the loop seeds before each step, outside the graph: a replay draws what the eager step would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mol.common.devices import automatic_precision, start_fabric
from mol.common.errors import SettingsError
from mol.common.terminal import say
from mol.networks.interface import Batch, Loss, Network, Part, Terms
from mol.networks.registry import find_network
from mol.training.ranks import Ranks
from mol.training.settings import TrainingSettings

Settings = TypeVar("Settings", bound=TrainingSettings)

WARM_UP = 3
"""Eager steps before the capture: libraries choose their kernels in them, and the optimizer makes its moments."""


class StepResult(NamedTuple):
    """What a step leaves on the device; of a graphed step valid until the next one.

    Attributes:
        terms: the losses, without their graph.
        gradient_norm: scalar, before clipping.
    """

    terms: Terms
    gradient_norm: Tensor


class LearningRates:
    """The learning rates of an optimizer's groups as tensors on its device, so that a graph reads those of its step.

    Args:
        optimizer: every group has a relative rate under "rate".
        device: of its parameters.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._groups = optimizer.param_groups
        # The fused AdamW reads a rate on the device as float32, and one on the host as float64.
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        for group in self._groups:
            group["lr"] = torch.zeros((), dtype=dtype, device=device)

    def set(self, rate: float) -> None:
        """Set each group's learning rate to `rate` times its own."""
        for group in self._groups:
            group["lr"].fill_(rate * group["rate"])


class _Step:
    """What every step needs.

    Args:
        network: what is trained.
        model: its module, in training mode when the step is called, or what stands for it (compiled, or of a Fabric).
        optimizer: over the module's parameters.
        loss: of the network.
        clip_norm: maximum norm of the gradient; 0 for no clipping.
        autocast: makes the context of the forward pass.
        backward: called with the total loss.
    """

    def __init__(
        self,
        network: Network,
        model: Any,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        clip_norm: float = 0.0,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        backward: Callable[[Tensor], None] = torch.Tensor.backward,
    ) -> None:
        self._network, self._model, self._optimizer, self._loss = network, model, optimizer, loss
        self._clip_norm, self._autocast, self._backward = clip_norm or math.inf, autocast, backward
        self._parameters = list(model.parameters())

    def _terms(self, batch: Batch) -> Terms:
        with self._autocast():
            output = self._network.run(self._model, batch, self._loss)
        return self._loss(output, batch)

    def _update(self) -> Tensor:
        """Clip the gradient and move the weights; returns its norm before."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        return norm.detach()


class TrainingStep(_Step):
    """Forward pass, losses, backward pass, clipping and optimizer, one operation after another; made as `_Step`."""

    def __call__(self, batch: Batch) -> StepResult:
        """Train on a batch of `Network.training_batch`."""
        return self._compute(batch)

    def _compute(self, batch: Batch) -> StepResult:
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._terms(batch)
        self._backward(terms.total)
        return StepResult(_map(lambda term: term.detach(), terms), self._update())


class DividedStep(_Step):
    """The step on a batch in parts, one after another here and side by side in other processes.

    Gradients are those of the whole batch. They are exchanged in the backward pass of the last part, in buckets, while
    it goes on.

    Args:
        arguments: as for `TrainingStep`; the model is of a Fabric.
        ranks: the processes.
        unsynchronised: makes the context of a backward pass whose gradients are only added up.
    """

    def __init__(
        self, *arguments: Any, ranks: Ranks, unsynchronised: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        super().__init__(*arguments)
        self._ranks, self._unsynchronised = ranks, unsynchronised

    def __call__(self, parts: Sequence[Part], take: Callable[[Part], Batch]) -> StepResult:
        """Train on a batch.

        Args:
            parts: of it, for this process.
            take: gives the clips of one.
        Returns:
            The share of this process in the losses: their sum over the processes are those of the batch.
        """
        self._optimizer.zero_grad(set_to_none=True)
        found: list[Terms] = []
        for part in parts:
            batch = take(part)
            self._ranks.part = part
            with nullcontext() if part is parts[-1] else self._unsynchronised():
                terms = self._network.shared(self._loss, self._terms(batch), batch, part)
                # The processes' gradients are averaged, and wanted is their sum.
                self._backward(terms.total * self._ranks.world)
            found.append(_map(lambda term: term.detach(), terms))
        return StepResult(_added(found), self._update())


class GraphedStep(TrainingStep):
    """The same as one CUDA graph: a single launch in the place of some two thousand.

    The first `WARM_UP` steps are eager. The next one is captured, which computes nothing, and replayed; so are all that
    follow, each on a batch that is copied to where the graph reads it.

    Args:
        required: whether a step that can't be captured is an error; else the training goes on without a graph.
    Raises:
        SettingsError: at the capture, if it fails and is required.
    """

    def __init__(self, *arguments: Any, required: bool = False, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._required = required
        self._eager_steps: float = WARM_UP
        self._stream = torch.cuda.Stream(self._parameters[0].device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> StepResult:
        """Train on a batch; all batches have the same shapes."""
        if self._eager_steps:
            self._eager_steps -= 1
            return self._beside(batch)
        if self._graph is None:
            try:
                self._capture(batch)
            except RuntimeError as error:
                self._do_without(error)
                return self._beside(batch)
        _map(lambda held, given: held.copy_(given, non_blocking=True), self._batch, batch)
        self._graph.replay()  # type: ignore[union-attr]
        return self._result

    def _beside(self, batch: Batch) -> StepResult:
        """An eager step on the stream of the capture, to which autograd's and cuBLAS' buffers then belong."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self._compute(batch)
        current.wait_stream(self._stream)
        return result

    def _capture(self, batch: Batch) -> None:
        self._batch = _map(torch.clone, batch)
        graph = torch.cuda.CUDAGraph()
        # The gradients must be made anew, by the graph and in its memory.
        self._optimizer.zero_grad(set_to_none=True)
        with _capturable(self._optimizer), torch.cuda.graph(graph, stream=self._stream):
            self._result = self._compute(self._batch)
        self._graph = graph

    def _do_without(self, error: RuntimeError) -> None:
        reason = f"the training step could not be captured in a CUDA graph ({error})"
        if self._required:
            raise SettingsError(f"{reason}; train with --graph false") from error
        say(f"note: {reason}; the training goes on without one. If it stops now, resume it with --graph false")
        self._eager_steps = math.inf


def open_device(config: Settings) -> tuple[Any, Settings]:
    """A Fabric on the device of the settings, and the settings with what "auto" means there.

    Raises:
        SettingsError: as `start_fabric` and `require_graph`.
    """
    fabric = start_fabric(config.device, config.precision)
    require_graph(config.graph, find_network(config.network), fabric.device)
    return fabric, with_automatic_settings(config, fabric.device)


def with_automatic_settings(config: Settings, device: torch.device) -> Settings:
    """The settings with what "auto" means on a device."""
    precision = automatic_precision(device) if config.precision == "auto" else config.precision
    last = device.type == "cuda" if config.channels_last == "auto" else config.channels_last
    return dataclasses.replace(config, precision=precision, channels_last=last)


def why_not_graphed(network: Network, device: torch.device) -> str | None:
    """Why the steps of a training can't be captured in a CUDA graph; None if they can."""
    if device.type != "cuda":
        return f"a CUDA graph needs a CUDA device, and the training runs on {device}"
    if not network.graphed:
        return f"only the steps of mol are captured in a CUDA graph, not those of {network.name}"
    return None


def require_graph(graph: bool | Literal["auto"], network: Network, device: torch.device) -> None:
    """Refuse a graph that is asked for where there can be none.

    Raises:
        SettingsError: it says why.
    """
    if graph is True and (reason := why_not_graphed(network, device)):
        raise SettingsError(f"graph=true: {reason}; use --graph auto")


def make_step(
    graph: bool | Literal["auto"], network: Network, device: torch.device, *arguments: Any, **named: Any
) -> TrainingStep:
    """The step of a training.

    Args:
        graph: the setting; "auto" captures the step where it can be.
        network, device: of the training.
        arguments, named: of `TrainingStep`, after the network.
    Raises:
        SettingsError: as `require_graph`.
    """
    require_graph(graph, network, device)
    if graph is False or why_not_graphed(network, device):
        return TrainingStep(network, *arguments, **named)
    return GraphedStep(network, *arguments, **named, required=graph is True)


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let an optimizer be captured. Only meanwhile: checkpoints then don't depend on the device."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


def _map(function: Callable[..., Tensor], *tuples: Any) -> Any:
    """A named tuple of what `function` makes of the tensors of others; what is no tensor stays as it is."""
    first = tuples[0]
    parts = zip(*tuples, strict=True)
    return type(first)(*(function(*part) if isinstance(part[0], Tensor) else part[0] for part in parts))


def _added(terms: Sequence[Any]) -> Any:
    """A named tuple of the sums of the tensors that named tuples have; None where none of them has one."""
    present = ([term for term in column if term is not None] for column in zip(*terms, strict=True))
    return type(terms[0])(*(torch.stack(column).sum(0) if column else None for column in present))
