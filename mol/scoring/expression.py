"""An expression in a video: when it is, and what it is. Found by spotting, or annotated."""

from __future__ import annotations

from dataclasses import dataclass

MICRO, MACRO, BLINK = "micro", "macro", "blink"
KINDS = (MICRO, MACRO, BLINK)


@dataclass(frozen=True)
class Expression:
    """One expression of one person.

    Attributes:
        onset, apex, offset: frame numbers counted from 0, onset ≤ apex ≤ offset; the offset is its last frame.
        kind: "micro", "macro" (longer than a micro-expression) or "blink".
        emotion: None for a blink, or where it is not known.
        confidence: 0 to 1; 1 for annotated ones.
    """

    onset: int
    apex: int
    offset: int
    kind: str = MICRO
    emotion: str | None = None
    confidence: float = 1.0

    @property
    def frames(self) -> int:
        """How many frames it has."""
        return self.offset - self.onset + 1

    def overlap(self, other: Expression) -> float:
        """Intersection over union of the frames, 0 to 1."""
        common = min(self.offset, other.offset) - max(self.onset, other.onset) + 1
        return max(common, 0) / (self.frames + other.frames - max(common, 0))
