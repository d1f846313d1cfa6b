"""Run an exported file beside its network: differences, flipped edges, speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mol.common.errors import ExportError
from mol.export.edges import Flip, Graph, count, flips, recorded_graphs, ties
from mol.export.formats import Estimates, Format
from mol.export.onnx_model import OUTPUTS

TOLERANCE = 1e-4
"""Greatest difference, relative to the largest value of the same output on the same clip."""
RUNS = 5


class Truth(NamedTuple):
    """What the network itself gives for a batch."""

    clips: Tensor
    """(B, 1, 8, 128, 128)."""
    estimates: Estimates
    graphs: list[Graph]


@dataclass(frozen=True)
class Checked:
    """A file beside its network.

    Attributes:
        path: where it was written.
        form: what kind of file it is.
        megabytes: its size, in 10⁶ bytes.
        differences: of each output in the order of `OUTPUTS`: the greatest over the clips, relative.
        seconds: for one clip, the median of some runs.
        edges: how many the graphs have; None if the file doesn't show them.
        flipped: those that differ.
        set_aside: clips with a tie whose estimates differ by more than the tolerance: clip → largest difference.
    """

    path: Path
    form: Format
    megabytes: float
    differences: tuple[float, ...]
    seconds: float
    edges: int | None
    flipped: list[Flip]
    set_aside: dict[int, float]


def truth_of(model: nn.Module, clips: Tensor) -> list[Truth]:
    """Run the network on a batch of one clip and on one of all others: a file must take both."""
    found = []
    for batch in (clips[:1], clips[1:]):
        with torch.inference_mode(), recorded_graphs(model) as graphs:
            output = model(batch)
        found.append(Truth(batch, tuple(value.numpy() for value in output), graphs))
    return found


def seconds_of(run: Callable[[], object]) -> float:
    """The median time of some runs after one that does not count."""
    run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[RUNS // 2]


def checked(path: Path, written: Path, form: Format, truths: list[Truth]) -> Checked:
    """Run a file and compare it with its network.

    Args:
        path: where the file will be.
        written: where it is now.
        form: what kind of file it is.
        truths: of the network.
    Raises:
        ExportError: an estimate differs by more than the tolerance on a clip whose graphs have no tie, the file
            chooses other neighbours where there is no tie, or every clip has one.
    """
    run, edges_of = form.load(written)
    flipped: list[Flip] = []
    differences, allowed = [], set()
    first = 0
    for truth in truths:
        size = len(truth.clips)
        differences += _differences(run(truth.clips), truth.estimates)
        if edges_of is not None:
            found = flips(truth.graphs, edges_of(truth.clips), size)
            flipped += [flip._replace(clip=flip.clip + first) for flip in found]
        else:
            allowed |= {clip + first for clip in ties(truth.graphs, size)}
        first += size
    if wrong := [flip for flip in flipped if not flip.is_tie]:
        raise ExportError(f"{path} is not written: {_listed(wrong)}; the file does not build the network's graphs")
    allowed |= {flip.clip for flip in flipped}
    _require_close(path, differences, allowed)
    aside = {clip: max(differences[clip]) for clip in sorted(allowed) if max(differences[clip]) > TOLERANCE}
    plain = [values for clip, values in enumerate(differences) if clip not in aside]
    if not plain:
        raise ExportError(f"{path} is not written: every clip of the check has a tie; give other clips with --cache")
    return Checked(
        path,
        form,
        written.stat().st_size / 1e6,
        tuple(map(max, zip(*plain, strict=True))),
        seconds_of(lambda: run(truths[0].clips)),
        sum(count(truth.graphs) for truth in truths) if edges_of is not None else None,
        flipped,
        aside,
    )


def _require_close(path: Path, differences: list[tuple[float, ...]], allowed: set[int]) -> None:
    for clip, values in enumerate(differences):
        worst = int(np.argmax(np.nan_to_num(values, nan=np.inf)))
        if clip not in allowed and not values[worst] <= TOLERANCE:
            raise ExportError(
                f"{path} is not written: its {OUTPUTS[worst]} differ from the network's by {values[worst]:.1e} of the "
                f"largest value on clip {clip} (at most {TOLERANCE:g}), where no graph has a tie"
            )


def _differences(found: Estimates, wanted: Estimates) -> list[tuple[float, ...]]:
    """For each clip the greatest difference of each output, relative to the output's largest value."""
    if [one.shape for one in found] != [one.shape for one in wanted]:
        shapes = ", ".join(f"{name} {one.shape}" for name, one in zip(OUTPUTS, found, strict=False))
        raise ExportError(f"the file gives other shapes than the network: {shapes}")
    return [
        tuple(
            float(np.abs(one[clip] - other[clip]).max() / max(float(np.abs(other[clip]).max()), 1e-12))
            for one, other in zip(found, wanted, strict=True)
        )
        for clip in range(len(found[0]))
    ]


def _listed(some: list[Flip]) -> str:
    shown = "; ".join(map(str, some[:5])) + ("; …" if len(some) > 5 else "")
    return f"{len(some)} edges differ: {shown}" if len(some) > 1 else f"1 edge differs: {shown}"


def describe(done: Checked, pytorch: float) -> list[str]:
    """The check in a few lines.

    Args:
        done: the check.
        pytorch: seconds of the network itself for one clip.
    """
    names = ", ".join(f"{name} {value:.1e}" for name, value in zip(OUTPUTS, done.differences, strict=False))
    lines = [
        f"{done.path}: {done.form.title}, {done.megabytes:.1f} MB, {1e3 * done.seconds:.0f} ms a clip "
        f"(PyTorch {1e3 * pytorch:.0f} ms)",
        f"  greatest difference, relative to the largest value: {names}",
    ]
    if done.edges is None:
        lines.append("  edges of the graphs: a compiled file does not show them")
    elif not done.edges:
        lines.append("  edges of the graphs: this network builds none")
    elif not done.flipped:
        lines.append(f"  edges of the graphs: all {done.edges} are the network's")
    else:
        lines.append(f"  edges of the graphs: {done.edges}; ties that flipped: {_listed(done.flipped)}")
    lines += [
        f"  clip {clip} has a tie and differs by {value:.1e}; it is not in the differences above"
        for clip, value in done.set_aside.items()
    ]
    return lines
