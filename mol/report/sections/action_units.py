"""Action units: F1 of each over the videos of all folds, beside two baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mol.common.storage import write_csv
from mol.loso.measures import Measure
from mol.loso.saved_run import Spread
from mol.loso.scores import pooled_units
from mol.pictures.markup import Markup, element, table
from mol.report.context import Report
from mol.report.html import Section, section
from mol.scoring.action_units import ActionUnitScores, UnitScores

_GLOSSARY = (
    "A video shows a unit if the mean probability over its sub-clips is at least 0.5. Only videos whose annotation "
    "says whether they show a unit count for it; sides and intensities are not told apart. “Always” is the F1 of "
    "always answering that a unit is shown, “by frequency” that to be expected of answering so at random, as often as "
    "the fold’s training clips show it. The mean is over the units that at least one video shows."
)
_NAMES = ("f1", "precision", "recall", "always_f1", "frequency_f1")
_HEADS = ("F1", "Precision", "Recall", "F1, always", "F1, by frequency")
_NUMBER = Measure("F1")


def action_units(report: Report) -> Section | None:
    """A table of all units; writes action-units.csv. None if the run's networks tell no action units."""
    seeds = pooled_units(report.run.results)
    if not seeds:
        return None
    units = sorted({one.unit for scores in seeds.values() for one in scores.units})
    found = {unit: [one for scores in seeds.values() for one in scores.units if one.unit == unit] for unit in units}
    _write(report, found, seeds)
    rows = [_row(f"AU {unit}", ones) for unit, ones in found.items()]
    note = _GLOSSARY + (" ± is the standard deviation over seeds." if len(seeds) > 1 else "")
    return section(
        "Action units",
        note,
        table(
            ["Unit", "Videos", "Shown", *_HEADS],
            [*rows, _mean_row(list(seeds.values()))],
            "Action units, per video, pooled over folds",
        ),
    )


def _row(title: str, ones: Sequence[UnitScores]) -> list[Any]:
    return [title, ones[0].videos, ones[0].shown, *(_cell([getattr(one, name) for one in ones]) for name in _NAMES)]


def _mean_row(seeds: Sequence[ActionUnitScores]) -> list[Any]:
    means = [[getattr(scores, name, None) for scores in seeds] for name in _NAMES]
    return ["mean", "", "", *map(_cell, means)]


def _cell(values: Sequence[float | None]) -> Markup:
    """The mean over seeds, and beside it, smaller, the deviation; a dash if there is no value."""
    spread = Spread(tuple(value for value in values if value is not None))
    text = Markup(_NUMBER.number(spread.mean))
    if spread.deviation is None:
        return text
    return Markup(text + element("small", f" ± {_NUMBER.number(spread.deviation)}"))


def _write(report: Report, found: dict[int, list[UnitScores]], seeds: dict[int, ActionUnitScores]) -> None:
    """One row per unit and seed, and the means."""
    rows: list[list[Any]] = [
        [f"AU{one.unit}", seed, one.videos, one.shown, *(_text(getattr(one, name)) for name in _NAMES)]
        for unit in found
        for seed, scores in seeds.items()
        for one in scores.units
        if one.unit == unit
    ]
    rows += [
        ["mean", seed, "", "", *(_text(getattr(scores, name, None)) for name in _NAMES)]
        for seed, scores in seeds.items()
    ]
    write_csv(report.folder / "action-units.csv", ["unit", "seed", "videos", "shown", *_NAMES], rows)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
