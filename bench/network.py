"""The groups of the whole network in its released variant: forward pass, training step, and a second of video.

Every contender has the same weights and the same clips. Dropout is off, so their results can be compared.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import molkernels as mk
from bench import counts, machine
from bench.baselines.published import PublishedMOL, training_loss
from bench.groups import Check, Contender, Group, worst_error
from bench.record import COMPILED, PREDICTION, PUBLISHED, REFERENCE
from mol import MOL
from mol.network.losses import MOLLoss

BATCH, FRAMES, SIZE = 2, 8, 128
BATCHES = (1, 8)  # of the sweep
LOSS_WEIGHTS = (1.0, 10 / 7, 3.5)  # emotion, flow, landmarks, as in the released code
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1e-3
# In a second of video at 200 frames per second, the rate of CASME II and SAMM, `mol predict` reads 5 windows of half a
# second, one every eighth of a second, and gives the network 4 at a time.
WINDOWS_PER_SECOND, WINDOWS_AT_ONCE = 5, 4
# Relative L2 error against float64, where all forms agree to 1e-9 (test_baselines.py). In float32 two neighbours
# of nearly equal similarity may change places in a graph, and one such change moves the gradients by a few per cent;
# bfloat16 keeps 8 bits and changes many neighbours.
TOLERANCES = {
    "forward": {"float32": 5e-3, "bfloat16": 1e-1},
    "training step": {"float32": 1e-1, "bfloat16": 5e-1},
    PREDICTION: {"float32": 5e-3, "bfloat16": 1e-1},
}


@dataclass
class Batch:
    """Training data of random clips, with the shapes and units of `mol.data.clips.Batch`."""

    clips: Tensor
    flow: Tensor
    landmarks: Tensor
    label: Tensor

    def double(self) -> "Batch":
        """The same in float64."""
        return Batch(self.clips.double(), self.flow.double(), self.landmarks.double(), self.label)

    def to(self, device: str) -> "Batch":
        """The same on another device."""
        return Batch(*(t.to(device) for t in (self.clips, self.flow, self.landmarks, self.label)))


def random_batch(batch: int = BATCH) -> Batch:
    """Noise clips, small flow, landmarks within the frame; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(batch, 1, FRAMES, SIZE, SIZE, generator=generator),
        torch.randn(batch, FRAMES - 1, 2, SIZE, SIZE, generator=generator),
        torch.rand(batch, FRAMES - 1, 68, 2, generator=generator) * SIZE,
        torch.arange(batch) % 5,
    )


def random_state() -> dict[str, Tensor]:
    """Random weights in the released layout, with batch-norm statistics that differ from their initial values."""
    torch.manual_seed(0)
    model = PublishedMOL(dropout=0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.state_dict()


class Network:
    """A model with the loss, backend and precision that it runs at, and its optimizer."""

    def __init__(self, key: str, state: Mapping[str, Tensor], device: str = "cpu") -> None:
        """The contender `key`, such as "reference-bfloat16", with the weights of the released-layout `state`."""
        self.backend, self.dtype = key.rsplit("-", 1)
        self.device = device
        if self.backend == PUBLISHED:
            self.model: nn.Module = PublishedMOL(dropout=0.0)
            self.model.load_state_dict(state)
        else:
            self.model = MOL.from_released(dict(state), dropout=0.0)
        self.model.to(device)
        # Shares the model's parameters and mode.
        self.call = torch.compile(self.model, dynamic=False) if self.backend == COMPILED else self.model
        fused = self.backend != PUBLISHED  # as in `mol train`; the published code uses PyTorch's default
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None
        )

    def forward(self, batch: Batch) -> Any:
        """Logits, flow and landmarks, without loss or gradient, in evaluation mode."""
        return self._look_at(batch.clips)

    def predict(self, batch: Batch) -> tuple[Tensor, ...]:
        """Logits, flow and landmarks of the windows of a second of video, a few at a time."""
        parts = [self._look_at(clips) for clips in batch.clips.split(WINDOWS_AT_ONCE)]
        return tuple(torch.cat(results) for results in zip(*parts, strict=True))

    def _look_at(self, clips: Tensor) -> Any:
        self.model.eval()
        with torch.no_grad(), self._settings():
            return self.call(clips)

    def backward(self, batch: Batch) -> Tensor:
        """The loss in training mode, detached; gradients are in the parameters."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self._settings():
            output = self.call(batch.clips)
            if self.backend == PUBLISHED:
                loss = training_loss(output, batch.flow, batch.landmarks, batch.label, LOSS_WEIGHTS)
            else:
                loss = MOLLoss(*LOSS_WEIGHTS)(output, batch).total
        loss.backward()
        return loss.detach()

    def step(self, batch: Batch) -> Tensor:
        """One training step with AdamW; the loss, on the device."""
        loss = self.backward(batch)
        self.optimizer.step()
        return loss

    def released_gradients(self) -> dict[str, Tensor]:
        """Gradients by the released checkpoint's names, without parameters that are never trained."""
        if isinstance(self.model, PublishedMOL):
            named = self.model.named_parameters()
            return {name: p.grad.flatten() for name, p in named if p.grad is not None}
        return {name: grad.flatten() for name, grad in _through_released_layout(self.model).items()}

    @contextmanager
    def _settings(self) -> Iterator[None]:
        if self.backend == PUBLISHED:
            yield
            return
        backend = REFERENCE if self.backend == COMPILED else self.backend
        with mk.backend(backend), torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            yield


