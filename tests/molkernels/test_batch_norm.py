"""Batch norms whose statistics are those of several processes, on one and on several."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from places import ROOT
from torch import nn

import molkernels as mk
from molkernels.batch_norm import SyncBatchNorm

KINDS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def gradients(module: nn.Module, x: torch.Tensor, weight: torch.Tensor, *more: object) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x, *more)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), [x, *module.parameters()])]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_one_process_computes_what_batch_norm_does(axes, affine):
    torch.manual_seed(0)
    shape = (6, 5, *([3] * axes if axes > 1 else []))
    x, weight = 300 + torch.randn(shape), torch.randn(shape)
    plain = KINDS[axes](5, affine=affine)
    if affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
    ours = SyncBatchNorm.convert(nn.Sequential(plain))[0]
    expected = KINDS[axes](5, affine=affine).double()
    expected.load_state_dict(plain.state_dict())
    for found, wanted in zip(gradients(ours, x, weight), gradients(expected, x.double(), weight.double()), strict=True):
        torch.testing.assert_close(found, wanted.float(), atol=2e-4, rtol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(ours, name).double(), getattr(expected, name).double(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.eval()(x), expected.eval()(x.double()).float(), atol=2e-4, rtol=1e-4)


def test_groups_are_calls_one_after_another():
    torch.manual_seed(0)
    x, weight = torch.randn(6, 4, 5, 5, dtype=torch.float64), torch.randn(6, 4, 5, 5, dtype=torch.float64)
    ours, plain = SyncBatchNorm(4).double(), nn.BatchNorm2d(4).double()
    found = ours(x, 3)
    for group in range(3):
        torch.testing.assert_close(found[group::3], plain(x[group::3]))
    torch.testing.assert_close(ours.running_var, plain.running_var)
    assert ours.num_batches_tracked == 3
    gradients(ours, x, weight, 3)


def test_converting_keeps_parameters_buffers_and_mode():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), mk.FCC(4, 5)).eval()
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    keys = list(model.state_dict())
    converted = SyncBatchNorm.convert(model)
    assert converted is model
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    assert list(model.state_dict()) == keys
    assert not any(layer.training for layer in model.modules())
    assert isinstance(model[2].norm, SyncBatchNorm)


def test_fcc_with_the_statistics_of_all_processes_is_fcc():
    torch.manual_seed(0)
    x, weight = torch.randn(6, 4, 5, 5, dtype=torch.float64), torch.randn(6, 4, 5, 5, dtype=torch.float64)
    plain = mk.FCC(4, 5).double()
    ours = mk.FCC(4, 5).double()
    ours.load_state_dict(plain.state_dict())
    SyncBatchNorm.convert(ours)
    for groups in (1, 3):
        for found, wanted in zip(gradients(ours, x, weight, groups), gradients(plain, x, weight, groups), strict=True):
            torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(ours.norm.running_var, plain.norm.running_var)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))
    block = mk.F5C(4, 5).double().eval()
    assert SyncBatchNorm.convert(block)._is_one_operator()


def test_a_norm_without_bias_is_converted_too():
    plain = nn.BatchNorm2d(4)
    plain.bias = None
    ours, x = SyncBatchNorm.convert(nn.Sequential(plain))[0], torch.randn(3, 4, 5, 5)
    assert ours.bias is None
    torch.testing.assert_close(ours(x), nn.BatchNorm2d(4)(x))


def test_pytorchs_own_conversion_takes_part():
    torch.manual_seed(0)
    plain, x = mk.F5C(4, 5), torch.randn(2, 4, 5, 5)
    nn.init.normal_(plain.fcc.mix.weight)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    torch.testing.assert_close(converted(x), plain(x))
    torch.testing.assert_close(converted.fcc.norm.running_var, plain.fcc.norm.running_var)
    torch.testing.assert_close(converted.eval()(x), plain.eval()(x))


def test_processes_with_parts_of_a_batch_compute_what_one_does_with_all_of_it():
    program = ROOT / "tests" / "molkernels" / "test_batch_norm.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/helpers'}"}
    port = str(29000 + os.getpid() % 900)
    processes = [
        subprocess.Popen([sys.executable, str(program), str(rank), port], env=environment, stderr=subprocess.PIPE)
        for rank in range(3)
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()


def main(rank: int, port: str) -> None:
    """One of three processes: 4, 0 and 2 of six samples."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=3)
    torch.manual_seed(0)
    x, weight = torch.randn(6, 4, 5, 5, dtype=torch.float64), torch.randn(6, 4, 5, 5, dtype=torch.float64)
    mine = [slice(0, 4), slice(4, 4), slice(4, 6)][rank]
    for plain in (nn.BatchNorm2d(4).double(), mk.FCC(4, 5).double()):
        nn.init.normal_(getattr(plain, "norm", plain).weight)
        ours = SyncBatchNorm.convert(nn.Sequential(plain))[0]
        reference = (mk.FCC(4, 5) if isinstance(plain, mk.FCC) else nn.BatchNorm2d(4)).double()
        reference.load_state_dict(ours.state_dict())
        for groups in (1, 2):
            more = (groups,) if isinstance(plain, mk.FCC) or groups > 1 else ()
            if more and isinstance(reference, nn.BatchNorm2d):
                continue
            wanted = gradients(reference, x, weight, *more)
            found = gradients(ours, x[mine], weight[mine], *more)
            for place, (a, b) in enumerate(zip(found, wanted, strict=True)):
                if place < 2:  # output and its gradient by sample; the others are sums
                    torch.testing.assert_close(a, b[mine])
                else:
                    dist.all_reduce(a)
                    torch.testing.assert_close(a, b)
            norms = [getattr(module, "norm", module) for module in (ours, reference)]
            torch.testing.assert_close(norms[0].running_var, norms[1].running_var)
            torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(mk.F5C(4, 5))
    with pytest.raises(ValueError, match="expected input tensor to be on"):  # PyTorch's own needs GPUs
        converted(torch.randn(2, 4, 5, 5))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
