"""Whose face the windows of a video read: one person's, or that of each of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from mol.common.errors import ClipError, FaceError, NoFaceError, SeveralFacesError
from mol.common.terminal import Track
from mol.network.estimates import FRAMES
from mol.prediction.sampling import Skipped
from mol.vision.crowd import Crowd, Seen
from mol.vision.footage import Footage
from mol.vision.landmarks import no_face_in
from mol.vision.tracking import fill_short_gaps, too_long

People = Literal["all", "largest"] | int | None
"""Who is read: everybody, the largest face, the so many most prominent people, or (None) the only one."""

PASSING = 0.1
"""Faces in fewer of the frames are no second person, but a passer-by or a mistake of the detector."""
_SECONDS = 1.0
_NAMED = 5


@dataclass(frozen=True)
class Person:
    """The face of one person in the frames that windows use.

    Attributes:
        number: from 1 on, the most prominent first; None if only one person was looked for.
        frames: (U,) frame numbers, ascending.
        points: (U, 68, 2) float32 landmarks in pixels of the video; NaN where the person is not seen.
        found: (U,) bool, whether the detector found the face there; points may also be interpolated.
        identity: (U,) int64, equal where the face is the same; −1 where none is.
        source: what did not find the face where it is missing, for messages.
    """

    number: int | None
    frames: np.ndarray
    points: np.ndarray
    found: np.ndarray
    identity: np.ndarray
    source: Literal["detector", "file"] = "detector"

    @property
    def has_points(self) -> np.ndarray:
        """(U,) bool, whether there are points, found or interpolated."""
        seen: np.ndarray = np.isfinite(self.points).all(axis=(1, 2))
        return seen

    def at(self, sample: np.ndarray) -> np.ndarray:
        """Landmarks (T, 68, 2) in frames (T,) that windows use."""
        found: np.ndarray = self.points[np.searchsorted(self.frames, sample)]
        return found

    def sort(self, samples: np.ndarray, video: Footage) -> tuple[np.ndarray, list[Skipped]]:
        """The windows (n, T) in which the same face has points in all frames, and the others."""
        places = np.searchsorted(self.frames, samples)
        lost = ~self.has_points[places]
        identity = self.identity[places]
        changed = ~lost.any(axis=1) & (identity != identity[:, :1]).any(axis=1)
        whole = ~lost.any(axis=1) & ~changed
        skipped = [self._skip(samples[row], lost[row], identity[row], video) for row in np.flatnonzero(~whole).tolist()]
        return samples[whole], skipped

    def _skip(self, sample: np.ndarray, lost: np.ndarray, identity: np.ndarray, video: Footage) -> Skipped:
        if lost.any():
            reason = self.reason(int(sample[lost.argmax()]), video)
        else:
            place = int((identity != identity[0]).argmax())
            before, after = video.name(int(sample[place - 1])), video.name(int(sample[place]))
            reason = f"the face changes between {before} and {after}"
        return Skipped(int(sample[0]), int(sample[-1]), reason)

    def reason(self, frame: int, video: Footage) -> str:
        """Why a frame has no points."""
        name = video.name(frame)
        return str(no_face_in(name)) if self.source == "detector" else f"the given landmarks have no points for {name}"

    def notes(self, video: Footage) -> list[str]:
        """What to know about interpolated frames and about changes of the face."""
        notes = []
        filled = self.frames[self.has_points & ~self.found]
        if len(filled):
            names = [video.name(frame) for frame in filled[:_NAMED].tolist()] + ["…"] * (len(filled) > _NAMED)
            frames = "1 frame" if len(filled) == 1 else f"{len(filled)} frames"
            notes.append(
                f"no face was found in {frames} ({', '.join(names)}); the landmarks there are interpolated in time"
            )
        seen = self.identity >= 0
        changes = self.frames[seen][1:][np.diff(self.identity[seen]) != 0]
        if len(changes):
            names = [video.name(frame) for frame in changes[:_NAMED].tolist()] + ["…"] * (len(changes) > _NAMED)
            notes.append(
                f"the face is another one from {', '.join(names)} on: another person may have taken the place; "
                "--people all gives each person a result"
            )
        return notes


def given_person(video: Footage, used: np.ndarray, landmarks: np.ndarray, on_error: str, max_gap: int) -> Person:
    """The person whose landmarks are given, with short gaps filled.

    Args:
        video: for names.
        used: (U,) frame numbers.
        landmarks: (L, 68, 2), NaN where a frame has none.
        on_error: "raise" or "skip".
        max_gap: see `fill_short_gaps`.
    Raises:
        ClipError: the landmarks are not those of the video.
        NoFaceError: frames without points that are not filled; only with on_error="raise".
    """
    if landmarks.shape != (len(video), 68, 2):
        raise ClipError(f"landmarks must be ({len(video)}, 68, 2) for this video, not {landmarks.shape}")
    found = np.isfinite(landmarks[used]).all(axis=(1, 2))
    points, _ = fill_short_gaps(landmarks[used], max_gap)
    person = Person(None, used, points, found, np.where(found, 0, -1), "file")
    lacking = used[~person.has_points]
    if len(lacking) and on_error == "raise":
        raise NoFaceError(
            f"{person.reason(int(lacking[0]), video)}, and they are interpolated over at most "
            f"{max_gap} frames in a row (--max-gap) and half of all; fill them in, or leave the windows with this "
            "frame out: --on-error skip."
        )
    return _identified(person)


def find_people(
    video: Footage,
    used: np.ndarray,
    crowd: Crowd,
    people: People,
    on_error: Literal["raise", "skip"],
    max_gap: int,
    track: Track,
) -> tuple[list[Person], list[str]]:
    """Follow every face through the frames in `used`, and choose whose to read.

    Args:
        video: the frames.
        used: (U,) frame numbers, ascending.
        crowd: follows the faces.
        people: who is read.
        on_error: what to do about frames in which the one person is not seen; of several people each is read where it
            is seen.
        max_gap: greatest number of frames in a row whose landmarks are interpolated if no face is found in them.
        track: progress display.
    Returns:
        The people, the most prominent first, and what a user should know about others.
    Raises:
        NoFaceError: nobody is seen, or with on_error="raise" not in all frames.
        SeveralFacesError: people is None, and several people are there.
    """
    gap = 0
    for place, picture in enumerate(video.walk(track(used.tolist(), "finding the face"))):
        gap = 0 if crowd.look(picture) else gap + 1
        if on_error == "raise" and gap > max_gap and people in (None, "largest"):
            raise _ending(too_long(no_face_in(video.name(int(used[place - max_gap]))), max_gap))
    known = crowd.known()
    if people in (None, "largest"):
        person, notes = _one(video, used, known, people, max_gap)
        lost = person.frames[~person.has_points]
        if len(lost) and on_error == "raise":
            raise _ending(too_long(no_face_in(video.name(int(lost[0]))), max_gap))
        return [person], notes
    chosen, notes = _several(video, used, known, people)
    return [_person(used, [seen], number, max_gap) for number, seen in enumerate(chosen, 1)], notes


def _one(
    video: Footage, used: np.ndarray, known: Sequence[Seen], people: People, max_gap: int
) -> tuple[Person, list[str]]:
    """The one person of a video."""
    if not known:
        return _person(used, [], None, max_gap), []
    chain = [known[0]] if people is None else [max(known, key=lambda seen: seen.area)]
    taken = set(chain[0].places)
    others = [seen for seen in known if seen is not chain[0]]
    if people is None:
        passing = max(2, PASSING * len(set().union(*(seen.places for seen in known))))
        # A face that only comes when the other has gone has taken its place, or is the same after all.
        for seen in list(others):
            stays = len(seen.places) >= min(FRAMES, passing)
            if taken.isdisjoint(seen.places) and (stays or _takes_place(seen, chain)):
                chain.append(seen)
                taken.update(seen.places)
                others.remove(seen)
        for seen in others:
            if len(seen.places) >= passing:
                raise _several_faces(video, used, chain, seen)
    return _person(used, chain, None, max_gap), _left_out(others, people)


def _takes_place(seen: Seen, chain: Sequence[Seen]) -> bool:
    """Whether a face lies where the one before or after it is."""
    place, box = seen.places[0], np.array(seen.boxes[0])
    for known in chain:
        at = int(np.searchsorted(known.places, place))
        for near in known.boxes[max(at - 1, 0) : at + 1]:
            low, high = np.maximum(box[:2], near[:2]), np.minimum(box[2:], near[2:])
            if (low < high).all():
                return True
    return False


def _several_faces(video: Footage, used: np.ndarray, chain: Sequence[Seen], second: Seen) -> SeveralFacesError:
    shared = sorted({place for seen in chain for place in seen.places} & set(second.places))
    place = shared[0]
    first = next(seen for seen in chain if place in seen.places)
    boxes = ", ".join(str(seen.boxes[seen.places.index(place)]) for seen in (first, second))
    return SeveralFacesError(
        f"2 faces found in {video.name(int(used[place]))}, at (left, top, right, bottom) {boxes}, and the second one "
        f"in {len(second.places)} frames; give every person a result (--people all), or take the one with the largest "
        "face (--people largest)."
    )


def _left_out(others: Sequence[Seen], people: People) -> list[str]:
    count = len({place for seen in others for place in seen.places})
    if not count:
        return []
    whose = "the largest face" if people == "largest" else "the person who is there all the time"
    frames = "1 frame" if count == 1 else f"{count} frames"
    return [f"{frames} {'shows' if count == 1 else 'show'} other faces too; {whose} is followed"]


def _several(video: Footage, used: np.ndarray, known: Sequence[Seen], people: People) -> tuple[list[Seen], list[str]]:
    """The people who stay for a second at least, as many as are asked for."""
    seconds = video.seconds
    staying = [
        seen
        for seen in known
        if len(seen.places) >= FRAMES and seconds[used[seen.places[-1]]] - seconds[used[seen.places[0]]] >= _SECONDS
    ]
    staying = staying or list(known[:1])
    if not staying:
        raise NoFaceError(f"no face found in any of the {len(used)} frames that windows use.")
    notes = []
    if isinstance(people, int):
        if len(staying) < people:
            notes.append(f"{people} people were asked for, and {len(staying)} found")
        staying = staying[:people]
    elif brief := len(known) - len(staying):
        faces = "1 face" if brief == 1 else f"{brief} faces"
        notes.append(f"{faces} that stayed for less than {_SECONDS:g} s or {FRAMES} frames got no result")
    return staying, notes


def _person(used: np.ndarray, chain: Sequence[Seen], number: int | None, max_gap: int) -> Person:
    """One person from the faces that follow one another, with short gaps filled."""
    points = np.full((len(used), 68, 2), np.nan, np.float32)
    identity = np.full(len(used), -1)
    for which, seen in enumerate(chain):
        points[seen.places] = seen.points
        identity[seen.places] = which
    found = identity >= 0
    if len(chain) == 1 and number is not None:  # several people come and go
        inside = slice(chain[0].places[0], chain[0].places[-1] + 1)
        points[inside], _ = fill_short_gaps(points[inside], max_gap)
    elif len(chain):
        fillable = np.ones(len(used), bool)
        at = np.flatnonzero(found)
        for before, after in pairwise(at.tolist()):
            if identity[before] != identity[after]:
                fillable[before + 1 : after] = False
        points, _ = fill_short_gaps(points, max_gap, fillable)
    return _identified(Person(number, used, points, found, identity))


def _identified(person: Person) -> Person:
    """The same, with an identity for frames whose points are interpolated: the last face before, or the first."""
    at = np.flatnonzero(person.found)
    if not len(at):
        return person
    before = np.searchsorted(at, np.arange(len(person.frames)), side="right") - 1
    identity = np.where(person.has_points, person.identity[at[before.clip(0)]], -1)
    return Person(person.number, person.frames, person.points, person.found, identity, person.source)


def _ending(error: FaceError) -> FaceError:
    return type(error)(f"{error} Or leave the windows with this frame out: --on-error skip.")
