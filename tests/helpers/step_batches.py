"""Networks, optimizers and batches of random clips for tests of the training step, which need no cache."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mol.data.clips import Batch
from mol.network.losses import MOLLoss
from mol.networks.mol import NETWORK
from mol.training.step import LearningRates

RATES = {"flow": 0.3, "predictors": 0.02, "emotion": 1.0}
STEP_RATES = (1e-3, 7e-4, 2e-4, 1e-4, 5e-5)


def random_batch(step: int, clips: int = 2, pairs: int | None = 5, device: str = "cpu") -> Batch:
    """The batch of a step: noise, small flow, landmarks within the frame."""
    generator = torch.Generator().manual_seed(step)
    chosen = None
    if pairs is not None:
        order = torch.randperm(7 * clips, generator=generator)[:pairs]
        chosen = torch.stack([order // 7, order % 7])
    batch = Batch(
        torch.randn(clips, 1, 8, 128, 128, generator=generator),
        torch.randn(clips, 7, 2, 128, 128, generator=generator),
        torch.rand(clips, 7, 68, 2, generator=generator) * 128,
        torch.randint(3, (clips,), generator=generator),
        torch.arange(clips),
        chosen,
    )
    return Batch(*(None if part is None else part.to(device) for part in batch))  # type: ignore[arg-type]


def trained_by(make: Any, model: nn.Module, steps: int = 3, **named: Any) -> tuple[nn.Module, list[list[float]]]:
    """A copy of a model after some steps of ``make(NETWORK, model, optimizer, loss, 1.0, **named)``, and its losses."""
    model = copy.deepcopy(model).train()
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(NETWORK.parameter_groups(model, RATES), weight_decay=1e-3, fused=True)
    rates, step = LearningRates(optimizer, device), make(NETWORK, model, optimizer, MOLLoss(), 1.0, **named)
    losses = []
    for number in range(steps):
        torch.manual_seed(number)
        rates.set(STEP_RATES[number])
        terms, norm = step(random_batch(number, device=str(device)))
        losses.append([float(value) for value in (*terms, norm)])
    return model, losses
