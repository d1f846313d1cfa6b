"""What a leave-one-subject-out run folder holds, read and checked for the report."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.errors import DataError
from mol.common.extras import require
from mol.loso.folds import COMPOSITE, ERRORS, SCORES
from mol.scoring.metrics import confusion_matrix


@dataclass(frozen=True)
class Unit:
    """How an error is shown: its heading, its unit, what turns the number into that unit, and digits."""

    title: str
    name: str
    scale: float
    digits: int


UNITS = {
    "epe_px": Unit("Flow EPE", "px", 1, 3),
    "zero_flow_epe_px": Unit("EPE of zero flow", "px", 1, 3),
    "nme": Unit("NME", "%", 100, 2),
    "mean_shape_nme": Unit("NME of the mean shape", "%", 100, 2),
    "failure_rate": Unit("Failure rate", "%", 100, 2),
}


@dataclass(frozen=True)
class Fold:
    """One person held out under one seed.

    Attributes:
        seed, dataset, subject: which.
        folder: its training run.
        result: what its fold.json holds; None while the fold is not done.
    """

    seed: int
    dataset: str
    subject: str
    folder: Path
    result: Mapping[str, Any] | None


@dataclass(frozen=True)
class Video:
    """One video's vote under one seed.

    Attributes:
        seed, dataset, subject, clip: which.
        label, prediction: class indices.
        probabilities: (C,), the mean over its sub-clips.
    """

    seed: int
    dataset: str
    subject: str
    clip: str
    label: int
    prediction: int
    probabilities: np.ndarray

    @property
    def right(self) -> bool:
        return self.label == self.prediction

    @property
    def key(self) -> tuple[str, str, str]:
        """The video, whatever the seed."""
        return self.dataset, self.subject, self.clip

    @property
    def name(self) -> str:
        return "/".join(self.key)


@dataclass(frozen=True)
class Spread:
    """A score under each seed.

    Attributes:
        values: one a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
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
        protocol, classes, selection: of all its folds.
        plan: folds.json: caches, counts, notes.
        folds: done or not, in order.
        videos: of the folds that are done.
        scores: scores.json; empty where no fold is done.
        settings: loso.yaml.
        environment: environment.json; empty where it is missing.
    """

    path: Path
    protocol: str
    classes: list[str]
    selection: str
    plan: Mapping[str, Any]
    folds: list[Fold]
    videos: list[Video]
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
        return sorted({fold.seed for fold in self.folds})

    @property
    def done(self) -> list[Fold]:
        """Folds with results."""
        return [fold for fold in self.folds if fold.result is not None]

    @property
    def datasets(self) -> list[str]:
        """Data sets in the order of the folds."""
        return list(dict.fromkeys(fold.dataset for fold in self.folds))

    @property
    def groups(self) -> list[str]:
        """What scores are given for: the composite where there are several sets, and each set."""
        found = [name for name in self.datasets if any(video.dataset == name for video in self.videos)]
        return [COMPOSITE, *found] if len(self.datasets) > 1 and found else found

    @property
    def reasons(self) -> list[str]:
        """Why the scores are not reportable; empty where they are."""
        reasons = [str(reason).removeprefix("not reportable: ") for reason in self.plan.get("not_reportable", [])]
        left = [f"{fold.dataset}/{fold.subject}" for fold in self.folds if fold.result is None]
        if left:
            names = ", ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
            reasons.append(f"{len(left)} of {len(self.folds)} folds are not done: {names}")
        if not reasons and not self.scores.get("reportable", True):
            said = self.scores.get("not_reportable") or self.scores.get("notes")
            reasons = [str(note) for note in said or ["scores.json says so"]]
        return reasons

    def score(self, group: str, name: str) -> Spread:
        """A score or error of a group of videos, pooled over folds, under each seed."""
        return _spread(self.scores["seeds"], group, name)

    def fold_mean(self, group: str, name: str) -> Spread:
        """Mean over folds of the folds' own scores, under each seed."""
        return _spread(self.scores["fold_mean"]["seeds"], group, name)

    def confusion(self, group: str) -> np.ndarray:
        """Counts (C, C) of videos over all seeds, rows true and columns predicted."""
        videos = self.of(group)
        labels, predictions = [video.label for video in videos], [video.prediction for video in videos]
        return confusion_matrix(labels, predictions, len(self.classes))

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
        """Votes on a set's videos, or on all of them for the composite, under all seeds."""
        return [video for video in self.videos if group in (COMPOSITE, video.dataset)]


