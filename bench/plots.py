"""A saved result as pictures: speed-up, roofline, scaling and memory, in the style of `mol.pictures`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import (
    AUTOTUNED,
    BASELINES,
    COMPILED,
    COMPILED_FORMS,
    PUBLISHED,
    REFERENCE,
    SAMPLER,
    SUBJECTS,
    USUAL,
    Result,
    Row,
    above_imports,
    fastest,
    label,
    standard_cases,
    sweeps,
    task_name,
)
from bench.tables import digits, times
from mol.common.extras import require
from mol.common.storage import write_atomic
from mol.pictures.style import (
    CLASS_COLOURS,
    HAIRLINE,
    INK,
    LINE_STYLES,
    MUTED,
    PAPER,
    draw_headline,
    open_figure,
)

# Backends of molkernels have warm colours, baselines are grey; the markers tell them apart without colour.
LOOKS = {
    "cpu": ("#ff9d3c", "o"),
    "cuda": ("#d55e00", "s"),
    "triton": ("#e6b800", "D"),
    PUBLISHED: ("#c3cad2", "v"),
    REFERENCE: ("#98a2ad", "^"),
    COMPILED: ("#66717d", "P"),
    USUAL: ("#44505c", "d"),
    AUTOTUNED: ("#1b2530", "X"),
    SAMPLER: ("#0072b2", "*"),
}
# The panels of the speed-ups: what they are over, of several contenders the fastest.
OVER = {
    "the published loop": (PUBLISHED,),
    "plain PyTorch": (REFERENCE,),
    "torch.compile": tuple(COMPILED_FORMS),
    "max-autotune": (AUTOTUNED,),
}
SUBJECT_COLOURS = dict(zip(SUBJECTS, CLASS_COLOURS, strict=False))
SWEPT = ("maps", "batch", "side", "k", "threads")
COLUMNS = 4  # of panels


def draw(result: Result, folder: Path) -> list[Path]:
    """Write every picture that `result` has rows for, as PNG and SVG; equal results give equal bytes.

    Returns:
        The paths written, in `folder`.
    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: a picture could not be written.
    """
    pictures: dict[str, Callable[[Result, Path], bool]] = {
        "speedup": speedup, "roofline": roofline, "scaling": scaling, "memory": memory,
    }  # fmt: skip
    drawn = [folder / name for name, picture in pictures.items() if picture(result, folder / name)]
    return [stem.with_suffix(suffix) for stem in drawn for suffix in (".png", ".svg")]


@contextmanager
def _page(stem: Path, size: tuple[float, float], title: str, result: Result) -> Iterator[Any]:
    """A figure of `size` inches with a headline, written as PNG and SVG with reproducible identifiers and metadata."""
    matplotlib = require("matplotlib", extra="report")
    machine = result["machine"]
    subtitle = f"{machine['device']}, PyTorch {machine['torch']}, {machine['date'][:10]}, commit {machine['commit']}"
    with (
        matplotlib.rc_context({"svg.hashsalt": stem.name}),
        open_figure(stem.with_suffix(".png"), *size) as figure,
    ):
        figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.98, 0.99 - 0.66 / size[1]))
        draw_headline(figure, title, subtitle, x=0.15, height=size[1])
        yield figure
        _settle(figure)
        write_atomic(stem.with_suffix(".svg"), lambda path: figure.savefig(path, metadata={"Date": None}))


def _settle(figure: Any) -> None:
    """Lay the figure out once for both formats; rounded, as the solver's last digits depend on memory addresses."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position([round(edge, 4) for edge in axes.get_position().bounds])


def speedup(result: Result, stem: Path) -> bool:
    """Bars: how many times as long as our fastest backend each baseline takes, with 0.2 and 0.8 quantiles.

    Of the compiled forms it is the faster.
    """
    best = [row for rows in standard_cases(result) if (row := fastest(rows))]
    panels = {over: found for over, names in OVER.items() if any(found := [least_speedup(row, names) for row in best])}
    if not panels:
        return False
    size = (1.9 + 2.3 * len(panels), 1.55 + 0.31 * len(best))
    with _page(stem, size, "How many times as fast: float32, the fastest backend of molkernels", result) as figure:
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (over, speedups) in zip(drawn, panels.items(), strict=True):
            _draw_speedups(axes, best, speedups, logarithmic=over == "the published loop")
            axes.set_title(f"over {over}")
        drawn[0].set_yticks(range(len(best)), [label(row) for row in best])
        drawn[0].set_ylim(len(best) - 0.4, -0.6)
    return True


def least_speedup(row: Row, names: Iterable[str]) -> Sequence[float] | None:
    """The quantiles of a row's ratio to the fastest of the baselines `names`; None if it has none to them."""
    found = [row["speedup_over"][name] for name in names if name in row["speedup_over"]]
    return min(found, key=lambda ratios: ratios[1], default=None)


