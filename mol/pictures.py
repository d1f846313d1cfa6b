"""Pictures of clips, flow, landmarks and scores: the same palette and type everywhere, readable without colour vision.

Hues are those of Okabe and Ito (2008), which stay apart under the common colour-vision deficiencies; what a hue says is
always said a second time, by position, label or line style. Flow is the exception: its hue is a direction, and a legend
wheel stands beside every flow picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.common.storage import write_atomic
from mol.vision.points import SKELETON

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

# Middlebury's wheel (Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011): six corner hues
# with arcs as unequal as the eye's power to tell the hues between them apart.
_CORNERS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=np.float64)
_CORNER_ANGLES = np.cumsum([0, 15, 6, 4, 11, 13, 6]) * (2 * np.pi / 55)


def class_colour(index: int) -> str:
    """The hue of a class; beyond eight classes hues repeat and `LINE_STYLES` tell them apart."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


# Flow as colour


def flow_colours(flow: np.ndarray, maximum: float) -> np.ndarray:
    """Colour-code a flow field: direction as hue, length as saturation (white: no motion).

    Right is red, down yellow-green, left cyan-blue, up violet. Vectors longer than `maximum` are darkened, so that
    clipping shows. Source: the coding of Baker et al. (IJCV 2011).

    Args:
        flow: (..., 2, H, W), (dx, dy) in pixels.
        maximum: the length in pixels that has full saturation.
    Returns:
        (..., H, W, 3) uint8 RGB.
    Raises:
        SettingsError: `maximum` is not a positive number.
    """
    if not (np.isfinite(maximum) and maximum > 0):
        raise SettingsError(f"the flow that has full colour must be a positive number of pixels, not {maximum}")
    dx, dy = np.moveaxis(np.asarray(flow, dtype=np.float64), -3, 0)
    angle = np.arctan2(dy, dx) % (2 * np.pi)
    radius = (np.hypot(dx, dy) / maximum)[..., None]
    hue = np.stack([np.interp(angle, _CORNER_ANGLES, _CORNERS[:, channel]) for channel in range(3)], axis=-1)
    colours = np.where(radius <= 1, 1 - radius * (1 - hue), 0.75 * hue)
    return np.round(255 * colours).astype(np.uint8)


def flow_maximum(flows: Iterable[np.ndarray], percentile: float = 99.9, least: float = 0.1) -> float:
    """The length in pixels that full colour should stand for in pictures that share one legend.

    Args:
        flows: fields (..., 2, H, W), (dx, dy) in pixels.
        percentile: of all lengths; the few longer ones are darkened.
        least: floor in pixels, so that noise around zero isn't blown up to full colour.
    """
    lengths = [np.hypot(*np.moveaxis(np.asarray(flow, dtype=np.float32), -3, 0)).ravel() for flow in flows]
    return max(least, float(np.percentile(np.concatenate(lengths), percentile))) if lengths else least


def flow_wheel(size: int = 192) -> np.ndarray:
    """The legend of `flow_colours`: (size, size, 4) uint8 RGBA, transparent outside the disc."""
    axis = (np.arange(size) - (size - 1) / 2) / ((size - 1) / 2)
    field = np.stack(np.meshgrid(axis, axis))
    radius = np.hypot(*field)
    colours = flow_colours(field / np.maximum(radius, 1), 1.0001)
    # One pixel of soft edge.
    alpha = np.clip((1 - radius) * (size - 1) / 2 + 0.5, 0, 1)
    return np.concatenate([colours, np.round(255 * alpha[..., None]).astype(np.uint8)], axis=-1)


# Figures


@contextmanager
def open_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of `width` × `height` inches in the house style, written to `path` whole or not at all."""
    matplotlib = require("matplotlib", extra="report")
    figures = require("matplotlib.figure", extra="report")
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure(figsize=(width, height))
        yield figure
        write_atomic(Path(path), figure.savefig)


def _bare(axes: Any) -> None:
    """An image panel: no ticks, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _show_grey(axes: Any, image: np.ndarray) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    _bare(axes)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def _draw_landmarks(axes: Any, points: np.ndarray, colour: str, width: float = 1.0, style: Any = "-") -> None:
    """68 points (x, y) as the chains of the face, over a dark halo so that they show on skin and on shadow."""
    effects = require("matplotlib.patheffects", extra="report")
    for chain in SKELETON:
        line = axes.plot(*points[list(chain)].T, color=colour, linewidth=width, linestyle=style, solid_capstyle="round")
        line[0].set_path_effects([effects.Stroke(linewidth=width + 0.9, foreground="#00000070"), effects.Normal()])


