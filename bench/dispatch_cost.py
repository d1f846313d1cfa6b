"""What a call of each operator costs besides its arithmetic: microseconds on maps so small that nothing else counts.

    python -m bench.dispatch_cost [--backend cpu] [--rounds 100]

Each figure is the mean of 50 calls in the fastest of the rounds, in microseconds, on one thread: forward without
gradients, and forward and backward to every input and parameter.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch

import molkernels as mk
from molkernels import functional
from molkernels.functional import EdgeParameters, FCCParameters

CALLS = 50
MAPS, CHANNELS, SIDE, NEIGHBOURS = 1, 2, 2, 1


def operators(backend: str) -> Iterator[tuple[str, Callable[[], torch.Tensor], list[torch.Tensor]]]:
    """Each operator on a map of 1×2×2×2: its name, the call, and the tensors that it has a gradient for."""
    positions = SIDE * SIDE
    x = torch.ones(MAPS, CHANNELS, SIDE, SIDE, requires_grad=True)
    shapes = [(CHANNELS,)] * 2 + [(CHANNELS, SIDE)] * 4 + [(CHANNELS,)] * 2
    fcc = FCCParameters(*(torch.ones(shape, requires_grad=True) for shape in shapes))
    square, line = (positions, positions), (positions,)
    edge = EdgeParameters(*(torch.ones(shape, requires_grad=True) for shape in (square, line, square, line)))
    mean, var = torch.zeros(CHANNELS), torch.ones(CHANNELS)
    idx = functional.knn(x.detach(), NEIGHBOURS, backend=backend)
    yield "fcc", lambda: functional.fcc(x, fcc, mean, var, backend=backend), [x, *fcc]
    yield "fcc_train", lambda: functional.fcc_train(x, fcc, backend=backend)[0], [x, *fcc]
    yield "knn", lambda: functional.knn(x, NEIGHBOURS, backend=backend), []
    yield "edge_max", lambda: functional.edge_max(x, idx, edge, backend=backend)[0], [x, *edge]
    yield "ccc", lambda: functional.ccc(x, edge, k=NEIGHBOURS, backend=backend), [x, *edge]
    yield (
        "cost_volume",
        lambda: functional.cost_volume(x, x, radius=1, stride=1, backend=backend),
        [x],
    )
    for training in (False, True):
        block = mk.F5C(CHANNELS, SIDE, NEIGHBOURS, "released", backend=backend).train(training)
        name = "F5C, training" if training else "F5C, evaluation"
        yield name, lambda block=block: block(x), [x, *block.parameters()]  # type: ignore[misc]


def microseconds(call: Callable[[], object], rounds: int) -> float:
    """The mean time of a call in the fastest round: what others do on the machine only adds to it."""
    call()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - begin) / CALLS * 1e6)
    return min(times)


def measure(backend: str, rounds: int) -> Iterator[tuple[str, float, float | None]]:
    """Name, microseconds forward, and microseconds forward and backward (None without a gradient)."""
    for name, call, leaves in operators(backend):
        cotangent = torch.ones_like(call())

        def both(call=call, leaves=leaves, cotangent=cotangent) -> object:  # type: ignore[no-untyped-def]
            return torch.autograd.grad(call(), leaves, cotangent, allow_unused=True)

        with torch.no_grad():
            forward = microseconds(call, rounds)
        yield name, forward, microseconds(both, rounds) if leaves else None


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.dispatch_cost", description=__doc__.split("\n")[0])
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| operator | forward, µs | forward and backward, µs |\n| --- | --: | --: |")
    for name, forward, both in measure(options.backend, options.rounds):
        print(f"| {name} | {forward:.1f} | {'' if both is None else format(both, '.1f')} |")


if __name__ == "__main__":
    main()