def _draw_speedups(axes: Any, best: Sequence[Row], speedups: Sequence[Any], logarithmic: bool) -> None:
    rows = [(place, *pair) for place, pair in enumerate(zip(best, speedups, strict=True)) if pair[1]]
    places, ours, ratios = zip(*rows, strict=True)
    low, middle, high = np.array(ratios).T
    start = 1.0 if logarithmic else 0.0
    colours = [SUBJECT_COLOURS[row["subject"]] for row in ours]
    axes.barh(places, middle - start, left=start, height=0.66, color=colours, zorder=2)
    axes.hlines(places, low, high, color=INK, linewidth=1, zorder=3)
    for place, ratio, end in zip(places, middle, np.maximum(high, 1), strict=True):
        axes.annotate(times(ratio), (end, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1, color=MUTED, linewidth=1, zorder=4)
    widest = max(high.max(), 1)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min(0.9, low.min()), widest**1.3)
        _plain_ticks(axes.xaxis)
    else:
        axes.set_xlim(0, 1.3 * widest)
    axes.grid(axis="x", color=HAIRLINE, linewidth=0.6, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def roofline(result: Result, stem: Path) -> bool:
    """Achieved FLOP/s over FLOP/byte, with the measured roofs; standard points solid, sweeps faint."""
    rows = [row for row in result["rows"] if row["seconds"]]
    if not rows:
        return False
    intensity = np.array([row["flops"] / row["bytes"] for row in rows])
    rate = np.array([row["flops"] / row["seconds"][1] / 1e9 for row in rows])
    with _page(stem, (8.6, 5.4), "Roofline: least work over measured time", result) as figure:
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlabel="least FLOP per least byte", ylabel="GFLOP/s")
        ridge = result["limits"]["gemm"]["float32"] / result["limits"]["copy"]["bytes_per_second"]
        limits = (min(intensity.min(), ridge) / 2.5, intensity.max() * 1.6)
        _draw_roofs(axes, result["limits"], *limits)
        for row, x, y in zip(rows, intensity, rate, strict=True):
            marker, colour = _look(row["contender"])[1], SUBJECT_COLOURS[row["subject"]]
            standard = row["sweep"] is None
            axes.plot(
                x, y, marker, color=colour, markersize=7 if standard else 4, alpha=0.95 if standard else 0.4,
                markerfacecolor=colour if row["dtype"] == "float32" else PAPER, markeredgewidth=1, zorder=3,
            )  # fmt: skip
        axes.set_xlim(*limits)
        axes.set_ylim(rate.min() / 1.6, None)
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
        axes.grid(color=HAIRLINE, linewidth=0.6, zorder=0)
        _roofline_legend(figure, rows)
    return True


def _draw_roofs(axes: Any, limits: Any, low: float, high: float) -> None:
    copied = limits["copy"]["bytes_per_second"] / 1e9
    x = np.geomspace(low, high, 200)
    rates = {rate: dtype for dtype, rate in limits["gemm"].items()}  # one roof if both dtypes have the same rate
    for number, (rate, dtype) in enumerate(sorted(rates.items(), reverse=True)):
        axes.plot(x, np.minimum(copied * x, rate / 1e9), color=INK, linewidth=1.3, linestyle=LINE_STYLES[number])
        name = "GEMM" if len(rates) == 1 else f"GEMM, {dtype}"
        ridge = rate / 1e9 / copied
        axes.annotate(f"{name} {rate / 1e9:.0f} GFLOP/s", (ridge, rate / 1e9), (20, 4), textcoords="offset points",
                      fontsize=8, color=MUTED)  # fmt: skip
    axes.annotate(f"copy {copied:.1f} GB/s", (low, copied * low), (12, -2), textcoords="offset points",
                  fontsize=8, color=MUTED, va="top")  # fmt: skip


def _roofline_legend(figure: Any, rows: Sequence[Row]) -> None:
    lines = require("matplotlib.lines", extra="report")

    def key(name: str, colour: str, marker: str, filled: bool = True) -> Any:
        face = colour if filled else PAPER
        return lines.Line2D([], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, label=name)

    subjects = {row["subject"] for row in rows}
    keys = [key(SUBJECTS[name], SUBJECT_COLOURS[name], "o") for name in SUBJECTS if name in subjects]
    contenders = dict.fromkeys(row["contender"] for row in rows)
    keys += [key(name, INK, _look(name)[1]) for name in contenders]
    if any(row["dtype"] == "bfloat16" for row in rows):
        keys.append(key("bfloat16 (hollow)", INK, "o", filled=False))
    figure.legend(handles=keys, loc="outside right center", frameon=False, fontsize=8.5, labelspacing=0.7)


