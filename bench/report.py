"""Saved results as tables, pictures and the README's text.

python -m bench.report RESULT.json ...                     # Markdown tables
python -m bench.report RESULT.json ... --out FOLDER        # pictures as well, as PNG and SVG
python -m bench.report RESULT.json --readme README.md      # writes what is between the README's markers
"""

import argparse
import json
import os
import re
import sys
import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import slug
from bench.timing import paired_ratio
from mol.common.errors import MOLError, SettingsError
from mol.common.storage import write_text

FORMAT = 2
# What molkernels is measured against, in the order of the tables, as the README names it.
BASELINES = {
    "published-loop": "published loop",
    "reference": "`reference`",
    "compiled-reference": "`torch.compile` of the reference",
    "max-autotune": "the same, max-autotune",
    "spatial-correlation-sampler": "Spatial-Correlation-Sampler",
}
SUBJECTS = {
    "f5c": "F5C",
    "ccc-position": "CCC (position graph)",
    "ccc-channel": "CCC (channel graph)",
    "fcc": "FCC",
    "cost-volume": "cost volume",
    "mol": "MOL released",
}
MARKERS = {kind: re.compile(rf"<!-- {kind}: (\S+) -->\n(.*?)<!-- /{kind} -->", re.DOTALL) for kind in ("bench", "loso")}

Row = Mapping[str, Any]
Result = Mapping[str, Any]


def assemble(
    machine: Mapping[str, Any],
    limits: Mapping[str, Any],
    rows: Sequence[Row],
    memory: Sequence[Row],
    left_out: Sequence[Row],
) -> dict[str, Any]:
    """A result as it is saved: machine, limits, `bench.groups.Row`s, peaks of a training step, and who is missing."""
    return {
        "format": FORMAT,
        "machine": machine,
        "limits": limits,
        "rows": rows,
        "memory": memory,
        "left_out": left_out,
    }


def save(result: Result, folder: Path) -> Path:
    """Write `result` to <folder>/<device>/<date>-<commit>.json and return the path."""
    machine = result["machine"]
    path = folder / slug(machine["device"]) / f"{machine['date'][:10]}-{machine['commit']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a saved run of `pytest bench/`.

    Raises:
        SettingsError: there is no such file, or it is no such result of this format.
    """
    result = read(path)
    if "rows" not in result:
        raise SettingsError(f"{path} is no run of `pytest bench/`; print it with: python -m bench.report {path}")
    return result


def read(path: Path) -> dict[str, Any]:
    """Read what `pytest bench/` or `python -m bench.loso` has saved.

    Raises:
        SettingsError: there is no such file, or it is no result of this format.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as a result ({error}); name a file in bench/results") from error
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT:
        raise SettingsError(
            f"{path} has format {found}, and this reads format {FORMAT}; "
            "measure again with: pytest bench/ --save-results"
        )
    return result


# Which rows belong together


def case(row: Row) -> tuple[Hashable, ...]:
    """What was computed: rows of one case differ in contender and dtype only."""
    return row["subject"], row["task"], tuple(sorted(row["sizes"].items()))


def timed_together(row: Row) -> tuple[Hashable, ...]:
    """Rows with the same key took turns in the same rounds."""
    return row["group"], tuple(sorted(row["sizes"].items()))


def label(row: Row) -> str:
    """The case of a row in words, such as "F5C, forward and backward"."""
    if row["task"] == "prediction":
        return f"{SUBJECTS[row['subject']]}, prediction, 1 s of video"
    batch = f", batch {row['sizes']['batch']}" if "batch" in row["sizes"] else ""
    return f"{SUBJECTS[row['subject']]}, {row['task'].replace('-', ' and ')}{batch}"


def standard_cases(result: Result) -> list[list[Row]]:
    """The rows of every standard point, a list each, in the order of `SUBJECTS`."""
    rows = [row for row in result["rows"] if row["sweep"] is None]
    rows.sort(key=lambda row: list(SUBJECTS).index(row["subject"]))
    return list(_grouped(rows, case).values())


