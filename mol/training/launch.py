"""Start the processes of a training on several devices, or take part in those that torchrun or Slurm has started."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mol.common.devices import no_hints, start_fabric
from mol.common.environment import available_cores
from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.common.terminal import say
from mol.networks.registry import find_network
from mol.training.ranks import Ranks, require_divisible
from mol.training.settings import TrainingSettings
from mol.training.step import require_graph, with_automatic_settings

Settings = TypeVar("Settings", bound=TrainingSettings)

# A process that waits longer for another in the middle of a step has lost it; torch.compile takes longer than a step.
_LOST, _LOST_COMPILED = timedelta(seconds=60), timedelta(minutes=15)


class Launched(NamedTuple):
    """What a training runs on.

    Attributes:
        fabric: a `lightning_fabric.Fabric`, launched.
        ranks: its processes.
    """

    fabric: Any
    ranks: Ranks


class _Outside(NamedTuple):
    """Processes that something else has started: which program, how many in all and on this machine."""

    program: str
    world: int
    local: int


@contextmanager
def launched(config: Settings) -> Iterator[tuple[Launched, Settings]]:
    """Open the device or devices of the settings; gives them, and the settings with what "auto" means there.

    With several devices this command is started once more for each, unless torchrun or srun has done so. Each of the
    processes goes on from here.

    Raises:
        SettingsError: devices that there are not, or that fit neither the batch nor what torchrun or srun has started.
    """
    outside = _started_outside()
    devices = _number_of_devices(config, outside)
    world = devices * config.num_nodes
    _require_same(config, devices, outside)
    require_divisible(config.batch_size, config.accumulate, world)
    network = find_network(config.network)
    if world == 1:
        fabric = start_fabric(config.device, config.precision)
        require_graph(config.graph, network, fabric.device)
        yield Launched(fabric, Ranks(fabric)), with_automatic_settings(config, fabric.device)
        return
    if config.graph is True:
        raise SettingsError(
            "graph=true: the steps of several devices can't be captured in a CUDA graph; use --graph auto"
        )
    require("lightning_fabric", "train")  # which sets the level of its own messages
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # of every process it says that it starts
    # Norms and dropout are those of the whole batch, so the buffers of all processes are equal.
    strategy = require("lightning_fabric.strategies", "train").DDPStrategy(
        timeout=_LOST_COMPILED if config.compile else _LOST, gradient_as_bucket_view=True, **_without_buffers()
    )
    several = {"devices": devices, "num_nodes": config.num_nodes, "strategy": strategy}
    fabric = start_fabric(config.device, config.precision, several)
    try:
        fabric.launch()
    except (ValueError, RuntimeError, OSError) as error:
        raise SettingsError(f"the processes for {world} devices can't start: {error}") from error
    ranks = Ranks(fabric)
    config = dataclasses.replace(with_automatic_settings(config, fabric.device), graph=False)
    if fabric.device.type == "cpu" and devices > available_cores():
        say(f"note: {devices} processes share {available_cores()} core(s), which is no faster than one process")
    try:
        yield Launched(fabric, ranks), config
    finally:
        dist.destroy_process_group()
        ranks.end_started()


def in_precision(device: Launched, module: nn.Module) -> nn.Module:
    """A network to be asked in the precision of the device, by one of its processes alone."""
    if device.ranks.world == 1:
        return cast(nn.Module, device.fabric.setup_module(module))
    return _InPrecision(module.to(device.fabric.device), device.fabric._precision)


class _InPrecision(nn.Module):
    """What a Fabric makes of a module, without the processes."""

    def __init__(self, module: nn.Module, precision: Any) -> None:
        super().__init__()
        self.module, self._precision = module, precision

    def forward(self, inputs: torch.Tensor) -> Any:
        with self._precision.forward_context():
            return self._precision.convert_output(self.module(self._precision.convert_input(inputs)))


def _number_of_devices(config: TrainingSettings, outside: _Outside | None) -> int:
    """Devices on each machine."""
    kind = config.device.partition(":")[0]
    count = torch.cuda.device_count()
    on_gpu = kind == "cuda" or (kind == "auto" and count > 0)
    if config.devices == "auto":
        devices = outside.local if outside else (max(1, count) if on_gpu else 1)
    else:
        devices = config.devices
    if devices > 1 and ":" in config.device:
        raise SettingsError(
            f"device={config.device!r} is one device, but devices={devices}; use --device cuda, and "
            "CUDA_VISIBLE_DEVICES to choose among them"
        )
    if on_gpu and devices > max(1, count):
        raise SettingsError(f"devices={devices}, but this machine has {count} CUDA device(s); use --devices auto")
    return devices


def _started_outside() -> _Outside | None:
    """What torchrun or srun has started, if this process is one of theirs."""
    environ = os.environ
    if "TORCHELASTIC_RUN_ID" in environ:
        return _Outside("torchrun", int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"]))
    environments = require("lightning_fabric.plugins.environments", "train")
    with no_hints():
        in_slurm = environments.SLURMEnvironment.detect()
    if in_slurm and "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ:
        world, nodes = int(environ["SLURM_NTASKS"]), int(environ.get("SLURM_NNODES", "1"))
        return _Outside("srun", world, world // nodes)
    return None


def _require_same(config: TrainingSettings, devices: int, outside: _Outside | None) -> None:
    """Refuse settings that don't fit the processes that there are."""
    world = devices * config.num_nodes
    if outside is not None and (outside.world, outside.local) != (world, devices):
        nodes = outside.world // outside.local
        raise SettingsError(
            f"{outside.program} has started {outside.world} process(es), {outside.local} on this machine, but "
            f"devices={devices} and num_nodes={config.num_nodes}; use --devices {outside.local} --num-nodes {nodes}"
        )
    if outside is None and config.num_nodes > 1 and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise SettingsError(
            f"num_nodes={config.num_nodes}: start the command on every machine with torchrun or srun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK on each (docs/scale.md)"
        )


def _without_buffers() -> dict[str, bool]:
    """The option of DDP not to send buffers in every step, by the name that this version of PyTorch has for it."""
    names = inspect.signature(DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False}
