"""Compared runs class by class and person by person, and the tables that hold both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mol.common.storage import write_csv
from mol.loso.saved_run import LosoRun, Spread
from mol.report.compare import Comparison
from mol.scoring.metrics import confusion_matrix


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class in one run.

    Attributes:
        videos: of this class, each counted once.
        recall: share of them that are right, under each seed.
        f1: harmonic mean of precision and recall, under each seed.
    """

    videos: int
    recall: Spread
    f1: Spread


def class_scores(run: LosoRun, group: str) -> list[ClassScores]:
    """Scores of each class, in the order of the labels, over the videos of a group pooled over folds."""
    votes = run.of(group)
    count = len(run.plan.classes)
    recalls, f1s = [], []
    for seed in sorted({vote.seed for vote in votes}):
        mine = [vote for vote in votes if vote.seed == seed]
        counts = confusion_matrix([vote.label for vote in mine], [vote.prediction for vote in mine], count)
        right, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
        recalls.append(right / np.maximum(true, 1))
        f1s.append(2 * right / np.maximum(true + said, 1))
    videos = [len({vote.key for vote in votes if vote.label == index}) for index in range(count)]
    return [
        ClassScores(
            videos[index],
            Spread(tuple(float(recall[index]) for recall in recalls)),
            Spread(tuple(float(f1[index]) for f1 in f1s)),
        )
        for index in range(count)
    ]


@dataclass(frozen=True)
class Person:
    """One person in all runs.

    Attributes:
        subject: name.
        videos: of this person, at most tested by one of the runs.
        right: how many of them are right in each run, a mean over its seeds; None where the run has not tested them.
    """

    subject: str
    videos: int
    right: tuple[float | None, ...]


def people_side_by_side(runs: Sequence[LosoRun]) -> dict[str, list[Person]]:
    """For each data set its people, in the order of the folds of the first run that has them."""
    found = [
        {
            (dataset, subject): (videos, right)
            for dataset, people in run.right_by_person().items()
            for subject, videos, right in people
        }
        for run in runs
    ]
    sets: dict[str, list[Person]] = {}
    for dataset, subject in dict.fromkeys(key for one in found for key in one):
        entries = [one.get((dataset, subject)) for one in found]
        videos = max(entry[0] for entry in entries if entry)
        right = tuple(entry[1] if entry else None for entry in entries)
        sets.setdefault(dataset, []).append(Person(subject, videos, right))
    return sets


def write_side_by_side(folder: Path, comparison: Comparison) -> None:
    """Write classes.csv and people.csv."""
    rows = [
        [group, name, scores.videos, run_name, f"{scores.recall.mean:.6f}", f"{scores.f1.mean:.6f}"]
        for group in comparison.groups
        for run_name, run in zip(comparison.names, comparison.runs, strict=True)
        for name, scores in zip(run.plan.classes, class_scores(run, group), strict=True)
        if scores.videos
    ]
    write_csv(folder / "classes.csv", ["set", "class", "videos", "run", "recall", "f1"], rows)
    people = [
        [dataset, person.subject, person.videos, *("" if right is None else f"{right:.6g}" for right in person.right)]
        for dataset, found in people_side_by_side(comparison.runs).items()
        for person in found
    ]
    write_csv(folder / "people.csv", ["dataset", "subject", "videos", *comparison.names], people)
