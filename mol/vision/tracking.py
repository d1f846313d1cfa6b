"""One face followed through the frames of a video, with short gaps filled: for extraction and for prediction alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mol.common.errors import FaceError, NoFaceError
from mol.vision.landmarks import DlibDetector, Face, LandmarkDetector, fill_gaps, only_face
from mol.vision.points import POINTS

MAX_GAP = 4
"""Frames in a row whose landmarks are interpolated if no face is found in them: half of a window of 8."""

FAINTEST = -0.3
"""Least score of a face that is followed; chosen on one talking head, whose mouth opens wide."""


class FaceFollower:
    """dlib's detector for the frames of one video; it does not lose a face at once that turns or opens its mouth.

    If no face reaches the detector's threshold, a fainter one is taken if it overlaps the last face, which may be up to
    `MAX_GAP` frames ago, and has about its size.

    Args:
        detector: finds the faces of one frame.
        faintest: least score of a face that is followed.
        every: detect only in every n-th frame and look for the points in the last box in between.
    """

    def __init__(self, detector: DlibDetector, faintest: float = FAINTEST, every: int = 1) -> None:
        self._detector = detector
        self._faint = copy(detector)
        self._faint.threshold = faintest
        self._every = every
        self._count = self._lost = 0
        self._last: Face | None = None

    def __call__(self, image: np.ndarray) -> list[Face]:
        due = self._count % self._every == 0
        self._count += 1
        last = self._last
        if last is not None and not due and not self._lost:
            return [self._detector.face_in(image, last.box)]
        faces = self._detector(image)
        if not faces and last is not None:
            faces = [face for face in self._faint(image) if continues(face, last)][:1]
        self._remember(faces)
        return faces

    def _remember(self, faces: Sequence[Face]) -> None:
        self._lost = 0 if faces else self._lost + 1
        if faces:
            self._last = max(faces, key=lambda face: face.area)
        elif self._lost > MAX_GAP:
            self._last = None


def continues(face: Face, last: Face) -> bool:
    """Whether a face overlaps the last one by at least half of what both cover together."""
    left, top, right, bottom = np.stack([face.box, last.box]).T
    width, height = right.min() - left.max(), bottom.min() - top.max()
    common = max(width, 0) * max(height, 0)
    return bool(2 * common >= face.area + last.area - common)


@dataclass(frozen=True)
class Followed:
    """The landmarks of one face through a video.

    Attributes:
        points: (n, 68, 2) float32, (x, y) in pixels; NaN where the face is lost.
        filled: positions of the frames whose points were interpolated.
        lost: position → why the frame has no points.
    """

    points: np.ndarray
    filled: tuple[int, ...]
    lost: dict[int, FaceError]


def follow_face(
    frames: Iterable[np.ndarray],
    detector: LandmarkDetector,
    names: Sequence[str],
    several: Literal["raise", "largest"] = "raise",
    on_error: Literal["raise", "skip"] = "raise",
    max_gap: int = MAX_GAP,
) -> Followed:
    """Find one face in every frame, and fill short gaps by interpolation in time.

    Args:
        frames: (H, W) uint8 each, in the order of time.
        detector: finds the faces of one frame, such as a `FaceFollower`.
        names: of the frames, for messages.
        several: what to do if a frame shows several faces; such a frame is never interpolated.
        on_error: ``"raise"`` raises if the face is lost, ``"skip"`` leaves such frames without points.
        max_gap: longest gap that is filled, see `fill_short_gaps`.

    Raises:
        NoFaceError: no face in more than `max_gap` frames in a row, or in more than half of the frames.
        SeveralFacesError: a frame shows several faces.
    """
    points = np.full((len(names), POINTS, 2), np.nan, np.float32)
    lost: dict[int, FaceError] = {}
    gap = 0
    for index, frame in enumerate(frames):
        try:
            points[index] = only_face(detector(frame), names[index], several).points
            gap = 0
        except NoFaceError as error:
            lost[index] = error
            gap += 1
            if on_error == "raise" and gap > max_gap:
                raise too_long(lost[index - max_gap], max_gap) from error
        except FaceError as error:
            if on_error == "raise":
                raise
            lost[index] = error
            gap = 0
    fillable = [isinstance(lost.get(index, NoFaceError()), NoFaceError) for index in range(len(points))]
    points, filled = fill_short_gaps(points, max_gap, np.array(fillable))
    lost = {index: error for index, error in lost.items() if index not in set(filled)}
    if lost and on_error == "raise":
        raise too_long(next(iter(lost.values())), max_gap)
    return Followed(points, filled, lost)


def fill_short_gaps(
    points: np.ndarray, max_gap: int, fillable: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Interpolate the landmarks of short gaps in time; a gap at either end repeats the nearest frame.

    Nothing is filled if more than half of the frames have no landmarks.

    Args:
        points: (n, 68, 2), NaN where a frame has none.
        max_gap: greatest number of frames in a row that are filled; 0 fills none.
        fillable: (n,) bool, False for frames without landmarks that must not be filled; None if all may be.

    Returns:
        Points (n, 68, 2) with the gaps filled, and the positions of the frames that were.
    """
    missing = ~np.isfinite(points).all(axis=(1, 2))
    filled: list[int] = []
    if not missing.any() or 2 * missing.sum() > len(points):
        return points, ()
    for run in np.split(np.flatnonzero(missing), np.flatnonzero(np.diff(np.flatnonzero(missing)) > 1) + 1):
        if len(run) <= max_gap and (fillable is None or fillable[run].all()):
            filled += run.tolist()
    whole = points.copy()
    if filled:
        whole[filled] = fill_gaps(points)[filled]
    return whole, tuple(filled)


def too_long(error: FaceError, max_gap: int) -> FaceError:
    """The error of a gap that is not filled, with the setting that fills it."""
    if not isinstance(error, NoFaceError):
        return error
    limit = f"up to {max_gap} frames in a row" if max_gap else "no frame"
    return NoFaceError(f"{error} Landmarks of {limit}, and of at most half of them, are interpolated: --max-gap.")
