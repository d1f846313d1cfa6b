"""The graphs that the F5C blocks build: which neighbours a file chooses otherwise than the network, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

import molkernels as mk
from mol.network.model import WithoutFCC

TIE = 2e-6
"""Similarities closer than this are a tie: the maps that they come from are rounded to float32, whose steps are 6e-8 of
a value, in sums of up to 256 terms."""


class Graph(NamedTuple):
    """One graph per map of a block."""

    block: str
    """Its name in the network."""
    neighbours: np.ndarray
    """(N, M, k), sorted, of each of the M nodes in each of the N maps."""
    similarity: np.ndarray
    """(N, M, M) float64."""


class Flip(NamedTuple):
    """A node whose neighbours in a file are not those in the network."""

    block: str
    clip: int
    map: int
    """Of the clip, counted from 0: its pair of frames."""
    node: int
    lost: int
    gained: int
    difference: float
    """Between the similarities of both."""

    @property
    def is_tie(self) -> bool:
        """Whether float32 cannot tell which of the two is nearer."""
        return abs(self.difference) < TIE

    def __str__(self) -> str:
        return (
            f"{self.block}, clip {self.clip}, pair {self.map}, node {self.node}: {self.gained} in place of "
            f"{self.lost} (similarities {self.difference:.1e} apart)"
        )


@contextmanager
def recorded_graphs(model: nn.Module) -> Iterator[list[Graph]]:
    """The graphs that the network builds inside the block, in the order in which it does."""
    found: list[Graph] = []
    blocks = {name: block for name, block in model.named_modules() if isinstance(block, (mk.F5C, WithoutFCC))}

    def recorder(name: str, block: nn.Module):  # type: ignore[no-untyped-def]
        return block.register_forward_pre_hook(lambda _block, inputs: found.append(_graph(name, block, inputs[0])))

    hooks = [recorder(name, block) for name, block in blocks.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _graph(name: str, block: Any, x: Tensor) -> Graph:
    """The graph of a block on its input x, as its operators build it."""
    if isinstance(block, mk.F5C):
        f = block.fcc(x)
        x = x + f if block.variant == "paper" else f
    ccc = block.ccc
    nodes = x.flatten(2) if ccc.graph == "channel" else x.flatten(2).transpose(1, 2)
    chosen = mk.functional.knn(x, ccc.k, graph=ccc.graph)
    unit = F.normalize(nodes.double(), dim=2)
    similarity = unit @ unit.transpose(1, 2)
    return Graph(name, chosen.sort(2).values.numpy().astype(np.int64), similarity.numpy())


def flips(graphs: Sequence[Graph], edges: Sequence[np.ndarray], clips: int) -> list[Flip]:
    """Where a file's graphs differ from the network's; the order of a node's neighbours does not count.

    Args:
        graphs: the network's, as `recorded_graphs` gives them.
        edges: the file's neighbours, (N, M, k) each, in the same order.
        clips: how many clips the maps belong to.
    """
    found = []
    for graph, chosen in zip(graphs, edges, strict=True):
        theirs = np.sort(chosen, axis=2)
        per_clip = len(theirs) // clips
        for place, node in np.argwhere((theirs != graph.neighbours).any(2)):
            lost = np.setdiff1d(graph.neighbours[place, node], theirs[place, node])
            gained = np.setdiff1d(theirs[place, node], graph.neighbours[place, node])
            near = graph.similarity[place, node]
            pairs = zip(sorted(lost, key=lambda m: near[m]), sorted(gained, key=lambda m: near[m]), strict=True)
            for old, new in pairs:
                clip, at = divmod(int(place), per_clip)
                found.append(Flip(graph.block, clip, at, int(node), int(old), int(new), float(near[old] - near[new])))
    return found


def ties(graphs: Sequence[Graph], clips: int) -> dict[int, int]:
    """Clip → number of nodes of which float32 cannot tell the last neighbour from the next candidate."""
    found: dict[int, int] = {}
    for graph in graphs:
        count, nodes, k = graph.neighbours.shape
        if k == nodes:
            continue
        others = graph.similarity + 2 * np.eye(nodes)  # the node itself is always its first neighbour
        ranked = np.sort(others, axis=2)
        for place, _node in np.argwhere(ranked[:, :, -k] - ranked[:, :, -k - 1] < TIE):
            clip = int(place) // (count // clips)
            found[clip] = found.get(clip, 0) + 1
    return found


def count(graphs: Sequence[Graph]) -> int:
    """Number of edges."""
    return sum(graph.neighbours.size for graph in graphs)
