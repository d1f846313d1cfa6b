"""What is counted on the meta device, beside what a real step holds."""

import pytest
import torch

from bench import network
from bench.plan.counted import held_bytes
from mol import MOL
from mol.network.losses import MOLLoss


def test_what_is_counted_on_the_meta_device_is_what_autograd_holds_on_a_cpu():
    parameters, counted = held_bytes("released", 1)
    model, batch = MOL(num_classes=5, variant="released", dropout=0.0), network.random_batch(1)
    assert parameters == sum(p.numel() for p in model.parameters())
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: held.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        MOLLoss(*network.LOSS_WEIGHTS)(model(batch.clips), batch)
    really = sum(t.untyped_storage().nbytes() for pointer, t in held.items() if pointer not in own)
    assert counted == pytest.approx(really, rel=0.1)
