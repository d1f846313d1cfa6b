"""What a user runs once on a new device: all known-answer tests, and a measurement of the order of the backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor

from molkernels import dispatch, functional, trials
from molkernels.functional import EdgeParameters, FCCParameters
from molkernels.trials import Verdict

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# MOL's own: 14 pairs of frames, 128 channels of 16×16, 4 neighbours, the cost volume of FlowNetC.
MAPS, CHANNELS, SIDE, NEIGHBOURS, RADIUS, STRIDE = 14, 128, 16, 4, 10, 2
SECONDS, LEAST_RUNS, MOST_RUNS = 0.5, 5, 100


def self_test(device: str | torch.device | None = None) -> list[Verdict]:
    """Run each operator of each backend on known answers, forward and backward, in every dtype, and keep the verdicts.

    Every result is compared with that of the reference in float64 on the same device. "auto" leaves out what failed.

    Args:
        device: a device or its name; None for the CPU and every GPU.
    Returns:
        The verdicts; ``str()`` of one is a line of text. Empty if the device has no backend but the reference.
    """
    found = []
    for one in _devices() if device is None else [torch.device(device)]:
        for backend, dtype in _candidates(one):
            for op in dispatch.OPERATORS:
                verdict = trials.run(op, backend, one, dtype)
                if verdict is not None:
                    found.append(verdict)
    dispatch.reselect()
    return found


def verdicts(device: str | torch.device | None = None) -> list[Verdict]:
    """What earlier known-answer tests found on this device (None: on all), with these builds; runs none."""
    devices = _devices() if device is None else [torch.device(device)]
    found = (
        trials.known(op, backend, one, dtype)
        for one in devices
        for backend, dtype in _candidates(one)
        for op in dispatch.OPERATORS
    )
    return [verdict for verdict in found if verdict is not None]


def tune(device: str | torch.device = "cpu") -> dict[str, dict[str, float]]:
    """Measure each operator on each backend that can run, at MOL's shapes in float32, and let "auto" go by the times.

    For CCC (`knn`, `edge_max`) "compiled", `torch.compile` of the reference, is among them. A backend that fails a
    known-answer test is left out. Operators with a gradient are measured forward and backward. The times are kept in
    the cache folder; `explain` prints them. Takes some ten seconds, and a minute where PyTorch compiles.

    Args:
        device: a device or its name.
    Returns:
        For each operator the backends' seconds, fastest first.
    """
    device = torch.empty(0, device=device).device  # with its index
    times: dict[str, dict[str, float]] = {}
    for op, function, leaves in _calls(device):
        names = [*dispatch.available_backends(device), *([dispatch.COMPILED] if op in ("knn", "edge_max") else [])]
        seconds = {}
        for name in names:
            backend = dispatch.BACKENDS[name]
            runs = backend.missing(device.type, torch.float32) is None
            if runs and trials.passes(op, backend, device, torch.float32):
                seconds[name] = _seconds(function, leaves, name, device)
        times[op] = dict(sorted(seconds.items(), key=lambda item: item[1]))
    dispatch.keep_times(device, times)
    return times


def _devices() -> list[torch.device]:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(gpus))]


def _candidates(device: torch.device) -> Iterator[tuple[dispatch.Backend, torch.dtype]]:
    """The backends of "auto" but the reference, and the dtypes that each has kernels for."""
    for name in dispatch.available_backends(device):
        for dtype in DTYPES:
            if name != "reference" and dispatch.BACKENDS[name].missing(device.type, dtype) is None:
                yield dispatch.BACKENDS[name], dtype


def _calls(device: torch.device) -> Iterator[tuple[str, Callable[[str], Tensor], list[Tensor]]]:
    """Each operator at MOL's shapes: its name, a call for a backend, and the tensors that it has a gradient for."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    positions = SIDE * SIDE
    x, other = (random(MAPS, CHANNELS, SIDE, SIDE).requires_grad_() for _ in range(2))
    shapes = [(CHANNELS,)] * 2 + [(CHANNELS, SIDE)] * 4 + [(CHANNELS,)] * 2
    fcc = FCCParameters(*((random(*shape) / SIDE).requires_grad_() for shape in shapes))
    square, line = (positions, positions), (positions,)
    edge = EdgeParameters(*((random(*shape) / SIDE).requires_grad_() for shape in (square, line, square, line)))
    mean, var = torch.zeros(CHANNELS, device=device), torch.ones(CHANNELS, device=device)
    idx = functional.knn(x, NEIGHBOURS, graph="position", backend="reference")

    yield "fcc", lambda name: functional.fcc(x, fcc, mean, var, backend=name), [x, *fcc]
    yield "fcc_train", lambda name: functional.fcc_train(x, fcc, backend=name)[0], [x, *fcc]
    yield "knn", lambda name: functional.knn(x, NEIGHBOURS, graph="position", backend=name), []
    yield (
        "edge_max",
        lambda name: functional.edge_max(x, idx, edge, graph="position", backend=name)[0],
        [x, *edge],
    )
    frozen = [t.detach() for t in (x, *fcc, *edge)]
    yield (
        "f5c",
        lambda name: functional.f5c(
            frozen[0],
            FCCParameters(*frozen[1:9]),
            mean,
            var,
            EdgeParameters(*frozen[9:]),
            k=NEIGHBOURS,
            graph="position",
            backend=name,
        ),
        [],
    )
    yield (
        "cost_volume",
        lambda name: functional.cost_volume(x, other, radius=RADIUS, stride=STRIDE, backend=name),
        [x, other],
    )


def _seconds(function: Callable[[str], Tensor], leaves: list[Tensor], name: str, device: torch.device) -> float:
    """The median of several runs."""

    def run() -> None:
        result = function(name)
        if leaves:
            torch.autograd.grad(result, leaves, torch.ones_like(result))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()  # compiles, and warms up
    run()
    times: list[float] = []
    while len(times) < LEAST_RUNS or (sum(times) < SECONDS and len(times) < MOST_RUNS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return median(times)
