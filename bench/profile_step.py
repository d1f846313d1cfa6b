"""Where each millisecond of a training step goes, its floor and the gap: `python -m bench.profile_step`.

A step runs under torch.profiler. The outermost operators that `part_of` knows include everything that they call; what
is left is the rest, so the parts add up to the profiled time. A floor is the time that an operation would take at the
machine's limits, measured in the same process: its floating-point operations at the GEMM rate or its bytes (inputs and
outputs, each once) at the copy rate, whichever takes longer.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from bench import counts, machine, network
from bench.counts import Work
from bench.tables import markdown_table
from bench.timing import seconds_of
from mol.common.allocator import keep_freed_memory
from mol.common.environment import available_cores
from mol.common.errors import MOLError, SettingsError
from mol.common.storage import write_json, write_text

NARROW = "_NarrowConv2d"  # of mol.network.convolution
STEP, LAYER, NODE = "training step", "layer ", "autograd::engine::evaluate_function: "
BEGIN, END = "<!-- profile:begin -->", "<!-- profile:end -->"
TOP = 20
NORM, ACTIVATION, LOSS, ADAMW, REST = "batch norm", "activations", "losses", "AdamW", "the rest"
MOVES = "concatenation, copies, sums of gradients"
PRODUCTS = "matrix products (tiny maps, linear layers), unfold, fold"
KERNELS, COST = "FCC, knn, edge_max (molkernels)", "cost volume (molkernels)"
# Operators that pass over memory, by part: how often they read or write as much as their first argument (0: work that
# only this implementation needs). AdamW reads parameter, gradient and two moments, and writes all but the gradient.
PASSES = {
    NORM: {"aten::native_batch_norm": 2, "aten::native_batch_norm_backward": 3},
    ACTIVATION: {"aten::leaky_relu": 2, "aten::leaky_relu_": 2, "aten::leaky_relu_backward": 3}
    | {"aten::relu": 2, "aten::threshold_backward": 3},
    MOVES: {"aten::cat": 2, "aten::copy_": 2, "aten::fill_": 1, "aten::add": 3, "aten::add_": 3},
    LOSS: {"aten::mse_loss": 2, "aten::mse_loss_backward": 3, "aten::cross_entropy_loss": 1}
    | {"aten::nll_loss_backward": 1, "aten::_log_softmax_backward_data": 3},
    ADAMW: {"aten::_fused_adamw_": 7, "Optimizer.zero_grad#AdamW.zero_grad": 0},
    PRODUCTS: {"aten::im2col": 0, "aten::col2im": 0},
}
PART = {name: (part, passes) for part, some in PASSES.items() for name, passes in some.items()}


@dataclass(frozen=True)
class Row:
    """One operator with one set of shapes in one layer: milliseconds and least work per step."""

    part: str
    layer: str
    direction: str  # "forward" or "gradient"
    operator: str
    shapes: str
    milliseconds: float
    flops: float
    bytes: float

    def floor(self, limits: Mapping[str, Any], dtype: str) -> float:
        """Milliseconds at the limits."""
        return 1e3 * max(self.flops / limits["gemm"][dtype], self.bytes / limits["copy"]["bytes_per_second"])


def _elements(shape: Sequence[Any]) -> int:
    """Elements of a tensor, or of all tensors in a list."""
    return sum(map(_elements, shape)) if any(isinstance(side, list) for side in shape) else math.prod(shape)


def _convolution(shapes: Sequence[Any], settings: Sequence[Any]) -> Work:
    (x, weight), (stride, padding, _dilation, transposed, extra) = shapes[:2], settings[3:8]
    each = zip(x[2:], weight[2:], stride, padding, extra, strict=True)
    sides = [(n - 1) * s - 2 * p + k + e if transposed else (n + 2 * p - k) // s + 1 for n, k, s, p, e in each]
    y = x[0] * weight[1 if transposed else 0] * math.prod(sides)
    pixels = math.prod(x[2:] if transposed else sides)
    return Work(2 * x[0] * math.prod(weight) * pixels, math.prod(x) + math.prod(weight) + y)


def _convolution_backward(shapes: Sequence[Any], settings: Sequence[Any]) -> Work:
    grad_y, x, weight = shapes[:3]
    to_x, to_weight, _ = settings[10]  # the first layer's input needs no gradient
    product = 2 * x[0] * math.prod(weight) * math.prod((x if settings[7] else grad_y)[2:])
    elements = math.prod(grad_y) + (1 + to_x) * math.prod(x) + (1 + to_weight) * math.prod(weight)
    return Work((to_x + to_weight) * product, elements)


def _narrow(event: Any) -> Work:
    """Work of a convolution to few channels; its gradient does not list x, whose channels appear in its products."""
    shapes = event.structured_input_shapes
    if event.name == NARROW:
        x, weight = shapes[:2]
        y = x[0] * weight[0] * math.prod(x[2:])
        return Work(2 * x[0] * math.prod(weight) * math.prod(x[2:]), math.prod(x) + math.prod(weight) + y)
    maps, outputs, *sides = shapes[0]
    products = list(_shapes_within(event, "aten::bmm"))
    taps = 9 * outputs
    channels = next(side for a, b in products for side in (a[1], b[2]) if side != taps)
    pixels = maps * math.prod(sides)
    x_and_weight = channels * (pixels + taps)
    return Work(2 * pixels * channels * taps * len(products), outputs * pixels + (1 + len(products)) * x_and_weight)


def _shapes_within(event: Any, name: str) -> Iterator[Any]:
    """The input shapes of all operators of that name below an event."""
    for child in event.cpu_children:
        if child.name == name:
            yield child.structured_input_shapes
        yield from _shapes_within(child, name)


def _product(shapes: Sequence[Any]) -> Work:
    a, b = [shape for shape in shapes if len(shape) == 2]  # addmm has a bias before them
    return Work(2 * a[0] * a[1] * b[1], math.prod(a) + math.prod(b) + a[0] * b[1])


def _kernel(name: str, shapes: Sequence[Any], settings: Sequence[Any]) -> Work:
    """Work of molkernels' operators; that of a gradient is forward and backward minus forward."""
    backward = name.endswith("_backward")
    x, idx = shapes[1:3] if backward and "fcc" not in name else shapes[:2]
    if name == "molkernels::knn":
        return Work(2 * x[0] * x[1] ** 2 * x[2], math.prod(x) + x[0] * x[1] * settings[1])
    if "edge_max" in name:  # CCC without the similarities of knn, which the gradient does not need
        graph = "position" if idx[1] == x[2] else "channel"
        forward, both = (counts.ccc(*x, idx[2], graph, training) for training in (False, True))
        if not backward:
            return Work(forward.flops - 2 * x[0] * idx[1] * math.prod(x[1:]), forward.elements)
    elif "cost_volume" in name:
        radius, _, stride = settings[4:7] if backward else settings[2:5]
        forward, both = (counts.cost_volume(*x, radius, stride, training) for training in (False, True))
    else:
        forward, both = (counts.fcc(*x, training) for training in (False, True))
    return Work(both.flops - forward.flops, both.elements - forward.elements) if backward else forward


