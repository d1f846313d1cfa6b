"""How long a training step of MOL may take on a GPU, from its roofline: `python -m bench.roofline`.

The step is followed operation by operation on tensors without data, with the layout, padding and precision that
`mol train` uses on a GPU. Each operation has a count of floating-point operations (2 for a multiply-add) and of bytes:
inputs and outputs, each once, and a batch norm's input twice. Its roof is the longer of the two times at the
datasheet's rates.

- floor: all operations at their roofs, one after another; only fusing some of them could go below it.
- estimate, at best and at worst: at the shares of their roofs in `SHARES`, with a gap between two kernels of a CUDA
  graph.

None of these figures was measured; they are what a measurement is held against.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import counts
from bench.plan.devices import ALIASES, DATASHEETS, Device
from bench.tables import digits, markdown_table
from mol import MOL
from mol.data.clips import Batch
from mol.network.losses import MOLLoss
from mol.network.model import FRAMES, SIZE
from mol.networks.mol import NETWORK

SHARES = {
    "convolutions": (0.75, 0.35),
    "products": (0.7, 0.3),
    "molkernels": (0.6, 0.25),
    "batch norms": (0.9, 0.5),
    "other maps": (0.9, 0.5),
    "clipping, AdamW": (0.9, 0.7),
}
"""Share of the roof that a class of operations reaches, at best and at worst; an assumption."""
GAP = (0.8e-6, 2e-6)
"""Seconds between two kernels of a graph, at best and at worst; an assumption."""

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
_CLASSES = {
    "aten::convolution": "convolutions",
    "aten::convolution_backward": "convolutions",
    "aten::native_batch_norm": "batch norms",
    "aten::native_batch_norm_backward": "batch norms",
    **dict.fromkeys(_PRODUCTS, "products"),
}
# They compute and move nothing; what is left are views, which the schema tells.
_FREE = ("aten::detach", "aten::empty", "aten::empty_like", "aten::new_empty_strided", "aten::_unsafe_view")
# AdamW reads p, g, m and v and writes p, m and v; clipping reads g for its norm, then reads and writes it.
_OPTIMIZER_PASSES, _OPTIMIZER_KERNELS = 10, 40


@dataclass(frozen=True)
class Operation:
    """One operation of a step.

    Attributes:
        name: of PyTorch's operator.
        kind: a key of `SHARES`.
        flops: floating-point operations.
        bytes: that move at least.
        dtype: of its first input.
        kernels: launches.
    """

    name: str
    kind: str
    flops: float
    bytes: float
    dtype: torch.dtype
    kernels: int = 1

    def seconds_on(self, device: Device) -> float:
        """The roof; float32 products are IEEE, the slower end of the device's range."""
        half = self.dtype in (torch.bfloat16, torch.float16)
        rate = device.flops["bf16" if half else "32"][0]
        return max(self.flops / rate, self.bytes / device.bandwidth)


class Recorder(TorchDispatchMode):
    """Collects the operations that run within."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if func.is_view or name in _FREE or not made or name.startswith("profiler::"):
            return result
        named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        kind = "molkernels" if name.startswith("molkernels::") else _CLASSES.get(name, "other maps")
        moved = sum(x.numel() * x.element_size() for x in (*_distinct(given), *made))
        if kind == "batch norms":
            first = given[:2] if "backward" in name else given[:1]
            moved += sum(x.numel() * x.element_size() for x in first)
        kernels = 2 if name == "aten::convolution_backward" else 1
        dtype = given[0].dtype if given else made[0].dtype
        self.operations.append(Operation(name, kind, _flops(name, named, made), moved, dtype, kernels))
        return result


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list({id(x): x for x in tensors}.values())


def _flops(name: str, given: Mapping[str, Any], made: Sequence[Tensor]) -> float:
    """Of convolutions, matrix products and the operators of molkernels; 0 of others, which are bound by memory."""
    if name == "aten::convolution":
        return _convolution(given["input"], given["weight"], made[0], given["transposed"])
    if name == "aten::convolution_backward":
        halves = sum(map(bool, given["output_mask"][:2]))
        return halves * _convolution(given["input"], given["weight"], given["grad_output"], given["transposed"])
    if name in _PRODUCTS:
        left = given.get("mat1", given.get("self"))
        return 2.0 * made[0].numel() * left.shape[-1]
    if name.startswith("molkernels::"):
        operator = name.removeprefix("molkernels::")
        # For each forward product one for the input and one for the weights.
        times = 2 if operator.endswith("_backward") else 1
        return times * _operator(operator.removesuffix("_backward").removesuffix("_train"), given)
    return 0.0


def _convolution(x: Tensor, weight: Tensor, y: Tensor, transposed: bool) -> float:
    """Products of each tap; a transposed convolution has its taps at the input's pixels."""
    pixels = x if transposed else y
    return 2.0 * weight.numel() * pixels.shape[0] * math.prod(pixels.shape[2:])


