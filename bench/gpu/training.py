"""MOL's training step in the modes that a GPU offers, each against loss and gradients of the plain float32 step.

python -m bench.gpu.training [--compile]      # --compile: torch.compile of the whole network instead
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import molkernels as mk
from bench import counts, memory, network
from bench.gpu import worker
from bench.gpu.timing import captured, limits_here
from bench.groups import Check, Contender, Group, measure, worst_error
from bench.machine import TF32, products
from bench.record import REFERENCE
from mol import MOL
from mol.network.layout import lay_out_channels_last
from mol.network.losses import MOLLoss

try:  # the step of `mol train`; it needs msgspec
    from mol.data import clips
    from mol.networks.registry import find_network
    from mol.training.step import make_step
except ImportError as error:
    make_step, WHOSE = None, f"bench.gpu's own: {error}"
else:
    WHOSE = "mol.training.step"

BATCH = 32
# Relative L2; TF32 keeps 11 bits, and changes neighbours as bfloat16 does.
TOLERANCES = {**network.TOLERANCES["training step"], TF32: network.TOLERANCES["training step"]["bfloat16"]}
WARM, CLIP_NORM = 3, 1.0  # steps before a capture; of the gradient


@dataclass(frozen=True)
class Mode:
    """How a step is computed.

    Attributes:
        backend: of molkernels, or "auto".
        precision: "float32", "tf32" or "bfloat16" (autocast).
        channels_last: whether the convolutions' weights are stored so.
        graph: whether forward, loss, backward and optimizer are one CUDA graph.
        compiled: whether `torch.compile` gets the network.
    """

    backend: str
    precision: str
    channels_last: bool = False
    graph: bool = False
    compiled: bool = False

    @property
    def contender(self) -> str:
        """The mode without its precision."""
        words = {"channels-last": self.channels_last, "graph": self.graph, "compiled": self.compiled}
        return " ".join([self.backend, *(word for word, on in words.items() if on)])

    @property
    def name(self) -> str:
        return f"{self.contender} {self.precision}"


def modes(compiled: bool) -> list[Mode]:
    """The modes in the order of their worth."""
    if worker.pretended():
        return [Mode("auto", "float32", channels_last=True)]
    if compiled:
        return [Mode("auto", "bfloat16", True, compiled=True), Mode(REFERENCE, "bfloat16", True, compiled=True)]
    return [
        Mode("auto", "bfloat16", channels_last=True, graph=True),
        Mode("auto", "bfloat16", channels_last=True),
        Mode("auto", "bfloat16"),
        Mode("auto", "bfloat16", graph=True),
        Mode("auto", TF32, channels_last=True, graph=True),
        Mode("auto", "float32", channels_last=True, graph=True),
        Mode("auto", "float32"),
        Mode(REFERENCE, "bfloat16", channels_last=True),
        Mode("triton", "bfloat16", channels_last=True),
    ]


def batch_here() -> network.Batch:
    """The clips of every mode."""
    return network.random_batch(1 if worker.pretended() else BATCH).to(worker.device())


class TrainingStep:
    """Forward, loss, backward, clipping and AdamW, as `mol train` does them, on one batch."""

    def __init__(self, mode: Mode, batch: network.Batch) -> None:
        self.mode, self.batch, device = mode, batch, worker.device()
        self.model = MOL.from_released(network.random_state(), dropout=0.0).to(device).train()
        if mode.channels_last:
            lay_out_channels_last(self.model)
        self.forward = torch.compile(self.model, dynamic=False) if mode.compiled else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=network.LEARNING_RATE, weight_decay=network.WEIGHT_DECAY, fused=True,
            capturable=device == "cuda",
        )  # fmt: skip
        self.criterion = MOLLoss(*network.LOSS_WEIGHTS)

    def backward(self) -> Tensor:
        """The loss, on the device; the gradients are in the parameters."""
        with products(self.mode.precision):
            with self._settings():
                loss = self.criterion(self.forward(self.batch.clips), self.batch).total
            loss.backward()
        return loss.detach()

    def loss_and_gradients(self) -> tuple[Tensor, Tensor]:
        """The loss and all gradients as one vector; the parameters stay as they are."""
        loss = self.backward()
        gradients = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        self.optimizer.zero_grad(set_to_none=True)
        return loss, torch.cat(gradients)

    def __call__(self) -> Tensor:
        """One step; returns the loss before it, on the device."""
        loss = self.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def timed(self) -> Callable[[], object]:
        """The step of `mol train`, captured and warm if the mode is; where it cannot be imported, this step."""
        if make_step is None:
            return captured(self, WARM).replay if self.mode.graph else self
        batch = clips.Batch(*vars(self.batch).values(), row=self.batch.label)
        step = make_step(
            self.mode.graph, find_network("mol"), torch.device(worker.device()), self.forward, self.optimizer,
            self.criterion, CLIP_NORM, autocast=self._settings,
        )  # fmt: skip

        def run() -> object:
            with products(self.mode.precision):
                return step(batch)

        for _ in range(WARM + 1 if self.mode.graph else 0):
            run()
        return run

    @contextmanager
    def _settings(self) -> Iterator[None]:
        autocast = torch.autocast(worker.device(), torch.bfloat16, enabled=self.mode.precision == "bfloat16")
        with mk.backend(self.mode.backend), autocast:
            yield


def measure_mode(mode: Mode, batch: network.Batch, expected: Sequence[Tensor], limits: dict[str, Any]) -> None:
    """Time a mode and report its row.

    Raises:
        AssertionError: its first loss or gradients are not the plain step's.
    """
    step = TrainingStep(mode, batch)
    check = Check(worst_error(step.loss_and_gradients(), expected), TOLERANCES[mode.precision])
    assert check.passed, f"off the plain step by a relative {check.error:.2e}, allowed {check.tolerance:.0e}"
    step()  # creates the optimizer's moments
    count, frames = batch.clips.shape[0], batch.clips.shape[2]
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    work = counts.mol_released(count, frames, parameters, training=True)
    group = Group(
        "mol", "training step", f"mol released, training step, batch {count}, {mode.contender}", f"{count} clips",
        {"batch": count}, work, [Contender(mode.contender, mode.precision, step.timed(), lambda: check)],
        budget=0.0 if worker.pretended() else 3.0, least_rounds=1 if worker.pretended() else 5, device=worker.device(),
    )  # fmt: skip
    for row in measure(group, limits).values():
        row.peak_bytes = None if worker.pretended() else memory.peak_of(step, worker.device())
        worker.report("row", row={**asdict(row), "step": WHOSE})


def main() -> None:
    """Measure every mode."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--compile", action="store_true")
    todo = {mode.name: mode for mode in modes(parser.parse_args().compile)}
    names = worker.plan(list(todo))
    if not names:
        return
    batch, limits = batch_here(), limits_here()
    expected: tuple[Tensor, ...] = ()
    for name in names:
        with worker.task(name):
            expected = expected or TrainingStep(Mode(REFERENCE, "float32"), batch).loss_and_gradients()
            measure_mode(todo[name], batch, expected, limits)


if __name__ == "__main__":
    main()