def part_of(event: Any) -> tuple[str, Work] | None:
    """The part of the step that an operator belongs to and its least work; None if only what it calls is known."""
    name, shapes, settings = event.name, event.structured_input_shapes, event.concrete_inputs
    if name in ("aten::convolution", "aten::convolution_backward"):
        backward = name.endswith("backward")
        weight, transposed = shapes[1 + backward], settings[6 + backward]
        kind = "transposed convolutions" if transposed else "flow predictors" if weight[0] == 2 else "convolutions"
        work = (_convolution_backward if backward else _convolution)(shapes, settings)
        return f"{kind}, {'gradient' if backward else 'forward'}", work
    if name in (NARROW, f"{NARROW}Backward"):
        return f"flow predictors, {'forward' if name == NARROW else 'gradient'}", _narrow(event)
    if name in ("aten::mm", "aten::addmm"):
        return PRODUCTS, _product(shapes)
    if name.startswith("molkernels::"):
        return COST if "cost_volume" in name else KERNELS, _kernel(name, shapes, settings)
    if name in PART:
        part, passes = PART[name]
        return part, Work(0, passes * _elements(shapes[0]) if passes else 0)
    return (ADAMW, Work(0, 0)) if name.startswith("aten::_foreach_") else None


def step_rows(events: Sequence[Any], element_bytes: int) -> list[Row]:
    """The rows of one profiled step.

    Args:
        events: of the profiler, with one range named `STEP`, whose layers are ranges named by `name_layers`.
        element_bytes: bytes per element in the step's precision.
    Raises:
        RuntimeError: the rows do not add up to the self time of all events of all threads.
    """
    layers: dict[int, str] = {}  # by the sequence number that an operator shares with its node in the graph

    def visit(event: Any, layer: str, direction: str) -> Iterator[Row]:
        if event.name.startswith(LAYER):
            layer = event.name.removeprefix(LAYER)
        elif event.name.startswith(NODE):
            layer, direction = layers.get(event.sequence_nr, layer), "gradient"
        elif direction == "forward" and event.sequence_nr >= 0:
            layers[event.sequence_nr] = layer
        found = part_of(event)
        part, work = found or (REST, Work(0, 0))
        time = event.cpu_time_total if found else event.self_cpu_time_total
        shapes = str(event.structured_input_shapes) if found and part != ADAMW else ""
        yield Row(part, layer, direction, event.name, shapes, time / 1e3, work.flops, work.elements * element_bytes)
        for child in () if found else event.cpu_children:
            yield from visit(child, layer, direction)

    rows = [row for event in events if event.name == STEP for row in visit(event, "", "forward")]
    total, parts = sum(e.self_cpu_time_total for e in events) / 1e3, sum(row.milliseconds for row in rows)
    if not math.isclose(total, parts, rel_tol=1e-3):
        raise RuntimeError(
            f"the parts sum to {parts:.1f} ms, the profile to {total:.1f} ms; profile a single step on a CPU"
        )
    return rows


