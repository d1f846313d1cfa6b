"""What every section of a report starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mol.loso.saved_run import LosoRun


@dataclass(frozen=True)
class Report:
    """A report on one run.

    Attributes:
        run: the run.
        folder: where the page is written; a section writes its tables here.
        command: how the report was made.
        failures: how many misread videos to show.
        read_again: whether to read them again from checkpoint and cache, to show what the network saw.
        device: for reading them again.
    """

    run: LosoRun
    folder: Path
    command: str
    failures: int
    read_again: bool
    device: str

    @property
    def pictures(self) -> Path:
        """Where a section writes its pictures."""
        return self.folder / "pictures"
