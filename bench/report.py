"""Saved results as tables and pictures, and as the generated parts of README.md and docs/performance.md.

python -m bench.report RESULT.json ...                                           # Markdown tables
python -m bench.report RESULT.json ... --out FOLDER                              # and pictures, as PNG and SVG
python -m bench.report RESULT.json --page README.md docs/performance.md          # fill these pages' marked blocks
"""

import argparse
import importlib
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import hours, plots
from bench.machine import slug
from bench.record import (
    BASELINES,
    COMPILED,
    COMPILED_FORMS,
    PUBLISHED,
    REFERENCE,
    SUBJECTS,
    USUAL,
    Result,
    Row,
    above_imports,
    baselines,
    fastest,
    graph_notes,
    grouped,
    label,
    label_with_dtype,
    named,
    read,
    standard_cases,
    sweeps,
    task_name,
    timed_together,
)
from bench.tables import digits, duration, markdown_table, rates, times
from bench.timing import paired_ratio
from mol.common.errors import MOLError, SettingsError
from mol.common.storage import write_text

# The rows of the short table, which the README has, as (subject, task, dtype); the full one is in docs/performance.md.
SHORT = (
    ("f5c", "forward", "float32"),
    ("f5c", "forward-backward", "float32"),
    ("ccc-channel", "forward-backward", "float32"),
    ("fcc", "forward-backward", "float32"),
    ("cost-volume", "forward-backward", "float32"),
    ("mol", "forward", "float32"),
    ("mol", "training step", "float32"),
    ("mol", "training step", "bfloat16"),
)
# The generated blocks that a page may have: a short and the full table of `pytest bench/`, the hours of `bench.loso`.
MARKERS = {
    kind: re.compile(rf"<!-- {kind}: (\S+) -->\n(.*?)<!-- /{kind} -->", re.DOTALL)
    for kind in ("bench", "bench-full", "loso")
}
# What prints the other kinds of results, by the key that they are saved under.
PRINTERS = {"loso": "bench.hours", "cluster": "bench.cluster_trial", "pretraining": "bench.pretraining"}


# Tables


