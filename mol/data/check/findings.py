"""What a check finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something wrong, doubtful or worth knowing.

    Attributes:
        severity: after an ``"error"`` the data cannot be used as they are.
        kind: its topic in two or three words.
        where: the clip, folder or set.
        what: what was found.
    """

    severity: Severity
    kind: str
    where: str
    what: str


def ranges(numbers: Iterable[int]) -> str:
    """Abbreviate a list of numbers: ``17–19, 23``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][-1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
