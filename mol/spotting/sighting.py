"""One person in one video as spotting needs it: the trace, and where the windows were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from mol.common.terminal import Track, silently
from mol.network.model import FRAMES
from mol.networks.interface import Network
from mol.prediction.regions import REGIONS, flow_by_region
from mol.prediction.trace import Trace
from mol.prediction.windows import DETECT_WIDTH, Prediction, predict_video
from mol.vision.align import transform_points
from mol.vision.tracking import MAX_GAP
from mol.vision.video import Video


@dataclass(frozen=True)
class WatchSettings:
    """How a video is watched; see `mol.spotting.command.SpotConfig`."""

    interval: int | None = None
    stride: int | None = None
    detect_width: int = DETECT_WIDTH
    several: Literal["raise", "largest"] = "raise"
    on_error: Literal["raise", "skip"] = "raise"
    max_gap: int = MAX_GAP
    batch_size: int = 4
    precision: str = "32"


@dataclass(frozen=True)
class Sighting:
    """One person in one video.

    Attributes:
        trace: what the network says of every window.
        matrices: (n, 2, 3) picture → crop of every window.
        points: (n, 68, 2) landmarks in the first frame of every window, in pixels of the video.
        seconds: (L,) times of the frames.
        notes: what to know about rate, gaps and faces.
    """

    trace: Trace
    matrices: np.ndarray
    points: np.ndarray
    seconds: np.ndarray
    notes: tuple[str, ...]


def watch_video(
    model: nn.Module,
    network: Network,
    video: Video,
    classes: Sequence[str],
    settings: WatchSettings | None = None,
    landmarks: np.ndarray | None = None,
    track: Track = silently,
) -> Sighting:
    """Run a network on the windows of a video.

    Args:
        model: in evaluation mode.
        network: what kind of network it is.
        video: grey frames.
        classes: names in the order of the logits.
        settings: how to watch.
        landmarks: (L, 68, 2) in pixels; by default dlib's.
        track: progress display.
    Raises:
        MOLError: as `mol.prediction.windows.predict_video`.
    """
    options: dict[str, Any] = vars(settings or WatchSettings())
    prediction = predict_video(model, video, classes, landmarks=landmarks, track=track, network=network, **options)
    return Sighting(
        trace_of(prediction),
        np.stack([window.matrix for window in prediction.windows]),
        np.stack([window.detected[0] for window in prediction.windows]),
        video.seconds,
        (*prediction.notes, *_gaps(prediction)),
    )


def trace_of(prediction: Prediction) -> Trace:
    """What remains of the windows of a prediction."""
    windows, seconds = prediction.windows, prediction.video.seconds
    frames = np.stack([window.frames for window in windows])
    flow = np.full((len(windows), FRAMES - 1, len(REGIONS), 2), np.nan, np.float32)
    for place, window in enumerate(windows):
        if window.flow is not None:
            flow[place] = flow_by_region(window.flow, transform_points(window.matrix, window.detected[:-1]))
    return Trace(
        tuple(prediction.classes),
        prediction.video.fps,
        prediction.duration,
        len(prediction.video),
        frames,
        seconds[frames],
        np.stack([window.probabilities for window in windows]),
        flow,
    )


def _gaps(prediction: Prediction) -> Iterator[str]:
    """What was left out, where nothing can be found."""
    for is_gap, why in ((False, "no usable face"), (True, "a gap in time")):
        stretches: list[list[int]] = []
        for window in prediction.skipped:
            if window.is_gap == is_gap:
                if stretches and window.start <= stretches[-1][1]:
                    stretches[-1][1] = max(stretches[-1][1], window.end)
                else:
                    stretches.append([window.start, window.end])
        if stretches:
            shown = ", ".join(f"{start}–{end}" for start, end in stretches[:5]) + (" …" if len(stretches) > 5 else "")
            yield f"nothing can be found where there is {why}: frames {shown}"
