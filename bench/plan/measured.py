"""Saved results as the cost model reads them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine, record
from bench.plan.counted import training_work
from mol.common.errors import SettingsError
from molkernels.dispatch import AUTO_ORDER

# The backends of molkernels, the likeliest choice of `auto` first.
BACKENDS = tuple(dict.fromkeys((*AUTO_ORDER["cuda"][:-1], *AUTO_ORDER["cpu"][:-1], record.REFERENCE)))
MAKE_RESULTS = "make some with `pytest bench/ --save-results` and `python -m bench.loso`"


@dataclass(frozen=True)
class Measured:
    """One saved result."""

    path: Path
    data: record.Result

    @property
    def folder(self) -> str:
        """The name of the device's folder."""
        return machine.slug(str(self.data["machine"]["device"]))

    @property
    def label(self) -> str:
        """File and commit, as a source is named."""
        return f"{self.folder}/{self.path.name}, commit {self.data['machine']['commit']}"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one that nvidia-smi was asked about."""
        return bool({"driver_version", "nvidia-smi"} & self.data["machine"].keys())

    @property
    def durations(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """Seconds of the training steps of `python -m bench.loso`, by contender and batch size; empty elsewhere."""
        found: Mapping[str, Any] = self.data.get("loso", {"durations": {}})["durations"]
        return found

    def rows(self, task: str, contender: str, dtype: str) -> dict[int, record.Row]:
        """The timed rows of the network by batch size, with all threads of the machine."""
        threads = self.data["machine"]["threads"]
        return {
            row["sizes"]["batch"]: row
            for row in self.data.get("rows", [])
            if (row["subject"], row["task"], row["contender"], row["dtype"]) == ("mol", task, contender, dtype)
            and row["seconds"] is not None
            and row["sizes"].get("threads", threads) == threads
        }

    def shares(self, contender: str, dtype: str) -> dict[int, float]:
        """The share of the machine's limit that a training step reached, by batch size."""
        shares = {size: row["share_of_limit"] for size, row in self.rows("training step", contender, dtype).items()}
        loso = self.durations.get(f"{contender}-{dtype}", {})
        timed = {int(size): statistics.median(seconds) for size, seconds in loso.items() if seconds}
        return shares | {size: self.least_seconds(size, dtype) / seconds for size, seconds in timed.items()}

    def least_seconds(self, batch: int, dtype: str) -> float:
        """The least seconds of a training step at this machine's limits."""
        rate, copied = self.data["limits"]["gemm"][dtype], self.data["limits"]["copy"]["bytes_per_second"]
        return max(training_work(batch).seconds_at(rate, copied, machine.BYTES_PER_ELEMENT[dtype]))

    def peaks(self, contender: str, dtype: str) -> dict[str, list[float]]:
        """Peak bytes of a training step, by batch size as text."""
        rows = [row for row in self.data.get("memory", []) if (row["contender"], row["dtype"]) == (contender, dtype)]
        return {str(row["batch"]): [float(row["peak_bytes"])] for row in sorted(rows, key=lambda row: row["batch"])}


def load_measured(paths: Sequence[Path]) -> list[Measured]:
    """The saved results that hold times, newest first; drafts are left out.

    Raises:
        SettingsError: a file cannot be read or has another format.
    """
    results = [Measured(path, record.read(path)) for path in paths]
    results = [result for result in results if not {"pretraining", "cluster"} & result.data.keys()]
    kept = [result for result in results if not result.data.get("loso", {}).get("draft")]
    return sorted(kept, key=lambda result: str(result.data["machine"]["date"]), reverse=True)


@dataclass(frozen=True)
class Reached:
    """A measured share of the roofline, and the step that reached it."""

    share: float
    contender: str
    dtype: str
    batch: int
    result: Measured


def nearest_share(folder: str, batch: int, dtype: str, results: Sequence[Measured]) -> Reached:
    """The share of the measured step most like the planned one: same device, then dtype, then nearest batch size.

    Among equals the newest is chosen.

    Raises:
        SettingsError: no training step of the network has been measured.
    """
    reached = [
        Reached(share, contender, kind, size, result)
        for result in results
        for kind in dict.fromkeys((dtype, "float32"))
        for contender in BACKENDS
        for size, share in result.shares(contender, kind).items()
    ]
    if not reached:
        raise SettingsError(f"no saved result has a training step of the network: {MAKE_RESULTS}")
    return min(reached, key=lambda r: (r.result.folder != folder, r.dtype != dtype, abs(math.log(r.batch / batch))))