def _operator(name: str, given: Mapping[str, Any]) -> float:
    if name == "knn":
        count, nodes, length = given["nodes"].shape
        return 2.0 * count * nodes * nodes * length
    if name == "cost_volume":
        n, c, h, w = given["a"].shape
        return counts.cost_volume(n, c, h, w, given["radius_y"], given["stride"], training=False).flops
    n, c, *sides = given["x"].shape
    if name == "fcc":
        return counts.fcc(n, c, *sides, training=False).flops
    if name == "edge_max":
        products = 2 if given["graph"] == "channel" else given["idx"].shape[-1] + 1
        return 2.0 * products * n * c * math.prod(sides) ** 2
    raise ValueError(f"molkernels::{name} has no count of operations here")


def recorded(work: Callable[[], object]) -> list[Operation]:
    """The operations of a piece of work; call it with tensors of a `FakeTensorMode`, or with real ones."""
    with Recorder() as recorder:
        work()
    return recorder.operations


def training_step(variant: str, batch: int, pairs: int | None) -> list[Operation]:
    """The operations of a training step as on a GPU: bfloat16 where it is safe, channels-last, padded channels.

    Args:
        variant: "paper" or "released".
        batch: clips.
        pairs: whose flow is trained; None for all.
    """
    with FakeTensorMode(), _as_on_a_gpu():
        model = MOL(5, variant=variant).train()
        model.flow.pad = True
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):  # tensors without data can't be laid out in place
                layer.weight = nn.Parameter(layer.weight.detach().contiguous(memory_format=torch.channels_last))
        clips = Batch(
            torch.empty(batch, 1, FRAMES, SIZE, SIZE),
            torch.empty(batch, FRAMES - 1, 2, SIZE, SIZE),
            torch.empty(batch, FRAMES - 1, 68, 2),
            torch.empty(batch, dtype=torch.int64),
            torch.empty(batch, dtype=torch.int64),
            None if pairs is None else torch.empty(2, pairs, dtype=torch.int64),
        )

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                output = NETWORK.run(model, clips, MOLLoss())
            MOLLoss()(output, clips).total.backward()

        parameters = sum(parameter.numel() for parameter in model.parameters())
        return [*recorded(step), optimizer_step(parameters)]


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Without what the network does on a CPU only: it looks at its input, and computes tiny maps as products."""
    with (
        patch("mol.network.model.check_clips", lambda clips: None),
        patch("mol.network.model.check_pairs", lambda pairs, clips: None),
        patch("mol.network.convolution.BY_PRODUCT", ()),
    ):
        yield


def optimizer_step(parameters: int) -> Operation:
    """Clipping and fused AdamW over float32 parameters: ten passes of four bytes each."""
    passes = 4.0 * _OPTIMIZER_PASSES * parameters
    return Operation("clipping, AdamW", "clipping, AdamW", 0.0, passes, torch.float32, _OPTIMIZER_KERNELS)


class Estimate(NamedTuple):
    """Seconds of a step, or of a class of its operations; none was measured.

    Attributes:
        floor, best, worst: see the head of this module.
        flops, bytes, kernels: sums over the operations.
    """

    floor: float
    best: float
    worst: float
    flops: float
    bytes: float
    kernels: int


def estimate(operations: Sequence[Operation], device: Device) -> Estimate:
    """Add up the operations' times."""
    floor = best = worst = 0.0
    for one in operations:
        roof = one.seconds_on(device)
        floor += roof
        best += roof / SHARES[one.kind][0] + one.kernels * GAP[0]
        worst += roof / SHARES[one.kind][1] + one.kernels * GAP[1]
    return Estimate(
        floor,
        best,
        worst,
        sum(one.flops for one in operations),
        sum(one.bytes for one in operations),
        sum(one.kernels for one in operations),
    )


def by_class(operations: Sequence[Operation], device: Device) -> dict[str, Estimate]:
    """The estimate of each class of operations."""
    classes = defaultdict[str, list[Operation]](list)
    for one in operations:
        classes[one.kind].append(one)
    return {kind: estimate(classes[kind], device) for kind in SHARES if kind in classes}


def markdown(operations: Sequence[Operation], device: Device) -> str:
    """The classes and their sum, as a table."""
    rows = {**by_class(operations, device), "**step**": estimate(operations, device)}
    titles = ["estimate, not measured", "GFLOP", "GB", "kernels", "floor ms", "best ms", "worst ms"]
    cells = [
        [name, digits(e.flops / 1e9), digits(e.bytes / 1e9), str(e.kernels), *(digits(1e3 * s) for s in e[:3])]
        for name, e in rows.items()
    ]
    return markdown_table(titles, cells, numeric=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the estimate of a step."""
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", choices=("paper", "released"), default="paper")
    parser.add_argument("--batch", type=int, default=32, help="clips per step")
    parser.add_argument(
        "--pairs", type=int, help="pairs whose flow is trained; 16 of paper and all of released if empty"
    )
    parser.add_argument("--device", choices=(*DATASHEETS, *ALIASES), default="h100", help="whose datasheet")
    given = parser.parse_args(arguments)
    pairs = 16 if given.pairs is None and given.variant == "paper" else given.pairs
    device = DATASHEETS[ALIASES.get(given.device, given.device)]
    which = "all pairs" if pairs is None else f"{pairs} pairs"
    print(f"{given.variant}, {given.batch} clips, {which}, bfloat16; {device.limits()}\n")
    print(markdown(training_step(given.variant, given.batch, pairs), device))


if __name__ == "__main__":
    main()
