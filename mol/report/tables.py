"""The numbers of a report as files: CSV for programs, LaTeX for papers."""

from __future__ import annotations

from pathlib import Path

from mol.common.storage import write_csv, write_text
from mol.loso.folds import ERRORS, SCORES
from mol.loso.latex import latex_table
from mol.loso.results import UNITS, LosoRun, Spread
from mol.scoring.metrics import TITLES

# What goes into a paper's table; the rest stands in the CSV.
PRINTED = (*SCORES, "epe_px", "nme")


def plain(spread: Spread, name: str) -> str:
    """``0.812 ± 0.010``, errors in their unit; the deviation where there is one."""
    scale, digits = (UNITS[name].scale, UNITS[name].digits) if name in UNITS else (1, 3)
    text = f"{spread.mean * scale:.{digits}f}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation * scale:.{digits}f}"


def heading(name: str) -> str:
    """Of a score or error, with its unit."""
    return f"{UNITS[name].title} ({UNITS[name].name})" if name in UNITS else TITLES[name]


def write_run_tables(folder: Path, run: LosoRun) -> None:
    """Write scores.csv, fold-means.csv, scores.tex and a confusion-GROUP.csv for each group."""
    names = (*SCORES, *ERRORS)
    for table, read in (("scores", run.score), ("fold-means", run.fold_mean)):
        rows = [[group, *(text for name in names for text in _texts(read(group, name)))] for group in run.groups]
        write_csv(folder / f"{table}.csv", ["set", *(head for name in names for head in (name, f"{name}_sd"))], rows)
    for group in run.groups:
        counts = [[name, *row] for name, row in zip(run.classes, run.confusion(group).tolist(), strict=True)]
        write_csv(folder / f"confusion-{group}.csv", ["true \\ predicted", *run.classes], counts)
    reportable = f" Not reportable: {'; '.join(run.reasons)}." if run.reasons else ""
    caption = f"Leave-one-subject-out, protocol {run.protocol}, pooled over folds per video.{reportable}"
    rows = [[group, *(plain(run.score(group, name), name) for name in PRINTED)] for group in run.groups]
    text = latex_table(["Set", *map(heading, PRINTED)], rows, caption, f"tab:{run.protocol}")
    write_text(folder / "scores.tex", text)


def _texts(spread: Spread) -> tuple[str, str]:
    return f"{spread.mean:.6f}", "" if spread.deviation is None else f"{spread.deviation:.6f}"
