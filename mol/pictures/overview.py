"""A predicted video at a glance: probabilities over time and its strongest windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mol.pictures.faces import (
    caption,
    draw_landmarks,
    flow_maximum,
    landmark_legend,
    show_flow,
    show_grey,
    show_wheel,
)
from mol.pictures.style import (
    BASELINE,
    CLASS_COLOURS,
    HAIRLINE,
    INK,
    LINE_STYLES,
    MUTED,
    OURS,
    PAPER,
    TRUTH,
    class_colour,
    draw_headline,
    open_figure,
)


@dataclass(frozen=True)
class Timeline:
    """The content of a probability plot.

    Attributes:
        times: (n,) seconds, the centres of the windows.
        probabilities: (n, C).
        classes: C names.
        duration: seconds, the length of the video.
        mean: (C,) the probabilities of the whole video.
        gaps: (start, end) in seconds of windows that were skipped.
        winner: the class to emphasise; None for none.
        distances: (n,) how far each window's probabilities, before calibration, are from those of still clips of the
            face, 0 … 1.
        still: smallest and largest distance of two still clips from one another.
        limit: the distance up to which a window is like a still face.
        is_calibrated: whether `probabilities` and `mean` are.
    """

    times: np.ndarray
    probabilities: np.ndarray
    classes: Sequence[str]
    duration: float
    mean: np.ndarray
    gaps: Sequence[tuple[float, float]]
    winner: int | None
    distances: np.ndarray
    still: tuple[float, float]
    limit: float
    is_calibrated: bool


def _draw_timeline(axes: Any, timeline: Timeline) -> None:
    winner = timeline.winner
    for start, end in timeline.gaps:
        _shade_gap(axes, start, end)
        axes.text((start + end) / 2, 0.97, "skipped", ha="center", va="top", fontsize=7.5, color=MUTED, rotation=90)
    times, probabilities = _broken_at_gaps(timeline, timeline.probabilities)
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
    axes.tick_params(labelbottom=False)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.6, zorder=0)
    axes.set_ylabel("Probability")
    _label_lines(axes, timeline, winner)


def _draw_distances(axes: Any, timeline: Timeline) -> None:
    """How far each window is from a still face, over the band in which still clips are from one another."""
    for start, end in timeline.gaps:
        _shade_gap(axes, start, end)
    smallest, largest = timeline.still
    axes.axhspan(smallest, largest, color=BASELINE, alpha=0.3, linewidth=0, zorder=1)
    times, distances = _broken_at_gaps(timeline, timeline.distances)
    axes.plot(times, distances, color=INK, linewidth=1.4, marker="o", markersize=2.6, clip_on=False, zorder=3)
    axes.set_xlim(0, max(timeline.duration, 1e-3))
    axes.axhline(timeline.limit, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.set_ylim(0, 1.12 * max(float(timeline.distances.max(initial=0)), timeline.limit, 0.02))
    axes.locator_params(axis="y", nbins=3)
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.6, zorder=0)
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Distance")
    note = f"dashed: up to {timeline.limit:.3f}\nlike a still face\n\ngrey: still clips from one\nanother, "
    note += f"{smallest:.3f} to {largest:.3f}"
    axes.text(1.03, 0.5, note, transform=axes.transAxes, fontsize=7.5, color=MUTED, va="center", linespacing=1.4)


def _shade_gap(axes: Any, start: float, end: float) -> None:
    axes.axvspan(start, end, facecolor="#eef0f3", edgecolor="#c9ced5", hatch="///", linewidth=0, zorder=0)


def _broken_at_gaps(timeline: Timeline, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times and values (n, ...) with NaN inside each gap, so that no line crosses a gap."""
    inside = [(start + end) / 2 for start, end in timeline.gaps]
    times = np.concatenate([timeline.times, inside])
    holes = np.full((len(inside), *values.shape[1:]), np.nan)
    order = np.argsort(times, kind="stable")
    return times[order], np.concatenate([values, holes])[order]


def _label_lines(axes: Any, timeline: Timeline, winner: int | None) -> None:
    """Label each line at its right end with its name and the video's mean; overlapping labels are moved apart."""
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
    heading = "calibrated mean" if timeline.is_calibrated else "mean over windows"
    axes.text(1.03, 1.06, heading, transform=axes.transAxes, fontsize=7.5, color=MUTED, va="center")


