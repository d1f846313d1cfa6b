"""From a trace to expressions: when, of what kind, with which emotion.

Excursions of brows and mouth are expressions, those of the eyes alone are blinks (`mol.spotting.excursions`). One that
lasts at most 0.5 s is a micro-expression, a longer one a macro-expression. The network's emotion path has the second
word: an expression in whose windows it sees nothing but a neutral face is dropped. Its emotion is that of the windows
about its rise.

Few numbers decide what is found (`SpotParameters`), chosen on people who are not scored (`choose_parameters`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from mol.common.checks import require_not_negative, require_positive
from mol.common.errors import SettingsError
from mol.data.annotations import LONGEST_EXPRESSION
from mol.data.manifest import NEUTRAL
from mol.network.estimates import FLOW
from mol.networks.interface import Network
from mol.prediction.trace import Trace
from mol.scoring.expression import BLINK, MACRO, MICRO, Expression
from mol.scoring.spotting import OVERALL, pool_videos, score_video
from mol.spotting.displacement import Displacement, displacement
from mol.spotting.excursions import BROWS, EYES, MOUTH, Excursion, find_excursions

# Excursions weaker than this are never looked at; parameters are chosen above it. Blinks are not scored, so theirs is
# not chosen: the lids are small, and their flow is hardly above the noise.
_LEAST_SCORE, _LEAST_BLINK = 2.0, 3.0
# Scores closer than this are equal.
_EQUAL = 1e-9
# Frames of the longest micro-expression at least, for one to be found at all.
_FEWEST = 4
# Seconds around the middle of an expression from which windows say its emotion.
_NEAR = 0.15


@dataclass(frozen=True)
class SpotParameters:
    """What decides whether an excursion is an expression.

    Attributes:
        micro: least score of a micro-expression, see `mol.spotting.excursions`.
        macro: least score of a macro-expression.
        evidence: least probability, in its windows, that the face is not neutral; 0 for networks without that class.
        blink: a short excursion is a blink if the eyes move more than this many times as much as brows and mouth; not
            chosen, as blinks are not scored.
    """

    micro: float = 4.5
    macro: float = 3.5
    evidence: float = 0.25
    blink: float = 1.2

    def __post_init__(self) -> None:
        require_positive(self, "micro", "macro", "blink")
        require_not_negative(self, "evidence")
        if min(self.micro, self.macro) < _LEAST_SCORE or self.evidence > 1:
            raise SettingsError(
                f"micro={self.micro:g}, macro={self.macro:g}, evidence={self.evidence:g}: the scores must be at least "
                f"{_LEAST_SCORE:g}, and the evidence at most 1"
            )


GRID = {
    "micro": (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 10.0),
    "macro": (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0),
    "evidence": (0.0, 0.25, 0.5, 0.75, 0.9),
}
"""Values among which parameters are chosen."""


@dataclass(frozen=True)
class Candidate:
    """An excursion that may be an expression.

    Attributes:
        excursion: when, in frames, and how strong.
        kind: by its length alone, "micro" or "macro".
        evidence: probability that the face is not neutral; 1 for a network without that class.
        emotion: most probable class of its windows but neutral.
        share: probability of that class among all but neutral.
    """

    excursion: Excursion
    kind: str
    evidence: float
    emotion: str
    share: float


@dataclass(frozen=True)
class Candidates:
    """All that may be found in a video: what is costly, and depends on no parameter.

    Attributes:
        expressions: the strongest first.
        blinks: excursions of the eyes, the strongest first.
    """

    expressions: tuple[Candidate, ...]
    blinks: tuple[Excursion, ...]


def find_candidates(trace: Trace) -> Candidates:
    """Everything in a video that may be an expression or a blink.

    Args:
        trace: of one person.
    """
    moved = displacement(trace)
    # The ends of an excursion are known to about a sampled frame.
    longest = longest_micro(trace.fps) + round(moved.steps) if shows_micro(trace.fps) else 0
    expressions, blinks = [], []
    for excursion in find_excursions(moved, trace.fps, (BROWS, MOUTH), _LEAST_SCORE):
        kind = MICRO if excursion.ticks <= longest else MACRO
        evidence, emotion, share = _emotion(_weights(excursion, kind, trace) @ trace.probabilities, trace.classes)
        expressions.append(Candidate(_in_frames(excursion, moved), kind, evidence, emotion, share))
    for excursion in find_excursions(moved, trace.fps, (EYES,), _LEAST_SCORE):
        if excursion.ticks <= longest:
            blinks.append(_in_frames(excursion, moved))
    return Candidates(tuple(expressions), tuple(blinks))


def _in_frames(excursion: Excursion, moved: Displacement) -> Excursion:
    onset, apex, offset = (int(moved.frames[tick]) for tick in (excursion.onset, excursion.apex, excursion.offset))
    return replace(excursion, onset=onset, apex=apex, offset=offset)


def longest_micro(fps: float) -> int:
    """Frames that a micro-expression can have, its onset and offset included."""
    return max(int(LONGEST_EXPRESSION * fps + 1e-9), 1)


def shows_micro(fps: float) -> bool:
    """Whether a micro-expression has enough frames at a rate to be seen rising and falling."""
    return longest_micro(fps) >= _FEWEST


def _emotion(mean: np.ndarray, classes: Sequence[str]) -> tuple[float, str, float]:
    """Evidence, emotion and its share, from the mean probabilities (C,) of the windows."""
    others = [place for place, name in enumerate(classes) if name != NEUTRAL]
    best = max(others, key=lambda place: mean[place])
    evidence = 1 - float(mean[list(classes).index(NEUTRAL)]) if NEUTRAL in classes else 1.0
    return evidence, classes[best], float(mean[best] / max(float(mean[others].sum()), 1e-9))


def _weights(excursion: Excursion, kind: str, trace: Trace) -> np.ndarray:
    """(n,) weights of the windows that say what an expression is, their sum 1.

    A micro-expression is seen as a whole by the windows about its middle; of a longer one a window sees a part, and
    those about its rise show it from the face at rest to its strongest.
    """
    middle = (excursion.onset + (excursion.offset if kind == MICRO else excursion.apex)) / 2 / trace.fps
    distance = np.abs(trace.centres - middle)
    weights = np.maximum(1 - distance / _NEAR, 0.0)
    if not weights.any():
        weights[int(distance.argmin())] = 1.0
    normal: np.ndarray = weights / weights.sum()
    return normal


def choose_among(candidates: Candidates, parameters: SpotParameters) -> list[Expression]:
    """The expressions and blinks in a video, in the order of their onsets.

    Args:
        candidates: of `find_candidates`.
        parameters: what counts.
    """
    found = []
    for one in candidates.expressions:
        least = parameters.micro if one.kind == MICRO else parameters.macro
        blinks = one.kind == MICRO and _is_blink(one.excursion, parameters)
        if one.excursion.score >= least and one.evidence >= parameters.evidence and not blinks:
            found.append(_expression(one, least))
    for excursion in candidates.blinks:
        if excursion.score >= _LEAST_BLINK and _is_blink(excursion, parameters):
            confidence = round(_confidence(excursion.score, _LEAST_BLINK), 4)
            blink = Expression(excursion.onset, excursion.apex, excursion.offset, BLINK, None, confidence)
            if all(blink.overlap(other) == 0 for other in found if other.kind == BLINK):
                found.append(blink)
    return sorted(found, key=lambda one: (one.onset, one.offset))


def _is_blink(excursion: Excursion, parameters: SpotParameters) -> bool:
    return excursion.strength[EYES] > parameters.blink * excursion.expression


def _expression(candidate: Candidate, least: float) -> Expression:
    excursion = candidate.excursion
    confidence = _confidence(excursion.score, least) * candidate.evidence
    return Expression(
        excursion.onset, excursion.apex, excursion.offset, candidate.kind, candidate.emotion, round(confidence, 4)
    )


def _confidence(score: float, least: float) -> float:
    """½ for a score that is just enough, towards 1 for a higher one; no probability."""
    return score**2 / (score**2 + least**2)


def spot(trace: Trace, parameters: SpotParameters | None = None) -> list[Expression]:
    """Expressions and blinks in a video, in the order of their onsets.

    Args:
        trace: of one person.
        parameters: what counts.
    """
    return choose_among(find_candidates(trace), fitting(parameters or SpotParameters(), trace.classes))


def require_flow(network: Network) -> None:
    """Check that a network estimates what expressions are spotted by.

    Raises:
        SettingsError: it estimates no flow.
    """
    if FLOW not in network.estimates:
        raise SettingsError(
            f"expressions are spotted by optical flow, and {network.title} estimates none; use a network mol"
        )


def fitting(parameters: SpotParameters, classes: Iterable[str]) -> SpotParameters:
    """The parameters for a network with these classes: one without neutral clips can't say that nothing happens."""
    return parameters if NEUTRAL in classes else replace(parameters, evidence=0.0)


def choose_parameters(
    videos: Sequence[tuple[Candidates, Sequence[Expression]]], kind: str = OVERALL
) -> tuple[SpotParameters, float]:
    """The parameters of `GRID` with the highest F1 on some videos.

    Args:
        videos: candidates and annotated expressions of people who are not scored.
        kind: whose F1 counts; "micro" where nothing else is annotated.
    Returns:
        The parameters and their F1. Of several that are equally good, the ones in the middle of them.
    """
    best: list[SpotParameters] = []
    highest = -1.0
    for values in product(*GRID.values()):
        parameters = SpotParameters(**dict(zip(GRID, values, strict=True)))
        scores = pool_videos(score_video(truth, choose_among(found, parameters)) for found, truth in videos)
        f1 = scores.of(kind).f1
        if f1 >= highest - _EQUAL:
            best = [*best, parameters] if f1 <= highest + _EQUAL else [parameters]
            highest = max(f1, highest)
    return best[len(best) // 2], highest
