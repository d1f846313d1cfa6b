"""Predictions of the cost model beside what was measured at the largest batch size."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.hours import fit_line
from bench.plan.cost import grown_peak
from bench.plan.measured import Measured
from bench.record import PUBLISHED
from bench.tables import markdown_table

TOLERATED = 0.2


class Check(NamedTuple):
    """A prediction and the measurement, in the same unit."""

    what: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """The relative error of the prediction."""
        return self.predicted / self.measured - 1

    @property
    def agrees(self) -> bool:
        """Whether the prediction is within 20 % of the measurement."""
        return abs(self.error) <= TOLERATED


def check(results: Sequence[Measured]) -> list[Check]:
    """Every prediction for the largest batch size that the files allow.

    Step and peak memory are predicted by lines through the smaller batch sizes, the step also from its least work and
    the share of the limit that the next smaller batch size reached.
    """
    found = []
    for result in results:
        for key, by_batch in result.durations.items():
            done = {size: list(d) for size, d in by_batch.items() if d}
            if done:
                found += _check_step(result, key, done)
    for folder in dict.fromkeys(r.folder for r in results if r.data.get("memory")):
        newest = next(r for r in results if r.folder == folder and r.data.get("memory"))
        for contender, dtype in dict.fromkeys((row["contender"], row["dtype"]) for row in newest.data["memory"]):
            found += _check_peak(newest, contender, dtype)
    return found


def _check_step(result: Measured, key: str, done: dict[str, list[float]]) -> list[Check]:
    largest = max(done, key=int)
    measured = statistics.median(done.pop(largest))
    what = f"{result.label}: {key}, s at batch {largest} from"
    found = []
    line = fit_line(done)
    if line:
        found.append(Check(f"{what} {', '.join(done)}", line[0] + line[1] * int(largest), measured))
    if done:
        contender, dtype = key.rsplit("-", 1)
        nearest = max(map(int, done))
        share = result.shares(contender, dtype)[nearest]
        least = result.least_seconds(int(largest), dtype)
        found.append(Check(f"{what} roofline × share at batch {nearest}", least / share, measured))
    return found


def _check_peak(result: Measured, contender: str, dtype: str) -> list[Check]:
    peaks = result.peaks(contender, dtype)
    if len(peaks) < 2 or (len(peaks) == 2 and contender == PUBLISHED):
        return []  # what a clip holds is counted for molkernels only
    largest = max(peaks, key=int)
    ((measured,), rest) = peaks.pop(largest), ", ".join(peaks)
    what = f"{result.label}: {contender}-{dtype}, peak MiB at batch {largest} from {rest}"
    return [Check(what, grown_peak(int(largest), peaks) / 2**20, measured / 2**20)]


def check_table(checks: Sequence[Check]) -> str:
    """The checks in Markdown."""
    rows = ([c.what, f"{c.predicted:.4g}", f"{c.measured:.4g}", f"{100 * c.error:+.1f} %"] for c in checks)
    return markdown_table(["prediction", "predicted", "measured", "error"], rows)