def _show_flow(axes: Any, flow: np.ndarray, maximum: float) -> None:
    axes.imshow(flow_colours(flow, maximum), interpolation="nearest")
    _bare(axes)
    for spine in axes.spines.values():
        spine.set(visible=True, color=HAIRLINE, linewidth=0.8)


def _show_wheel(axes: Any, maximum: float) -> None:
    """The legend wheel, with the length that its rim stands for."""
    axes.imshow(flow_wheel(256), interpolation="bilinear")
    _bare(axes)
    axes.set_xlim(-60, 316)
    axes.set_ylim(330, -60)
    centre, rim = 127.5, 128
    for (x, y), (dx, dy) in (((1, 0), (1, 0)), ((-1, 0), (-1, 0)), ((0, 1), (0, 1)), ((0, -1), (0, -1))):
        start = (centre + 0.86 * rim * x, centre + 0.86 * rim * y)
        end = (start[0] + 0.42 * rim * dx, start[1] + 0.42 * rim * dy)
        arrow = {"arrowstyle": "-|>,head_width=0.16,head_length=0.3", "color": INK, "linewidth": 0.8}
        axes.annotate("", end, start, arrowprops={**arrow, "shrinkA": 0, "shrinkB": 0})
    axes.text(centre, 326, f"rim = {maximum:.2g} px", ha="center", va="top", fontsize=8)


# Scores


def confusion_picture(
    path: Path, counts: np.ndarray, classes: Sequence[str], title: str = "Confusion", subtitle: str = ""
) -> None:
    """Draw a confusion matrix: each cell's count, and its share of the true class as shade and as per cent.

    Args:
        path: the picture to write.
        counts: (C, C) integers, rows true, columns predicted.
        classes: C names.
        title: first line.
        subtitle: second line, such as what was counted and the scores.
    Raises:
        SettingsError: the matrix and the names do not fit.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(classes), len(classes)):
        raise SettingsError(f"{len(classes)} classes need a matrix of as many rows and columns, not {counts.shape}")
    colours = require("matplotlib.colors", extra="report")
    shades = colours.LinearSegmentedColormap.from_list("blues", ["#f5f8fb", "#9cc7e6", "#0072b2", "#00436a"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [name.replace("_", " ") for name in classes]
    longest = max(len(name) for name in names)
    left, top, bottom, right = 0.62 + 0.075 * longest, 0.78, 0.62, 0.75
    # Cells grow until the matrix is as wide as the lines above it.
    cell = float(np.clip((0.068 * len(subtitle) + 0.24 - left - right) / len(names), 0.86, 1.1))
    width, height = left + cell * len(names) + right, top + cell * len(names) + bottom
    with open_figure(path, width, height) as figure:
        box = (left / width, bottom / height, cell * len(names) / width, cell * len(names) / height)
        axes = figure.add_axes(box)
        axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            ink = PAPER if share > 0.5 else INK
            weight = "bold" if row == column else "normal"
            axes.text(column, row - 0.1, f"{counts[row, column]}", ha="center", va="center", color=ink, weight=weight)
            axes.text(column, row + 0.2, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=7)
        for row, total in enumerate(counts.sum(axis=1)):
            axes.text(len(names) - 0.35, row, f"n = {total}", va="center", color=MUTED, fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=0 if longest <= 12 else 20)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=PAPER, linewidth=2.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("Predicted", labelpad=6, weight="bold")
        axes.set_ylabel("True", labelpad=6, weight="bold")
        draw_headline(figure, title, subtitle, x=0.12, height=height)


def draw_headline(figure: Any, title: str, subtitle: str, x: float, height: float) -> None:
    """Title and subtitle at the top left; `x` and distances in inches."""
    left = x / figure.get_figwidth()
    figure.text(left, 1 - 0.16 / height, title, fontsize=12, weight="bold", va="top")
    figure.text(left, 1 - 0.42 / height, subtitle, fontsize=8.5, color=MUTED, va="top")


# Probability over time


@dataclass(frozen=True)
class Timeline:
    """What a probability plot shows.

    Attributes:
        times: (n,) seconds, the middles of the windows.
        probabilities: (n, C).
        classes: C names.
        duration: seconds, the length of the video.
        mean: (C,) the video's own probabilities.
        gaps: (start, end) in seconds of windows that were skipped.
    """

    times: np.ndarray
    probabilities: np.ndarray
    classes: Sequence[str]
    duration: float
    mean: np.ndarray
    gaps: Sequence[tuple[float, float]] = ()


def probability_picture(path: Path, timeline: Timeline, title: str = "Probability over time") -> None:
    """Draw the probability of each class over the video's time."""
    with open_figure(path, 9, 3.2) as figure:
        axes = figure.add_axes((0.07, 0.17, 0.72, 0.66))
        _draw_timeline(axes, timeline)
        axes.set_title(title)


