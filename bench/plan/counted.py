"""What is counted instead of measured: the network's parameters, its least work, what autograd holds."""

from functools import cache

import torch

from bench import counts
from bench.network import FRAMES, LOSS_WEIGHTS, random_batch
from mol import MOL
from mol.network.losses import MOLLoss

OVER_SAVED = 4 / 3  # peak over what autograd holds; a CPU step measured 1.30 at batch 2 and 1.32 at batch 6


@cache
def held_bytes(variant: str, batch: int) -> tuple[int, int]:
    """Parameters, and the bytes that autograd holds between forward and backward pass, counted on the meta device."""
    with torch.device("meta"):
        model = MOL(num_classes=5, variant=variant, dropout=0.0)
        data = random_batch(batch).to("meta")
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}  # keeps the tensors too: the address of a freed storage may be reused

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        held.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        MOLLoss(*LOSS_WEIGHTS)(model(data.clips), data)
    saved = sum(tensor.untyped_storage().nbytes() for address, tensor in held.items() if address not in parameters)
    return sum(p.numel() for p in model.parameters()), saved


def training_work(batch: int, variant: str = "released") -> counts.Work:
    """The least work of a training step."""
    parameters, _ = held_bytes(variant, 2)  # the number is the same for any batch
    return counts.mol_released(batch, FRAMES, parameters, training=True)


def clip_bytes() -> float:
    """Bytes that each further clip of a batch adds to the peak of a training step, with workspaces."""
    return OVER_SAVED * (held_bytes("released", 2)[1] - held_bytes("released", 1)[1])
