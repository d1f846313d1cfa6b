"""Settings of a leave-one-subject-out run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from mol.common.errors import SettingsError
from mol.loso.folds import names_of
from mol.training.ablation import apply_ablation
from mol.training.settings import TrainingSettings


@dataclass
class LosoConfig(TrainingSettings):
    """Leave-one-subject-out under a protocol; how each fold is trained is set by `TrainingSettings`.

    Attributes:
        caches: folders made by `mol extract` (or `mol synth`), one per data set.
        protocol: classes, people and counts: "megc2019", "casme2-5", …, or "as-labelled".
        run: folder to write. Processes that share it (all with --resume) run different folds.
        sets: data sets of the protocol to run on; all of them when empty.
        folds: people to hold out in this process, separated by commas: names (subject or dataset/subject), numbers
            from 1 in the order of the folds, or ranges of them ("1-10"); everybody when empty.
        seeds: all folds are run with each; scores are given as mean and standard deviation over them.
        ablation: a named change of the network "mol" or its losses, such as "no-fcc"; none when empty.
        keep_checkpoints: keep the weights of each fold's chosen checkpoint, with "mol" 177 MB per fold (12 GB for 68).
            While a fold trains, its checkpoint holds the optimizer too, 530 MB.
        validate_every: steps between two evaluations of the held-out person, for the curves; 0 for none.
    """

    caches: list[str] = field(kw_only=True)
    protocol: str = field(kw_only=True)
    run: str = "runs/loso"
    sets: list[str] | None = None
    folds: str | list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    ablation: str | None = None
    keep_checkpoints: bool = True
    validate_every: int = 0

    def __post_init__(self) -> None:
        if self.ablation is not None:  # first, because how a network is trained by default depends on what it is
            self.model, self.loss = apply_ablation(self.model, self.loss, self.ablation)
        super().__post_init__()
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise SettingsError(f"seeds={self.seeds} must be different numbers, none negative, at least one")


def resume_command(config: LosoConfig) -> str:
    """The command that resumes a run, to be typed in the same folder."""
    chosen = f" --folds {shlex.quote(','.join(names_of(config.folds)))}" if config.folds else ""
    return f"mol loso --config {shlex.quote(str(Path(config.run) / 'loso.yaml'))} --resume{chosen}"