def sweeps(result: Result) -> dict[tuple[str, str, str], list[Row]]:
    """By (subject, task, swept key): the rows of every sweep, the standard point among them, by size."""
    rows = sorted(result["rows"], key=lambda row: list(SUBJECTS).index(row["subject"]))
    keys = dict.fromkeys((row["subject"], row["task"], row["sweep"]) for row in rows if row["sweep"])
    return {
        (subject, task, swept): sorted(
            (r for r in rows if (r["subject"], r["task"]) == (subject, task) and r["sweep"] in (None, swept)),
            key=lambda row: row["sizes"][swept],
        )
        for subject, task, swept in keys
    }


def fastest(rows: Iterable[Row], dtype: str = "float32") -> Row | None:
    """The fastest backend of molkernels among `rows`, None where none was timed."""
    ours = [row for row in rows if row["contender"] not in BASELINES and row["dtype"] == dtype and row["seconds"]]
    return min(ours, key=lambda row: row["seconds"][1], default=None)


def named(row: Row) -> str:
    """The contender, with its dtype where that is not float32."""
    return row["contender"] if row["dtype"] == "float32" else f"{row['contender']}, {row['dtype']}"


def above_imports(row: Row) -> int:
    """Bytes that a row of `memory` adds to what the process held after its imports."""
    return row["peak_bytes"] - row["imports_bytes"]


def _grouped(rows: Iterable[Row], key: Any) -> dict[Hashable, list[Row]]:
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


# Tables


