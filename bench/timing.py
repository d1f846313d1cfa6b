"""Paired timing: all contenders of a group take turns, so drift of the machine affects all of them alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

# More than any GPU's L2 cache (50 MiB on an H100): written between two timings, so no run finds its inputs there.
FLUSH_BYTES = 256 * 2**20


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    budget: float,
    least_rounds: int = 5,
    most_rounds: int = 100,
    device: str = "cpu",
    warm: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each run in each round.

    Every run is warmed up once. Then each round times all of them once, each round starting with another run, so none
    always follows the same neighbour. Entries at the same index of two lists are from the same round.

    Args:
        runs: what to time, by name.
        budget: seconds after which no further round begins, after at least `least_rounds`.
        device: "cpu" (wall clock) or "cuda" (time between two events on the device, with its L2 cache flushed before).
        warm: False if every run has run before.
    """
    clock = seconds_of if device == "cpu" else device_seconds_of
    for run in runs.values() if warm else ():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    begin = time.perf_counter()
    for round_ in range(most_rounds if names else 0):
        if round_ >= least_rounds and time.perf_counter() - begin > budget:
            break
        start = round_ % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(clock(runs[name]))
    return times


def seconds_of(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, with garbage collection disabled."""
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    finally:
        gc.enable()


def device_seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one call on the current CUDA stream.

    The device is kept busy while the host enqueues the work, so launches are not timed.
    """
    torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda").zero_()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(2_000_000)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 0.2, 0.5 and 0.8 quantiles, interpolated linearly."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return fifths[0], statistics.median(values), fifths[3]


def paired_ratio(baseline: Sequence[float], candidate: Sequence[float]) -> tuple[float, float, float]:
    """How many times as long the baseline takes: 0.2, 0.5 and 0.8 quantiles of the ratios of each round."""
    return quantiles([b / c for b, c in zip(baseline, candidate, strict=True)])


class ReplayClock:
    """A timer for pytest-benchmark that plays back durations measured in interleaved rounds.

    pytest-benchmark times one test after another, which drift can distort. The group is therefore timed first, and each
    test's `benchmark.pedantic(clock.play, ...)` passes the recorded seconds to its tables, statistics and JSON.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._durations: list[float] = []

    def load(self, durations: Sequence[float]) -> None:
        """Set the durations that the next calls of `play` take."""
        self._durations = list(durations)

    def play(self) -> None:
        """Let one recorded duration pass."""
        self._now += self._durations.pop(0)

    def __call__(self) -> float:
        return self._now
