"""What became of one example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["result", "refused", "raised", "died", "hung", "wrote outside", "wrong"]
GOOD: tuple[Kind, ...] = ("result", "refused")


@dataclass(frozen=True)
class Outcome:
    """What became of one example.

    Attributes:
        kind: "result" and "refused" (an error that the program raises on purpose) are as they should be; "raised" is
            any other exception, "died" a signal, "hung" a time limit, "wrong" a result that cannot be.
        error: name of the exception or signal.
        message: of the exception, or what was found.
        place: innermost function of the project on the stack.
    """

    kind: Kind
    error: str = ""
    message: str = ""
    place: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether the program is at fault."""
        return self.kind not in GOOD

    @property
    def key(self) -> str:
        """Equal for what is probably the same fault."""
        return " ".join(filter(None, (self.kind, self.error, self.place and f"in {self.place}")))

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.message else self.key
