"""What an exact graph costs over one that is searched in float32: the searches of both graphs, timed in turns.

    python -m bench.graph_cost [--threads N] [--budget SECONDS]

The kernel of molkernels ranks in float32 and decides in float64 between what float32 cannot tell apart. Beside it:
`torch.compile` of the idiomatic search (normalise, product, topk) in float32 and bfloat16, of its normalisation and
product alone, which no search by products can do without, and of the reference, which does all of it in float64.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import machine, ops
from bench.baselines import usual
from bench.tables import digits, markdown_table, times
from bench.timing import paired_ratio, quantiles, time_interleaved
from mol.common.environment import available_cores
from molkernels import functional, reference

GRAPHS = ("channel", "position")
EXACT, IDIOMATIC = "molkernels, exact", "idiomatic, float32"


def searches(x: Tensor, k: int, graph: str) -> dict[str, Callable[[], Tensor]]:
    """The searches of a map (N, C, P) by name; each call returns the graph, that of the products alone similarities."""
    nodes = reference.graph_nodes(x, graph)

    def products(nodes: Tensor) -> Tensor:
        unit = F.normalize(nodes, dim=2)
        return unit @ unit.mT

    def compiled(function: Callable[..., Tensor], *arguments: object) -> Callable[[], Tensor]:
        call = torch.compile(function, dynamic=False)
        return lambda: call(*arguments)

    found = {
        EXACT: lambda: functional.knn(x, k, graph=graph, backend="cpu"),
        IDIOMATIC: compiled(usual.knn, nodes, k),
        "its products alone": compiled(products, nodes),
        "reference, compiled": compiled(reference.knn, nodes, k),
    }
    if machine.computes_in_bfloat16("cpu"):
        found["idiomatic, bfloat16"] = compiled(usual.knn, nodes.bfloat16(), k)
    return found


def measure(graph: str, point: ops.Point, budget: float) -> list[list[str]]:
    """A line for each search of one graph: name, ms, ratio to the idiomatic one, share of other neighbours."""
    x = torch.randn(point.shape).flatten(2)
    runs, exact = searches(x, point.k, graph), reference.knn(reference.graph_nodes(x, graph), point.k)
    differs = {name: _differs(run(), exact) for name, run in runs.items()}
    durations = time_interleaved(runs, budget, warm=False)
    return [
        [
            f"{graph} graph: {name}",
            digits(1e3 * quantiles(seconds)[1]),
            times(paired_ratio(seconds, durations[IDIOMATIC])[1]),
            differs[name],
        ]
        for name, seconds in durations.items()
    ]


def _differs(graph: Tensor, exact: Tensor) -> str:
    if graph.shape != exact.shape:
        return ""
    return f"{100 * ops.other_neighbours(graph, exact):.2g} %"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.graph_cost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=available_cores(), help="of PyTorch (default: all cores)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of timing for each graph")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    point = ops.STANDARD
    about = machine.describe()
    print(
        f"{about['device']}, torch {about['torch']}, {str(about['date'])[:10]}, commit {about['commit']}: maps of "
        f"{point.maps}×{ops.CHANNELS}×{point.side}×{point.side}, k = {point.k}, medians\n"
    )
    lines = [line for graph in GRAPHS for line in measure(graph, point, options.budget)]
    print(markdown_table(["search", "ms", "× idiomatic, float32", "other neighbours"], lines, numeric=True))


if __name__ == "__main__":
    main()
