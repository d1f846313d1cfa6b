"""Scores of spotting, as the facial micro-expression grand challenges (MEGC) count.

A found interval W is right if it meets an annotated one G of the same kind with

    IoU = |W ∩ G| / |W ∪ G| ≥ 0.5        (frames; Li et al., "MEGC2019", FG 2019)

and every interval, found or annotated, counts once. TP, FP and FN are added up over all videos before

    precision = TP / (TP + FP),  recall = TP / (TP + FN),  F1 = 2 TP / (2 TP + FP + FN).

The overall counts are the sums of those of micro- and macro-expressions (Li et al., "MEGC2020" and "FME'21", which
write A = A₁ + A₂, M = M₁ + M₂, N = N₁ + N₂). The challenges do not say which interval wins where several meet one; here
as many are matched as possible (a maximum matching), so the order in which they are listed does not matter.

The emotion is scored on the intervals that were spotted rightly alone, with the unweighted F1 (UF1) and recall (UAR) of
`mol.scoring.metrics`, and both tasks together by the spot-then-recognise score

    STRS = F1 of spotting × F1 of recognition

(Liong et al., "Spot-then-recognize: A micro-expression analysis network for seamless evaluation of long videos", Signal
Processing: Image Communication 110, 2023; MEGC 2022). The F1 of recognition is the UF1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mol.scoring.expression import MACRO, MICRO, Expression
from mol.scoring.metrics import recognition_scores

LEAST_OVERLAP = 0.5
"""Intersection over union from which on an interval counts as found."""
OVERALL = "overall"
SCORED = (MICRO, MACRO)
"""Kinds that are scored; blinks never are."""


class Pair(NamedTuple):
    """An annotated expression and the found one that it is matched with."""

    truth: Expression
    found: Expression


@dataclass(frozen=True)
class Counts:
    """Intervals that were found, found wrongly, and missed.

    Attributes:
        hits: TP.
        wrong: FP.
        missed: FN.
    """

    hits: int = 0
    wrong: int = 0
    missed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.hits + other.hits, self.wrong + other.wrong, self.missed + other.missed)

    @property
    def precision(self) -> float:
        """Share of the found intervals that are right; 0 if nothing was found."""
        return self.hits / (self.hits + self.wrong) if self.hits else 0.0

    @property
    def recall(self) -> float:
        """Share of the annotated intervals that were found; 0 if there are none."""
        return self.hits / (self.hits + self.missed) if self.hits else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 without a hit."""
        return 2 * self.hits / (2 * self.hits + self.wrong + self.missed) if self.hits else 0.0


@dataclass(frozen=True)
class SpottingScores:
    """Scores of one or several videos; they add up.

    Attributes:
        counts: kind → counts.
        pairs: the hits of all kinds.
    """

    counts: Mapping[str, Counts] = field(default_factory=lambda: dict.fromkeys(SCORED, Counts()))
    pairs: tuple[Pair, ...] = ()

    def __add__(self, other: SpottingScores) -> SpottingScores:
        return SpottingScores({kind: self.of(kind) + other.of(kind) for kind in SCORED}, self.pairs + other.pairs)

    def of(self, kind: str) -> Counts:
        """The counts of a kind, or of all kinds for "overall"."""
        return sum(self.counts.values(), Counts()) if kind == OVERALL else self.counts[kind]

    def recognition(self, kind: str) -> Recognition:
        """How well the emotion of the hits of a kind was recognised; of those whose emotion is annotated."""
        named = [pair for pair in self.pairs if pair.truth.emotion and kind in (OVERALL, pair.truth.kind)]
        if not named:
            return Recognition(0, 0.0, 0.0, 0.0)
        classes = sorted({str(emotion) for pair in named for emotion in (pair.truth.emotion, pair.found.emotion)})
        truth = [classes.index(str(pair.truth.emotion)) for pair in named]
        scores = recognition_scores(truth, [classes.index(str(pair.found.emotion)) for pair in named], len(classes))
        return Recognition(len(named), scores.accuracy, scores.uf1, scores.uar)

    def strs(self, kind: str) -> float:
        """F1 of spotting times F1 of recognition."""
        return self.of(kind).f1 * self.recognition(kind).uf1

    def describe(self) -> dict[str, dict[str, Any]]:
        """Content of a JSON file: kind → counts, precision, recall, F1, recognition of the hits, STRS."""
        return {kind: self._describe(kind) for kind in (*SCORED, OVERALL)}

    def _describe(self, kind: str) -> dict[str, Any]:
        counts, recognition = self.of(kind), self.recognition(kind)
        return {
            "annotated": counts.hits + counts.missed,
            "found": counts.hits + counts.wrong,
            "hits": counts.hits,
            "precision": round(counts.precision, 6),
            "recall": round(counts.recall, 6),
            "f1": round(counts.f1, 6),
            "recognised_hits": recognition.videos,
            "accuracy": round(recognition.accuracy, 6),
            "uf1": round(recognition.uf1, 6),
            "uar": round(recognition.uar, 6),
            "strs": round(self.strs(kind), 6),
        }


class Recognition(NamedTuple):
    """Scores of the emotion on the expressions that were spotted; fractions, 0 if there are none."""

    videos: int
    accuracy: float
    uf1: float
    uar: float


def score_video(
    truth: Iterable[Expression], found: Iterable[Expression], least: float = LEAST_OVERLAP
) -> SpottingScores:
    """Scores of one video of one person.

    Args:
        truth: annotated expressions; blinks are left out.
        found: spotted ones; blinks are left out.
        least: intersection over union from which on an interval is found.
    """
    truth, found = list(truth), list(found)
    counts, pairs = {}, []
    for kind in SCORED:
        annotated, spotted = ([one for one in some if one.kind == kind] for some in (truth, found))
        matched = match(annotated, spotted, least)
        pairs += matched
        counts[kind] = Counts(len(matched), len(spotted) - len(matched), len(annotated) - len(matched))
    return SpottingScores(counts, tuple(pairs))


def pool_videos(videos: Iterable[SpottingScores]) -> SpottingScores:
    """Scores of several videos, their counts added up."""
    return sum(videos, SpottingScores())


def match(truth: Sequence[Expression], found: Sequence[Expression], least: float = LEAST_OVERLAP) -> list[Pair]:
    """As many pairs as possible of an annotated and a found expression that overlap enough, each in one pair at most.

    Among the found ones that an annotated one can have, the one that overlaps it most is tried first.

    Args:
        truth, found: expressions of one kind in one video.
        least: intersection over union.
    Returns:
        Pairs in the order of the annotated expressions' onsets.
    """
    overlaps = [[one.overlap(other) for other in found] for one in truth]
    choices = [
        sorted((place for place in range(len(found)) if row[place] >= least), key=lambda place, row=row: -row[place])
        for row in overlaps
    ]
    owner: dict[int, int] = {}
    # Augmenting paths (Kuhn), from the clearest overlap to the least clear.
    for start in sorted(range(len(truth)), key=lambda place: -max(overlaps[place], default=0.0)):
        _find_place(start, choices, owner, set())
    pairs = [Pair(truth[one], found[place]) for place, one in owner.items()]
    return sorted(pairs, key=lambda pair: pair.truth.onset)


def _find_place(one: int, choices: Sequence[Sequence[int]], owner: dict[int, int], tried: set[int]) -> bool:
    """Give an annotated expression a found one, moving others to their next choice if need be."""
    for place in choices[one]:
        if place not in tried:
            tried.add(place)
            if place not in owner or _find_place(owner[place], choices, owner, tried):
                owner[place] = one
                return True
    return False
