"""What a page shows: a film, the people in it, and what a network says of each over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mol.scoring.expression import Expression
from mol.viewer.looks import Looks


@dataclass(frozen=True)
class Series:
    """What is known of one person over time, one row per window.

    Attributes:
        times: (n,) seconds, ascending.
        probabilities: (n, C), calibrated.
        flow: (n, R) lengths of the mean flow by region, in pixels of the 128×128 square; NaN where a region is not
            seen; None if the network estimates no flow.
    """

    times: np.ndarray
    probabilities: np.ndarray
    flow: np.ndarray | None = None


@dataclass(frozen=True)
class Person:
    """One person of the film.

    Attributes:
        name: such as ``person 1``.
        verdict: the result in plain words.
        series: over time.
        looks: landmarks, square and flow of every frame; None where there are none.
        expressions: in the order of their onsets; None if nothing looked for expressions.
        notes: about this person.
    """

    name: str
    verdict: str
    series: Series
    looks: Looks | None = None
    expressions: Sequence[Expression] | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ViewerData:
    """Everything on the page but the pictures.

    Attributes:
        title: name of the film.
        classes: C names.
        fps: frames per second; the mean where the rate varies.
        seconds: (L,) times of all frames, ascending.
        duration: seconds from the first frame to the end of the last.
        size: width and height of the pictures in pixels.
        people: at least one.
        regions: R names of the regions of `Series.flow`.
        notes: about the film and the network.
        facts: names and values for the head of the page, such as the network's.
        probability: what the probabilities are, such as ``"calibrated probability"``.
    """

    title: str
    classes: Sequence[str]
    fps: float
    seconds: np.ndarray
    duration: float
    size: tuple[int, int]
    people: Sequence[Person]
    regions: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    probability: str = "probability"
