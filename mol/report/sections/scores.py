"""Scores: tables of recognition, flow and landmarks, as a page, as CSV and for LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mol.common.storage import write_csv, write_text
from mol.loso.measures import ERRORS, SCORES
from mol.loso.saved_run import LosoRun, Spread
from mol.loso.scores import latex_scores
from mol.networks.registry import title_of
from mol.pictures.markup import Markup, element, table
from mol.report.context import Report
from mol.report.html import Section, section
from mol.report.numbers import cell, column_head, group_name

_GLOSSARY = (
    "Videos of all folds are pooled, with one vote per video: the mean probability over its sub-clips. "
    "UAR is the mean recall of the classes and UF1 the mean F1; WAR and WF1 weigh each class by its videos. "
    "The failure rate is the share of frames with an NME over 10 %."
)


def scores(report: Report) -> Section | None:
    """Scores pooled over folds, and means over folds; writes scores.csv, fold-means.csv and scores.tex."""
    run = report.run
    if not run.results:
        return None
    _write_table(report.folder / "scores.csv", run, run.score)
    _write_table(report.folder / "fold-means.csv", run, run.fold_mean)
    write_text(report.folder / "scores.tex", latex_scores(run.scores))
    note = _GLOSSARY + (" ± is the standard deviation over seeds." if len(run.seeds) > 1 else "")
    return section(
        "Scores",
        note,
        _table(run, run.score, "Videos", SCORES, "Emotion, pooled over folds, per video"),
        _errors(run),
        _table(run, run.fold_mean, "Folds", SCORES, "Emotion, mean over folds of each fold’s own scores"),
        element(
            "p",
            "The last table is for comparison with papers that average over folds: there a person with one video "
            "weighs as much as one with thirty, and a class that a person never shows is left out of that person’s "
            "mean. The pooled scores are the ones to report.",
            class_="small muted",
        ),
    )


def _errors(run: LosoRun) -> Markup:
    """Errors of flow and landmarks, or a sentence if the network estimates neither."""
    names = run.measured(ERRORS)
    if not names:
        text = f"The network {title_of(run.network)} estimates no optical flow and no landmarks."
        return element("p", text, class_="small muted")
    return _table(run, run.score, "Videos", names, "Flow and landmarks, means over sub-clips, beside trivial baselines")


def _table(
    run: LosoRun, read: Callable[[str, str], Spread], counted: str, names: Sequence[str], caption: str
) -> Markup:
    """One row per data set and one for all of them, one column per score."""
    rows = [
        [group_name(group), _count(run, group, counted), *(cell(read(group, name), name) for name in names)]
        for group in run.groups
    ]
    return table(["Set", counted, *map(column_head, names)], rows, caption)


def _count(run: LosoRun, group: str, counted: str) -> int:
    """Different videos, or people, of a group."""
    return len({video.key[:2] if counted == "Folds" else video.key for video in run.of(group)})


def _write_table(path: Path, run: LosoRun, read: Callable[[str, str], Spread]) -> None:
    names = run.measured((*SCORES, *ERRORS))
    rows = [[group, *(text for name in names for text in _texts(read(group, name)))] for group in run.groups]
    write_csv(path, ["set", *(head for name in names for head in (name, f"{name}_sd"))], rows)


def _texts(spread: Spread) -> tuple[str, str]:
    return f"{spread.mean:.6f}", "" if spread.deviation is None else f"{spread.deviation:.6f}"
