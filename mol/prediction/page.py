"""A prediction on a page: what the page shows of each window, kept as the windows come, and the page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mol.network.estimates import CROP
from mol.prediction.describe import NO_NEUTRAL_CLASS
from mol.prediction.regions import REGIONS
from mol.prediction.result import Prediction, Scene
from mol.prediction.tape import interpolated, pairs_shown, points_of
from mol.prediction.trace import Trace
from mol.prediction.windows import Window, inverse
from mol.scoring.expression import Expression
from mol.viewer.data import Person, Series, ViewerData
from mol.viewer.looks import Looks, coarse_flow
from mol.viewer.page import write_page
from mol.viewer.thinning import PAGE_MINUTES
from mol.vision.align import transform_points

_HEAD = "nose"
_SQUARE = np.array([[0, 0], [CROP, 0], [CROP, CROP], [0, CROP]]) - 0.5

SHOWN_REGIONS = tuple("head" if region == _HEAD else region for region in REGIONS)
"""The rows of the page: the nose moves with the head, and all others are relative to it."""


class PageLooks:
    """Listens to the windows of a person and keeps what the page shows of each frame.

    Args:
        scene: the person.
        folder: where the working file lies.
    Raises:
        StorageError: the disk is full.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        height, width = scene.video.shape
        self.looks = Looks((width, height), folder)
        self._seconds = scene.video.seconds
        self._pairs = pairs_shown(scene.samples, scene.nearest)
        # The windows that speak for frames are in the order of the frames.
        self._covered = np.flatnonzero(scene.nearest >= 0)
        self._windows = scene.nearest[self._covered]

    def hear(self, number: int, window: Window) -> None:
        """Take in the next window: the frames for which it speaks."""
        first, end = np.searchsorted(self._windows, [number, number + 1])
        square = transform_points(inverse(window.matrix), _SQUARE)
        flows: dict[int, np.ndarray] = {}
        for frame in self._covered[first:end].tolist():
            pair = int(self._pairs[frame])
            if window.flow is not None and pair not in flows:
                flows[pair] = coarse_flow(window.flow[pair], window.matrix)
            self.looks.add(frame, interpolated(*points_of(window), frame, self._seconds), square, flows.get(pair))

    def close(self) -> None:
        """Give the space of the working file back."""
        self.looks.close()


@dataclass(frozen=True)
class Shown:
    """One person on the page.

    Attributes:
        prediction: of the person.
        looks: what was heard of the windows; None for none.
        expressions: found ones; None if nothing looked for any.
        verdict: the result in words; by default that of the prediction.
    """

    prediction: Prediction
    looks: Looks | None = None
    expressions: Sequence[Expression] | None = None
    verdict: str | None = None


def write_prediction_page(
    path: Path, people: Sequence[Shown], title: str, facts: Mapping[str, str], minutes: float = PAGE_MINUTES
) -> Path:
    """Write the page of all people in a video.

    Args:
        path: the file to write.
        people: at least one, of the same video.
        title: name of the video.
        facts: names and values for the head of the page.
        minutes: of film, of which the page may hold every frame.
    Raises:
        StorageError: the page could not be written.
        MediaError: the video cannot be read again.
    """
    return write_page(path, viewer_data_of(people, title, facts), people[0].prediction.video.walk, minutes)


def viewer_data_of(people: Sequence[Shown], title: str, facts: Mapping[str, str]) -> ViewerData:
    """All that the page shows but the pictures; see `write_prediction_page`."""
    first = people[0].prediction
    height, width = first.video.shape
    # What is said of everybody is said once.
    common = [note for note in first.notes if all(note in shown.prediction.notes for shown in people)]
    return ViewerData(
        title=title,
        classes=first.classes,
        fps=first.video.fps,
        seconds=first.video.seconds,
        duration=first.duration,
        size=(width, height),
        people=[_person(shown, common) for shown in people],
        regions=SHOWN_REGIONS,
        notes=[*common, *([] if first.knows_neutral else [NO_NEUTRAL_CLASS])],
        facts=facts,
        probability="probability" if first.temperature is None else "calibrated probability",
    )


def _person(shown: Shown, common: Sequence[str]) -> Person:
    prediction = shown.prediction
    trace = prediction.trace
    return Person(
        name=f"person {prediction.person.number or 1}",
        verdict=shown.verdict or verdict_of(prediction),
        series=Series(trace.centres, prediction.calibrated(trace.probabilities), strengths_of(trace)),
        looks=shown.looks,
        expressions=shown.expressions,
        notes=[*(note for note in prediction.notes if note not in common), *_left_out(prediction)],
    )


def verdict_of(prediction: Prediction) -> str:
    """The result for the whole video in words, with its probability if it names an emotion."""
    if prediction.predicted is None:
        return prediction.verdict
    highest = prediction.calibrated(prediction.probabilities).max()
    return f"{prediction.verdict}, {prediction.kind_of_probability} {highest:.2f}"


def _left_out(prediction: Prediction) -> list[str]:
    skipped = prediction.skipped
    if not skipped:
        return []
    frames = ", ".join(f"{window.start}–{window.end}" for window in skipped[:5]) + (", …" if len(skipped) > 5 else "")
    return [f"windows left out: {len(skipped)} (frames {frames}), the first because {skipped[0].reason}"]


def strengths_of(trace: Trace) -> np.ndarray | None:
    """How much each region moves: mean over a window's pairs of the length of its flow relative to the head's.

    Returns:
        (n, R) in pixels of the 128×128 square; the head's own in the place of the nose, NaN where a region is not
        seen. None if the network estimates no flow.
    """
    known = np.isfinite(trace.flow[..., 0])
    if not known.any():
        return None
    head = REGIONS.index(_HEAD)
    relative = trace.flow_without_head()
    relative[:, :, head] = trace.flow[:, :, head]
    lengths = np.hypot(relative[..., 0], relative[..., 1])
    seen = np.isfinite(lengths)
    count = seen.sum(axis=1)
    means: np.ndarray = np.where(seen, lengths, 0).sum(axis=1) / np.maximum(count, 1)
    means[count == 0] = np.nan
    return means
