"""Action units of videos: the votes, F1 per unit beside two baselines, and the file that holds the votes.

A video shows a unit if the mean probability over its sub-clips is at least 0.5. Only videos of which it is annotated
whether they show a unit count for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mol.common.errors import DataError
from mol.common.storage import read_csv, write_csv
from mol.network.units import NOT_SHOWN, SHOWN, UNKNOWN, LearnedUnits
from mol.scoring.estimate import UnitAnswers
from mol.scoring.metrics import vote_videos

THRESHOLD = 0.5
UNIT_VOTES = "action_units.csv"
"""The votes on the action units of videos."""
_NAME = ("dataset", "subject", "clip")
_WRITTEN = {SHOWN: "1", NOT_SHOWN: "0", UNKNOWN: ""}


class UnitVotes(NamedTuple):
    """One vote per video and action unit.

    Attributes:
        units: numbers of the A units.
        names: (dataset, subject, clip) of each video.
        targets: (videos, A) int8, `SHOWN`, `NOT_SHOWN` or `UNKNOWN`.
        probabilities: (videos, A), the means over the sub-clips.
    """

    units: list[int]
    names: list[tuple[str, str, str]]
    targets: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class UnitScores:
    """The scores of one action unit; None where they are not defined.

    Attributes:
        unit: its number.
        videos: of which it is annotated whether they show it.
        shown: of these, videos that show it.
        f1, precision, recall: of the network's votes.
        always_f1: F1 of always answering that it is shown.
        frequency_f1: F1 to be expected of answering so at random, as often as the training clips show it.
    """

    unit: int
    videos: int
    shown: int
    f1: float | None
    precision: float | None
    recall: float | None
    always_f1: float | None
    frequency_f1: float | None


@dataclass(frozen=True)
class ActionUnitScores:
    """The scores of all action units.

    Attributes:
        units: each of them.
        f1, always_f1, frequency_f1: means over the units that at least one video shows; None if there is none.
    """

    units: list[UnitScores]
    f1: float | None
    always_f1: float | None
    frequency_f1: float | None

    @property
    def scored(self) -> list[UnitScores]:
        """The units that at least one video shows."""
        return [unit for unit in self.units if unit.f1 is not None]


def unit_votes(rows: Sequence[Mapping[str, Any]], answers: UnitAnswers, learned: LearnedUnits) -> UnitVotes:
    """Let the sub-clips of each video vote on its action units.

    Args:
        rows: index rows, one per sub-clip.
        answers: for them.
        learned: the units that the network tells.
    """
    names = [(str(row["dataset"]), str(row["subject"]), str(row["clip"])) for row in rows]
    probabilities, videos = vote_videos(answers.probabilities.numpy(), names)
    first = [names.index(video) for video in videos]  # an annotation is of the whole video
    targets = answers.targets.numpy()[np.ix_(first, list(learned.units))]
    return UnitVotes(list(learned.units), videos, targets, probabilities)


def unit_scores(votes: Sequence[tuple[UnitVotes, Sequence[float]]]) -> ActionUnitScores:
    """F1 of every action unit over the videos of one network or of several.

    Args:
        votes: of each network, with the shares of its training clips that show each of its units.
    """
    units = sorted({unit for one, _ in votes for unit in one.units})
    scores = [_scores_of(unit, votes) for unit in units]
    scored = [one for one in scores if one.f1 is not None]

    def mean(name: str) -> float | None:
        return float(np.mean([getattr(one, name) for one in scored])) if scored else None

    return ActionUnitScores(scores, mean("f1"), mean("always_f1"), mean("frequency_f1"))


def _scores_of(unit: int, votes: Sequence[tuple[UnitVotes, Sequence[float]]]) -> UnitScores:
    places = [(one, one.units.index(unit), chances) for one, chances in votes if unit in one.units]
    targets = np.concatenate([one.targets[:, place] for one, place, _ in places])
    answers = np.concatenate([one.probabilities[:, place] for one, place, _ in places]) >= THRESHOLD
    chances = np.concatenate([np.full(len(one.names), chances[place]) for one, place, chances in places])
    known = targets != UNKNOWN
    truth, answers, chances = targets[known] == SHOWN, answers[known], chances[known]
    videos, shown = len(truth), int(truth.sum())
    if not shown:
        return UnitScores(unit, videos, shown, None, None, None, None, None)
    hits, said = float((truth & answers).sum()), float(answers.sum())
    return UnitScores(
        unit=unit,
        videos=videos,
        shown=shown,
        f1=2 * hits / (said + shown),
        precision=hits / said if said else None,
        recall=hits / shown,
        always_f1=2 * shown / (videos + shown),
        frequency_f1=float(2 * chances[truth].sum() / (chances.sum() + shown)),
    )


def unit_notes(scores: ActionUnitScores) -> list[str]:
    """Units that cannot be scored, in a note; empty if there are none."""
    never = [str(one.unit) for one in scores.units if one.f1 is None]
    which = f"AU{'s' if len(never) > 1 else ''} {', '.join(never)}"
    return [f"no video that was tested is annotated to show {which}: no F1"] if never else []


def write_unit_votes(folder: Path, votes: UnitVotes | None) -> None:
    """Write action_units.csv; without votes, remove that of an earlier evaluation.

    Raises:
        StorageError: the file could not be written.
    """
    if votes is None:
        (folder / UNIT_VOTES).unlink(missing_ok=True)
        return
    rows = [
        [*name, *(_WRITTEN[int(target)] for target in targets), *(f"{value:.6f}" for value in probabilities)]
        for name, targets, probabilities in zip(votes.names, votes.targets, votes.probabilities, strict=True)
    ]
    write_csv(folder / UNIT_VOTES, [*_NAME, *_columns(votes.units)], rows)


def read_unit_votes(path: Path, units: Sequence[int], remedy: str) -> UnitVotes:
    """Read what `write_unit_votes` wrote.

    Args:
        path: of the file.
        units: that it must hold.
        remedy: the end of every message.
    Raises:
        DataError: the file is missing or damaged.
    """
    names, targets, probabilities = [], [], []
    heads = _columns(units)
    known = {text: value for value, text in _WRITTEN.items()}
    for line, row in read_csv(path, [*_NAME, *heads], remedy):
        names.append((row["dataset"], row["subject"], row["clip"]))
        for head in heads[: len(units)]:
            if row[head] not in known:
                raise DataError(f"{path}, line {line}, {head}: {row[head]!r} must be 1, 0 or empty; {remedy}")
        targets.append([known[row[head]] for head in heads[: len(units)]])
        try:
            values = [float(row[head]) for head in heads[len(units) :]]
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}; {remedy}") from error
        if not all(0 <= value <= 1 for value in values):
            raise DataError(f"{path}, line {line}: probabilities must be from 0 to 1; {remedy}")
        probabilities.append(values)
    shape = (len(names), len(units))
    return UnitVotes(
        list(units), names, np.array(targets, np.int8).reshape(shape), np.array(probabilities).reshape(shape)
    )


def _columns(units: Sequence[int]) -> list[str]:
    return [*(f"AU{unit}" for unit in units), *(f"p_AU{unit}" for unit in units)]