def markdown(result: Result) -> str:
    """The machine and its limits, one table a group, one a sweep, peak memory, and what was left out."""
    machine = result["machine"]
    parts = [
        f"## {machine['device']}, {machine['date'][:10]}",
        f"torch {machine['torch']}, commit {machine['commit']}; {_limits(result['limits'])}",
    ]
    if not any(row["dtype"] == "bfloat16" and row["contender"] == "reference" for row in result["rows"]):
        parts.append("bfloat16: torch's own products are emulated on this device and were not timed.")
    standard = [row for row in result["rows"] if row["sweep"] is None]
    parts += [_group_table(rows) for rows in _grouped(standard, timed_together).values()]
    parts += [_sweep_table(key, rows) for key, rows in sweeps(result).items()]
    if result["memory"]:
        parts.append(_memory_table(result["memory"]))
    if result["left_out"]:
        lines = (f"- {left['contender']}, {left['subject']}: {left['reason']}" for left in result["left_out"])
        parts.append("**Left out**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _limits(limits: Mapping[str, Mapping[str, float]]) -> str:
    gemm = limits["gemm"]
    rates = ", ".join(f"GEMM {dtype} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in gemm.items())
    if len(set(gemm.values())) == 1:
        rates = f"GEMM {gemm['float32'] / 1e9:.0f} GFLOP/s"
    return f"copy {limits['copy']['bytes_per_second'] / 1e9:.1f} GB/s, {rates}"


def _group_table(rows: Sequence[Row]) -> str:
    first = rows[0]
    baselines = [name for name in BASELINES if any(row["contender"] == name for row in rows)]
    heading = f"**{first['group']}** ({first['shape']}; {first['flops'] / 1e9:.2f} GFLOP)"
    versus = [f"× {name}" for name in baselines]
    titles = ["contender", "dtype", "ms", "0.2 to 0.8", *versus, "of limit", "peak MiB", "error"]
    return f"{heading}\n\n{_table(titles, (_cells(row, baselines) for row in rows))}"


def _cells(row: Row, baselines: Sequence[str]) -> list[str]:
    who, error = [row["contender"], row["dtype"]], f"{row['error']:.0e}"
    if row["seconds"] is None:
        return [*who, "not timed", *[""] * (len(baselines) + 3), f"{error}, over {row['tolerance']:.0e}"]
    low, median, high = (1e3 * seconds for seconds in row["seconds"])
    speedups = row["speedup_over"]
    return [
        *who,
        digits(median),
        f"{digits(low)} to {digits(high)}",
        *(f"{speedups[name][1]:.2f}" if name in speedups else "" for name in baselines),
        f"{100 * row['share_of_limit']:.0f} % of {row['bound']}",
        "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.1f}",
        error,
    ]


def _sweep_table(key: tuple[str, str, str], rows: Sequence[Row]) -> str:
    swept = key[2]
    contenders = list(dict.fromkeys(named(row) for row in rows))
    table = []
    for size, points in _grouped(rows, lambda row: row["sizes"][swept]).items():
        cells = {named(row): digits(1e3 * row["seconds"][1]) if row["seconds"] else "not timed" for row in points}
        table.append([str(size), *(cells.get(name, "") for name in contenders)])
    heading = f"**{SUBJECTS[key[0]]}, {key[1].replace('-', ' and ')}, over {swept}** (ms)"
    return f"{heading}\n\n{_table([swept, *contenders], table)}"


def _memory_table(rows: Sequence[Row]) -> str:
    cells = (
        [
            row["contender"],
            row["dtype"],
            str(row["batch"]),
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{above_imports(row) / 2**20:.0f}",
        ]
        for row in rows
    )
    titles = ["contender", "dtype", "batch", "peak MiB", "above the imports, MiB"]
    return f"**MOL released, training step: peak memory**\n\n{_table(titles, cells)}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# The README's text


def readme_block(result: Result, path: str) -> str:
    """What stands between the README's markers: the machine, a row per case and dtype, peak memory, a link.

    A bfloat16 row without a baseline in bfloat16 is left to the file.

    Args:
        result: of format 2.
        path: of the file that holds it, as the README links it.

    Raises:
        SettingsError: a case was measured, but no backend of molkernels passed its check there.
    """
    cases = standard_cases(result)
    failed = [label(rows[0]) for rows in cases if fastest(rows) is None]
    if failed or not cases:
        raise SettingsError(
            f"{path}: no backend of molkernels was timed in {'; '.join(failed) or 'any case'}; "
            "mend what fails its check, then measure again with: pytest bench/ --save-results"
        )
    lines = [(rows, best) for rows in cases if (best := fastest(rows))]
    lines += [(rows, best) for rows in cases if (best := fastest(rows, "bfloat16")) and _rivals(rows, "bfloat16")]
    shown = [name for name in reversed(BASELINES) if any(name in _rivals(rows, best["dtype"]) for rows, best in lines)]
    backends = {best["contender"] for _, best in lines}
    ours = f"`{next(iter(backends))}`" if len(backends) == 1 else "`molkernels`"
    table = _table(
        ["", ours, *(BASELINES[name] for name in shown), "of the limit"],
        (_readme_cells(rows, best, shown, len(backends) > 1) for rows, best in lines),
    )
    link = f"All figures: [{path}]({path})."
    below = [*_bfloat16_line(cases), *_memory_line(result["memory"]), link]
    parts = [_fill(_conditions(result, cases)), table, _fill(" ".join(below))]
    return "\n\n".join(parts) + "\n"


def _conditions(result: Result, cases: Sequence[Sequence[Row]]) -> str:
    machine, limits = result["machine"], result["limits"]
    subjects: dict[str, list[str]] = {}
    for rows in cases:
        subjects.setdefault(rows[0]["shape"], []).append(SUBJECTS[rows[0]["subject"]])
    shapes = "; ".join(f"{', '.join(dict.fromkeys(names))} on {shape}" for shape, names in subjects.items())
    return (
        f"On {machine['device']} ({machine['cpu_capability']}; PyTorch {machine['torch']}, Python {machine['python']}; "
        f"{machine['date'][:10]}, commit {machine['commit']}), float32 unless the row says otherwise: {shapes}. "
        "Medians of interleaved rounds of one run, and of the rounds' ratios; each row's fastest in bold. The last "
        f"column is how much of the machine's own limit ({_limits(limits)}), whichever binds, the least work makes of "
        "the time."
    )


def _readme_cells(rows: Sequence[Row], best: Row, shown: Sequence[str], name_backend: bool) -> list[str]:
    rivals = [_rivals(rows, best["dtype"]).get(name) for name in shown]
    quickest = min((row for row in (best, *rivals) if row), key=lambda row: row["seconds"][1])

    def time(row: Row) -> str:
        text = duration(row["seconds"][1])
        return f"**{text}**" if row is quickest and any(rivals) else text

    def versus(row: Row) -> str:
        return f"{time(row)}, {times(paired_ratio(row['durations'], best['durations'])[1])}"

    title = label(best) if best["dtype"] == "float32" else f"{label(best)}, {best['dtype']}"
    own = f"{time(best)} (`{best['contender']}`)" if name_backend else time(best)
    return [title, own, *(versus(row) if row else "" for row in rivals), f"{100 * best['share_of_limit']:.0f} %"]


def _rivals(rows: Iterable[Row], dtype: str) -> dict[str, Row]:
    return {
        row["contender"]: row
        for row in rows
        if row["contender"] in BASELINES and row["dtype"] == dtype and row["seconds"]
    }


def _bfloat16_line(cases: Sequence[Sequence[Row]]) -> list[str]:
    """How the network in bfloat16 does against the published form, which computes in float32."""
    found = []
    for rows in cases:
        best, published = fastest(rows, "bfloat16"), _rivals(rows, "float32").get("published-loop")
        if rows[0]["subject"] == "mol" and best and published:
            ratio = times(paired_ratio(published["durations"], best["durations"])[1])
            found.append(f"{label(best).removeprefix('MOL released, ')}: {ratio}")
    return [f"MOL in bfloat16 against the published loop in float32: {'; '.join(found)}."] if found else []


def _memory_line(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    batch = min(row["batch"] for row in rows)
    peaks = [f"`{row['contender']}` {above_imports(row) / 2**20:.0f} MiB" for row in rows
             if row["batch"] == batch and row["dtype"] == "float32"]  # fmt: skip
    return [f"Peak memory of a training step above the imports, batch {batch}: {', '.join(peaks)}."]


def duration(seconds: float) -> str:
    """Three digits and the unit: s from a second on, else ms."""
    return f"{digits(seconds)} s" if seconds >= 0.9995 else f"{digits(1e3 * seconds)} ms"


def digits(value: float) -> str:
    """Three significant digits, or all before the point: 0.0123, 42.0, 1234."""
    return f"{value:.0f}" if value >= 999.5 else f"{value:#.3g}".rstrip(".")


def times(ratio: float) -> str:
    """A ratio with its sign: 1.09×, 18×."""
    return f"{ratio:.0f}×" if ratio >= 9.995 else f"{ratio:.2f}×"


def _fill(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def update_readme(readme: Path, path: Path) -> None:
    """Generate the text between the markers of `readme` from the result at `path`, and name that in the first one.

    Raises:
        SettingsError: `readme` has no markers; nothing is written.
    """
    text, result = readme.read_text(encoding="utf-8"), read(path)
    kind, name = "loso" if "loso" in result else "bench", Path(os.path.relpath(path, readme.parent)).as_posix()
    if not MARKERS[kind].search(text):
        raise SettingsError(
            f"{readme} does not say where the figures go; add these two lines:\n"
            f"<!-- {kind}: {name} -->\n<!-- /{kind} -->"
        )
    block = f"<!-- {kind}: {name} -->\n{generated(result, name)}<!-- /{kind} -->"
    write_text(readme, MARKERS[kind].sub(lambda _: block, text, count=1))


def generated(result: Result, path: str) -> str:
    """What stands between the README's markers for a run of `pytest bench/` or of `python -m bench.loso`."""
    if "loso" in result:
        from bench import loso

        return f"{_fill(loso.headline(result['loso']))}\n[All steps]({path}).\n"
    return readme_block(result, path)


def _printed(result: Result) -> str:
    if "loso" in result:
        from bench import loso

        return loso.markdown(result)
    return markdown(result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Tables and pictures of saved results.")
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json", help="written by --save-results")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write pictures there, as PNG and SVG")
    parser.add_argument("--readme", type=Path, help="generate the text between this file's bench markers; one RESULT")
    options = parser.parse_args(arguments)
    if options.readme and len(options.results) > 1:
        parser.error("--readme takes one RESULT.json: the one that the README is to show")
    try:
        everything = {path: read(path) for path in options.results}
        print("\n\n".join(map(_printed, everything.values())))
        results = {path: result for path, result in everything.items() if "rows" in result}
        for path, result in results.items():
            if options.out:
                from bench import plots

                own = options.out / slug(result["machine"]["device"]) / path.stem if len(results) > 1 else options.out
                for picture in plots.draw(result, own):
                    print(f"wrote {picture}", file=sys.stderr)
        if options.readme:
            update_readme(options.readme, options.results[0])
    except (MOLError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
