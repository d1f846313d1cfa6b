"""What the operators are tested on: every backend that can run on this machine, on its device.

In addition to the backends of `molkernels.available_backends` there are "cuda-emulated", the CUDA kernels compiled for
the CPU and run with one fibre per GPU thread (helpers/emulator), so that their logic is executed without a GPU;
"triton" on the CPU, the Triton kernels in Triton's interpreter; and "cpu-aarch64", the CPU kernels on an emulated
AArch64 processor (helpers/aarch64), where its compiler is installed and slow tests are asked for.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aarch64
import emulator
import pytest
import torch

# Before the first Triton kernel is created: they run on the GPU if there is one, else in the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import molkernels as mk
from molkernels import dispatch, extension, triton

EMULATED = "cuda-emulated"
AARCH64 = "cpu-aarch64"
INTERPRETED = "triton"


@dataclass(frozen=True)
class Target:
    """A backend on a kind of device."""

    backend: str
    device: str

    @property
    def widest(self) -> torch.dtype:
        """float64 if the backend has it."""
        return torch.float64 if self.has(torch.float64) else torch.float32

    def has(self, dtype: torch.dtype) -> bool:
        """Whether the backend supports this dtype."""
        return dispatch.BACKENDS[self.backend].missing(self.device, dtype) is None

    @property
    def slow(self) -> bool:
        """Whether GPU kernels run on the CPU, a thousand times slower."""
        return self.device == "cpu" and self.backend in (EMULATED, INTERPRETED)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make `random` draw on this device, and load the emulator if the target needs it."""
        if self.backend == EMULATED:
            emulator.load()
        before = _device.name
        _device.name = self.device
        try:
            yield
        finally:
            _device.name = before


class _Device:
    name = "cpu"


_device = _Device()


def random(generator, *shape, dtype=torch.float64, requires_grad=False):
    """Normally distributed numbers from a CPU generator, the same on every device."""
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.to(_device.name, dtype).requires_grad_(requires_grad)


def here(value):
    """A tensor or module on the device of the active target."""
    return value.to(_device.name)


def _emulated_missing(device_type: str, dtype: torch.dtype | None) -> str | None:
    return "it runs on cpu tensors only" if device_type != "cpu" else extension.refuses("cuda", dtype)


def _emulated_kernel(name: str):
    return extension.with_precision(name, getattr(torch.ops.molkernels_cuda, name).default)


def _aarch64_missing(device_type: str, dtype: torch.dtype | None) -> str | None:
    return "it takes cpu tensors only" if device_type != "cpu" else aarch64.missing() or extension.refuses("cpu", dtype)


# A convolution in TF32, PyTorch's default on a GPU, is further off than float32's tolerances; tests of TF32 allow it.
torch.backends.cudnn.allow_tf32 = False

dispatch.BACKENDS[EMULATED] = dispatch.Backend(EMULATED, _emulated_missing, _emulated_kernel)
dispatch.BACKENDS[AARCH64] = dispatch.Backend(AARCH64, _aarch64_missing, lambda name: getattr(aarch64.machine(), name))

TARGETS = [
    *(pytest.param(Target(name, "cpu"), id=name) for name in mk.available_backends("cpu")),
    pytest.param(Target(EMULATED, "cpu"), id=EMULATED),
    *(
        [pytest.param(Target(INTERPRETED, "cpu"), id="triton-interpreted")]
        if triton.missing("cpu", None) is None
        else []
    ),
    *([pytest.param(Target(AARCH64, "cpu"), id=AARCH64, marks=pytest.mark.slow)] if aarch64.missing() is None else []),
    *(
        pytest.param(Target(name, "cuda"), id=f"{name}-on-gpu", marks=pytest.mark.gpu)
        for name in (mk.available_backends("cuda") if torch.cuda.is_available() else ())
    ),
]


def slow_on(*names: str) -> pytest.MarkDecorator:
    """TARGETS for a fixture `target`, with those of these names left to `make test-all`, where they are slow."""
    marked = [
        pytest.param(*param.values, id=param.id, marks=[*param.marks, pytest.mark.slow]) if param.id in names else param
        for param in TARGETS
    ]
    return pytest.mark.parametrize("target", marked, indirect=True)