def _draw_timeline(axes: Any, timeline: Timeline) -> None:
    winner = int(np.argmax(timeline.mean))
    for start, end in timeline.gaps:
        axes.axvspan(start, end, facecolor="#eef0f3", edgecolor="#c9ced5", hatch="///", linewidth=0, zorder=0)
        axes.text((start + end) / 2, 0.97, "skipped", ha="center", va="top", fontsize=7.5, color=MUTED, rotation=90)
    times, probabilities = _broken_at_gaps(timeline)
    for index in range(len(timeline.classes)):
        axes.plot(
            times,
            probabilities[:, index],
            color=class_colour(index),
            linestyle=LINE_STYLES[index // len(CLASS_COLOURS) % len(LINE_STYLES)],
            linewidth=2.6 if index == winner else 1.4,
            marker="o",
            markersize=3.4 if index == winner else 2.2,
            zorder=4 if index == winner else 3,
            clip_on=False,
        )
    chance = 1 / len(timeline.classes)
    axes.axhline(chance, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.text(0.004, chance + 0.012, "chance", transform=axes.get_yaxis_transform(), fontsize=7.5, color=MUTED)
    axes.set_xlim(0, max(timeline.duration, 1e-3))
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.6, zorder=0)
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Probability")
    _label_lines(axes, timeline, winner)


def _broken_at_gaps(timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Times and probabilities with a NaN row inside each gap, so that no line bridges what was never seen."""
    inside = [(start + end) / 2 for start, end in timeline.gaps]
    times = np.concatenate([timeline.times, inside])
    holes = np.full((len(inside), len(timeline.classes)), np.nan)
    order = np.argsort(times, kind="stable")
    return times[order], np.concatenate([timeline.probabilities, holes])[order]


def _label_lines(axes: Any, timeline: Timeline, winner: int) -> None:
    """Name each line at its right end, pushed apart where they would overlap, with the video's mean beside it."""
    if not len(timeline.times):
        return
    last = timeline.probabilities[np.argmax(timeline.times)]
    heights = spread(last, gap=0.094, low=0.02, high=0.98)
    end = timeline.times.max() / max(timeline.duration, 1e-3)
    for index, name in enumerate(timeline.classes):
        colour = class_colour(index)
        axes.plot(
            [end + 0.004, 1.012, 1.024],
            [last[index], heights[index], heights[index]],
            transform=axes.transAxes,
            color=colour,
            linewidth=0.8,
            alpha=0.55,
            clip_on=False,
        )
        axes.text(
            1.03,
            heights[index],
            f"{name.replace('_', ' ')}  {timeline.mean[index]:.2f}",
            transform=axes.transAxes,
            va="center",
            color=INK if index == winner else MUTED,
            weight="bold" if index == winner else "normal",
            fontsize=8.5,
        )
    axes.text(1.03, 1.06, "mean over windows", transform=axes.transAxes, fontsize=7.5, color=MUTED, va="center")


def spread(values: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions near `values`, in the same order, at least `gap` apart and within [low, high] where that many fit."""
    order = np.argsort(values, kind="stable")
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    placed = np.empty(len(values))
    floor = low
    for rank, index in enumerate(order):
        ceiling = high - gap * (len(values) - 1 - rank)
        placed[index] = min(max(values[index], floor), ceiling)
        floor = placed[index] + gap
    return placed


# Contact sheet and gallery


@dataclass(frozen=True)
class GalleryExample:
    """One frame pair of a clip with its exact truth, the network's answer and TV-L1's.

    Attributes:
        title: such as ``"s31 · disgust"``.
        image: (H, W) uint8, the second frame of the pair.
        flow, flow_ours, flow_tvl1: (2, H, W) in pixels; `flow` is the truth.
        landmarks, landmarks_ours: (68, 2) in pixels; `landmarks` is the truth.
    """

    title: str
    image: np.ndarray
    flow: np.ndarray
    flow_ours: np.ndarray
    flow_tvl1: np.ndarray
    landmarks: np.ndarray
    landmarks_ours: np.ndarray


def strongest_pair(flow: np.ndarray) -> int:
    """The frame pair of a clip in which most moves, of flow (T-1, 2, H, W)."""
    return int(np.argmax(np.hypot(flow[:, 0], flow[:, 1]).mean(axis=(1, 2))))


def evaluation_gallery(
    path: Path, examples: Sequence[GalleryExample], title: str = "People never seen in training"
) -> None:
    """Draw examples in rows: the face with true and estimated landmarks, then the flow: truth, ours, TV-L1.

    Args:
        path: the picture to write.
        examples: one row each; four to six read well.
        title: headline.
    Raises:
        SettingsError: there is no example.
    """
    if not examples:
        raise SettingsError("a gallery needs at least one example")
    panel, gap, left, top, bottom, caption = 1.7, 0.10, 0.2, 1.0, 0.12, 0.22
    columns = 4
    width = left + columns * panel + (columns - 1) * gap + 1.35
    height = top + len(examples) * (panel + caption) + bottom
    maximum = flow_maximum([example.flow for example in examples])
    with open_figure(path, width, height) as figure:
        subtitle = "Frame pair with the most motion of one clip each; one colour scale for all flow pictures."
        draw_headline(figure, title, subtitle, x=left, height=height)
        for row, example in enumerate(examples):
            y = height - top - (row + 1) * panel - row * caption
            boxes = [
                ((left + column * (panel + gap)) / width, y / height, panel / width, panel / height)
                for column in range(columns)
            ]
            axes = [figure.add_axes(box) for box in boxes]
            _draw_example(axes, example, maximum)
            if row == 0:
                for column, head in enumerate(("Landmarks", "Flow: truth", "Flow: MOL", "Flow: TV-L1")):
                    axes[column].set_title(head)
        wheel_left = left + columns * (panel + gap) + 0.02
        _show_wheel(figure.add_axes((wheel_left / width, 1 - (top + 1.3) / height, 1.2 / width, 1.3 / height)), maximum)
        _landmark_legend(figure, wheel_left + 0.1, height - top - 1.62, width, height, ("truth", "MOL"))


def _draw_example(axes: Sequence[Any], example: GalleryExample, maximum: float) -> None:
    _show_grey(axes[0], example.image)
    _draw_landmarks(axes[0], example.landmarks, TRUTH, width=1.3)
    _draw_landmarks(axes[0], example.landmarks_ours, OURS, width=1.0)
    nme = _normalised_error(example.landmarks_ours, example.landmarks)
    _caption(axes[0], example.title)
    axes[0].text(
        1, -0.025, f"NME {nme:.1%}", transform=axes[0].transAxes, fontsize=7, color=MUTED, va="top", ha="right"
    )
    _show_flow(axes[1], example.flow, maximum)
    _caption(axes[1], f"mean length {np.hypot(*example.flow).mean():.2f} px")
    for axis, flow in ((axes[2], example.flow_ours), (axes[3], example.flow_tvl1)):
        _show_flow(axis, flow, maximum)
        _caption(axis, f"EPE {np.hypot(*(flow - example.flow)).mean():.3f} px")


def _caption(axes: Any, text: str) -> None:
    axes.text(0, -0.025, text, transform=axes.transAxes, fontsize=7, color=MUTED, va="top")


def _landmark_legend(
    figure: Any, x: float, y: float, width: float, height: float, names: tuple[str, str] = ("detector", "MOL")
) -> None:
    """Two line samples with names; `x`, `y` in inches from the bottom left."""
    lines = require("matplotlib.lines", extra="report")
    for step, (name, colour) in enumerate(zip(names, (TRUTH, OURS), strict=True)):
        level = (y - 0.19 * step) / height
        figure.add_artist(lines.Line2D([x / width, (x + 0.22) / width], [level, level], color=colour, linewidth=2.2))
        figure.text((x + 0.3) / width, level, name, va="center", fontsize=8)


def _normalised_error(points: np.ndarray, target: np.ndarray) -> float:
    """Mean distance of 68 points over the distance of the target's eye centres."""
    eyes = np.linalg.norm(target[36:42].mean(axis=0) - target[42:48].mean(axis=0))
    return float(np.linalg.norm(points - target, axis=-1).mean() / eyes)


# A video that was misread


@dataclass(frozen=True)
class Seen:
    """One sub-clip as the network saw it, with what it should have answered and what it did.

    Attributes:
        frames: (T, 128, 128) uint8, centre crops.
        numbers: (T,) frame numbers in the video, or positions where the cache gives none.
        flow, flow_ours: (T-1, 2, 128, 128), pixels; `flow` is what it was trained towards.
        landmarks, landmarks_ours: (T-1, 68, 2) of frames 2..T, pixels; `landmarks` is what it was trained towards.
    """

    frames: np.ndarray
    numbers: Sequence[int]
    flow: np.ndarray
    flow_ours: np.ndarray
    landmarks: np.ndarray
    landmarks_ours: np.ndarray


def failure_picture(path: Path, seen: Seen, title: str, subtitle: str) -> None:
    """Draw one video that was misread: frames with both landmarks, the flow it was given, the flow it estimated."""
    side, gap, margin, legend = 1.3, 0.06, 0.25, 1.25
    count = len(seen.frames)
    width, height = 2 * margin + count * (side + gap) + legend, 0.95 + 3 * (side + gap) + 0.4
    maximum = flow_maximum([seen.flow, seen.flow_ours])
    with open_figure(path, width, height) as figure:
        draw_headline(figure, title, subtitle, x=margin, height=height)

        def panel(row: int, column: int) -> Any:
            left, bottom = margin + column * (side + gap), height - 0.95 - side - row * (side + gap + 0.06)
            return figure.add_axes((left / width, bottom / height, side / width, side / height))

        for column, image in enumerate(seen.frames):
            axes = panel(0, column)
            _show_grey(axes, image)
            _caption(axes, f"frame {seen.numbers[column]}")
            if column:
                _draw_landmarks(axes, seen.landmarks[column - 1], TRUTH, width=1.1)
                _draw_landmarks(axes, seen.landmarks_ours[column - 1], OURS, width=0.9)
                for row, flow in ((1, seen.flow), (2, seen.flow_ours)):
                    _show_flow(panel(row, column), flow[column - 1], maximum)
        for row, name in ((1, "flow\ntrained\ntowards"), (2, "flow\nestimated")):
            axes = panel(row, 0)
            axes.axis("off")
            axes.text(0, 1, name, fontsize=8, va="top", transform=axes.transAxes)
        left = margin + count * (side + gap) + 0.06
        _landmark_legend(figure, left, height - 1.1, width, height, ("trained towards", "MOL"))
        _show_wheel(figure.add_axes((left / width, 0.9 / height, 1.1 / width, 1.18 / height)), maximum)


# Overview of one video


@dataclass(frozen=True)
class Overview:
    """What the overview picture of one video shows.

    Attributes:
        title, subtitle, window_title: headlines of the page and of the window shown in detail.
        frames: full pictures (H, W) uint8 for the film strip.
        frame_times: their times in seconds.
        frame_points: the network's landmarks in each, (68, 2) picture pixels, or None where no window was read.
        frame_boxes: corners (4, 2) of the square that the network sees, picture pixels, or None.
        crops: (T-1, 128, 128) uint8, frames 2..T of the window shown in detail, as the network sees them.
        crop_times: (T-1,) seconds.
        crop_points: (T-1, 68, 2) the network's landmarks, crop pixels.
        crop_detected: (T-1, 68, 2) the detector's landmarks, crop pixels.
        crop_flow: (T-1, 2, 128, 128) the network's flow into each crop, crop pixels.
        timeline: probability over time.
    """

    title: str
    subtitle: str
    window_title: str
    frames: Sequence[np.ndarray]
    frame_times: Sequence[float]
    frame_points: Sequence[np.ndarray | None]
    frame_boxes: Sequence[np.ndarray | None]
    crops: np.ndarray
    crop_times: Sequence[float]
    crop_points: np.ndarray
    crop_detected: np.ndarray
    crop_flow: np.ndarray
    timeline: Timeline


def overview_picture(path: Path, overview: Overview) -> None:
    """Draw one video on one page: film strip, one window in detail (landmarks, flow), probability over time."""
    width, margin, gap = 12.0, 0.35, 0.08
    aspect = overview.frames[0].shape[0] / overview.frames[0].shape[1]
    inner = width - 2 * margin
    frame = (inner - gap * (len(overview.frames) - 1)) / len(overview.frames)
    strip = min(frame * aspect, 2.4)
    crop = (inner - 1.15 - gap * len(overview.crops)) / len(overview.crops)
    height = 1.05 + strip + 0.62 + 2 * crop + gap + 0.62 + 2.1 + 0.62
    with open_figure(path, width, height) as figure:
        draw_headline(figure, overview.title, overview.subtitle, x=margin, height=height)
        y = height - 1.05 - strip
        _draw_strip(figure, overview, (margin, y, frame, strip), gap)
        y -= 0.62 + 2 * crop + gap
        _draw_window(figure, overview, (margin, y, crop), gap)
        y -= 0.62 + 2.1
        axes = figure.add_axes((0.85 / width, y / height, (inner - 2.1) / width, 2.1 / height))
        _draw_timeline(axes, overview.timeline)
        axes.set_title("Probability of each emotion", x=(margin - 0.85) / (inner - 2.1))
        for time in (overview.crop_times[0], overview.crop_times[-1]):
            axes.axvline(time, color=INK, linewidth=0.7, alpha=0.5, zorder=1)
        axes.axvspan(overview.crop_times[0], overview.crop_times[-1], color=INK, alpha=0.06, linewidth=0, zorder=0)


def _draw_strip(figure: Any, overview: Overview, box: tuple[float, float, float, float], gap: float) -> None:
    """The film strip; `box` is (left, bottom, width of a frame, height) in inches."""
    width, height = figure.get_size_inches()
    left, bottom, frame, strip = box
    for index, image in enumerate(overview.frames):
        axes = figure.add_axes(((left + index * (frame + gap)) / width, bottom / height, frame / width, strip / height))
        _show_grey(axes, image)
        points, corners = overview.frame_points[index], overview.frame_boxes[index]
        if corners is not None:
            axes.plot(*np.vstack([corners, corners[:1]]).T, color=PAPER, linewidth=0.9, alpha=0.9)
        if points is not None:
            _draw_landmarks(axes, points, OURS, width=0.7)
        _caption(axes, f"{overview.frame_times[index]:.2f} s")
        if index == 0:
            axes.set_title("The video: landmarks, and the square that the network sees")


def _draw_window(figure: Any, overview: Overview, box: tuple[float, float, float], gap: float) -> None:
    """One window: crops with landmarks above, flow below; `box` is (left, bottom, side of a crop) in inches."""
    width, height = figure.get_size_inches()
    left, bottom, side = box
    maximum = flow_maximum([overview.crop_flow])
    for index in range(len(overview.crops)):
        x = (left + index * (side + gap)) / width
        upper = figure.add_axes((x, (bottom + side + gap) / height, side / width, side / height))
        _show_grey(upper, overview.crops[index])
        _draw_landmarks(upper, overview.crop_detected[index], TRUTH, width=1.1)
        _draw_landmarks(upper, overview.crop_points[index], OURS, width=0.9)
        lower = figure.add_axes((x, bottom / height, side / width, side / height))
        _show_flow(lower, overview.crop_flow[index], maximum)
        _caption(lower, f"{overview.crop_times[index]:.2f} s")
        if index == 0:
            upper.set_title(overview.window_title)
    legend = left + len(overview.crops) * (side + gap) + 0.05
    _landmark_legend(figure, legend + 0.06, bottom + 2 * side + gap - 0.15, width, height)
    _show_wheel(figure.add_axes((legend / width, bottom / height, 1.1 / width, 1.18 / height)), maximum)
