"""Pictures of an evaluation: confusion matrix, gallery next to the truth, confident failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.pictures.faces import (
    caption,
    draw_landmarks,
    flow_maximum,
    landmark_legend,
    normalised_error,
    show_flow,
    show_grey,
    show_wheel,
)
from mol.pictures.style import INK, MUTED, OURS, PAPER, TRUTH, draw_headline, open_figure


def confusion_picture(
    path: Path, counts: np.ndarray, classes: Sequence[str], title: str = "Confusion", subtitle: str = ""
) -> None:
    """Draw a confusion matrix: each cell's count, and its share of the true class as shade and percentage.

    Args:
        path: the picture to write.
        counts: (C, C) integers, rows true, columns predicted.
        classes: C names.
        title: first line.
        subtitle: second line, such as what was counted and the scores.
    Raises:
        SettingsError: the matrix and the names do not match.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(classes), len(classes)):
        raise SettingsError(f"the matrix has shape {counts.shape}; {(len(classes),) * 2} is needed, one row per class")
    colours = require("matplotlib.colors", extra="report")
    shades = colours.LinearSegmentedColormap.from_list("blues", ["#f5f8fb", "#9cc7e6", "#0072b2", "#00436a"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [name.replace("_", " ") for name in classes]
    longest = max(len(name) for name in names)
    left, top, bottom, right = 0.62 + 0.075 * longest, 0.78, 0.62, 0.75
    # Make the cells so large that the matrix is as wide as the lines above it.
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


@dataclass(frozen=True)
class GalleryExample:
    """One frame pair of a clip with its exact truth, the network's estimate and that of TV-L1.

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


def evaluation_gallery(
    path: Path, examples: Sequence[GalleryExample], title: str = "People never seen in training"
) -> None:
    """Draw examples in rows: the face with true and estimated landmarks, then the flow: truth, ours, TV-L1.

    Args:
        path: the picture to write.
        examples: one row each; four to six are readable.
        title: headline.
    Raises:
        SettingsError: there are no examples.
    """
    if not examples:
        raise SettingsError("a gallery needs at least one example")
    panel, gap, left, top, bottom, caption = 1.7, 0.10, 0.2, 1.0, 0.12, 0.22
    columns = 4
    width = left + columns * panel + (columns - 1) * gap + 1.35
    height = top + len(examples) * (panel + caption) + bottom
    maximum = flow_maximum([example.flow for example in examples])
    with open_figure(path, width, height) as figure:
        subtitle = "The frame pair with the most motion of each clip; one colour scale for all flow pictures."
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
        show_wheel(figure.add_axes((wheel_left / width, 1 - (top + 1.3) / height, 1.2 / width, 1.3 / height)), maximum)
        landmark_legend(figure, wheel_left + 0.1, height - top - 1.62, width, height, ("truth", "MOL"))


def _draw_example(axes: Sequence[Any], example: GalleryExample, maximum: float) -> None:
    show_grey(axes[0], example.image)
    draw_landmarks(axes[0], example.landmarks, TRUTH, width=1.3)
    draw_landmarks(axes[0], example.landmarks_ours, OURS, width=1.0)
    nme = normalised_error(example.landmarks_ours, example.landmarks)
    caption(axes[0], example.title)
    axes[0].text(
        1, -0.025, f"NME {nme:.1%}", transform=axes[0].transAxes, fontsize=7, color=MUTED, va="top", ha="right"
    )
    show_flow(axes[1], example.flow, maximum)
    caption(axes[1], f"mean length {np.hypot(*example.flow).mean():.2f} px")
    for axis, flow in ((axes[2], example.flow_ours), (axes[3], example.flow_tvl1)):
        show_flow(axis, flow, maximum)
        caption(axis, f"EPE {np.hypot(*(flow - example.flow)).mean():.3f} px")


@dataclass(frozen=True)
class Seen:
    """One sub-clip of a cache, with its flow and landmarks and the network's estimates.

    Attributes:
        frames: (T, 128, 128) uint8, centre crops.
        numbers: (T,) frame numbers in the video, or positions if the cache has none.
        flow, flow_ours: (T-1, 2, 128, 128), pixels; `flow` is the cache's, the target of a network that estimates it.
        landmarks, landmarks_ours: (T-1, 68, 2) of frames 2..T, pixels; `landmarks` is the cache's.

    An estimate is None if the network gives none.
    """

    frames: np.ndarray
    numbers: Sequence[int]
    flow: np.ndarray
    flow_ours: np.ndarray | None
    landmarks: np.ndarray
    landmarks_ours: np.ndarray | None


def failure_picture(path: Path, seen: Seen, title: str, subtitle: str) -> None:
    """Draw one misclassified video: frames with landmarks, the cache's flow and the estimated flow, if there is one."""
    side, gap, margin, legend = 1.3, 0.06, 0.25, 1.25
    count = len(seen.frames)
    if seen.flow_ours is None:
        flows = {"flow\nmeasured": seen.flow}
    else:
        flows = {"flow\ntrained\ntowards": seen.flow, "flow\nestimated": seen.flow_ours}
    width, height = 2 * margin + count * (side + gap) + legend, 0.95 + (1 + len(flows)) * (side + gap) + 0.4
    maximum = flow_maximum(list(flows.values()))
    with open_figure(path, width, height) as figure:
        draw_headline(figure, title, subtitle, x=margin, height=height)

        def panel(row: int, column: int) -> Any:
            left, bottom = margin + column * (side + gap), height - 0.95 - side - row * (side + gap + 0.06)
            return figure.add_axes((left / width, bottom / height, side / width, side / height))

        for column, image in enumerate(seen.frames):
            axes = panel(0, column)
            show_grey(axes, image)
            caption(axes, f"frame {seen.numbers[column]}")
            if column:
                draw_landmarks(axes, seen.landmarks[column - 1], TRUTH, width=1.1)
                if seen.landmarks_ours is not None:
                    draw_landmarks(axes, seen.landmarks_ours[column - 1], OURS, width=0.9)
                for row, flow in enumerate(flows.values(), 1):
                    show_flow(panel(row, column), flow[column - 1], maximum)
        for row, name in enumerate(flows, 1):
            axes = panel(row, 0)
            axes.axis("off")
            axes.text(0, 1, name, fontsize=8, va="top", transform=axes.transAxes)
        left = margin + count * (side + gap) + 0.06
        names = ("measured",) if seen.landmarks_ours is None else ("training target", "estimated")
        landmark_legend(figure, left, height - 1.1, width, height, names)
        show_wheel(figure.add_axes((left / width, 0.9 / height, 1.1 / width, 1.18 / height)), maximum)
