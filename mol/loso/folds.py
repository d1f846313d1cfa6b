"""Who is held out in which fold, and what a finished fold left behind."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mol.common.errors import SettingsError
from mol.data.pool import Pool

SCORES = ("accuracy", "war", "uar", "wf1", "uf1")


ERRORS = ("epe_px", "zero_flow_epe_px", "nme", "mean_shape_nme", "failure_rate")


COMPOSITE = "composite"


@dataclass(frozen=True)
class Fold:
    """One person held out of one training.

    Attributes:
        number: of the person, from 1, in the order of the folds.
        seed: of the training.
        dataset, subject: the person.
        folder: of the fold, relative to the run.
    """

    number: int
    seed: int
    dataset: str
    subject: str
    folder: str

    @property
    def person(self) -> str:
        """``dataset/subject``."""
        return f"{self.dataset}/{self.subject}"


@dataclass(frozen=True)
class FoldResult:
    """A fold that is done: what its fold.json and predictions.csv say."""

    fold: Fold
    facts: dict[str, Any]
    videos: list[dict[str, str]]


def plan_folds(pool: Pool, seeds: Sequence[int]) -> list[Fold]:
    """A fold for each person and seed; a person is a data set's subject, two sets may number theirs alike.

    Args:
        pool: the data.
        seeds: of the trainings.
    Raises:
        SettingsError: fewer than two people.
    """
    people = [
        (dataset, subject)
        for dataset in pool.datasets
        for subject in sorted({str(row["subject"]) for row in pool.rows if row["dataset"] == dataset}, key=_natural)
    ]
    if len(people) < 2:
        raise SettingsError(f"{pool.path} holds {len(people)} person under this protocol; at least two are needed")
    names = [re.sub(r"[^A-Za-z0-9.-]", "_", f"{dataset}-{subject}") for dataset, subject in people]
    # Names that differ only in odd characters must not share a folder, nor on file systems without case.
    taken = Counter(name.lower() for name in names)
    names = [f"{name}_{i}" if taken[name.lower()] > 1 else name for i, name in enumerate(names, 1)]
    return [
        Fold(number, seed, dataset, subject, f"folds/seed{seed}/{name}")
        for seed in seeds
        for number, ((dataset, subject), name) in enumerate(zip(people, names, strict=True), 1)
    ]


def choose_folds(folds: Sequence[Fold], wanted: str | Sequence[str] | None) -> list[Fold]:
    """The folds of the people that are named by subject, ``dataset/subject``, number or range of numbers.

    Args:
        folds: all of them.
        wanted: names, in a list or with commas between (text, so that SAMM's ``006`` keeps its zeros); all when empty.
    Raises:
        SettingsError: nobody fits a name or number.
    """
    if not wanted:
        return list(folds)
    numbers: set[int] = set()
    for name in names_of(wanted):
        found = {fold.number for fold in folds if name in (fold.person, fold.subject)} or _numbers(name, folds)
        if not found:
            known = ", ".join(dict.fromkeys(f"{fold.number} {fold.person}" for fold in folds[:12]))
            raise SettingsError(f"no fold {name!r}; there are {max(f.number for f in folds)} people: {known}, …")
        numbers |= found
    return [fold for fold in folds if fold.number in numbers]


def names_of(wanted: str | Sequence[str]) -> list[str]:
    if not isinstance(wanted, str):
        return [str(name) for name in wanted]
    return [name for part in wanted.strip(" []").split(",") if (name := part.strip(" '\""))]


def _numbers(text: str, folds: Sequence[Fold]) -> set[int]:
    """Fold numbers meant by ``7`` or ``1-10``; empty where there are none (``007`` is a name)."""
    match = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text)
    if match is None:
        return set()
    wanted = range(int(match[1]), int(match[2] or match[1]) + 1)
    return {fold.number for fold in folds if fold.number in wanted}


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts ``s2`` before ``s10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def read_result(run: Path, fold: Fold) -> FoldResult | None:
    """The result of a fold; None while it is not done (fold.json is written last).

    Raises:
        SettingsError: a file of a finished fold is damaged or missing.
    """
    folder = run / fold.folder
    if not (folder / "fold.json").is_file():
        return None
    try:
        facts = json.loads((folder / "fold.json").read_text(encoding="utf-8"))
        with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
            videos = list(csv.DictReader(file))
        if len(videos) != facts["videos"]:
            raise ValueError(f"predictions.csv has {len(videos)} videos, fold.json says {facts['videos']}")
        return FoldResult(fold, facts, videos)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{folder} is damaged ({error}); delete its fold.json and go on with --resume, which makes the fold again"
        ) from error


def read_results(run: Path, folds: Sequence[Fold]) -> list[FoldResult]:
    """Results of all folds that are done, in the order of `folds`."""
    return [result for fold in folds if (result := read_result(run, fold)) is not None]