def scaling(result: Result, stem: Path) -> bool:
    """Time against the swept size, one panel per sweep.

    The dashed line is ideal: the time of our first point, scaled with the least operations and the threads.
    """
    found = sweeps(result)
    if not found:
        return False
    ordered = sorted(found, key=lambda key: SWEPT.index(key[2]))
    lines = -(-len(ordered) // COLUMNS)
    with _page(stem, (9.6, 1.5 + 1.95 * lines), "Time in ms against size, float32", result) as figure:
        panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
        for axes in panels[len(ordered) :]:
            axes.set_visible(False)
        for axes, (subject, task, swept) in zip(panels, ordered, strict=False):
            _draw_scaling(axes, found[subject, task, swept], swept)
            axes.set_title(f"{SUBJECTS[subject]}\n{task_name(task)}", fontsize=8.5)
        _contender_legend(figure, [row["contender"] for rows in found.values() for row in rows], ideal=True)
    return True


def _draw_scaling(axes: Any, rows: Sequence[Row], swept: str) -> None:
    timed = [row for row in rows if row["seconds"] and row["dtype"] == "float32"]
    sizes = sorted({row["sizes"][swept] for row in timed})
    for name in dict.fromkeys(row["contender"] for row in timed):
        line = [row for row in timed if row["contender"] == name]
        colour, marker = _look(name)
        x, y = [row["sizes"][swept] for row in line], [1e3 * row["seconds"][1] for row in line]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.3, zorder=2 if name in BASELINES else 3)
    best = [row for size in sizes if (row := fastest(r for r in timed if r["sizes"][swept] == size))]
    if best:
        ideal = [ideal_ms(best[0], row) for row in best]
        axes.plot(
            [row["sizes"][swept] for row in best], ideal, color=INK, linewidth=0.9, linestyle=LINE_STYLES[1], zorder=4
        )
    axes.set(xscale="log", yscale="log", xlabel=swept)
    axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
    axes.set_xticks([], minor=True)
    _plain_ticks(axes.yaxis)
    axes.grid(color=HAIRLINE, linewidth=0.6, zorder=0)


def ideal_ms(first: Row, row: Row) -> float:
    """Milliseconds that `row` would take at the rate per thread of `first`."""
    threads = row["sizes"]["threads"] / first["sizes"]["threads"]
    return 1e3 * first["seconds"][1] * row["flops"] / first["flops"] / threads


def memory(result: Result, stem: Path) -> bool:
    """Bars: the training step's peak above the imports, and the peak of one call of each operator."""
    steps: dict[str, dict[str, int]] = {}
    for row in result["memory"]:
        steps.setdefault(f"batch {row['batch']}, {row['dtype']}", {})[row["contender"]] = above_imports(row)
    operators = {
        label(rows[0]): {
            row["contender"]: row["peak_bytes"]
            for row in rows
            if row["dtype"] == "float32" and row["peak_bytes"] is not None
        }
        for rows in standard_cases(result)
    }
    operators = {name: bars for name, bars in operators.items() if bars}
    panels = {"Training step, above the imports": steps, "One call of an operator, float32": operators}
    panels = {title: groups for title, groups in panels.items() if groups}
    if not panels:
        return False
    lines = [sum(len(bars) + 1 for bars in groups.values()) for groups in panels.values()]
    with _page(stem, (7.4, 1.3 + 0.5 * len(panels) + 0.16 * sum(lines)), "Peak memory", result) as figure:
        drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=lines)[:, 0]
        for axes, (title, groups) in zip(drawn, panels.items(), strict=True):
            _draw_bars(axes, groups)
            axes.set_title(title)
        _contender_legend(figure, [name for groups in panels.values() for bars in groups.values() for name in bars])
    return True


def _draw_bars(axes: Any, groups: Mapping[str, Mapping[str, int]]) -> None:
    """Horizontal bars in MiB, coloured by contender, with a gap between groups."""
    place, middles = 0.0, []
    for bars in groups.values():
        for step, (name, value) in enumerate(bars.items()):
            mebibytes, at = value / 2**20, place + step
            axes.barh(at, mebibytes, height=0.85, color=_look(name)[0], zorder=2)
            shift = {"xytext": (3, 0), "textcoords": "offset points"}
            axes.annotate(digits(mebibytes), (mebibytes, at), **shift, va="center", fontsize=6.5)
        middles.append(place + (len(bars) - 1) / 2)
        place += len(bars) + 1
    axes.set_yticks(middles, list(groups))
    axes.set_ylim(place - 1.2, -0.8)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=HAIRLINE, linewidth=0.6, zorder=0)
    axes.set_xlabel("MiB")


def _look(contender: str) -> tuple[str, str]:
    return LOOKS.get(contender, (INK, "o"))


def _contender_legend(figure: Any, names: Iterable[str], ideal: bool = False) -> None:
    lines = require("matplotlib.lines", extra="report")
    order = [name for name in (*LOOKS, *names) if name in set(names)]
    keys = []
    for name in dict.fromkeys(order):
        colour, marker = _look(name)
        shape = {"marker": marker, "linewidth": 1.5} if ideal else {"linewidth": 7}
        keys.append(lines.Line2D([], [], color=colour, label=name, **shape))
    if ideal:
        keys.append(lines.Line2D([], [], color=INK, linewidth=0.9, linestyle=LINE_STYLES[1], label="ideal"))
    figure.legend(
        handles=keys, loc="outside lower center", ncols=len(keys) if len(keys) <= 5 else 4, frameon=False, fontsize=8.5
    )


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, fewer per decade the more decades there are."""
    ticker = require("matplotlib.ticker", extra="report")
    low, high = axis.get_view_interval()
    axis.set_major_locator(
        ticker.LogLocator(subs=(1,) if high / low > 1000 else (1, 3) if high / low > 30 else (1, 2, 5), numticks=20)
    )
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())
