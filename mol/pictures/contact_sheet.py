"""A picture of some clips of a cache, to check by eye whether faces, landmarks and motion are plausible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.common.storage import write_atomic
from mol.data.cache import Cache
from mol.pictures.faces import flow_colours, flow_maximum, flow_wheel
from mol.pictures.style import INK, MUTED, PAPER, TRUTH, literal_text, show_literally
from mol.vision.points import SKELETON

_PATH, _DIFFERENCE = 5, 5
_HEADS = (
    "first frame",
    "apex frame",
    "last frame",
    f"landmarks, path × {_PATH}",
    "flow first → apex",
    f"difference × {_DIFFERENCE}",
    "motion × {magnify:g}",
)
_PANEL, _GAP, _TOP, _LABEL, _BOTTOM = 1.5, 0.05, 0.95, 1.8, 0.15


def contact_sheet(
    cache: Cache,
    path: str | Path,
    rows: Sequence[int] | None = None,
    magnify: float = 3.0,
    title: str = "Clips and their exact labels",
) -> Path:
    """Draw clips in rows: frames, landmarks with their path, flow, magnified difference and magnified motion.

    Args:
        cache: the clips.
        path: the picture to write, ``.png``, ``.pdf`` or ``.svg``.
        rows: rows of the cache; by default the clip with the largest motion of each class, preferring new people.
        magnify: how many times the motion is enlarged in the last picture of a row.
        title: headline.
    Returns:
        The path.
    Raises:
        SettingsError: no rows, or rows that the cache does not have.
        MissingExtraError: matplotlib is not installed.
        StorageError: the picture could not be written.
    """
    chosen = "" if rows is not None else "; for each class the one with the largest motion"
    rows = list(rows) if rows is not None else strongest_rows(cache)
    if not rows or not all(0 <= row < len(cache) for row in rows):
        raise SettingsError(f"rows are {rows}; choose from 0 to {len(cache) - 1}.")
    motions = [motion_to_apex(cache, row) for row in rows]
    maximum = flow_maximum([motion for _, motion in motions])
    with literal_text():
        figure = _draw(cache, rows, motions, maximum, magnify, title, chosen)
        show_literally(figure)
        write_atomic(Path(path), lambda temporary: figure.savefig(temporary, dpi=140))
    return Path(path)


def _draw(
    cache: Cache,
    rows: Sequence[int],
    motions: Sequence[tuple[int, np.ndarray]],
    maximum: float,
    magnify: float,
    title: str,
    chosen: str,
) -> Any:
    width = _LABEL + len(_HEADS) * (_PANEL + _GAP) + 1.1
    height = _TOP + len(rows) * (_PANEL + _GAP) + _BOTTOM
    figures = require("matplotlib.figure", extra="report")
    figure = figures.Figure(figsize=(width, height), facecolor=PAPER)
    for line, (row, (apex, motion)) in enumerate(zip(rows, motions, strict=True)):
        bottom = height - _TOP - (line + 1) * (_PANEL + _GAP)
        axes = [_panel(figure, column, bottom) for column in range(len(_HEADS))]
        _draw_clip(axes, cache, row, apex, motion, maximum, magnify)
        _draw_label(figure, cache.rows[row], bottom + _PANEL / 2)
        if line == 0:
            for axis, head in zip(axes, _HEADS, strict=True):
                axis.set_title(head.format(magnify=magnify), fontsize=8.5, color=INK, pad=4)
    figure.text(0.2 / width, 1 - 0.2 / height, title, fontsize=13, weight="bold", color=INK, va="top")
    subtitle = f"{len(rows)} of {len(cache)} {cache.settings.kind} clips of {len(cache.subjects)} people{chosen}"
    figure.text(0.2 / width, 1 - 0.5 / height, subtitle, fontsize=8.5, color=MUTED, va="top")
    _draw_wheel(figure, maximum)
    return figure


def strongest_rows(cache: Cache) -> list[int]:
    """For each class the row whose landmarks move most, from people not yet shown if there are any."""
    moved = np.linalg.norm(np.diff(cache.landmarks, axis=1), axis=-1).mean(axis=-1).sum(axis=-1)
    order = np.argsort(-moved, kind="stable").tolist()
    taken: set[str] = set()
    chosen = []
    for label in range(len(cache.classes)):
        candidates = [row for row in order if cache.labels[row] == label]
        if candidates:
            fresh = [row for row in candidates if cache.rows[row]["subject"] not in taken]
            chosen.append((fresh or candidates)[0])
            taken.add(cache.rows[chosen[-1]]["subject"])
    return chosen or order[:6]


def motion_to_apex(cache: Cache, row: int) -> tuple[int, np.ndarray]:
    """The sampled frame nearest to the apex, and the flow from the first frame to it.

    Returns:
        (index of the frame, (2, S, S) float32 pixels).
    """
    entry = cache.rows[row]
    frames = cache.settings.frames
    apex = frames - 1
    if entry.get("apex") is not None:
        times = entry["start"] + entry["interval"] * np.arange(frames)
        apex = max(1, int(np.argmin(np.abs(times - entry["apex"]))))
    motion = np.zeros(cache.flow.shape[2:], np.float32)
    for flow in cache.flow[row, :apex].astype(np.float32):
        motion += _at_moved_pixels(flow, motion)
    return apex, motion


def _at_moved_pixels(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Channels (C, S, S) looked up at x + motion(x), bilinear, edge repeated."""
    cv2 = require("cv2", extra="data")
    rows, columns = np.indices(motion.shape[1:], dtype=np.float32)
    places = columns + motion[0], rows + motion[1]
    looked_up = [
        cv2.remap(channel, *places, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for channel in image
    ]
    return np.stack(looked_up)


def _draw_clip(
    axes: Sequence[Any], cache: Cache, row: int, apex: int, motion: np.ndarray, maximum: float, magnify: float
) -> None:
    frames, landmarks = cache.frames[row], cache.landmarks[row]
    for axis, frame in zip(axes, (frames[0], frames[apex], frames[-1], frames[0]), strict=False):
        axis.imshow(frame, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    for axis in axes:
        axis.set(xlim=(-0.5, frames.shape[2] - 0.5), ylim=(frames.shape[1] - 0.5, -0.5))
    _draw_path(axes[3], landmarks[0], _PATH * (landmarks[apex] - landmarks[0]))
    axes[4].imshow(flow_colours(motion, maximum), interpolation="bilinear")
    for chain in SKELETON:
        axes[4].plot(*landmarks[0][list(chain)].T, color=INK, linewidth=0.5, alpha=0.35)
    difference = frames[apex].astype(np.float32) - frames[0]
    axes[5].imshow(128 + _DIFFERENCE * difference, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    larger = _exaggerated(frames[0], magnify * motion)
    axes[6].imshow(larger, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")


def _exaggerated(frame: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The frame pushed along `motion`: sampled at r with r + motion(r) = x, by damped fixed-point iteration."""
    pull = -motion
    for _ in range(30):
        pull = 0.5 * (pull - _at_moved_pixels(motion, pull))
    return _at_moved_pixels(frame[None].astype(np.float32), pull)[0]


def _draw_path(axes: Any, points: np.ndarray, path: np.ndarray) -> None:
    """The face's chains, and at each point a line along its magnified path."""
    for chain in SKELETON:
        axes.plot(*points[list(chain)].T, color=TRUTH, linewidth=0.8, alpha=0.9)
    axes.scatter(*points.T, s=2.2, color=PAPER, linewidths=0, zorder=3)
    ends = np.stack([points, points + path], axis=1)
    for line in ends:
        axes.plot(*line.T, color="#ff9d3c", linewidth=1.2, solid_capstyle="round", zorder=4)


def _draw_label(figure: Any, entry: dict[str, Any], middle: float) -> None:
    width, height = figure.get_size_inches()
    figure.text(
        0.2 / width, (middle + 0.3) / height, entry.get("emotion") or "?", fontsize=11, weight="bold", color=INK
    )
    text = "\n".join(describe_row(entry))
    figure.text(0.2 / width, (middle + 0.22) / height, text, fontsize=7.5, color=MUTED, va="top", linespacing=1.5)


def describe_row(entry: Mapping[str, Any]) -> list[str]:
    """What is known about a row of the index, in short lines: action units, person and clip, peak, apex, blink."""
    units = entry.get("action_units") or []
    units = units if isinstance(units, str) else " + ".join(map(str, units))
    length = f" of {entry['length']}" if "length" in entry else ""
    lines = [f"AU {units}"] if units else []
    lines.append(f"{entry['subject']} · {entry['clip']}")
    if entry.get("amplitude") == 0:
        # The apex of such a row is only a place in time.
        lines.append("no expression")
    else:
        lines += [f"peak {entry['amplitude']:.1f} px"] if "amplitude" in entry else []
        lines += [f"apex at frame {entry['apex']}{length}"] if entry.get("apex") is not None else []
    if "blink" in entry:
        lines.append(f"blink at frame {entry['blink']}{length}")
    return lines


def _draw_wheel(figure: Any, maximum: float) -> None:
    """Legend of the flow colours, next to the first row."""
    width, height = figure.get_size_inches()
    left = _LABEL + len(_HEADS) * (_PANEL + _GAP) + 0.15
    box = (left / width, (height - _TOP - 0.95) / height, 0.8 / width, 0.8 / height)
    axes = figure.add_axes(box)
    axes.imshow(flow_wheel(192), interpolation="bilinear")
    axes.set_axis_off()
    label = f"direction as hue,\nrim = {maximum:.2g} px"
    axes.text(0.5, -0.08, label, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color=MUTED)


def _panel(figure: Any, column: int, bottom: float) -> Any:
    """Axes of one picture; `left` and `bottom` in inches."""
    width, height = figure.get_size_inches()
    left = _LABEL + column * (_PANEL + _GAP)
    axes = figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height))
    axes.set_axis_off()
    return axes
