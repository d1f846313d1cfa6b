"""The training step on a GPU: a captured graph trains as eager steps do."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from step_batches import random_batch, trained_by

from mol import MOL
from mol.network.layout import lay_out_channels_last
from mol.network.losses import MOLLoss
from mol.networks.mol import NETWORK
from mol.training.step import GraphedStep, LearningRates, TrainingStep

pytestmark = pytest.mark.gpu

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

AUTOCAST = {"float32": nullcontext, "bfloat16": partial(torch.autocast, "cuda", torch.bfloat16)}


@pytest.fixture(params=["paper", "released"])
def model(request: pytest.FixtureRequest) -> MOL:
    torch.manual_seed(0)
    network = MOL(3, variant=request.param)
    lay_out_channels_last(network)
    return network.cuda()


@pytest.mark.parametrize("precision", list(AUTOCAST))
def test_graphed_steps_train_as_eager_ones_do(model: MOL, precision: str) -> None:
    eager, losses = trained_by(TrainingStep, model, 5, autocast=AUTOCAST[precision])
    graphed, found = trained_by(partial(GraphedStep, required=True), model, 5, autocast=AUTOCAST[precision])
    # Sums in another order may differ, and five steps of Adam enlarge that; another mask of dropout would differ more.
    assert torch.tensor(found).allclose(torch.tensor(losses), rtol=1e-3 if precision == "float32" else 5e-2)
    for (name, mine), theirs in zip(graphed.state_dict().items(), eager.state_dict().values(), strict=True):
        error = (mine.double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-12)
        assert error < 2e-2, name


def test_a_step_does_not_wait_for_the_host(model: MOL) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for group in optimizer.param_groups:
        group["rate"] = 1.0
    rates, step = (
        LearningRates(optimizer, torch.device("cuda")),
        TrainingStep(NETWORK, model, optimizer, MOLLoss(), 1.0),
    )
    for number in range(2):  # libraries may wait at their first call
        step(random_batch(number, device="cuda"))
    batch = random_batch(2, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rates.set(1e-4)
        step(batch)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_padded_channels_in_channels_last_order_change_no_output(model: MOL) -> None:
    clips = random_batch(0, device="cuda").clips
    model.eval()
    with torch.no_grad():
        padded = model(clips)
        model.flow.pad = False
        plain = model(clips)
    for mine, theirs in zip(padded, plain, strict=True):
        assert (mine - theirs).norm() <= 1e-2 * theirs.norm().clamp_min(1e-3)
