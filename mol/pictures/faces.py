"""Frames, landmarks and flow as drawn in all pictures: colours, wheel, legend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mol.common.errors import SettingsError
from mol.common.extras import require
from mol.pictures.style import HAIRLINE, INK, MUTED, OURS, TRUTH
from mol.vision.points import SKELETON, interocular_distance

# Middlebury's wheel (Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011): six corner hues,
# with arcs as long as the eye can distinguish hues between them.
_CORNERS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=np.float64)


_CORNER_ANGLES = np.cumsum([0, 15, 6, 4, 11, 13, 6]) * (2 * np.pi / 55)


def flow_colours(flow: np.ndarray, maximum: float) -> np.ndarray:
    """Colour-code a flow field: direction as hue, length as saturation (white: no motion).

    Right is red, down yellow-green, left cyan-blue, up violet. Vectors longer than `maximum` are darkened, so that
    clipping is visible. Source: the coding of Baker et al. (IJCV 2011).

    Args:
        flow: (..., 2, H, W), (dx, dy) in pixels.
        maximum: the length in pixels with full saturation.
    Returns:
        (..., H, W, 3) uint8 RGB.
    Raises:
        SettingsError: `maximum` is not a positive number.
    """
    if not (np.isfinite(maximum) and maximum > 0):
        raise SettingsError(f"the flow length with full colour is {maximum}; it must be a positive number of pixels")
    dx, dy = np.moveaxis(np.asarray(flow, dtype=np.float64), -3, 0)
    angle = np.arctan2(dy, dx) % (2 * np.pi)
    radius = (np.hypot(dx, dy) / maximum)[..., None]
    hue = np.stack([np.interp(angle, _CORNER_ANGLES, _CORNERS[:, channel]) for channel in range(3)], axis=-1)
    colours = np.where(radius <= 1, 1 - radius * (1 - hue), 0.75 * hue)
    return np.round(255 * colours).astype(np.uint8)


def flow_maximum(flows: Iterable[np.ndarray], percentile: float = 99.9, least: float = 0.1) -> float:
    """The length in pixels to show in full colour, for pictures that share one legend.

    Args:
        flows: fields (..., 2, H, W), (dx, dy) in pixels.
        percentile: of all lengths; the few longer ones are darkened.
        least: lower limit in pixels, so that noise around zero isn't amplified to full colour.
    """
    lengths = [np.hypot(*np.moveaxis(np.asarray(flow, dtype=np.float32), -3, 0)).ravel() for flow in flows]
    return max(least, float(np.percentile(np.concatenate(lengths), percentile))) if lengths else least


def flow_wheel(size: int = 192) -> np.ndarray:
    """The legend of `flow_colours`: (size, size, 4) uint8 RGBA, transparent outside the disc."""
    axis = (np.arange(size) - (size - 1) / 2) / ((size - 1) / 2)
    field = np.stack(np.meshgrid(axis, axis))
    radius = np.hypot(*field)
    colours = flow_colours(field / np.maximum(radius, 1), 1.0001)
    # An antialiased edge of one pixel.
    alpha = np.clip((1 - radius) * (size - 1) / 2 + 0.5, 0, 1)
    return np.concatenate([colours, np.round(255 * alpha[..., None]).astype(np.uint8)], axis=-1)


def bare(axes: Any) -> None:
    """An image panel: no ticks, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def show_grey(axes: Any, image: np.ndarray) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    bare(axes)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def draw_landmarks(axes: Any, points: np.ndarray, colour: str, width: float = 1.0, style: Any = "-") -> None:
    """68 points (x, y) as the chains of the face, over a dark halo so that they are visible on skin and in shadow."""
    effects = require("matplotlib.patheffects", extra="report")
    for chain in SKELETON:
        line = axes.plot(*points[list(chain)].T, color=colour, linewidth=width, linestyle=style, solid_capstyle="round")
        line[0].set_path_effects([effects.Stroke(linewidth=width + 0.9, foreground="#00000070"), effects.Normal()])


def show_flow(axes: Any, flow: np.ndarray, maximum: float) -> None:
    axes.imshow(flow_colours(flow, maximum), interpolation="nearest")
    bare(axes)
    for spine in axes.spines.values():
        spine.set(visible=True, color=HAIRLINE, linewidth=0.8)


def show_wheel(axes: Any, maximum: float) -> None:
    """The legend wheel, with the length at its rim."""
    axes.imshow(flow_wheel(256), interpolation="bilinear")
    bare(axes)
    axes.set_xlim(-60, 316)
    axes.set_ylim(330, -60)
    centre, rim = 127.5, 128
    for (x, y), (dx, dy) in (((1, 0), (1, 0)), ((-1, 0), (-1, 0)), ((0, 1), (0, 1)), ((0, -1), (0, -1))):
        start = (centre + 0.86 * rim * x, centre + 0.86 * rim * y)
        end = (start[0] + 0.42 * rim * dx, start[1] + 0.42 * rim * dy)
        arrow = {"arrowstyle": "-|>,head_width=0.16,head_length=0.3", "color": INK, "linewidth": 0.8}
        axes.annotate("", end, start, arrowprops={**arrow, "shrinkA": 0, "shrinkB": 0})
    axes.text(centre, 326, f"rim = {maximum:.2g} px", ha="center", va="top", fontsize=8)


def strongest_pair(flow: np.ndarray) -> int:
    """The frame pair of a clip with the most motion, given flow (T-1, 2, H, W)."""
    return int(np.argmax(np.hypot(flow[:, 0], flow[:, 1]).mean(axis=(1, 2))))


def caption(axes: Any, text: str) -> None:
    axes.text(0, -0.025, text, transform=axes.transAxes, fontsize=7, color=MUTED, va="top")


def landmark_legend(
    figure: Any, x: float, y: float, width: float, height: float, names: Sequence[str] = ("detector", "MOL")
) -> None:
    """Line samples with names, the second for the network's landmarks; `x`, `y` in inches from the bottom left."""
    lines = require("matplotlib.lines", extra="report")
    for step, (name, colour) in enumerate(zip(names, (TRUTH, OURS), strict=False)):
        level = (y - 0.19 * step) / height
        figure.add_artist(lines.Line2D([x / width, (x + 0.22) / width], [level, level], color=colour, linewidth=2.2))
        figure.text((x + 0.3) / width, level, name, va="center", fontsize=8)


def normalised_error(points: np.ndarray, target: np.ndarray) -> float:
    """Mean distance of 68 points divided by the distance between the target's eye centres."""
    return float(np.linalg.norm(points - target, axis=-1).mean() / interocular_distance(target))
