"""A protocol's hours on several devices and nodes, as tables: folds side by side, one fold on all, with failures."""

import math
from collections.abc import Sequence

import numpy as np

from bench.plan.cluster import Node, Outcome, Recovery, lives, makespan, simulate
from bench.plan.cost import Estimate, Settings
from bench.plan.links import Interconnect
from bench.plan.parallel import OVERLAP, gradient_buckets, norm_layers, parallel_step
from bench.plan.sources import Range, Sources
from bench.tables import duration, markdown_table

MOST_ATTEMPTS = 100.0  # on average for a fold, or up to its first checkpoint; more are not simulated


def spread_table(
    cost: Estimate, fixed: Range, settings: Settings, devices: Sequence[int], joined: Interconnect, sources: Sources
) -> str:
    """Hours of all folds for each number of devices, in Markdown: a device for each fold, or all devices on one fold.

    Args:
        cost: of the run on one device.
        fixed: seconds of a step that do not divide.
        settings: of the run.
        devices: numbers of them.
        joined: the links between them.
        sources: gets what the model assumes.
    """
    mark = _model_marks(settings, max(devices), joined, sources)
    rows = []
    for count in devices:
        busiest = makespan([1.0] * settings.folds, count)
        spread = duration(busiest * cost.fold[0], busiest * cost.fold[1])
        together = _together(cost, fixed, settings, count, joined)
        rows.append([str(count), str(joined.nodes(count)), f"{busiest:.0f}", spread, *together])
    titles = [
        "devices", "nodes", "folds side by side: on the busiest device", "all folds",
        "one fold on all devices: step", "of it, waiting for others", "all folds",
    ]  # fmt: skip
    return (
        "Estimates. At most the step on one device and its fixed part are measured, where their sources above say so; "
        f"every other time is modelled {mark}.\n\n{markdown_table(titles, rows)}"
    )


def _together(cost: Estimate, fixed: Range, settings: Settings, devices: int, joined: Interconnect) -> list[str]:
    step = parallel_step(cost.step, fixed, settings, devices, joined)
    if step is None:
        return [f"no: fewer clips in a batch, {settings.batch}", "", ""]
    low, high = (
        settings.folds * settings.steps * seconds + evaluation
        for seconds, evaluation in zip(step.seconds, cost.evaluation, strict=True)
    )
    waiting = duration(*sorted(step.norms + seconds for seconds in step.exposed)) if devices > 1 else ""
    return [duration(*step.seconds), waiting, duration(low, high)]


def _model_marks(settings: Settings, most: int, joined: Interconnect, sources: Sources) -> str:
    buckets, norms = gradient_buckets(settings.variant), norm_layers(settings.variant)
    text = (
        f"gradients of {sum(buckets) / 1e6:.1f} MB in float32, of which 2(N−1)/N cross each link of a ring, in "
        f"{len(buckets)} buckets as DDP makes them, the last one of {buckets[-1] / 1e6:.1f} MB; {norms} batch norms "
        "with two small all-reduces each"
    )
    marks = [sources.add("counted", text)]
    used = [(joined.link, "between the devices of a node")] if joined.per_node > 1 else []
    used += [(joined.network, "between nodes")] if most > joined.per_node else []
    for link, where in used:
        marks.append(sources.add("datasheet, not measured", f"{where}, {link} ({link.source})"))
    marks += [
        sources.add(
            "assumed",
            "links at the full rate of their datasheets, latencies by which NCCL chooses its algorithms (TCP: 50 µs), "
            f"all buckets but the last beside {100 * OVERLAP:.0f} % of the backward pass, which is two thirds of what "
            "divides",
        ),
        sources.add(
            "assumed",
            "the busiest device computes ⌈batch / N⌉ of the batch's clips as fast as it would among all of them; the "
            "held-out clips are evaluated on one device",
        ),
    ]
    return "".join(marks)


def failures_table(
    cost: Estimate,
    settings: Settings,
    devices: Sequence[int],
    per_node: int,
    mtbf: float,
    repair: float,
    recovery: Recovery,
    repetitions: int,
) -> str:
    """What failures cost folds that run side by side, simulated, in Markdown.

    Args:
        cost: of the run on one device; the slow end is simulated.
        settings: of the run.
        devices: numbers of them.
        per_node: devices in a node.
        mtbf: mean seconds between two failures of a node.
        repair: seconds until a node is back, or one in its place.
        recovery: of the folds, once with its checkpoints and once without.
        repetitions: of each simulation.
    """
    rows = []
    for count in devices:
        sizes = [min(per_node, count - first) for first in range(0, count, per_node)]
        undisturbed = makespan([recovery.start + cost.fold[1]] * settings.folds, count)
        for name, way in (("anew", recovery._replace(checkpoint=math.inf)), ("from a checkpoint", recovery)):
            about = [str(count), str(len(sizes)), duration(undisturbed), name]
            expected = (way.start + min(way.checkpoint, cost.fold[1])) / mtbf  # attempts, as a logarithm
            if expected > math.log(MOST_ATTEMPTS):
                rows.append(
                    [*about, f"not simulated: over {MOST_ATTEMPTS:.0f} attempts before anything is kept", "", ""]
                )
                continue
            found = repeat([cost.fold[1]] * settings.folds, sizes, mtbf, repair, way, repetitions)
            rows.append([*about, *_outcomes(found)])
    titles = [
        "devices",
        "nodes",
        "without failures",
        "folds start",
        "all folds, mean (0.1 to 0.9)",
        "retries",
        "lost device time",
    ]
    intro = (
        f"Simulated, {repetitions} times each, folds side by side: every node fails at random after "
        f"{duration(mtbf)} on average, and is replaced after {duration(repair)}. Its folds are queued again after "
        f"{duration(recovery.detect)}. Every attempt needs {duration(recovery.start)} to start; a checkpoint is saved "
        f"every {duration(recovery.checkpoint)} of training."
    )
    return f"{intro}\n\n{markdown_table(titles, rows)}"


def repeat(
    folds: Sequence[float], sizes: Sequence[int], mtbf: float, repair: float, recovery: Recovery, repetitions: int
) -> list[Outcome]:
    """The outcomes of `repetitions` runs with nodes of these `sizes`, each with failures of its own; seeded."""
    return [
        simulate(
            folds,
            [Node(size, lives(np.random.default_rng((seed, node)), mtbf, repair)) for node, size in enumerate(sizes)],
            recovery,
        )
        for seed in range(repetitions)
    ]


def _outcomes(found: Sequence[Outcome]) -> list[str]:
    """Mean and quantiles of makespan, retries and lost time."""
    cells = []
    for values, text in zip(zip(*found, strict=True), (duration, lambda n: f"{n:.1f}", duration), strict=True):
        mean, low, high = np.mean(values), *np.quantile(values, (0.1, 0.9))
        cells.append(f"{text(mean)} ({text(low)} to {text(high)})")
    return cells
