"""Train for some steps on several processes with gloo and write the weights: run as a program, once for each number.

python many_devices.py OUT --devices 2 --variant paper --dtype float64 --batch 5 --steps 20 …
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_cache import write_tiny_cache

from mol.networks.interface import Batch, Part
from mol.networks.registry import find_network
from mol.training.launch import launched
from mol.training.settings import LossConfig, ModelConfig, TrainConfig
from mol.training.step import DividedStep, LearningRates, TrainingStep
from mol.training.train import freeze_unused, learning_rate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--network", default="mol")
    parser.add_argument("--variant", default="paper")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--pairs", default="3")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--nudge", type=float, default=0.0, help="relative change of the first weights")
    parser.add_argument("--w-ldm", type=float, default=None)
    asked = parser.parse_args()
    dtype = getattr(torch, asked.dtype)
    pairs = asked.pairs if asked.pairs == "all" else int(asked.pairs)
    own = asked.network == "mol"
    config = TrainConfig(
        cache="none",
        network=asked.network,
        batch_size=asked.batch,
        steps=asked.steps,
        devices=asked.devices,
        accumulate=asked.accumulate,
        device="cpu",
        **({"model": ModelConfig(variant=asked.variant), "loss": LossConfig(w_ldm=asked.w_ldm)} if own else {}),
        **({"flow_pairs": pairs} if own else {}),
    )
    with launched(config) as (device, config), tempfile.TemporaryDirectory() as folder:
        cache = write_tiny_cache(Path(folder) / "cache", marked=True)
        network = find_network(config.network)
        clips = network.hold(cache, range(len(cache)))
        torch.manual_seed(0)
        model = network.build(len(cache.classes), vars(config.model), clips).to(dtype)
        groups = network.parameter_groups(model, vars(config.rates))
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-3, fused=True)
        loss = network.loss(vars(config.loss))
        if asked.nudge:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1 + asked.nudge)
        fabric, ranks = device
        if ranks.world > 1:
            freeze_unused(model, network, loss, partial(taken, network, clips, config, dtype)(0, None))
        model = ranks.synchronise(model).train()
        wrapped = fabric.setup_module(model)
        if hasattr(model, "recognise"):
            wrapped.mark_forward_method("recognise")
        rates = LearningRates(optimizer, fabric.device)
        common: tuple[Any, ...] = (
            network,
            wrapped,
            optimizer,
            loss,
            config.clip_norm,
            fabric.autocast,
            fabric.backward,
        )
        for step in range(config.steps):
            torch.manual_seed(step)
            # As a usual run begins, with its warm-up.
            rates.set(learning_rate(dataclasses.replace(config, steps=1000), step))
            if ranks.world > 1 or config.accumulate > 1:
                unsynchronised = partial(fabric.no_backward_sync, wrapped, enabled=ranks.world > 1)
                divided = DividedStep(*common, ranks=ranks, unsynchronised=unsynchronised)
                parts = ranks.parts(config.batch_size, config.accumulate)
                divided(parts, partial(taken, network, clips, config, dtype, step))
            else:
                TrainingStep(*common)(taken(network, clips, config, dtype, step, None))
        if ranks.is_first:
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, asked.out)


def taken(network: Any, clips: Any, config: TrainConfig, dtype: torch.dtype, step: int, part: Part | None) -> Batch:
    """The batch of a step, or a part of it, in a precision."""
    batch: Any = network.training_batch(clips, step, 0, config.batch_size, config.flow_pairs, part)
    floats = {
        n: x.to(dtype) for n, x in batch._asdict().items() if isinstance(x, torch.Tensor) and x.is_floating_point()
    }
    return batch._replace(**floats)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
