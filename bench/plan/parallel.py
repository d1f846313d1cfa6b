"""A model of one training on several devices: each step's batch is divided among them, and gradients are averaged.

Only the step on one device and its fixed part can have been measured. On N devices a step of B clips takes

    fixed + (step − fixed) · ⌈B/N⌉ / B + norms + exposed

- *fixed* is what every device does whatever the number of clips (weights, gradients, AdamW).
- *norms*: synchronised batch norms wait for two small all-reduces each, one in the forward, one in the backward pass.
- *exposed*: gradients are averaged in buckets of 25 MiB while the backward pass goes on. All but the last bucket may
  hide behind `OVERLAP` of the backward pass; the last one is ready only when that ends. With DDP's buckets
  (Li et al., "PyTorch Distributed", VLDB 2020): exposed = max(0, all but the last − OVERLAP · backward) + the last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from bench.hours import fit_line
from bench.plan.cost import Settings, measured_durations
from bench.plan.counted import held_bytes
from bench.plan.devices import Device
from bench.plan.links import Interconnect
from bench.plan.measured import Measured
from bench.plan.sources import Range, Sources
from mol import MOL

OVERLAP = 0.8  # of the backward pass; before that no bucket is full, and its kernels share the device with the copies
BACKWARD = 2 / 3  # of the arithmetic that divides, as of the least work
GRADIENT_BYTES = 4  # float32, also under autocast
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # DDP's defaults, bytes
WEIGHT_TRAFFIC = 10  # elements read or written per parameter and step (`bench.counts.mol_released`)


@cache
def gradient_buckets(variant: str) -> tuple[int, ...]:
    """Bytes of the buckets of gradients, in the order in which the backward pass fills them, as DDP makes them."""
    buckets, size = [], 0
    for parameter in reversed(list(_network(variant).parameters())):
        size += GRADIENT_BYTES * parameter.numel()
        if size >= (BUCKET if buckets else FIRST_BUCKET):
            buckets.append(size)
            size = 0
    return (*buckets, size) if size else tuple(buckets)


@cache
def norm_layers(variant: str) -> int:
    """The batch norms of the network, each called once in a step."""
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in _network(variant).modules())


def _network(variant: str) -> nn.Module:
    with torch.device("meta"):
        return MOL(num_classes=5, variant=variant)


@dataclass(frozen=True)
class ParallelStep:
    """A training step on several devices, in seconds.

    Attributes:
        compute: on the device that has the most clips.
        norms: waiting for the statistics of batch norms.
        exposed: waiting for gradients after the backward pass.
    """

    compute: Range
    norms: float
    exposed: Range

    @property
    def seconds(self) -> Range:
        """The whole step."""
        fast, slow = (c + self.norms + e for c, e in zip(self.compute, self.exposed, strict=True))
        return fast, slow


def parallel_step(
    step: Range, fixed: Range, settings: Settings, devices: int, joined: Interconnect
) -> ParallelStep | None:
    """A training step of `settings.batch` clips on several devices; None if there are fewer clips than devices.

    Args:
        step: seconds on one device.
        fixed: seconds of it that do not divide.
        settings: of the run.
        devices: number of them.
        joined: the links between them.
    """
    if devices > settings.batch:
        return None
    share = math.ceil(settings.batch / devices) / settings.batch
    divided = [share * (whole - own) for whole, own in zip(step, fixed, strict=True)]
    *others, last = (joined.ring_seconds(size, devices) for size in gradient_buckets(settings.variant))
    exposed = [max(0.0, sum(others) - OVERLAP * BACKWARD * part) + last for part in divided]
    norms = 2 * norm_layers(settings.variant) * joined.tree_seconds(devices)
    return ParallelStep((fixed[0] + divided[0], fixed[1] + divided[1]), norms, (exposed[0], exposed[1]))


def fixed_part(
    settings: Settings, device: Device, step: Range, results: Sequence[Measured], sources: Sources
) -> tuple[Range, str]:
    """Seconds of a step that do not divide among devices, and the mark of their source.

    From steps measured at several batch sizes it is what the line through them leaves for no clip; otherwise the
    traffic of weights, gradients and moments at the device's bandwidth.
    """
    durations = measured_durations(settings, device, results)
    line = fit_line(durations[2]) if durations else None
    if durations and line:
        result, key, _ = durations
        seconds = max(0.0, line[0])
        mark = sources.add("measured", f"{key}, the line through all batch sizes at no clip; {result.label}")
    else:
        elements = WEIGHT_TRAFFIC * held_bytes(settings.variant, 1)[0]
        seconds = GRADIENT_BYTES * elements / device.bandwidth
        mark = sources.add(
            "counted", f"weights, gradients and AdamW's moments, {elements:.3g} elements, at the bandwidth"
        )
    return (min(seconds, step[0]), min(seconds, step[1])), mark
