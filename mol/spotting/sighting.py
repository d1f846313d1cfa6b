"""One person in one video as spotting needs it: the trace, and where the windows were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from mol.common.terminal import Track, silently
from mol.networks.interface import Network
from mol.prediction.result import Prediction, Scene
from mol.prediction.trace import Trace
from mol.prediction.watch import Listener, WatchSettings, watch
from mol.prediction.windows import Window
from mol.scoring.calibration import Temperature
from mol.vision.footage import Footage


@dataclass(frozen=True)
class Sighting:
    """One person in one video.

    Attributes:
        trace: what the network says of every window.
        matrices: (n, 2, 3) picture → crop of every window.
        points: (n, 68, 2) landmarks in the first frame of every window, in pixels of the video.
        seconds: (L,) times of the frames.
        notes: what to know about rate, gaps and faces.
        prediction: all else that is known of the person.
    """

    trace: Trace
    matrices: np.ndarray
    points: np.ndarray
    seconds: np.ndarray
    notes: tuple[str, ...] = ()
    prediction: Prediction | None = None

    @property
    def person(self) -> int | None:
        """Number of the person among several, from 1; None for the only one."""
        return self.prediction.person.number if self.prediction is not None else None


class _Places:
    """Where the windows of a person are; they are let go otherwise."""

    def __init__(self) -> None:
        self.matrices: list[np.ndarray] = []
        self.points: list[np.ndarray] = []

    def hear(self, _: int, window: Window) -> None:
        """Take in the next window."""
        self.matrices.append(window.matrix)
        self.points.append(window.detected[0])


def watch_video(
    model: nn.Module,
    network: Network,
    video: Footage,
    classes: Sequence[str],
    settings: WatchSettings | None = None,
    landmarks: np.ndarray | None = None,
    track: Track = silently,
    more: Callable[[Scene], Sequence[Listener]] = lambda scene: (),
    calibration: Temperature | None = None,
) -> list[Sighting]:
    """Run a network on the windows of a video.

    Args:
        model: in evaluation mode.
        network: what kind of network it is.
        video: the frames.
        classes: names in the order of the logits.
        settings: how to watch.
        landmarks: (L, 68, 2) in pixels; by default dlib's.
        track: progress display.
        more: who else listens to the windows of a person.
        calibration: the network's temperature, for what the page shows; nothing is spotted by it.
    Returns:
        One sighting for each person, the most prominent first.
    Raises:
        MOLError: as `mol.prediction.watch.watch`.
    """
    heard: list[_Places] = []

    def listeners(scene: Scene) -> Sequence[Listener]:
        heard.append(_Places())
        return [heard[-1].hear, *more(scene)]

    predictions = watch(
        model,
        video,
        classes,
        settings,
        network=network,
        landmarks=landmarks,
        calibration=calibration,
        listeners=listeners,
        track=track,
    )
    return [_sighting(prediction, places) for prediction, places in zip(predictions, heard, strict=True)]


def _sighting(prediction: Prediction, places: _Places) -> Sighting:
    return Sighting(
        prediction.trace,
        np.stack(places.matrices),
        np.stack(places.points),
        prediction.video.seconds,
        (*prediction.notes, *_gaps(prediction)),
        prediction,
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