def markdown(result: Result) -> str:
    """The machine and its limits, one table for each group and each sweep, peak memory, and what was left out."""
    machine = result["machine"]
    parts = [
        f"## {machine['device']}, {machine['date'][:10]}",
        f"torch {machine['torch']}, commit {machine['commit']}; {rates(result['limits'])}",
    ]
    if not any(row["dtype"] == "bfloat16" and row["contender"] == REFERENCE for row in result["rows"]):
        parts.append("bfloat16: PyTorch emulates its products on this device, so they were not timed.")
    standard = [row for row in result["rows"] if row["sweep"] is None]
    parts += [_group_table(rows) for rows in grouped(standard, timed_together).values()]
    parts += [_sweep_table(key, rows) for key, rows in sweeps(result).items()]
    if result["memory"]:
        parts.append(_memory_table(result["memory"]))
    if result["left_out"]:
        lines = (f"- {left['contender']}, {left['subject']}: {left['reason']}" for left in result["left_out"])
        parts.append("**Left out**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _group_table(rows: Sequence[Row]) -> str:
    first = rows[0]
    rivals = [name for name in BASELINES if any(row["contender"] == name for row in rows)]
    heading = f"**{first['group']}** ({first['shape']}; {first['flops'] / 1e9:.2f} GFLOP)"
    versus = [f"× {name}" for name in rivals]
    titles = ["contender", "dtype", "ms", "0.2 to 0.8", *versus, "of limit", "peak MiB", "error"]
    table = markdown_table(titles, (_cells(row, rivals) for row in rows))
    notes = [f"Neighbours that are not the exact graph's: {'; '.join(found)}."] if (found := graph_notes(rows)) else []
    return "\n\n".join([heading, table, *notes])


def _cells(row: Row, rivals: Sequence[str]) -> list[str]:
    who, error = [row["contender"], row["dtype"]], f"{row['error']:.0e}"
    if row["seconds"] is None:
        return [*who, "not timed", *[""] * (len(rivals) + 3), f"{error}, over {row['tolerance']:.0e}"]
    low, median, high = (1e3 * seconds for seconds in row["seconds"])
    speedups = row["speedup_over"]
    return [
        *who,
        digits(median),
        f"{digits(low)} to {digits(high)}",
        *(f"{speedups[name][1]:.2f}" if name in speedups else "" for name in rivals),
        f"{100 * row['share_of_limit']:.0f} % of {row['bound']}",
        "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.1f}",
        error,
    ]


def _sweep_table(key: tuple[str, str, str], rows: Sequence[Row]) -> str:
    subject, task, swept = key
    contenders = list(dict.fromkeys(named(row) for row in rows))
    table = []
    for size, points in grouped(rows, lambda row: row["sizes"][swept]).items():
        cells = {named(row): digits(1e3 * row["seconds"][1]) if row["seconds"] else "not timed" for row in points}
        table.append([str(size), *(cells.get(name, "") for name in contenders)])
    heading = f"**{SUBJECTS[subject]}, {task_name(task)}, over {swept}** (ms)"
    return f"{heading}\n\n{markdown_table([swept, *contenders], table)}"


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
    return f"**MOL released, training step: peak memory**\n\n{markdown_table(titles, cells)}"


# Blocks of README.md and docs/performance.md

BRIEFLY = (
    "Median times, and how many times as long as the first column each baseline takes. Of the limit: the least time "
    "that the machine's matrix products and copies allow, over the measured time; a kernel that multiplies faster than "
    "PyTorch's own product passes 100 %."
)
EXACTLY = (
    "Times are medians over interleaved rounds. A ratio, the median over the same rounds, says how many times as long "
    "as the first column a baseline takes. The fastest of each row is bold. Of the limit: the least time that the "
    "row's arithmetic and memory traffic need at the rates of the machine measured in the same run ({rates}), over "
    "the measured time; a kernel that multiplies faster than PyTorch's own product passes 100 %."
)
TWO_FORMS = (
    "`torch.compile` had two forms of each operator, and its column names the faster: the reference's formulas, or the "
    "operator as it is usually written in PyTorch (idiomatic), with a graph searched in the tensors' own precision."
)
FASTER_FORM = "`torch.compile`, the faster form"


@dataclass(frozen=True)
class Line:
    """One line of a generated table: the fastest backend of molkernels in a dtype, and its baselines by name.

    Under `COMPILED` is the faster of the compiled forms.
    """

    best: Row
    rivals: Mapping[str, Row]

    @property
    def key(self) -> tuple[str, str, str]:
        """Subject, task and dtype, as in `SHORT`."""
        return self.best["subject"], self.best["task"], self.best["dtype"]


def full_block(result: Result, path: str) -> str:
    """The machine, a line for every case and dtype, peak memory, and a link to the file.

    Cases in bfloat16 that have no baseline in bfloat16 are left out.

    Args:
        result: a result of `pytest bench/`.
        path: its file, as the page is to link it.
    Raises:
        SettingsError: in some case, no backend of molkernels passed its check.
    """
    lines = _lines(result, path)
    how = EXACTLY.format(rates=rates(result["limits"]))
    below = [*_bfloat16_sentence(result, lines), *_graph_sentence(result), *_memory_sentence(result["memory"])]
    return _block(result, lines, how, below, path)


def short_block(result: Result, path: str) -> str:
    """The same with the lines of `SHORT` only, and without peak memory; see `full_block`."""
    found = {line.key: line for line in _lines(result, path)}
    lines = [found[key] for key in SHORT if key in found]
    return _block(result, lines, BRIEFLY, _bfloat16_sentence(result, lines), path)


def _lines(result: Result, path: str) -> list[Line]:
    cases = standard_cases(result)
    failed = [label(rows[0]) for rows in cases if fastest(rows) is None]
    if failed or not cases:
        raise SettingsError(
            f"{path}: no backend of molkernels was timed in {'; '.join(failed) or 'any case'}; "
            "fix the failing checks, then measure again with: pytest bench/ --save-results"
        )
    found = [
        Line(best, _rivals(rows, dtype))
        for dtype in ("float32", "bfloat16")
        for rows in cases
        if (best := fastest(rows, dtype))
    ]
    return [line for line in found if line.rivals or line.best["dtype"] == "float32"]


def _rivals(rows: Sequence[Row], dtype: str) -> dict[str, Row]:
    found = baselines(rows, dtype)
    forms = [found.pop(name) for name in COMPILED_FORMS if name in found]
    return {**found, COMPILED: min(forms, key=lambda row: row["seconds"][1])} if forms else found


def _block(result: Result, lines: Sequence[Line], how: str, below: Sequence[str], path: str) -> str:
    two = any(row["contender"] == USUAL for row in result["rows"])
    columns = BASELINES | ({COMPILED: FASTER_FORM} if two else {})
    shown = [name for name in reversed(columns) if any(name in line.rivals for line in lines)]
    backends = {line.best["contender"] for line in lines}
    ours = f"`{next(iter(backends))}`" if len(backends) == 1 else "`molkernels`"
    titles = ["", ours, *(columns[name] for name in shown), "of the limit"]
    table = markdown_table(titles, (_line_cells(line, shown, len(backends) > 1, two) for line in lines))
    link = f"All figures: [{path}]({path})."
    conditions = " ".join([_conditions(result, lines, how), *([TWO_FORMS] if two else [])])
    parts = [_fill(conditions), table, _fill(" ".join([*below, link]))]
    return "\n\n".join(parts) + "\n"


def _conditions(result: Result, lines: Sequence[Line], how: str) -> str:
    machine = result["machine"]
    subjects: dict[str, list[str]] = {}
    for line in lines:
        subjects.setdefault(line.best["shape"], []).append(SUBJECTS[line.best["subject"]])
    shapes = "; ".join(f"{', '.join(dict.fromkeys(names))} on {shape}" for shape, names in subjects.items())
    return (
        f"{machine['device']} ({machine['cpu_capability']}), PyTorch {machine['torch']}, Python {machine['python']}, "
        f"{machine['date'][:10]}, commit {machine['commit']}; float32 unless the row says otherwise. {shapes}. {how}"
    )


def _line_cells(line: Line, shown: Sequence[str], name_backend: bool, name_form: bool) -> list[str]:
    best, rivals = line.best, [line.rivals.get(name) for name in shown]
    quickest = min((row for row in (best, *rivals) if row), key=lambda row: row["seconds"][1])

    def time(row: Row) -> str:
        text = duration(row["seconds"][1])
        return f"**{text}**" if row is quickest and any(rivals) else text

    def versus(row: Row) -> str:
        form = f" ({COMPILED_FORMS[row['contender']]})" if name_form and row["contender"] in COMPILED_FORMS else ""
        return f"{time(row)}{form}, {times(paired_ratio(row['durations'], best['durations'])[1])}"

    own = f"{time(best)} (`{best['contender']}`)" if name_backend else time(best)
    return [
        label_with_dtype(best),
        own,
        *(versus(row) if row else "" for row in rivals),
        f"{100 * best['share_of_limit']:.0f} %",
    ]


def _bfloat16_sentence(result: Result, lines: Sequence[Line]) -> list[str]:
    """How the network in bfloat16 compares with the published form, which computes in float32."""
    found = []
    for rows in standard_cases(result):
        best, published = fastest(rows, "bfloat16"), baselines(rows, "float32").get(PUBLISHED)
        if best and published and best["subject"] == "mol" and best["task"] in {line.best["task"] for line in lines}:
            ratio = times(paired_ratio(published["durations"], best["durations"])[1])
            found.append(f"{label(best).removeprefix('MOL released, ')}, {ratio}")
    return [f"The published loop in float32 over MOL in bfloat16: {'; '.join(found)}."] if found else []


def _graph_sentence(result: Result) -> list[str]:
    notes = graph_notes(row for rows in standard_cases(result) for row in rows if row["task"] == "forward")
    return [f"Neighbours of the idiomatic form that are not the exact graph's: {'; '.join(notes)}."] if notes else []


def _memory_sentence(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    batch = min(row["batch"] for row in rows)
    peaks = [f"`{row['contender']}` {above_imports(row) / 2**20:.0f} MiB" for row in rows
             if row["batch"] == batch and row["dtype"] == "float32"]  # fmt: skip
    return [f"Peak memory of a training step at batch {batch}, above the imports: {', '.join(peaks)}."]


def _fill(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def update_page(page: Path, path: Path) -> None:
    """Generate the blocks of `page` that show results of this kind from the result at `path`.

    Raises:
        SettingsError: the page has no markers for such a result; nothing is written.
    """
    text, result = page.read_text(encoding="utf-8"), read(path)
    if not {"rows", "loso"} & result.keys():
        raise SettingsError(f"{path} has no block on a page; print it with: python -m bench.report {path}")
    name = Path(os.path.relpath(path, page.parent)).as_posix()
    fitting = ("loso",) if "loso" in result else ("bench", "bench-full")
    found = [kind for kind in fitting if MARKERS[kind].search(text)]
    if not found:
        raise SettingsError(
            f"{page} does not say where the figures go; add these two lines:\n"
            f"<!-- {fitting[0]}: {name} -->\n<!-- /{fitting[0]} -->"
        )
    for kind in found:
        block = f"<!-- {kind}: {name} -->\n{generated(kind, result, name)}<!-- /{kind} -->"
        text = MARKERS[kind].sub(lambda _, block=block: block, text, count=1)
    write_text(page, text)


def generated(kind: str, result: Result, path: str) -> str:
    """The text between a page's markers of this kind (a key of `MARKERS`)."""
    if kind == "loso":
        paragraphs = hours.headline(result["loso"]).split("\n\n")
        return "\n\n".join([*map(_fill, paragraphs), f"All steps: [{path}]({path})."]) + "\n"
    return (short_block if kind == "bench" else full_block)(result, path)


def _printed(path: Path, result: Result) -> str:
    for kind, module in PRINTERS.items():
        if kind in result:
            # Not at the top: the programs need packages that a machine for measuring does not have.
            return str(importlib.import_module(module).markdown(result))
    if "rows" not in result:
        raise SettingsError(f"{path} holds no measurements: see its steps for what failed, then measure again")
    return markdown(result)


def _draw(results: Mapping[Path, Result], out: Path) -> None:
    for path, result in results.items():
        own = out / slug(result["machine"]["device"]) / path.stem if len(results) > 1 else out
        for picture in plots.draw(result, own):
            print(f"wrote {picture}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Tables and pictures of saved results.")
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json", help="written by --save-results")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write pictures there, as PNG and SVG")
    parser.add_argument(
        "--page", "--readme", nargs="+", type=Path, default=[], metavar="PAGE.md",
        help="fill the blocks between these pages' bench, bench-full or loso markers from the one RESULT.json",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.page and len(options.results) > 1:
        parser.error("--page takes one RESULT.json: the one that the page is to show")
    try:
        results = {path: read(path) for path in options.results}
        print("\n\n".join(_printed(path, result) for path, result in results.items()))
        if options.out:
            _draw({path: result for path, result in results.items() if "rows" in result}, options.out)
        for page in options.page:
            update_page(page, options.results[0])
    except (MOLError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
