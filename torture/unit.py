"""One unit of the campaign: a kind of example, repeated until it has been tried often enough or its time is up."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torture import reproducers
from torture.outcome import Outcome

Part = Literal["readers", "kills", "disk", "operators"]
PARTS: tuple[Part, ...] = ("readers", "kills", "disk", "operators")
REPORT = "report.json"


@dataclass(frozen=True)
class Unit:
    """A kind of example.

    Attributes:
        part: of the campaign.
        name: unique in its part.
        target: examples in a campaign of half an hour.
        seconds: of processor time that these take, roughly: the unit's share of the campaign.
        run: tries examples until ``session.goes_on()`` says no.
        repeat: tries the example of a reproducer again.
    """

    part: Part
    name: str
    target: int
    seconds: float
    run: Callable[[Session], None]
    repeat: Callable[[Session, Mapping[str, Any], Path | None], Outcome]

    @property
    def title(self) -> str:
        """``part/name``."""
        return f"{self.part}/{self.name}"


@dataclass
class Fault:
    """Equal outcomes of a unit.

    Attributes:
        outcome: the first of them.
        count: how many.
        reproducer: archive of the first.
    """

    outcome: Outcome
    reproducer: Path
    count: int = 1


@dataclass
class Session:
    """A unit at work.

    Attributes:
        unit: which.
        materials: folder of valid files (`torture.materials`).
        work: folder of its own.
        failures: folder for reproducers.
        seed: of everything that is drawn.
        target: examples asked for.
        budget: seconds that it may take from now on, preparation included; its first example is tried in any case.
        done: examples tried.
        kinds: how many of each outcome.
        faults: by `Outcome.key`.
        notes: what a reader of the table must know.
        seconds: taken by its examples.
    """

    unit: Unit
    materials: Path
    work: Path
    failures: Path
    seed: int
    target: int
    budget: float
    done: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _made: float = field(default_factory=time.monotonic)
    _started: float = field(default_factory=time.monotonic)
    _saved: float = 0.0

    def begin(self) -> None:
        """Start the clock of the examples: imports and valid folders are ready."""
        self._started = time.monotonic()

    def goes_on(self) -> bool:
        """Whether examples are still asked for and time is left."""
        now = time.monotonic()
        self.seconds = now - self._started
        return not self.done or (self.done < self.target and now - self._made < self.budget)

    def count(self, outcome: Outcome) -> bool:
        """Count one example; returns whether it is a fault that was not seen before."""
        self.done += 1
        self.kinds[outcome.kind] = self.kinds.get(outcome.kind, 0) + 1
        if time.monotonic() - self._saved > 1:
            self.save()
        if not outcome.is_fault:
            return False
        if seen := self.faults.get(outcome.key):
            seen.count += 1
            return False
        return True

    def keep(self, outcome: Outcome, case: Mapping[str, Any], files: Path | None = None) -> None:
        """Write the reproducer of a new fault."""
        described = {"outcome": str(outcome), "key": outcome.key, "seed": self.seed, **case}
        path = reproducers.save(self.failures, self.unit.title, described, files)
        self.faults[outcome.key] = Fault(outcome, path)
        self.save()

    def save(self) -> None:
        """Write the report, which outlives a unit that hangs or crashes."""
        self._saved = time.monotonic()
        new = self.work / f"{REPORT}.new"
        new.write_text(json.dumps(self.report()))
        os.replace(new, self.work / REPORT)

    def note(self, text: str) -> None:
        """Something that a reader of the table must know."""
        if text not in self.notes:
            self.notes.append(text)

    def report(self) -> dict[str, Any]:
        """Everything that the table shows, as JSON."""
        self.seconds = time.monotonic() - self._started
        return {
            "unit": self.unit.title,
            "target": self.target,
            "done": self.done,
            "kinds": self.kinds,
            "seconds": self.seconds,
            "processor": _processor_seconds(),
            "notes": self.notes,
            "faults": [
                {"outcome": str(fault.outcome), "count": fault.count, "reproducer": str(fault.reproducer)}
                for fault in self.faults.values()
            ],
        }


def _processor_seconds() -> float:
    """Of this process and of all that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
