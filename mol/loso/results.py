"""What a finished fold leaves in its folder: the votes on its videos, and its scores.

predictions.csv                 one row per video
predictions-uncalibrated.csv    the same without the temperature, if the fold has one
action_units.csv                the votes on the action units of every video, if the network tells some
fold.json                       scores, errors, times; written last, so a fold is done if this file exists
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from mol.common.errors import CheckpointError, DataError
from mol.common.storage import read_csv
from mol.common.typed import Count, NotNegative, Share, read_json, typed
from mol.loso.folds import Fold
from mol.loso.measures import ERRORS_OF, SCORES
from mol.loso.plan import Plan
from mol.network.units import CODES
from mol.scoring.action_units import UNIT_VOTES, UnitVotes, read_unit_votes
from mol.scoring.calibration import Temperature, temperature_of
from mol.scoring.estimate import PREDICTIONS, UNCALIBRATED, prediction_columns

FACTS = "fold.json"


@dataclass(frozen=True)
class Video:
    """The vote on one video under one seed.

    Attributes:
        seed, dataset, subject, clip: which video.
        label, prediction: class indices.
        probabilities: (C,), the mean over its sub-clips, at the fold's temperature if it has one.
        uncalibrated: (C,), that mean without the temperature, if there is one.
    """

    seed: int
    dataset: str
    subject: str
    clip: str
    label: int
    prediction: int
    probabilities: np.ndarray
    uncalibrated: np.ndarray | None = None

    @property
    def means(self) -> np.ndarray:
        """Mean probabilities over the sub-clips, without a temperature."""
        return self.probabilities if self.uncalibrated is None else self.uncalibrated

    @property
    def right(self) -> bool:
        """Whether the prediction is the label."""
        return self.label == self.prediction

    @property
    def key(self) -> tuple[str, str, str]:
        """The video, whatever the seed."""
        return self.dataset, self.subject, self.clip

    @property
    def name(self) -> str:
        """``dataset/subject/clip``."""
        return "/".join(self.key)


@dataclass(frozen=True)
class FoldResult:
    """A finished fold.

    Attributes:
        fold: which.
        facts: content of fold.json.
        videos: the votes on its videos.
        action_units: the votes on their action units, and the shares of the training clips that show each; None if the
            network tells none.
    """

    fold: Fold
    facts: Mapping[str, Any]
    videos: list[Video]
    action_units: tuple[UnitVotes, list[float]] | None = None

    @property
    def temperature(self) -> Temperature:
        """Of the fold's network, or why it has none."""
        return temperature_of(self.facts)


def is_done(run: Path, fold: Fold) -> bool:
    """Whether a fold is finished."""
    return (run / fold.folder / FACTS).is_file()


def read_results(run: Path, plan: Plan) -> list[FoldResult]:
    """Results of all folds that are done, in the order of the plan.

    Raises:
        DataError: a file of a finished fold is damaged or missing.
    """
    return [read_result(run, fold, plan.classes) for fold in plan.folds if is_done(run, fold)]


@dataclass(frozen=True)
class _Units:
    """Action units that the fold's network tells, and the shares of its training clips that show each."""

    units: Annotated[list[Annotated[int, Meta(ge=1, lt=CODES)]], Meta(min_length=1)]
    frequencies: list[Share]


@dataclass(frozen=True)
class _Facts:
    """What fold.json must hold besides scores and errors, and of what kind its other entries are, if it has them."""

    videos: Count
    clips: Annotated[int, Meta(ge=1, le=10**9)]
    correct: Count
    seconds: NotNegative = 0.0
    notes: list[str] = field(default_factory=list)
    calibration: dict[str, Any] | None = None
    action_units: _Units | None = None


def _entry(name: str, kind: Any) -> Any:
    """The kind of an object with one entry of a kind."""
    return make_dataclass("Entry", [(name, kind)])


