"""Settings of a leave-one-subject-out run."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mol.common.checks import MOST_WORKERS, require_at_most, require_one_of, require_positive
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
        task: "recognise" scores the emotion of the clips; "spot" also finds expressions in the long videos of the
            person held out, after the same training.
        videos: with task "spot", manifests of `mol prepare` whose data sets have long videos.
        spot_people: with task "spot", number of people on whose long videos the parameters of spotting are chosen:
            those of inner_validation, or some of those trained on. Their videos cost as much time as those scored.
        sets: data sets of the protocol to run on; all of them when empty.
        folds: people to hold out in this process, separated by commas: names (subject or dataset/subject), numbers
            from 1 in the order of the folds, or ranges of them ("1-10"); everybody when empty.
        seeds: all folds are run with each; scores are given as mean and standard deviation over them.
        ablation: a named change of the network "mol" or its losses, such as "no-fcc"; none when empty.
        keep_checkpoints: keep the weights of each fold's chosen checkpoint, with "mol" 177 MB per fold (12 GB for 68).
            While a fold trains, its checkpoint holds the optimizer too, 530 MB.
        validate_every: steps between two evaluations of the held-out person, for the curves; 0 for none.
        engine: "local" runs one fold after another here; "ray" runs every fold as a task on a Ray cluster and sends it
            to another node if its own is lost (pip install "molkernels[scale]").
        ray_address: with engine "ray", "auto" for the cluster that this machine is part of, or HOST:PORT; a cluster of
            this machine alone, which ends with the run, when empty.
        gpus_per_fold: with engine "ray", GPUs of a fold, or a share such as 0.25 of one; when empty 1 if a node has
            GPUs and the device is not "cpu", else 0.
        folds_at_once: with engine "local" and one device, folds that are trained side by side; their weights are those
            of one after another.
        cpus_per_fold: with engine "ray", cores and PyTorch threads of a fold; when empty as many as a fold would use
            here, and 1 with a GPU. With equal threads a CPU gives the numbers of engine "local" bit for bit.
    """

    caches: list[str] = field(kw_only=True)
    protocol: str = field(kw_only=True)
    run: str = "runs/loso"
    task: Literal["recognise", "spot"] = "recognise"
    videos: list[str] | None = None
    spot_people: int = 2
    sets: list[str] | None = None
    folds: str | list[str] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    ablation: str | None = None
    keep_checkpoints: bool = True
    validate_every: int = 0
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    gpus_per_fold: float | None = None
    cpus_per_fold: int | None = None
    folds_at_once: int = 1

    def __post_init__(self) -> None:
        if self.ablation is not None:  # first, because how a network is trained by default depends on what it is
            self.model, self.loss = apply_ablation(self.model, self.loss, self.ablation)
        super().__post_init__()
        require_one_of(self, "engine", ("local", "ray"))
        require_one_of(self, "task", ("recognise", "spot"))
        require_positive(self, "spot_people")
        require_at_most(self, spot_people=10**6)
        if self.videos and self.task != "spot":
            raise SettingsError("videos are for spotting; add --task spot")
        if self.engine == "local":
            given = [name for name in ENGINE[1:] if getattr(self, name) is not None]
            if given:
                raise SettingsError(f"{', '.join(given)} are settings of the engine ray; add --engine ray")
        require_positive(self, "folds_at_once")
        require_at_most(self, folds_at_once=MOST_WORKERS)
        if self.folds_at_once > 1 and (self.engine == "ray" or self.devices not in (1, "auto") or self.num_nodes > 1):
            raise SettingsError(
                f"folds_at_once={self.folds_at_once} is for one device of this machine; leave out --engine, --devices "
                "and --num-nodes"
            )
        if self.engine == "ray" and (self.devices not in (1, "auto") or self.num_nodes > 1):
            raise SettingsError("with --engine ray every fold is trained on one device; leave out --devices")
        if self.cpus_per_fold is not None:
            require_positive(self, "cpus_per_fold")
            require_at_most(self, cpus_per_fold=MOST_WORKERS)
        if (gpus := self.gpus_per_fold) is not None and not (0 <= gpus <= 1 or gpus in range(1025)):
            raise SettingsError(f"gpus_per_fold={gpus} must be a share of a GPU from 0 to 1, or a whole number of GPUs")
        if self.engine == "ray" and self.device.startswith("cuda:"):
            raise SettingsError(f"device={self.device!r}: Ray gives each fold its GPU; leave the number out")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise SettingsError(f"seeds={self.seeds} must be different numbers, none negative, at least one")


ENGINE = ("engine", "ray_address", "gpus_per_fold", "cpus_per_fold")
"""Settings that say where folds are run, and nothing of what they are."""


def without_engine(config: LosoConfig) -> LosoConfig:
    """The settings of the run itself, wherever it goes on."""
    usual: dict[str, Any] = {**dict.fromkeys(ENGINE), "engine": "local"}
    return dataclasses.replace(config, **usual)


def resume_command(config: LosoConfig) -> str:
    """The command that resumes a run, to be typed in the same folder."""
    chosen = f" --folds {shlex.quote(','.join(names_of(config.folds)))}" if config.folds else ""
    usual = without_engine(config)
    engine = "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name in ENGINE
        if (value := getattr(config, name)) != getattr(usual, name)
    )
    return f"mol loso --config {shlex.quote(str(Path(config.run) / 'loso.yaml'))} --resume{chosen}{engine}"
