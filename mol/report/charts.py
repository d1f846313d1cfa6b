"""Pictures of leave-one-subject-out runs: training curves, people, comparisons; SVG for embedding in a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.pictures.markup import Markup
from mol.pictures.style import (
    CLASS_COLOURS,
    HAIRLINE,
    INK,
    MUTED,
    PAPER,
    draw_headline,
    open_figure,
)

Curve = Sequence[tuple[float, float]]

# More points would make the page larger and the line no better.
_CURVE_POINTS = 96
_THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    HAIRLINE: "var(--rule)",
    PAPER: "none",
    CLASS_COLOURS[0]: "var(--deep)",
}


def curve_picture(paths: Sequence[Path], curves: Sequence[Curve], title: str, unit: str = "") -> None:
    """Draw one quantity over the steps: a thin line per fold, and their mean.

    Args:
        paths: the picture to write, once for each suffix wanted (``.png``, ``.svg``).
        curves: one per fold, (step, value) in the order of the steps.
        title: what is drawn.
        unit: of the values.
    Raises:
        SettingsError: no curves are given.
    """
    thinned = [_thinned(curve) for curve in curves if len(curve)]
    if not thinned:
        raise SettingsError(f"{title}: no fold has logged a step; there is nothing to draw")
    for path in paths:
        with svg_text(), open_figure(path, 4.2, 2.35) as figure:
            axes = figure.add_axes((0.135, 0.19, 0.835, 0.67))
            for curve in thinned:
                axes.plot(*curve.T, color=MUTED, linewidth=0.6, alpha=max(0.12, min(0.6, 6 / len(thinned))), zorder=2)
            if len(thinned) > 1:
                axes.plot(*mean_curve(thinned).T, color=CLASS_COLOURS[0], linewidth=1.9, zorder=3)
            _scale_losses(axes, thinned)
            axes.grid(axis="y", color=HAIRLINE, linewidth=0.6)
            axes.set_xlabel("Step")
            axes.set_title(f"{title} ({unit})" if unit else title)
            axes.margins(x=0.01)


def mean_curve(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of curves (n, 2) at all their steps, each interpolated within its own steps only; (m, 2)."""
    steps = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, _CURVE_POINTS).round().astype(int))]
    values = [np.interp(steps, curve[:, 0], curve[:, 1], left=np.nan, right=np.nan) for curve in curves]
    return np.stack([steps, np.nanmean(values, axis=0)], axis=1)


def _thinned(curve: Curve) -> np.ndarray:
    """At most `_CURVE_POINTS` points, each the mean of its neighbours."""
    points = np.asarray(curve, dtype=np.float64)
    parts = np.array_split(points, min(len(points), _CURVE_POINTS))
    return np.stack([part.mean(axis=0) for part in parts])


def _scale_losses(axes: Any, curves: Sequence[np.ndarray]) -> None:
    """Logarithmic if the values span more than a decade and a half."""
    values = np.concatenate([curve[:, 1] for curve in curves])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() / values.min() > 30:
        axes.set_yscale("log")
        axes.minorticks_off()
    elif len(values) and values.min() >= 0:
        axes.set_ylim(bottom=0)


def svg_text() -> Any:
    """Keep letters as text in SVG, so that they take the page's font, and names inside the same each time."""
    return require("matplotlib", extra="report").rc_context({"svg.fonttype": "none", "svg.hashsalt": "mol"})


def inline_svg(path: Path, label: str, prefix: str) -> Markup:
    """An SVG file of `curve_picture` as part of a page: its colours those of the page, its names unique.

    Args:
        path: the file.
        label: text alternative, for screen readers.
        prefix: unique on the page.
    """
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', text)
    for colour, name in _THEME.items():
        text = re.sub(rf"{colour}\b", name, text, flags=re.IGNORECASE)
    viewbox = re.search(r'viewBox="[^"]+"', text)
    body = re.sub(r"\s*\n\s*", "\n", text[text.index(">") + 1 :])
    shape = viewbox.group() if viewbox else ""
    # These files contain no names of folders; only the label needs escaping.
    safe = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return Markup(f'<svg class="chart" {shape} role="img" aria-label="{safe}">{body}')


def people_picture(path: Path, people: Mapping[str, Sequence[tuple[str, int, float]]], title: str) -> None:
    """Draw how many videos of each person are right.

    Args:
        path: the picture to write.
        people: for each data set (subject, videos, right videos), right being a mean over seeds.
        title: headline.
    """
    rows = [(dataset, *entry) for dataset, entries in people.items() for entry in entries]
    height = 0.62 + 0.17 * len(rows) + 0.32 * len(people) + 0.5
    with open_figure(path, 6.0, height) as figure:
        axes = figure.add_axes((0.2, 0.5 / height, 0.74, 1 - 1.12 / height))
        level, ticks = 0.0, list[tuple[float, str]]()
        for index, (dataset, subject, videos, right) in enumerate(rows):
            if index == 0 or rows[index - 1][0] != dataset:
                level += 1.2
                axes.text(0, level - 0.2, dataset, fontsize=8, weight="bold", va="center")
                level += 0.7
            axes.barh(level, videos, 0.66, color=HAIRLINE)
            axes.barh(level, right, 0.66, color=CLASS_COLOURS[0])
            axes.text(videos, level, f"  {right:.3g} of {videos}", fontsize=6.5, color=MUTED, va="center")
            ticks.append((level, subject))
            level += 1
        axes.set_yticks(*zip(*ticks, strict=True), fontsize=7)
        axes.set_ylim(level, 0)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("Videos; dark: right")
        axes.set_xlim(0, max(videos for _, _, videos, _ in rows) * 1.12)
        draw_headline(figure, title, "", x=0.12, height=height)


def comparison_picture(
    path: Path, names: Sequence[str], scores: Mapping[str, Sequence[tuple[float, float | None]]]
) -> None:
    """Draw the UF1 of several runs, a group of bars for each set.

    Args:
        path: the picture to write.
        names: of the runs.
        scores: for each set (mean, deviation over seeds or None) of every run.
    """
    gap, bar = 0.8, 0.2
    height = 1.0 + bar * (len(names) + gap) * len(scores) + 0.5
    with open_figure(path, 6.4, height) as figure:
        axes = figure.add_axes((0.3, 0.5 / height, 0.62, 1 - 1.2 / height))
        ticks: list[tuple[float, str]] = []
        for group, (title, found) in enumerate(scores.items()):
            top = group * (len(names) + gap + 0.6)
            axes.text(0, top - 0.75, title, fontsize=8, weight="bold", va="center")
            for index, (mean, deviation) in enumerate(found):
                axes.barh(top + index, mean, 0.72, xerr=deviation, color=CLASS_COLOURS[0] if index else MUTED)
                axes.text(mean + (deviation or 0), top + index, f"  {mean:.3f}", fontsize=7, va="center")
                ticks.append((top + index, names[index]))
        axes.set_yticks(*zip(*ticks, strict=True), fontsize=7.5)
        axes.set_ylim(ticks[-1][0] + 0.7, -1.4)
        axes.set_xlim(0, 1)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("UF1")
        draw_headline(
            figure, "UF1 of the runs", "grey: the run that the others are compared with", x=0.12, height=height
        )
