"""The scores and errors of a leave-one-subject-out run: what tables call them, and how they write them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mol.network.estimates import FLOW, LANDMARKS
from mol.scoring.calibration import CONFIDENCE_TITLES
from mol.scoring.metrics import TITLES

SCORES = tuple(TITLES)
"""Recognition scores, fractions from 0 to 1; higher is better."""
ERRORS_OF = {FLOW: ("epe_px", "zero_flow_epe_px"), LANDMARKS: ("nme", "mean_shape_nme", "failure_rate")}
"""Errors of what a network can estimate besides the emotion, in pixels and fractions; lower is better."""
ERRORS = tuple(name for names in ERRORS_OF.values() for name in names)
"""All of them; a run has those of what its network estimates."""
PRINTED = (*SCORES, "epe_px", "nme")
"""What a paper's table holds; CSV files hold all of them."""


@dataclass(frozen=True)
class Measure:
    """How a score or error is written.

    Attributes:
        title: its heading.
        unit: its unit, or none.
        scale: turns the number into that unit.
        digits: after the point.
    """

    title: str
    unit: str = ""
    scale: float = 1
    digits: int = 3

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def number(self, value: float | None) -> str:
        """A value in its unit; a dash if there is none."""
        if value is None or not math.isfinite(value):
            return "–"
        return f"{value * self.scale:.{self.digits}f}"

    def spread(self, mean: float, deviation: float | None) -> str:
        """``0.812 ± 0.010``, or the mean alone without a deviation."""
        return self.number(mean) + ("" if deviation is None else f" ± {self.number(deviation)}")

    def difference(self, value: float) -> str:
        """A difference with its sign, the minus as wide as the plus."""
        return f"{value * self.scale:+.{self.digits}f}".replace("-", "−")


MEASURES = {
    **{name: Measure(title) for name, title in TITLES.items()},
    "epe_px": Measure("Flow EPE", "px"),
    "zero_flow_epe_px": Measure("EPE of zero flow", "px"),
    "nme": Measure("NME", "%", 100, 2),
    "mean_shape_nme": Measure("NME of the mean shape", "%", 100, 2),
    "failure_rate": Measure("Failure rate", "%", 100, 2),
    **{name: Measure(title) for name, title in CONFIDENCE_TITLES.items()},
}
