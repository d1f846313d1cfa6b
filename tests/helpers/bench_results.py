"""Made-up results of benchmarks, whole ones and single rows of the network, and results saved for `bench.plan`."""

import json

import numpy as np

from bench import record
from bench.loso import PROTOCOL
from bench.machine import slug
from bench.timing import paired_ratio, quantiles

SECONDS = {"published-loop": 0.2, "cpu": 0.01, "reference": 0.03, "compiled-reference": 0.02}
OPERATOR = {"maps": 14, "channels": 128, "side": 16, "threads": 2}
LIMITS = {"copy": {"bytes_per_second": 2e10}, "gemm": {"float32": 1e11, "bfloat16": 1e11}}
DEVICE, FOLDER = "A CPU, 2 threads", "a-cpu-2-threads"
MACHINE = {"device": DEVICE, "threads": 2, "torch": "2.13", "date": "2026-01-02T03:04:05", "commit": "abc"}


def timed_row(rng, subject, task, sizes, contender, dtype="float32", sweep=None, factor=1.0):
    """A row of five rounds around `factor` times the contender's entry in SECONDS."""
    durations = list(factor * SECONDS[contender] * np.exp(0.02 * rng.standard_normal(5)))
    return {
        "group": f"{subject} of a test, {task}", "subject": subject, "task": task, "sizes": sizes, "sweep": sweep,
        "contender": contender, "dtype": dtype, "shape": "14×128×16×16", "error": 1e-6, "tolerance": 2e-5,
        "flops": 1e9 * factor, "bytes": 4e6 * factor, "seconds": list(quantiles(durations)), "rounds": 5,
        "share_of_limit": 0.82, "bound": "arithmetic", "speedup_over": {}, "durations": durations,
        "peak_bytes": None if subject == "mol" else 5 * 2**20,
    }  # fmt: skip


def whole_result():
    """F5C in both directions with a sweep over maps, and the network forward, on a processor without bfloat16."""
    rng = np.random.default_rng(0)
    rows = [timed_row(rng, "f5c", task, OPERATOR, name) for task in ("forward", "forward-backward") for name in SECONDS]
    rows.append(timed_row(rng, "f5c", "forward", OPERATOR, "cpu", "bfloat16", factor=1.1))
    names = ("published-loop", "cpu", "reference")
    rows += [timed_row(rng, "mol", "forward", {"batch": 2, "threads": 2}, name, factor=100) for name in names]
    rows += [timed_row(rng, "f5c", "forward", {**OPERATOR, "maps": maps}, name, sweep="maps", factor=maps / 14)
             for maps in (1, 56) for name in SECONDS]  # fmt: skip
    machine = {
        "device": DEVICE, "threads": 2, "platform": "Linux", "python": "3.11.7", "torch": "2.13.0",
        "cpu_capability": "AVX2", "date": "2026-01-02T03:04:05+00:00", "commit": "abc",
    }  # fmt: skip
    memory = [{"contender": name, "dtype": "float32", "batch": 2, "peak_bytes": 2**30, "imports_bytes": 2**28}
              for name in names]  # fmt: skip
    return {
        "format": 2, "machine": machine, "rows": _with_speedups(rows), "memory": memory,
        "limits": {"copy": {"bytes_per_second": 2e10}, "gemm": {"float32": 1e11, "bfloat16": 2e11}},
        "left_out": [{"contender": "spatial-correlation-sampler", "subject": "cost-volume", "reason": "not installed"}],
    }  # fmt: skip


def _with_speedups(rows):
    for own in rows:
        own["speedup_over"] = {
            other["contender"]: paired_ratio(other["durations"], own["durations"])
            for other in rows
            if other["dtype"] == "float32"
            and other is not own
            and record.timed_together(other) == record.timed_together(own)
        }
    return rows


def network_row(contender="cpu", task="training step", batch=2, share=0.5, median=2.0, dtype="float32", threads=2):
    """A row of the network with what `bench.plan` reads."""
    return {
        "subject": "mol", "task": task, "contender": contender, "dtype": dtype, "share_of_limit": share,
        "sizes": {"batch": batch, "threads": threads}, "seconds": [0.9 * median, median, 1.1 * median],
    }  # fmt: skip


def save_result(folder, name="2026-01-02-abc.json", device=DEVICE, date="2026-01-02", **content):
    """Save `content` as a result of `device`; returns the path."""
    result = {"format": 2, "machine": MACHINE | {"device": device, "date": date}, "limits": LIMITS, **content}
    path = folder / slug(device) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def save_steps(folder, draft=False, **durations):
    """Save measured steps as `python -m bench.loso` does, {contender_dtype: {batch size: seconds}}."""
    by_key = {key.replace("_", "-"): value for key, value in durations.items()}
    content = {"protocol": PROTOCOL, "draft": draft, "planned": {}, "durations": by_key}
    return save_result(folder, "2026-01-02-abc-loso.json", loso=content)
