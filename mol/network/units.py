"""Which facial action units a network learns to tell, and how often the clips that it learns from show each."""

from __future__ import annotations

import math
from dataclasses import dataclass

CODES = 99
"""Columns of a table of action units: one for each number that the Facial Action Coding System can give."""
SHOWN, NOT_SHOWN, UNKNOWN = 1, 0, -1
"""Entries of such a table. What is unknown takes no part in losses and scores."""
_HEAVIEST = 10.0


@dataclass(frozen=True)
class LearnedUnits:
    """Action units that a network learns, with their numbers in the training clips.

    Attributes:
        units: numbers of the units, ascending.
        annotated: for each, training clips of which it is known whether they show it.
        shown: for each, training clips that show it.
        clips: all training clips.
    """

    units: tuple[int, ...]
    annotated: tuple[int, ...]
    shown: tuple[int, ...]
    clips: int

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Share of the annotated clips that show each unit."""
        return tuple(min(shown / max(clips, 1), 1.0) for shown, clips in zip(self.shown, self.annotated, strict=True))

    @property
    def weights(self) -> tuple[float, ...]:
        """How much more a clip weighs that shows a unit than one that does not: √((1 − f) / f), from 1 to 10.

        With equal weights the threshold 0.5 finds only units that are likelier than not, and most are rare. The
        threshold with the best F1 is half the F1 that is reached (Lipton et al., "Optimal Thresholding of Classifiers
        to Maximize F1 Measure", ECML PKDD 2014); the root moves it to about 0.5 for units in a tenth of the clips.
        """
        return tuple(min(max(math.sqrt((1 - f) / f), 1.0), _HEAVIEST) if f else 1.0 for f in self.frequencies)

    @property
    def known_share(self) -> float:
        """Share of the clips' entries that are known."""
        return max(sum(self.annotated), 1) / (self.clips * len(self.units))
