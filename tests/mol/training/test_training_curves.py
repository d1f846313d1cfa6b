"""Training on a compiled backend goes the way it goes on the reference: 50 steps, the same losses to rounding."""

import pytest
import torch
from targets import TARGETS
from torch import nn

import molkernels as mk
from mol import MOL
from mol.network.losses import MOLLoss

STEPS = 50


class TwoBlocks(nn.Module):
    """Two F5C blocks and a linear head on 8×8 maps."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(mk.F5C(16, 8, 4, variant) for _ in range(2)))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.blocks(x).mean((2, 3)))


def small_curve(variant, dtype, backend, device):
    torch.manual_seed(3)
    model = TwoBlocks(variant)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    x, label = torch.randn(12, 16, 8, 8), torch.arange(12) % 3
    model, x, label = model.to(device, dtype), x.to(device, dtype), label.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    with mk.backend(backend):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), label)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


# A GPU's kernels on a processor would take minutes for what test_ops.py already says of each step.
@pytest.mark.parametrize("target", [t for t in TARGETS if t.values[0].backend != "reference" and not t.values[0].slow])
@pytest.mark.parametrize("variant", ["paper", pytest.param("released", marks=pytest.mark.slow)])
def test_a_small_network_learns_the_same(target, variant):
    # In float32 a neighbour may change places, which moves the loss by 4e-4 of the first.
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-2)):
        if not target.has(dtype):
            continue
        expected = small_curve(variant, dtype, "reference", target.device)
        got = small_curve(variant, dtype, target.backend, target.device)
        assert expected[-1] < 0.5 * expected[0]
        assert ((got - expected).abs() <= tolerance * expected[0]).all(), dtype


class Batch:
    """Random clips with targets of the right shapes and units."""

    def __init__(self) -> None:
        torch.manual_seed(4)
        self.clips = torch.randn(2, 1, 8, 128, 128)
        self.flow = torch.randn(2, 7, 2, 128, 128)
        self.landmarks = torch.rand(2, 7, 68, 2) * 128
        self.label = torch.tensor([0, 1])


def mol_curve(variant, backend, dtype, steps):
    batch = Batch()
    torch.manual_seed(5)
    model = MOL(num_classes=2, variant=variant, dropout=0.0).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-3)
    criterion, losses = MOLLoss(), []
    with mk.backend(backend):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = criterion(model(batch.clips.to(dtype)), batch).total
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.skipif("cpu" not in mk.available_backends("cpu"), reason="the CPU library was not built")
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_mol_learns_the_same(variant):
    """To rounding in float64; in float32 neighbours change places, and the losses stay within 5 % over 50 steps."""
    for dtype, steps, tolerance in ((torch.float64, 5, 1e-6), (torch.float32, STEPS, 5e-2)):
        expected, got = (mol_curve(variant, backend, dtype, steps) for backend in ("reference", "cpu"))
        assert expected[-1] < expected[0]
        assert ((got - expected).abs() <= tolerance * expected.abs()).all(), dtype
