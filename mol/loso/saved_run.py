"""A run folder of `mol loso` as the report reads it, finished or not.

Everything comes from the folds' own files, so the numbers of a report agree with each other even while other processes
of the run go on, and the run's own tables can be missing or old.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.typed import read_json, typed
from mol.loso.folds import Fold
from mol.loso.plan import Plan, read_plan
from mol.loso.results import FoldResult, Video, read_results
from mol.loso.scores import COMPOSITE, measured, pool_scores, reasons, shown_groups
from mol.networks.registry import DEFAULT
from mol.scoring.metrics import confusion_matrix
from mol.training.settings import read_saved_config


@dataclass(frozen=True)
class Spread:
    """A score under each seed.

    Attributes:
        values: one per seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """NaN if there is no value."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class LosoRun:
    """A run folder of `mol loso`.

    Attributes:
        path: the folder.
        plan: protocol, folds, caches, notes.
        results: of the folds that are done, in order.
        scores: of those, as in scores.json.
        settings: content of loso.yaml; empty if it is missing.
        environment: content of environment.json; empty if it is missing.
    """

    path: Path
    plan: Plan
    results: list[FoldResult]
    scores: Mapping[str, Any]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def seeds(self) -> list[int]:
        """Seeds, in order."""
        return sorted({fold.seed for fold in self.plan.folds})

    @property
    def videos(self) -> list[Video]:
        """The votes on the videos of all folds that are done."""
        return [video for result in self.results for video in result.videos]

    @property
    def groups(self) -> list[str]:
        """What scores are given for: the composite if there are several sets, and each set."""
        return shown_groups(self.scores)

    @property
    def reasons(self) -> list[str]:
        """Why the scores are not reportable; empty if they are."""
        return reasons(self.scores)

    @property
    def network(self) -> str:
        """Name of the kind of network."""
        return str(self.settings.get("network", DEFAULT))

    def measured(self, names: Sequence[str]) -> list[str]:
        """Those of some scores and errors that this run has."""
        return measured(self.scores, names)

    def folder(self, fold: Fold) -> Path:
        """Where a fold is kept."""
        return self.path / fold.folder

    def score(self, group: str, name: str) -> Spread:
        """A score or error of a group of videos, pooled over folds, under each seed; empty if the run has none."""
        return _spread(self.scores["seeds"], group, name)

    def fold_mean(self, group: str, name: str) -> Spread:
        """Mean over folds of the folds' own scores, under each seed."""
        return _spread(self.scores["fold_mean"]["seeds"], group, name)

    def confusion(self, group: str) -> np.ndarray:
        """Number of videos (C, C) over all seeds, rows true and columns predicted."""
        videos = self.of(group)
        labels, predictions = [video.label for video in videos], [video.prediction for video in videos]
        return confusion_matrix(labels, predictions, len(self.plan.classes))

    def right_by_person(self) -> dict[str, list[tuple[str, int, float]]]:
        """For each data set (subject, videos, right videos) in the order of the folds; right is a mean over seeds."""
        people: dict[str, dict[str, list[Video]]] = {}
        for video in self.videos:
            people.setdefault(video.dataset, {}).setdefault(video.subject, []).append(video)
        return {
            dataset: [
                (subject, videos, sum(vote.right for vote in votes) * videos / len(votes))
                for subject, votes in subjects.items()
                for videos in [len({vote.key for vote in votes})]
            ]
            for dataset, subjects in people.items()
        }

    def of(self, group: str) -> list[Video]:
        """Votes on the videos of a set, or on all of them for the composite, under all seeds."""
        return [video for video in self.videos if group in (COMPOSITE, video.dataset)]


def _spread(seeds: Mapping[str, Mapping[str, Mapping[str, float]]], group: str, name: str) -> Spread:
    return Spread(tuple(float(groups[group][name]) for groups in seeds.values() if name in groups.get(group, ())))


def read_run(path: str | Path) -> LosoRun:
    """Read a run folder, finished or not.

    Raises:
        DataError: it is not a run folder of `mol loso`, or a file in it is damaged; the message names the file, the
            row and the remedy.
    """
    path = Path(path)
    plan = read_plan(path)
    results = read_results(path, plan)
    settings = path / "loso.yaml"
    return LosoRun(
        path=path,
        plan=plan,
        results=results,
        scores=pool_scores(plan, results),
        settings=read_saved_config(settings) if settings.exists() else {},
        environment=_environment(path / "environment.json"),
    )


@dataclass(frozen=True)
class _Environment:
    """Of what kind the entries of environment.json are that the report shows."""

    command: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)


def _environment(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    remedy = "delete it; only the report shows it"
    content = read_json(path, dict[str, Any], remedy)
    typed(content, _Environment, str(path), remedy)
    return content