def _through_released_layout(model: Any) -> dict[str, Tensor]:
    """Rename the gradients with `released_state_dict`, which only renames, splits and concatenates."""
    carrier = copy.deepcopy(model)
    with torch.no_grad():
        for source, target in zip(model.parameters(), carrier.parameters(), strict=True):
            target.copy_(torch.zeros_like(source) if source.grad is None else source.grad)
    return carrier.released_state_dict()


def contender_keys(device: str, compiled: bool = False) -> list[str]:
    """The keys of the contenders of every group; `compiled` adds torch.compile, which takes minutes."""
    dtypes = machine.torch_dtypes(device)  # the convolutions are torch's own, whatever the backend
    names = [*mk.available_backends(device), *([COMPILED] if compiled else [])]
    return [f"{PUBLISHED}-float32", *(f"{name}-{dtype}" for name in names for dtype in dtypes)]


def group(
    task: str, device: str, batch_size: int, keys: Sequence[str], sweep: str | None = None, rounds: int = 3
) -> Group:
    """The contenders `keys` for "forward", "training step" or "prediction" (which has its own batch size).

    There are at least `rounds` rounds, each of which takes the published loop 5 to 18 s on 2 cores. Contenders are
    compared with the reference backend in float64: by outputs (forward, prediction), or by the loss and all gradients
    as one vector (training step).
    """
    torch.compiler.reset()
    clips = WINDOWS_PER_SECOND if task == PREDICTION else batch_size
    state, batch = random_state(), random_batch(clips).to(device)
    results = {"forward": _outputs, "training step": loss_and_gradients, PREDICTION: Network.predict}[task]
    exact = results(in_float64("reference-float32", state, device), batch.double())

    def contender(key: str) -> Contender:
        network = Network(key, state, device)
        timed = {"forward": network.forward, "training step": network.step, PREDICTION: network.predict}[task]

        def check() -> Check:
            error = worst_error(results(network, batch), exact)
            if task == "training step":
                network.optimizer.step()  # creates its moments here, not in the first timed round
            return Check(error, TOLERANCES[task][network.dtype])

        return Contender(network.backend, network.dtype, lambda: timed(batch), check)

    work = counts.mol_released(clips, FRAMES, _parameter_count(state), training=task == "training step")
    shape = f"{clips} clips of {FRAMES}×{SIZE}×{SIZE}"
    name = f"mol released, {task}, " + ("1 s of video" if task == PREDICTION else f"batch {batch_size}")
    return Group(
        "mol", task, name, shape, {"batch": clips}, work, [contender(key) for key in keys], sweep,
        budget=10.0, least_rounds=rounds, device=device,
    )  # fmt: skip


def in_float64(key: str, state: Mapping[str, Tensor], device: str = "cpu") -> Network:
    """The contender `key` with its weights and arithmetic in float64."""
    network = Network(key, state, device)
    network.model.double()
    return network


def _outputs(network: Network, batch: Batch) -> tuple[Tensor, ...]:
    return tuple(network.forward(batch))


def loss_and_gradients(network: Network, batch: Batch) -> tuple[Tensor, ...]:
    """The loss in training mode, and all gradients as one float64 vector in the released order."""
    loss = network.backward(batch)
    gradients = network.released_gradients()
    return loss, torch.cat([gradients[name].double() for name in _trained_names()])


def _trained_names() -> list[str]:
    """The released names of all parameters that get a gradient."""
    model = PublishedMOL()
    return [name for name, _ in model.named_parameters() if ".ffn." not in name]


def _parameter_count(state: Mapping[str, Tensor]) -> int:
    return sum(state[name].numel() for name in _trained_names())