def _mean(rows: Sequence[Row], steps: int) -> Iterator[Row]:
    """The mean rows of several steps: each operator, set of shapes and layer once."""

    def key(row: Row) -> tuple[str, ...]:
        return row.part, row.layer, row.direction, row.operator, row.shapes

    for _, group in groupby(sorted(rows, key=key), key):
        same = list(group)
        sums = {name: sum(getattr(row, name) for row in same) / steps for name in ("milliseconds", "flops", "bytes")}
        yield replace(same[0], **sums)


def name_layers(model: nn.Module) -> None:
    """Make every further call of a submodule a range of the profiler with the submodule's name."""
    for name, module in model.named_modules():
        module.forward = record_function(LAYER + name)(module.forward)  # type: ignore[method-assign]


def profiled(step: Callable[[], Any], element_bytes: int = 4) -> list[Row]:
    """The rows of one call of `step`, which trains a model prepared by `name_layers`."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler, record_function(STEP):
        step()
    return step_rows(profiler.events(), element_bytes)


def measure(key: str, batch_size: int, steps: int) -> dict[str, Any]:
    """Profile the contender `key`, alternating steps with and without the profiler; returns JSON values."""
    torch.set_num_threads(available_cores())
    trained, batch = network.Network(key, network.random_state()), network.random_batch(batch_size)
    result = {"machine": machine.describe(), "limits": machine.measure_limits(), "contender": key}
    name_layers(trained.model)
    for _ in range(2):  # the first creates AdamW's moments
        trained.step(batch)
    plain, rows = [], []
    for _ in range(steps):
        plain.append(seconds_of(lambda: trained.step(batch)))
        rows += profiled(lambda: trained.step(batch), machine.BYTES_PER_ELEMENT[trained.dtype])
    means = [asdict(row) for row in _mean(rows, steps)]
    return {**result, "batch": batch_size, "steps": steps, "seconds_unprofiled": plain, "rows": means}


def markdown(result: Mapping[str, Any]) -> str:
    """The machine, a table of the parts and a table of the layers."""
    about, limits, rows = result["machine"], result["limits"], [Row(**row) for row in result["rows"]]
    dtype = result["contender"].rsplit("-", 1)[1]
    total, plain = sum(row.milliseconds for row in rows), 1e3 * mean(result["seconds_unprofiled"])

    def sums(some: Iterable[Row]) -> tuple[float, float]:
        times = [(row.milliseconds, row.floor(limits, dtype)) for row in some]
        return sum(time for time, _ in times), sum(floor for _, floor in times)

    def cells(some: Sequence[Row]) -> list[str]:
        time, floor = sums(some)
        reached = f"{100 * floor / time:.0f} %" if floor and time else ""
        return [f"{time:.1f}", f"{100 * time / total:.1f} %", f"{floor:.1f}", f"{time - floor:.1f}", reached]

    def halves(some: Sequence[Row]) -> list[str]:
        ways = (sums(row for row in some if row.direction == way) for way in ("forward", "gradient"))
        return [f"{time:.1f} / {floor:.1f}" for time, floor in ways]

    def grouped(field: str) -> list[tuple[str, list[Row]]]:
        name = attrgetter(field)
        groups = [(key, list(same)) for key, same in groupby(sorted(rows, key=name), name)]
        return sorted(groups, key=lambda group: -sums(group[1])[0])

    copy, titles = limits["copy"]["bytes_per_second"], ["ms per step", "share", "floor, ms", "gap, ms", "reached"]
    heading = (
        f"{about['device']}, torch {about['torch']}, {about['date'][:10]}, commit {about['commit']}: "
        f"`{result['contender']}`, batch {result['batch']}, mean of {result['steps']} steps. "
        f"GEMM {limits['gemm'][dtype] / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s. A step took {total:.0f} ms under "
        f"the profiler and {plain:.0f} ms without it, in turns: {100 * (total / plain - 1):+.1f} %."
    )
    parts = [[name, *cells(some)] for name, some in grouped("part")] + [["**all**", *cells(rows)]]
    layers = [(name, some) for name, some in grouped("layer") if name and any(row.flops for row in some)][:TOP]
    both = ["layer", "forward, ms / floor", "gradient, ms / floor", *titles]
    by_layer = markdown_table(both, [[f"`{name}`", *halves(some), *cells(some)] for name, some in layers], numeric=True)
    return f"{heading}\n\n{markdown_table(['part', *titles], parts, numeric=True)}\n\n{by_layer}"


def write_between_markers(page: Path, text: str) -> None:
    """Replace the profile between the page's markers with `text`.

    Raises:
        SettingsError: the page lacks one of the markers, or they are in the wrong order.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"{page} has no {BEGIN} … {END}; put both where the tables belong")
    write_text(page, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile a step or load a profile, then print it and write it where asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile_step", description=__doc__.partition("\n")[0])
    parser.add_argument("--contender", default="cpu-float32", choices=network.contender_keys("cpu"))
    parser.add_argument("--batch", type=int, default=network.BATCH, help="clips per step")
    parser.add_argument("--steps", type=int, default=5, help="profiled steps")
    parser.add_argument("--docs", type=Path, help=f"write the tables between {BEGIN} and {END} of this page")
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--load", type=Path, help="read figures that --save wrote instead of measuring")
    given = parser.parse_args(arguments)
    if given.steps < 1 or given.batch < 1:
        parser.error(f"--steps is {given.steps} and --batch is {given.batch}; both must be at least 1")
    keep_freed_memory()  # as the program `mol` does
    saved = given.load and json.loads(given.load.read_text(encoding="utf-8"))
    result = saved or measure(given.contender, given.batch, given.steps)
    if given.save:
        write_json(given.save, result)
    text = markdown(result)
    print(text)
    if given.docs:
        try:
            write_between_markers(given.docs, text)
        except MOLError as error:
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
