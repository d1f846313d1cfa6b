"""Saved results as Markdown: `python -m bench.report RESULT.json ...`."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import slug

BASELINES = ("published-loop", "reference", "compiled-reference")


def save(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `result` to <folder>/<device>/<date>-<commit>.json and return the path."""
    machine = result["machine"]
    path = folder / slug(machine["device"]) / f"{machine['date'][:10]}-{machine['commit']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def markdown(result: Mapping[str, Any]) -> str:
    """The machine, its limits, one table for each group, and peak memory."""
    machine, limits = result["machine"], result["limits"]
    copied = limits["copy"]["bytes_per_second"]
    rates = ", ".join(f"GEMM {dtype} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in limits["gemm"].items())
    parts = [
        f"{machine['device']}, torch {machine['torch']}, {machine['date'][:10]}, commit {machine['commit']}; "
        f"copy {copied / 1e9:.1f} GB/s, {rates}"
    ]
    if not any(row["dtype"] == "bfloat16" and row["contender"] == "reference" for row in result["rows"]):
        parts.append("bfloat16: torch's own products are emulated on this device and were not timed.")
    for group in dict.fromkeys(row["group"] for row in result["rows"]):
        parts.append(_group_table([row for row in result["rows"] if row["group"] == group]))
    if result["memory"]:
        parts.append(_memory_table(result["memory"]))
    return "\n\n".join(parts)


def _group_table(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    baselines = [name for name in BASELINES if any(row["contender"] == name for row in rows)]
    heading = f"**{first['group']}** ({first['shape']}; {first['flops'] / 1e9:.2f} GFLOP)"
    titles = ["contender", "dtype", "ms", "0.2 to 0.8", *(f"× {name}" for name in baselines), "of limit", "error"]
    return f"{heading}\n\n{_table(titles, (_cells(row, baselines) for row in rows))}"


def _cells(row: Mapping[str, Any], baselines: Sequence[str]) -> list[str]:
    if row["seconds"] is None:
        return [row["contender"], row["dtype"], "not timed", *[""] * (len(baselines) + 2), f"{row['error']:.0e}"]
    low, median, high = (1e3 * seconds for seconds in row["seconds"])
    speedups = row["speedup_over"]
    return [
        row["contender"],
        row["dtype"],
        f"{median:.3g}",
        f"{low:.3g} to {high:.3g}",
        *(f"{speedups[name][1]:.2f}" if name in speedups else "" for name in baselines),
        f"{100 * row['share_of_limit']:.0f} %",
        f"{row['error']:.0e}",
    ]


def _memory_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = (
        [row["contender"], row["dtype"], f"{row['peak_bytes'] / 2**20:.0f}",
         f"{(row['peak_bytes'] - row['imports_bytes']) / 2**20:.0f}"]
        for row in rows
    )  # fmt: skip
    titles = ["contender", "dtype", "peak MiB", "above the imports, MiB"]
    return f"**mol released, training step: resident-set peak**\n\n{_table(titles, cells)}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(paths: Sequence[str]) -> int:
    """Print each result file as Markdown."""
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    print("\n\n".join(markdown(json.loads(Path(path).read_text(encoding="utf-8"))) for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
