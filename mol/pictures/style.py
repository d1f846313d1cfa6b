"""One palette and typeface for pictures of clips, flow, landmarks and scores, readable without colour vision.

The hues are those of Okabe and Ito (2008), which remain distinct under the common colour-vision deficiencies; position,
label or line style always repeats what a hue says. Flow is the exception: its hue is a direction, and every flow
picture has a legend wheel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mol.common.extras import require
from mol.common.storage import write_atomic
from mol.common.terminal import printable

INK, MUTED, HAIRLINE, PAPER = "#1b2530", "#66717d", "#d5dae0", "#ffffff"
TRUTH, OURS, BASELINE = "#56b4e9", "#ff9d3c", "#8a94a0"
CLASS_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#4d4d4d", "#9c8a00")
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "savefig.dpi": 150,
}

_SUPERSCRIPTS = str.maketrans("0123456789-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")


def class_colour(index: int) -> str:
    """The hue of a class; beyond eight classes hues repeat and `LINE_STYLES` distinguish them."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


@contextmanager
def open_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of `width` × `height` inches in the common style, written to `path` completely or not at all."""
    matplotlib = require("matplotlib", extra="report")
    figures = require("matplotlib.figure", extra="report")
    with matplotlib.rc_context(_STYLE), literal_text():
        figure = figures.Figure(figsize=(width, height))
        yield figure
        show_literally(figure)
        write_atomic(Path(path), figure.savefig)


def literal_text() -> Any:
    """A context in which matplotlib draws text as it is: ``$`` is no formula.

    Names of classes, people, videos and runs, which files can choose, reach the library in figures made in it.
    """
    return require("matplotlib", extra="report").rc_context({"text.parse_math": False, "text.usetex": False})


def show_literally(figure: Any) -> None:
    """Write out what fonts can't draw, and the formulas that matplotlib makes for logarithmic axes: 10⁻³."""
    for text in figure.findobj(require("matplotlib.text", extra="report").Text):
        text.set_text(printable(text.get_text()))
    formulas = require("matplotlib.ticker", extra="report").LogFormatter
    for axes in figure.axes:
        for ticks in (axes.xaxis.major, axes.xaxis.minor, axes.yaxis.major, axes.yaxis.minor):
            show = plain_power if isinstance(ticks.formatter, formulas) else printable
            made = ticks.formatter.format_ticks
            ticks.formatter.format_ticks = lambda values, made=made, show=show: [show(text) for text in made(values)]


def plain_power(formula: str) -> str:
    r"""A label such as ``$\mathdefault{2\times10^{-3}}$`` as text, 2×10⁻³."""
    text = formula.replace(r"$\mathdefault{", "").replace("}$", "").replace(r"\times", "×").replace(r"\cdot", "·")
    return re.sub(r"\^\{([^}]*)\}", lambda power: power[1].translate(_SUPERSCRIPTS), text)


def draw_headline(figure: Any, title: str, subtitle: str, x: float, height: float) -> None:
    """Title and subtitle at the top left; `x` and distances in inches."""
    left = x / figure.get_figwidth()
    figure.text(left, 1 - 0.16 / height, title, fontsize=12, weight="bold", va="top")
    figure.text(left, 1 - 0.42 / height, subtitle, fontsize=8.5, color=MUTED, va="top")