def read_run(path: str | Path) -> LosoRun:
    """Read a run folder, finished or not.

    Raises:
        DataError: it is no run of `mol loso`, or a file in it is damaged or contradicts another; the message has the
            path, the row and what to do.
    """
    path = Path(path)
    plan = path / "folds.json"
    if not plan.is_file():
        hint = "; it is a run of `mol train`, see mol evaluate" if (path / "log.csv").is_file() else ""
        raise DataError(f"{path} is no run folder of `mol loso`: {plan.name} is missing{hint}")
    content = _object(plan)
    classes = [str(name) for name in _entry(content, "classes", list, plan)]
    scores = _object(path / "scores.json") if (path / "scores.json").is_file() else {}
    folds = [_fold(path, entry, plan) for entry in _entry(content, "folds", list, plan)]
    if not folds:
        raise DataError(f"{plan} lists no folds; run mol loso again")
    videos = _videos(path / "predictions.csv", classes) if scores else []
    run = LosoRun(
        path=path,
        protocol=str(_entry(content, "protocol", str, plan)),
        classes=classes,
        selection=str(content.get("selection", "last")),
        plan=content,
        folds=_tabled(folds, videos),
        videos=videos,
        scores=scores,
        settings=_settings(path / "loso.yaml"),
        environment=_object(path / "environment.json") if (path / "environment.json").is_file() else {},
    )
    _check_scores(run)
    return run


def _tabled(folds: Sequence[Fold], videos: Sequence[Video]) -> list[Fold]:
    """Folds that finished after the tables were written count as not done, so that all numbers are of one moment."""
    known = {(video.seed, video.dataset, video.subject) for video in videos}
    return [fold if (fold.seed, fold.dataset, fold.subject) in known else replace(fold, result=None) for fold in folds]


def _check_scores(run: LosoRun) -> None:
    """Every number that will be read must be there, and of the same videos as predictions.csv.

    Raises:
        DataError: it is not.
    """
    path = run.path / "scores.json"
    for group in run.groups:
        try:
            counted = sum(int(groups[group]["videos"]) for groups in run.scores["seeds"].values() if group in groups)
            for name in (*SCORES, *ERRORS):
                run.score(group, name)
                run.fold_mean(group, name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path} is damaged ({error!r} for {group}); run mol loso with --resume, which writes it again"
            ) from error
        if counted != len(run.of(group)):
            raise DataError(
                f"{path} counts {counted} votes of {group}, predictions.csv has {len(run.of(group))}; "
                "run mol loso with --resume, which writes both again"
            )


def _spread(seeds: Mapping[str, Mapping[str, Mapping[str, float]]], group: str, name: str) -> Spread:
    return Spread(tuple(float(groups[group][name]) for groups in seeds.values() if group in groups))


def _fold(run: Path, entry: Any, plan: Path) -> Fold:
    if not isinstance(entry, Mapping) or {"seed", "dataset", "subject", "folder"} - entry.keys():
        raise DataError(f"{plan} is damaged: {entry!r} is no fold with seed, dataset, subject and folder")
    folder = run / str(entry["folder"])
    result = _object(folder / "fold.json") if (folder / "fold.json").is_file() else None
    return Fold(int(entry["seed"]), str(entry["dataset"]), str(entry["subject"]), folder, result)


def _videos(path: Path, classes: Sequence[str]) -> list[Video]:
    columns = ("seed", "dataset", "subject", "clip", "label", "prediction", *(f"p_{name}" for name in classes))
    return [_video(row, classes, f"{path}, row {number}") for number, row in _rows(path, columns)]


def _video(row: Mapping[str, str], classes: Sequence[str], where: str) -> Video:
    try:
        probabilities = np.array([float(row[f"p_{name}"]) for name in classes])
        seed = int(row["seed"])
    except ValueError as error:
        raise DataError(f"{where}: {error}; run mol loso with --resume, which writes the table again") from error
    for column in ("label", "prediction"):
        if row[column] not in classes:
            raise DataError(f"{where}: the {column} {row[column]!r} is none of the classes {', '.join(classes)}")
    label, prediction = classes.index(row["label"]), classes.index(row["prediction"])
    return Video(seed, row["dataset"], row["subject"], row["clip"], label, prediction, probabilities)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with their line numbers."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise DataError(f"{path} lacks the column {missing[0]!r}; run mol loso again with --resume")
            for row in reader:
                if None in row.values() or None in row:
                    raise DataError(f"{path}, row {reader.line_num}: cut short or too long; run mol loso --resume")
                yield reader.line_num, row
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run mol loso with --resume, which writes it again") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); run mol loso with --resume") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); run mol loso with --resume, which writes it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it holds no JSON object; run mol loso with --resume")
    return content


def _entry(content: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    if not isinstance(content.get(name), kind):
        raise DataError(f"{path} is not from this program: it lacks {name!r}; is it a run folder of `mol loso`?")
    return content[name]


def _settings(path: Path) -> dict[str, Any]:
    """The resolved configuration; empty where the file is missing."""
    yaml = require("yaml", "train")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read ({error}); it is written by mol loso") from error
    return content if isinstance(content, dict) else {}
