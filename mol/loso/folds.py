"""Who is held out in which fold, and which of the folds a process runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mol.common.errors import SettingsError
from mol.common.names import path_parts
from mol.data.pool import Pool


@dataclass(frozen=True)
class Fold:
    """One training with one person held out.

    Attributes:
        number: of the person, from 1, in the order of the folds.
        seed: of the training.
        dataset, subject: the person.
        folder: where the fold is kept, relative to the run folder.
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


def plan_folds(pool: Pool, seeds: Sequence[int]) -> list[Fold]:
    """One fold per person and seed; the same subject number in two data sets means two people.

    Args:
        pool: the data.
        seeds: one training of every fold for each.
    Raises:
        SettingsError: there are fewer than two people.
    """
    people = [
        (dataset, subject)
        for dataset in pool.datasets
        for subject in sorted({str(row["subject"]) for row in pool.rows if row["dataset"] == dataset}, key=_natural)
    ]
    if len(people) < 2:
        raise SettingsError(f"{pool.path} holds {len(people)} person under this protocol; at least two are needed")
    names = path_parts([f"{dataset}-{subject}" for dataset, subject in people])
    return [
        Fold(number, seed, dataset, subject, f"folds/seed{seed}/{name}")
        for seed in seeds
        for number, ((dataset, subject), name) in enumerate(zip(people, names, strict=True), 1)
    ]


def choose_folds(folds: Sequence[Fold], wanted: str | Sequence[str] | None) -> list[Fold]:
    """The folds of the people given by subject, ``dataset/subject``, number or range of numbers.

    Args:
        folds: all of them.
        wanted: a list, or text separated by commas (so that SAMM's ``006`` keeps its zeros); all folds if empty.
    Raises:
        SettingsError: a name or number fits nobody.
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
    """The single names or numbers of the setting ``folds``."""
    if not isinstance(wanted, str):
        return [str(name) for name in wanted]
    return [name for part in wanted.strip(" []").split(",") if (name := part.strip(" '\""))]


def _numbers(text: str, folds: Sequence[Fold]) -> set[int]:
    """Fold numbers meant by ``7`` or ``1-10``; empty if it is neither (``007`` is a name)."""
    match = re.fullmatch(r"([1-9]\d{0,8})(?:-([1-9]\d{0,8}))?", text)
    if match is None:
        return set()
    wanted = range(int(match[1]), int(match[2] or match[1]) + 1)
    return {fold.number for fold in folds if fold.number in wanted}


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts ``s2`` before ``s10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]
