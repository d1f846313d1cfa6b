"""Devices that there are not, or that fit neither the batch nor what has started the processes, are refused at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mol.common.errors import SettingsError
from mol.training.launch import in_precision, launched
from mol.training.settings import TrainConfig

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN, "SLURM_JOB_NAME", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)


def config(**named: object) -> TrainConfig:
    return TrainConfig(cache="c", **{"device": "cpu", "batch_size": 8, **named})


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"devices": 9}, r"batch_size=8 is too small for 9 devices.*--batch-size 9"),
        ({"devices": 2, "accumulate": 5}, r"batch_size=8 in 5 parts is too small for 2 devices"),
        ({"num_nodes": 2}, r"num_nodes=2: start the command on every machine with torchrun or srun"),
        ({"devices": 2, "device": "cuda:1"}, r"device='cuda:1' is one device, but devices=2"),
        ({"devices": 0}, r"devices=0 must be greater than 0"),
        ({"devices": 2, "graph": True}, r"several devices can't be captured in a CUDA graph"),
        ({"strategy": "fsdp"}, r"strategy='fsdp' must be 'auto' or 'ddp'"),
    ],
)
def test_settings_that_can_not_work_are_named(named, message):
    with pytest.raises(SettingsError, match=message), launched(config(**named)):
        pass


@pytest.mark.skipif(torch.cuda.device_count() > 3, reason="this machine has as many GPUs as the test asks for")
def test_more_gpus_than_there_are_are_refused():
    wanted = pytest.raises(SettingsError, match=r"devices=4, but this machine has .* CUDA device")
    with wanted, launched(config(devices=4, device="cuda")):
        pass


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_what_was_started_must_fit_the_settings(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    program = "torchrun" if environment is TORCHRUN else "srun"
    wanted = rf"{program} has started 4 process\(es\), 2 on this machine, .*use --devices 2 --num-nodes 2"
    for named in ({}, {"devices": 4}, {"devices": 2}, {"num_nodes": 2}):
        with pytest.raises(SettingsError, match=wanted), launched(config(**named)):
            pass


def test_one_device_needs_no_processes():
    with launched(config(devices="auto", precision="auto")) as (device, settings):
        assert (device.ranks.world, device.ranks.is_first, str(device.fabric.device)) == (1, True, "cpu")
        assert (settings.precision, settings.channels_last) == ("32", False)
        module = nn.Linear(2, 2)
        assert torch.equal(in_precision(device, module)(torch.ones(1, 2)), module(torch.ones(1, 2)))