def read_result(run: Path, fold: Fold, classes: Sequence[str]) -> FoldResult:
    """The result of a fold that is done.

    Args:
        run: the run folder.
        fold: which.
        classes: of the protocol, in the order of the labels.
    Raises:
        DataError: a file of the fold is damaged or missing; the message names the file, the row and the remedy.
    """
    folder = run / fold.folder
    # Without its optimizer a finished training cannot be resumed, so the whole fold is run again.
    remedy = f"delete the folder {folder} and run mol loso with --resume, which runs this fold again"
    facts = read_json(folder / FACTS, dict[str, Any], remedy)
    typed(facts, _Facts, str(folder / FACTS), remedy)
    # A network that estimates no flow or no landmarks has none of their errors.
    errors = {name for names in ERRORS_OF.values() if any(name in facts for name in names) for name in names}
    kinds = {**dict.fromkeys(SCORES, Share), **dict.fromkeys(errors, NotNegative)}
    for name, kind in kinds.items():
        typed({name: facts[name]} if name in facts else {}, _entry(name, kind), str(folder / FACTS), remedy)
    try:
        temperature = temperature_of(facts)
    except CheckpointError as error:
        raise DataError(f"{folder / FACTS} is damaged ({error}); {remedy}") from error
    videos = _read_votes(folder / PREDICTIONS, fold, classes, remedy)
    if len(videos) != facts["videos"]:
        raise DataError(f"{folder / PREDICTIONS} has {len(videos)} videos, {FACTS} says {facts['videos']}; {remedy}")
    if temperature.value is not None:
        videos = _with_means(videos, _read_votes(folder / UNCALIBRATED, fold, classes, remedy), folder, remedy)
    return FoldResult(fold, facts, videos, _read_units(folder, facts.get("action_units"), videos, remedy))


def _read_units(
    folder: Path, facts: Mapping[str, Any] | None, videos: Sequence[Video], remedy: str
) -> tuple[UnitVotes, list[float]] | None:
    if facts is None:
        return None
    units, frequencies = facts["units"], [float(value) for value in facts["frequencies"]]
    if len(units) != len(frequencies) or len(set(units)) < len(units):
        raise DataError(f"{folder / FACTS}: action_units must be different, each with a frequency; {remedy}")
    votes = read_unit_votes(folder / UNIT_VOTES, units, remedy)
    if votes.names != [video.key for video in videos]:
        raise DataError(f"{folder / UNIT_VOTES} has other videos than {PREDICTIONS}; {remedy}")
    return votes, frequencies


def _with_means(videos: Sequence[Video], plain: Sequence[Video], folder: Path, remedy: str) -> list[Video]:
    """The votes at a temperature together with the same votes without it."""
    if [video.key for video in videos] != [video.key for video in plain]:
        raise DataError(f"{folder / UNCALIBRATED} has other videos than {PREDICTIONS}; {remedy}")
    return [replace(video, uncalibrated=other.probabilities) for video, other in zip(videos, plain, strict=True)]


def _read_votes(table: Path, fold: Fold, classes: Sequence[str], remedy: str) -> list[Video]:
    return [
        _video(row, fold, classes, f"{table}, line {line}", remedy)
        for line, row in read_csv(table, prediction_columns(classes), remedy)
    ]


def _video(row: Mapping[str, str], fold: Fold, classes: Sequence[str], where: str, remedy: str) -> Video:
    if (row["dataset"], row["subject"]) != (fold.dataset, fold.subject):
        raise DataError(f"{where} is of {row['dataset']}/{row['subject']}, the fold is of {fold.person}; {remedy}")
    for column in ("label", "prediction"):
        if row[column] not in classes:
            known = ", ".join(classes)
            raise DataError(f"{where}: the {column} {row[column]!r} is not one of the classes {known}; {remedy}")
    try:
        probabilities = np.array([float(row[f"p_{name}"]) for name in classes])
    except ValueError as error:
        raise DataError(f"{where}: {error}; {remedy}") from error
    if not ((probabilities >= 0).all() and abs(probabilities.sum() - 1) < 1e-3):
        raise DataError(f"{where}: the probabilities must not be negative and must sum to 1; {remedy}")
    label, prediction = classes.index(row["label"]), classes.index(row["prediction"])
    return Video(fold.seed, fold.dataset, fold.subject, row["clip"], label, prediction, probabilities)
