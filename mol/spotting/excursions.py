"""Excursions of a face: a region leaves its place and comes back. Each is an expression, or a blink.

Over an interval of 2h frames about frame t the excursion of a region is the distance of its place from the chord of the
interval's ends,

    e(t, h) = d(t) − (d(t − h) + d(t + h)) / 2,

so that a steady drift, of the head or of an error of the flow, counts nothing. Long intervals have more noise than
short ones, and the chin more than the brows: the score of an excursion is how many times as strong it is as is usual
for its h and its part of the face in this video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mol.prediction.regions import REGIONS
from mol.spotting.displacement import Displacement

BROWS, EYES, MOUTH = "brows", "eyes", "mouth"
PARTS = {
    BROWS: ("right_brow", "left_brow"),
    EYES: ("right_eye", "left_eye"),
    MOUTH: ("right_mouth", "left_mouth", "right_cheek", "left_cheek", "chin", "nose"),
}
"""Parts of the face and their regions."""
FLOOR = 0.025
"""Pixels of the crop: what an excursion of no length is never below in noise."""
LONGEST = 4.0
"""Seconds; an expression that lasts longer is not found as a whole."""
# Share of the strength at which an excursion has begun, and how far before that the onset of a half cosine is, in units
# of the way from there to half of the strength.
_BEGUN = 0.2
_EARLIER = float(np.arccos(1 - 2 * _BEGUN) / (np.pi / 2 - np.arccos(1 - 2 * _BEGUN)))
# An excursion that shares more than this with a stronger one is one of its edges.
_SHARED = 0.3


@dataclass(frozen=True)
class Excursion:
    """One excursion.

    Attributes:
        onset, apex, offset: ticks of the displacement.
        score: how many times as strong as usual it is, in its strongest part.
        strength: part of the face → pixels of the crop.
    """

    onset: int
    apex: int
    offset: int
    score: float
    strength: dict[str, float]

    @property
    def ticks(self) -> int:
        """How many ticks it has."""
        return self.offset - self.onset + 1

    @property
    def expression(self) -> float:
        """The strength of brows and mouth, where expressions are."""
        return max(self.strength[BROWS], self.strength[MOUTH])


def find_excursions(moved: Displacement, fps: float, parts: Sequence[str], least: float) -> list[Excursion]:
    """Excursions of some parts of the face, the strongest first; none is an edge of a stronger one.

    Args:
        moved: places of the regions.
        fps: frames per second.
        parts: of which the strongest counts.
        least: score.
    """
    halves = _half_lengths(len(moved.places), fps)
    if not halves:
        return []
    scores = np.stack([_scores(moved, half, fps, parts) for half in halves])
    best = scores.max(axis=0)
    regions = [REGIONS.index(name) for part in parts for name in PARTS[part]]
    found: list[Excursion] = []
    for time in _peaks(best, least):
        half = halves[int(scores[:, time].argmax())]
        excursion = _measured(moved, time, half, regions, float(best[time]))
        if all(_shared(excursion, other) <= _SHARED for other in found):
            found.append(excursion)
    return found


def _scores(moved: Displacement, half: int, fps: float, parts: Sequence[str]) -> np.ndarray:
    """(L,) how much stronger an excursion is than is usual in this video, of the part of the face where it is most so.

    Most of the time nothing happens, so the usual strength, the median over the video, is that of noise and drift. It
    is at least `FLOOR`, so that a video without any noise has no expressions made of nothing.
    """
    lengths = np.linalg.norm(_chords(moved, half), axis=-1)
    scores = np.zeros(len(lengths))
    for part in parts:
        strength = lengths[:, [REGIONS.index(name) for name in PARTS[part]]].max(axis=-1)
        inside = strength[moved.segment >= 0]
        usual = max(float(np.median(inside)) if len(inside) else 0.0, FLOOR * np.sqrt(1 + half / fps))
        scores = np.maximum(scores, strength / usual)
    return scores


def _half_lengths(length: int, fps: float) -> list[int]:
    """Half lengths of intervals in frames, from a tenth of a second to `LONGEST`, each a seventh longer."""
    halves, half = [], max(2.0, 0.07 * fps)
    while half <= LONGEST / 2 * fps and 2 * half < length:
        halves.append(round(half))
        half = max(half * 8 / 7, half + 1)
    return halves


def _chords(moved: Displacement, half: int) -> np.ndarray:
    """e(t, h) for all frames: (L, R, 2); 0 where the interval leaves the segment."""
    places, segment = moved.places, moved.segment
    result = np.zeros_like(places)
    inside = slice(half, len(places) - half)
    result[inside] = places[inside] - (places[: -2 * half] + places[2 * half :]) / 2
    whole = (segment[: -2 * half] == segment[2 * half :]) & (segment[inside] >= 0)
    result[inside] *= whole[:, None, None]
    return result


def _peaks(curve: np.ndarray, least: float) -> list[int]:
    """Local maxima of at least `least`, the highest first."""
    padded = np.concatenate([[-np.inf], curve, [-np.inf]])
    peaks = np.flatnonzero((curve >= padded[:-2]) & (curve > padded[2:]) & (curve >= least))
    order = np.argsort(-curve[peaks], kind="stable")
    return [int(place) for place in peaks[order]]


def _measured(moved: Displacement, time: int, half: int, regions: Sequence[int], score: float) -> Excursion:
    """Onset, apex and offset of an excursion: where its projection on its own direction leaves and reaches rest."""
    chord = moved.places[time] - (moved.places[time - half] + moved.places[time + half]) / 2
    direction = np.zeros_like(chord)
    direction[regions] = chord[regions]
    direction /= np.linalg.norm(direction)
    margin = round(1.3 * half) + 1
    first, last = max(time - margin, 0), min(time + margin, len(moved.places) - 1)
    same = np.flatnonzero(moved.segment[first : last + 1] == moved.segment[time])
    first, last = first + int(same[0]), first + int(same[-1])
    along = np.einsum("trk,rk->t", moved.places[first : last + 1], direction)
    start, end = along[time - half - first], along[time + half - first]
    along -= start + (end - start) * (np.arange(first, last + 1) - (time - half)) / (2 * half)
    apex = int(along.argmax())
    onset, offset = apex - _reach(along[apex::-1]), apex + _reach(along[apex:])
    onset, offset = max(onset, 0), min(offset, len(along) - 1)
    strength = {
        part: float(np.linalg.norm(chord[[REGIONS.index(name) for name in names]], axis=-1).max())
        for part, names in PARTS.items()
    }
    return Excursion(first + onset, first + apex, first + offset, score, strength)


def _reach(fall: np.ndarray) -> int:
    """Frames from the apex, where a curve begins, to where a half cosine through it is at rest."""
    half, begun = (_crossing(fall, share * fall[0]) for share in (0.5, _BEGUN))
    return max(round(begun + _EARLIER * (begun - half)), 1)


def _crossing(fall: np.ndarray, level: float) -> float:
    """Where a curve first falls below a level, between two samples; its end if it never does."""
    below = np.flatnonzero(fall < level)
    if not len(below):
        return float(len(fall) - 1)
    after = int(below[0])
    high, low = fall[after - 1], fall[after]
    return after - 1 + float((high - level) / (high - low))


def _shared(one: Excursion, other: Excursion) -> float:
    """Share of the shorter of two excursions that lies in the other."""
    common = min(one.offset, other.offset) - max(one.onset, other.onset) + 1
    return max(common, 0) / min(one.ticks, other.ticks)
