"""What every process of a leave-one-subject-out run must agree on, and how its folds were run, kept in folds.json."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from mol.common.errors import DataError
from mol.common.names import path_inside
from mol.common.storage import write_json
from mol.common.typed import Count, Name, Seed, read_json, typed, values_of
from mol.data.pool import Pool, fingerprint
from mol.loso.folds import Fold
from mol.loso.settings import LosoConfig
from mol.networks.registry import find_network
from mol.scoring.estimate import notes

_FORMAT = 1
_FILE = "folds.json"
_RECORDS = "records"
_REMEDY = "copy the whole run folder again, or start a new run"


@dataclass(frozen=True)
class PlannedCache:
    """A cache of the run: its path, its data sets, and the digest of its content."""

    path: str
    datasets: list[str]
    fingerprint: str


@dataclass(frozen=True)
class Plan:
    """The folds of a run and all that its scores depend on besides the settings of the training.

    Attributes:
        protocol: its name.
        classes: names in the order of the labels.
        datasets: in the order of the folds.
        kind: of the caches, "synthetic" or "extracted".
        caches: where the clips come from.
        counts: number of videos of each class, by data set.
        seeds: all folds are run with each.
        selection, normalisation, ablation: as in `LosoConfig`.
        not_reportable: why no score of this run may be reported; empty if it may be.
        notes: what else a reader of the scores must know.
        folds: all of them, seed by seed.
        starting_weights: file name and fingerprint of those that every fold starts from; None without.
    """

    protocol: str
    classes: list[str]
    datasets: list[str]
    kind: str
    caches: list[PlannedCache]
    counts: dict[str, dict[str, int]]
    seeds: list[int]
    selection: str
    normalisation: str
    ablation: str | None
    not_reportable: list[str]
    notes: list[str]
    folds: list[Fold]
    starting_weights: str | None = None


@dataclass(frozen=True)
class _Fold:
    """A fold in folds.json."""

    seed: Seed
    dataset: Name
    subject: Name
    folder: Name


@dataclass(frozen=True)
class _Content:
    """What folds.json must hold; `Plan` with folds that have no number yet."""

    protocol: Name
    classes: Annotated[list[Name], Meta(min_length=1)]
    datasets: list[Name]
    kind: str
    caches: list[PlannedCache]
    counts: dict[str, dict[str, Count]]
    seeds: list[Seed]
    selection: str
    normalisation: str
    not_reportable: list[str]
    notes: list[str]
    folds: Annotated[list[_Fold], Meta(min_length=1)]
    ablation: str | None = None
    starting_weights: str | None = None


def make_plan(config: LosoConfig, pool: Pool, folds: Sequence[Fold], starting_weights: str | None = None) -> Plan:
    """The plan of a run on some data."""
    videos = {(row["dataset"], row["subject"], row["clip"]): pool.classes[row["label"]] for row in pool.rows}
    counts = {
        dataset: Counter(label for (owner, *_), label in videos.items() if owner == dataset)
        for dataset in pool.datasets
    }
    return Plan(
        protocol=pool.protocol.name,
        classes=list(pool.classes),
        datasets=pool.datasets,
        kind=pool.settings.kind,
        caches=[
            PlannedCache(str(cache.path), sorted({str(row["dataset"]) for row in cache.rows}), fingerprint(cache))
            for cache in pool.caches
        ],
        counts={dataset: {name: found[name] for name in pool.classes} for dataset, found in counts.items()},
        seeds=list(config.seeds),
        selection=config.selection,
        normalisation=config.normalisation,
        ablation=config.ablation,
        not_reportable=[
            *notes(pool.settings, config.selection),
            *(f"counts differ from the protocol's: {difference}" for difference in pool.count_differences),
        ],
        notes=[*_setting_notes(config, pool, starting_weights), *pool.notes],
        folds=list(folds),
        starting_weights=starting_weights,
    )


def _setting_notes(config: LosoConfig, pool: Pool, starting_weights: str | None) -> list[str]:
    """Settings that are not the usual ones and that a reader of the scores must know."""
    found = []
    if config.normalisation != "clip":
        found.append(f"normalisation {config.normalisation}: the statistics of all clips of a person")
    if pool.missing_datasets:
        found.append(f"without {', '.join(pool.missing_datasets)} of the protocol's sets")
    if config.ablation:
        found.append(f"ablation {config.ablation}")
    if starting_weights:
        found.append(f"every fold started from {starting_weights}")
    return found + find_network(config.network).notes(pool)


def is_planned(run: Path) -> bool:
    """Whether a folder holds a run of `mol loso`."""
    return (run / _FILE).is_file()


def write_plan(run: Path, plan: Plan) -> None:
    """Write folds.json."""
    folds = [{name: getattr(fold, name) for name in ("seed", "dataset", "subject", "folder")} for fold in plan.folds]
    write_json(run / _FILE, {"format": _FORMAT, **dataclasses.asdict(plan), "folds": folds})


def read_plan(run: Path) -> Plan:
    """Read folds.json.

    Raises:
        DataError: the folder is not one of `mol loso`, or the file is damaged or from another version.
    """
    path = run / _FILE
    if not is_planned(run):
        hint = "; it is a run of `mol train`, see mol evaluate" if (run / "log.csv").is_file() else ""
        raise DataError(f"{run} is not a run folder of `mol loso`: {_FILE} is missing{hint}")
    content = read_json(path, dict[str, Any], _REMEDY)
    if content.get("format", _FORMAT) != _FORMAT:
        raise DataError(f"{path} was written by a later version of mol; read it with that version")
    found = typed(content, _Content, str(path), _REMEDY)
    if wrong := _contradiction(found):
        raise DataError(f"{path}: {wrong}; {_REMEDY}")
    numbers: Counter[int] = Counter()
    folds = []
    for fold in found.folds:
        numbers[fold.seed] += 1
        folds.append(Fold(numbers[fold.seed], **values_of(fold)))
    return Plan(**{**values_of(found), "folds": folds})


@dataclass(frozen=True)
class FoldRecord:
    """Where and how a fold was run last, which its numbers do not depend on.

    Attributes:
        node: name of the machine.
        seconds: from its start there until its end.
        retries: how often it had to be sent out again, because a worker or a machine was lost; 0 without a cluster.
        error: why it failed; empty if it is done.
    """

    node: str
    seconds: float
    retries: int = 0
    error: str = ""


def record_fold(run: Path, fold: Fold, record: FoldRecord) -> None:
    """Note in folds.json how a fold was run; whoever calls this holds the lock of the run folder.

    Raises:
        DataError: folds.json is missing or damaged.
        StorageError: it could not be written.
    """
    content = read_json(run / _FILE, dict[str, Any], _REMEDY)
    records = {**content.get(_RECORDS, {}), fold.folder: dataclasses.asdict(record)}
    write_json(run / _FILE, {**content, _RECORDS: records})


def read_records(run: Path) -> dict[str, FoldRecord]:
    """How the folds of a run were run, by their folders; folds of earlier versions have no entry.

    Raises:
        DataError: folds.json is missing or damaged.
    """
    content = read_json(run / _FILE, dict[str, Any], _REMEDY)
    return typed(content.get(_RECORDS, {}), dict[str, FoldRecord], f"{run / _FILE}, {_RECORDS}", _REMEDY)


def _contradiction(found: _Content) -> str:
    """What in folds.json does not fit the rest; empty if everything does."""
    if len(set(found.classes)) < len(found.classes):
        return f"classes are {', '.join(found.classes)}, but must all be different"
    tested: set[tuple[int, str, str]] = set()
    for place, fold in enumerate(found.folds):
        try:
            path_inside(fold.folder)
        except ValueError as error:
            return f"folds[{place}].folder: {error}"
        if fold.dataset not in found.datasets:
            return f"folds[{place}].dataset is {fold.dataset!r}, but datasets are {', '.join(found.datasets) or 'none'}"
        if fold.seed not in found.seeds:
            return f"folds[{place}].seed is {fold.seed}, but seeds are {', '.join(map(str, found.seeds)) or 'none'}"
        if (who := (fold.seed, fold.dataset, fold.subject)) in tested:
            return f"folds[{place}] holds out {fold.dataset}/{fold.subject} a second time"
        tested.add(who)
    return ""
