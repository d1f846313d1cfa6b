"""Run folders of `mol loso` written by hand from seeded numbers, to test the code that reads them."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mol.common.names import path_parts
from mol.common.storage import write_csv, write_json, write_text
from mol.loso.folds import Fold
from mol.loso.plan import Plan, PlannedCache, write_plan
from mol.loso.results import read_results
from mol.loso.scores import write_tables
from mol.loso.settings import LosoConfig
from mol.scoring.calibration import apply_temperature
from mol.scoring.metrics import recognition_scores

ENVIRONMENT = {
    "time": "2025-11-25T20:00:00+00:00",
    "command": "mol loso --protocol megc2019",
    "versions": {"python": "3.11.2", "torch": "2.10.0", "molkernels": "0.1.0"},
    "hardware": {"processor": "A processor", "cores": 16, "accelerators": [{"name": "A GPU", "memory_gib": 79.2}]},
}
CLASSES = ("negative", "positive", "surprise")
SETS: Mapping[str, Sequence[str]] = {
    "casme2": ("sub01", "sub02", "sub03"),
    "samm": ("006", "007"),
    "smic": ("s1", "s2"),
}
LOSSES = ("loss", "loss_emotion", "loss_flow", "loss_landmarks")


def write_loso_run(
    path: Path,
    seeds: Sequence[int] = (0,),
    sets: Mapping[str, Sequence[str]] = SETS,
    videos: int = 4,
    skill: float = 0.6,
    done: int | None = None,
    protocol: str = "megc2019",
    classes: Sequence[str] = CLASSES,
    settings: Mapping[str, Any] | None = None,
    not_reportable: Sequence[str] = (),
    number: int = 0,
    temperature: float | None = None,
) -> Path:
    """Write a run folder.

    Args:
        path: the folder.
        seeds, sets: one fold per seed and person.
        videos: per person, at most.
        skill: approximate share of correctly classified videos.
        done: folds that are finished; None for all.
        protocol, classes: of the run.
        settings: differences from the usual settings.
        not_reportable: reasons.
        number: seed of the random numbers.
        temperature: of every fold; None if nobody was set aside.
    """
    generator = np.random.default_rng((7, number))
    people = [(dataset, subject) for dataset, subjects in sets.items() for subject in subjects]
    parts = path_parts(["-".join(person) for person in people])
    folds = [
        Fold(place, seed, *person, f"folds/seed{seed}/{part}")
        for seed in seeds
        for place, (person, part) in enumerate(zip(people, parts, strict=True), 1)
    ]
    for fold in folds[:done]:
        _write_fold(path / fold.folder, fold, videos, skill, classes, generator)
        if temperature is not None:
            _calibrate(path / fold.folder, temperature, classes)
    caches = [
        PlannedCache(str(path.parent / f"cache-{name}"), [name], sha256(name.encode()).hexdigest()) for name in sets
    ]
    plan = Plan(
        protocol=protocol,
        classes=list(classes),
        datasets=list(sets),
        kind="extracted",
        caches=caches,
        counts={},
        seeds=list(seeds),
        selection="last",
        normalisation="clip",
        ablation=None,
        not_reportable=list(not_reportable),
        notes=[],
        folds=folds,
    )
    write_plan(path, plan)
    usual = dataclasses.asdict(LosoConfig(caches=[f"cache/{name}" for name in sets], protocol=protocol, run=str(path)))
    write_text(path / "loso.yaml", yaml.safe_dump({**usual, "seeds": list(seeds), **(settings or {})}, sort_keys=False))
    write_json(path / "environment.json", ENVIRONMENT)
    if results := read_results(path, plan):
        write_tables(path, plan, results)
    return path


def _write_fold(
    folder: Path, fold: Fold, videos: int, skill: float, classes: Sequence[str], generator: np.random.Generator
) -> None:
    """The training log, the votes and fold.json of one fold; every run has the same labels for the same videos."""
    labels = np.random.default_rng([*fold.person.encode()]).integers(0, len(classes), 1 + fold.number % videos)
    rows, said = [], []
    for index, label in enumerate(labels.tolist(), 1):
        wanted = label if generator.random() < skill else int(generator.integers(0, len(classes)))
        probabilities = generator.dirichlet(np.where(np.arange(len(classes)) == wanted, 6.0, 1.2))
        said.append(int(probabilities.argmax()))
        names = [fold.dataset, fold.subject, f"{fold.subject}_{index}", classes[label], classes[said[-1]]]
        rows.append([*names, *(f"{p:.6f}" for p in probabilities)])
    header = ["dataset", "subject", "clip", "label", "prediction", *(f"p_{name}" for name in classes)]
    _write_log(folder / "log.csv", generator)
    write_csv(folder / "predictions.csv", header, rows)
    facts = {
        "seed": fold.seed,
        "dataset": fold.dataset,
        "subject": fold.subject,
        "selection": "last",
        "checkpoint": "checkpoints/last",
        "step": 400,
        "videos": len(rows),
        "clips": 3 * len(rows),
        "correct": int((labels == said).sum()),
        **dataclasses.asdict(recognition_scores(labels, said, len(classes))),
        "epe_px": 0.2 + 0.1 * generator.random(),
        "zero_flow_epe_px": 0.41,
        "nme": 0.03 + 0.01 * generator.random(),
        "mean_shape_nme": 0.052,
        "failure_rate": 0.02 * generator.random(),
        "seconds": 312.5,
        "timing": {"steps": 400, "seconds": 300.0, "data_seconds": 3.0, "busy_share": 0.99},
    }
    write_json(folder / "fold.json", facts)


def _calibrate(folder: Path, temperature: float, classes: Sequence[str]) -> None:
    """Give a fold a temperature: the votes that it has become the uncalibrated ones."""
    plain = folder / "predictions.csv"
    with open(plain, newline="") as file:
        header, *rows = csv.reader(file)
    shutil.copy(plain, folder / "predictions-uncalibrated.csv")
    count = len(classes)
    shares = apply_temperature(np.array([row[-count:] for row in rows], float), temperature)
    written = [[*row[:-count], *(f"{p:.6f}" for p in values)] for row, values in zip(rows, shares, strict=True)]
    write_csv(plain, header, written)
    facts = json.loads((folder / "fold.json").read_text())
    fitted = {"value": temperature, "note": "", "videos": 24, "clips": 60, "people": 2}
    write_json(folder / "fold.json", {**facts, "calibration": fitted})


def _write_log(path: Path, generator: np.random.Generator) -> None:
    lines = []
    for step in range(10, 401, 10):
        values = np.array([2.4, 1.1, 0.5, 0.12]) * (np.exp(-step / 120) + 0.15) * generator.lognormal(0, 0.12, 4)
        lines.append([step, "train", *(f"{value:.6g}" for value in values)])
        if step % 100 == 0:
            lines.append([step, "held_out", f"{values[0]:.6g}", "", "", ""])
    write_csv(path, ["step", "split", *LOSSES], lines)