def spread(values: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions near `values`, in the same order, at least `gap` apart and within [low, high] if they all fit."""
    order = np.argsort(values, kind="stable")
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    placed = np.empty(len(values))
    floor = low
    for rank, index in enumerate(order):
        ceiling = high - gap * (len(values) - 1 - rank)
        placed[index] = min(max(values[index], floor), ceiling)
        floor = placed[index] + gap
    return placed


@dataclass(frozen=True)
class Overview:
    """The content of the overview picture of one video.

    Attributes:
        title, subtitle, window_title: headlines of the page and of the window shown in detail.
        frames: full pictures (H, W) uint8 for the film strip.
        frame_times: their times in seconds.
        frame_points: the landmarks in each, (68, 2) picture pixels, or None if no window covers the frame.
        frame_boxes: corners (4, 2) of the square that the network sees, picture pixels, or None.
        crops: (T-1, 128, 128) uint8, frames 2..T of the window shown in detail, as the network sees them.
        crop_times: (T-1,) seconds.
        crop_points: (T-1, 68, 2) the network's landmarks, crop pixels; None if it estimates none.
        crop_detected: (T-1, 68, 2) the detector's landmarks, crop pixels.
        crop_flow: (T-1, 2, 128, 128) the network's flow into each crop, crop pixels; None if it estimates none.
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
    crop_points: np.ndarray | None
    crop_detected: np.ndarray
    crop_flow: np.ndarray | None
    timeline: Timeline


def overview_picture(path: Path, overview: Overview) -> None:
    """Draw one video on one page: film strip, one window in detail (landmarks, flow), probability over time."""
    width, margin, gap = 12.0, 0.35, 0.08
    aspect = overview.frames[0].shape[0] / overview.frames[0].shape[1]
    inner = width - 2 * margin
    frame = (inner - gap * (len(overview.frames) - 1)) / len(overview.frames)
    strip = min(frame * aspect, 2.4)
    crop = (inner - 1.15 - gap * len(overview.crops)) / len(overview.crops)
    window = crop if overview.crop_flow is None else 2 * crop + gap
    height = 1.05 + strip + 0.62 + window + 0.62 + 2.1 + 0.5 + 0.8 + 0.62
    with open_figure(path, width, height) as figure:
        draw_headline(figure, overview.title, overview.subtitle, x=margin, height=height)
        y = height - 1.05 - strip
        _draw_strip(figure, overview, (margin, y, frame, strip), gap)
        y -= 0.62 + window
        _draw_window(figure, overview, (margin, y, crop), gap)
        y -= 0.62 + 2.1
        probability = figure.add_axes((0.85 / width, y / height, (inner - 2.1) / width, 2.1 / height))
        _draw_timeline(probability, overview.timeline)
        y -= 0.5 + 0.8
        distance = figure.add_axes((0.85 / width, y / height, (inner - 2.1) / width, 0.8 / height))
        _draw_distances(distance, overview.timeline)
        calibrated = overview.timeline.is_calibrated
        whose = "the uncalibrated" if calibrated else "these"
        for axes, title in (
            (probability, "Calibrated probability of each class" if calibrated else "Probability of each class"),
            (
                distance,
                f"Distance of {whose} probabilities from those of the same face without motion (total variation)",
            ),
        ):
            axes.set_title(title, x=(margin - 0.85) / (inner - 2.1))
            for time in (overview.crop_times[0], overview.crop_times[-1]):
                axes.axvline(time, color=INK, linewidth=0.7, alpha=0.5, zorder=1)
            axes.axvspan(overview.crop_times[0], overview.crop_times[-1], color=INK, alpha=0.06, linewidth=0, zorder=0)


def _draw_strip(figure: Any, overview: Overview, box: tuple[float, float, float, float], gap: float) -> None:
    """The film strip; `box` is (left, bottom, width of a frame, height) in inches."""
    width, height = figure.get_size_inches()
    left, bottom, frame, strip = box
    for index, image in enumerate(overview.frames):
        axes = figure.add_axes(((left + index * (frame + gap)) / width, bottom / height, frame / width, strip / height))
        show_grey(axes, image)
        points, corners = overview.frame_points[index], overview.frame_boxes[index]
        if corners is not None:
            axes.plot(*np.vstack([corners, corners[:1]]).T, color=PAPER, linewidth=0.9, alpha=0.9)
        if points is not None:
            draw_landmarks(axes, points, OURS, width=0.7)
        caption(axes, f"{overview.frame_times[index]:.2f} s")
        if index == 0:
            axes.set_title("The video: landmarks, and the square that the network sees")


def _draw_window(figure: Any, overview: Overview, box: tuple[float, float, float], gap: float) -> None:
    """One window: crops with landmarks, and the flow below; `box` is (left, bottom, side of a crop) in inches."""
    width, height = figure.get_size_inches()
    left, bottom, side = box
    top = bottom if overview.crop_flow is None else bottom + side + gap
    for index in range(len(overview.crops)):
        axes = figure.add_axes(((left + index * (side + gap)) / width, top / height, side / width, side / height))
        show_grey(axes, overview.crops[index])
        draw_landmarks(axes, overview.crop_detected[index], TRUTH, width=1.1)
        if overview.crop_points is not None:
            draw_landmarks(axes, overview.crop_points[index], OURS, width=0.9)
        if overview.crop_flow is None:
            caption(axes, f"{overview.crop_times[index]:.2f} s")
        if index == 0:
            axes.set_title(overview.window_title)
    legend = left + len(overview.crops) * (side + gap) + 0.05
    names = ("detector",) if overview.crop_points is None else ("detector", "network")
    landmark_legend(figure, legend + 0.06, top + side - 0.15, width, height, names)
    if overview.crop_flow is not None:
        _draw_flow(figure, overview.crop_flow, overview.crop_times, box, gap)


def _draw_flow(
    figure: Any, flows: np.ndarray, times: Sequence[float], box: tuple[float, float, float], gap: float
) -> None:
    """The flow into each crop, and its colour wheel; `box` as in `_draw_window`."""
    width, height = figure.get_size_inches()
    left, bottom, side = box
    maximum = flow_maximum([flows])
    for index, flow in enumerate(flows):
        x = (left + index * (side + gap)) / width
        axes = figure.add_axes((x, bottom / height, side / width, side / height))
        show_flow(axes, flow, maximum)
        caption(axes, f"{times[index]:.2f} s")
    legend = left + len(flows) * (side + gap) + 0.05
    show_wheel(figure.add_axes((legend / width, bottom / height, 1.1 / width, 1.18 / height)), maximum)
