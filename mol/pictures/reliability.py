"""Reliability diagrams: how often answers are right, over how sure the network was of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import SettingsError
from mol.pictures.style import CLASS_COLOURS, HAIRLINE, MUTED, PAPER, draw_headline, open_figure


@dataclass(frozen=True)
class ReliabilityCurve:
    """The answers of a network in bins of their confidence; n bins have answers.

    Attributes:
        name: for the legend, such as ``"temperature 1.43: ECE 0.041"``.
        edges: (n, 2) lower and upper confidence of each bin.
        counts: (n,) answers in each.
        confidence: (n,) their mean confidence.
        accuracy: (n,) share of them that is right.
        interval: (n, 2) bounds of that share.
    """

    name: str
    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    interval: np.ndarray


@dataclass(frozen=True)
class _Look:
    """How a curve is drawn; line, marker and filling repeat what the hue says."""

    colour: str
    filling: str
    line: Any
    marker: str


# The first curve stands out.
_LOOKS = (_Look(CLASS_COLOURS[0], CLASS_COLOURS[0], "-", "o"), _Look(MUTED, PAPER, (0, (4, 2)), "s"))
_SIDE, _LEFT, _RIGHT, _BARS, _BOTTOM, _GAP = 4.5, 0.7, 0.25, 0.85, 0.55, 0.22


def reliability_picture(path: Path, curves: Sequence[ReliabilityCurve], title: str, subtitle: str) -> None:
    """Draw accuracy over confidence with 95 % intervals, and below it the number of answers in each bin.

    Args:
        path: the picture to write.
        curves: one or two; the first stands out.
        title: first line.
        subtitle: second line, such as what was counted.
    Raises:
        SettingsError: no curve, or more than two.
    """
    if not 1 <= len(curves) <= len(_LOOKS):
        raise SettingsError(f"{title}: {len(curves)} curves; a reliability diagram shows one or two")
    top = 0.68 + 0.2 * len(curves)
    width, height = _LEFT + _SIDE + _RIGHT, top + _SIDE + _GAP + _BARS + _BOTTOM
    with open_figure(path, width, height) as figure:
        draw_headline(figure, title, subtitle, x=0.12, height=height)
        above = (_BOTTOM + _BARS + _GAP) / height
        axes = figure.add_axes((_LEFT / width, above, _SIDE / width, _SIDE / height))
        bars = figure.add_axes((_LEFT / width, _BOTTOM / height, _SIDE / width, _BARS / height))
        _draw_curves(axes, curves)
        _draw_counts(bars, curves)


def _draw_curves(axes: Any, curves: Sequence[ReliabilityCurve]) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    axes.text(0.03, 0.06, "perfect calibration", rotation=45, fontsize=7.5, color=MUTED, va="bottom")
    for place, (curve, look) in enumerate(zip(curves, _LOOKS, strict=False)):
        level = 3 * (len(curves) - place)
        for x, (low, high) in zip(curve.confidence, curve.interval, strict=True):
            axes.plot([x, x], [low, high], color=look.colour, linewidth=0.9, alpha=0.5, zorder=level)
        line = {"color": look.colour, "linestyle": look.line, "linewidth": 1.2}
        axes.plot(curve.confidence, curve.accuracy, zorder=level + 1, **line)
        # Bins with few answers, which say little, are small.
        areas = 14 + 100 * curve.counts / curve.counts.max()
        axes.scatter(
            curve.confidence,
            curve.accuracy,
            areas,
            look.filling,
            marker=look.marker,
            edgecolors=look.colour,
            linewidths=1.2,
            clip_on=False,
            zorder=level + 2,
        )
        axes.plot([], [], label=curve.name, marker=look.marker, markersize=7, markerfacecolor=look.filling, **line)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.01), frameon=False, fontsize=8.5, handlelength=3.2, borderaxespad=0.2
    )
    _scale(axes)
    axes.set_ylim(0, 1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(color=HAIRLINE, linewidth=0.6, zorder=0)
    axes.tick_params(axis="x", labelbottom=False)
    axes.set_ylabel("Accuracy: share of right answers")


def _draw_counts(axes: Any, curves: Sequence[ReliabilityCurve]) -> None:
    highest = max(int(curve.counts.max()) for curve in curves)
    upright = highest > (9 if len(curves) > 1 else 99)  # wider numbers would touch their neighbours
    for place, (curve, look) in enumerate(zip(curves, _LOOKS, strict=False)):
        size = (curve.edges[:, 1] - curve.edges[:, 0]) * 0.92 / len(curves)
        left = curve.edges[:, 0] + place * size
        style = {"color": look.filling, "edgecolor": look.colour, "linewidth": 0.9}
        axes.bar(left, curve.counts, size, align="edge", **style)
        for x, count in zip(left + size / 2, curve.counts, strict=True):
            axes.annotate(
                f"{count}",
                (x, count),
                (0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7,
                rotation=90 if upright else 0,
            )
    _scale(axes)
    axes.set_ylim(0, highest * 1.35)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("Confidence: probability of the predicted class")
    axes.set_ylabel("Videos")


def _scale(axes: Any) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 6))
