"""Starts Triton kernels: the one place that knows tile sizes, devices and the precision of products."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from molkernels.precision import conv_tf32, matmul_tf32
from molkernels.triton import interpreted, tuning

LEAST_TILE = 16  # the smallest side of a tile for tensor cores

Grid = Callable[[dict[str, int]], tuple[int, ...]]


@dataclass(frozen=True)
class Launch:
    """A kernel with everything that determines how it is compiled."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return kernel_name(self.kernel)


@dataclass
class _Recording:
    architecture: str
    launches: list[Launch]


_recording: _Recording | None = None


@contextlib.contextmanager
def recording(architecture: str) -> Iterator[list[Launch]]:
    """Collect the launches of the block as for `architecture` ("sm_90", "gfx942") without running them."""
    global _recording
    before, _recording = _recording, _Recording(architecture, [])
    try:
        yield _recording.launches
    finally:
        _recording = before


def launch(
    kernel: Any, grid: Grid, *arguments: Any, tiles: dict[str, int], warps: int | None = None, **constants: Any
) -> None:
    """Run `kernel` on the device of its first argument.

    Args:
        grid: the number of programs along each axis, a function of the tile sizes.
        arguments: tensors and numbers.
        tiles: for each tile size that `tuning` chooses, the length of the axis that it divides: no tile is longer
            than the next power of two.
        warps: warps per program, if `tuning` does not choose them.
        constants: further compile-time constants.
    """
    x = arguments[0]
    architecture = architecture_of(x.device)

    def run(config: tuning.Config) -> None:
        sizes = {name: min(config.tiles[name], power_of_two(length)) for name, length in tiles.items()}
        options = {"num_warps": warps or config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
        if config.registers is not None and architecture.startswith("sm_"):
            options["maxnreg"] = config.registers
        if _recording is not None:
            _recording.launches.append(Launch(kernel, arguments, {**constants, **sizes}, options))
            return
        programs = grid(sizes)
        if 0 not in programs:
            with on_device(x.device):
                kernel[programs](*arguments, **constants, **sizes, **options)

    products = "16-bit" if x.dtype.itemsize == 2 else constants.get("PRECISION", "ieee")
    key = (kernel_name(kernel), architecture, products)
    shape = (*(tuple(t.shape) for t in arguments if isinstance(t, Tensor)), *constants.values())
    if tuning.requested() and _recording is None and x.is_cuda:
        tuning.measure(key, shape, run)
    run(tuning.config(key, shape))


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make `device` the current one, on which Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def architecture_of(device: torch.device) -> str:
    """ "sm_90", "gfx942" …; "interpreter" for a CPU."""
    if _recording is not None:
        return _recording.architecture
    if device.type != "cuda":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName.split(":")[0])
    return f"sm_{properties.major}{properties.minor}"


def precision(x: Tensor, *, convolution: bool = False) -> str:
    """`input_precision` of tl.dot for float32 products: TF32 only if torch allows it and the chip has it."""
    architecture = architecture_of(x.device)
    has_tf32 = architecture in ("gfx942", "gfx950") or architecture.startswith("sm_")
    allowed = conv_tf32() if convolution else matmul_tf32()
    return "tf32" if has_tf32 and allowed and x.dtype == torch.float32 else "ieee"


def on_matrix_cores(x: Tensor) -> bool:
    """Whether products run on matrix units: all except float32 at full precision on NVIDIA chips."""
    return x.dtype.itemsize == 2 or precision(x) == "tf32" or architecture_of(x.device).startswith("gfx9")


def resident_programs(x: Tensor) -> int:
    """The number of programs into which a sum with enough terms is split, at least: several per multiprocessor."""
    if _recording is None and x.is_cuda:
        return 4 * int(torch.cuda.get_device_properties(x.device).multi_processor_count)
    return 8 if interpreted() else 4 * 132


def power_of_two(length: int) -> int:
    """The smallest power of two that is at least `length` and at least a tile."""
    return int(triton.next_power_of_2(max(length, LEAST_TILE)))


def kernel_name(kernel: Any) -> str:
    return str(kernel.fn.__name__)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
