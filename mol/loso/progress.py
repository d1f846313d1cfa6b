"""What a run says and writes after every fold, whoever has run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mol.common.terminal import duration
from mol.loso.folds import Fold
from mol.loso.plan import FoldRecord, Plan, record_fold
from mol.loso.results import read_result, read_results
from mol.loso.scores import COMPOSITE, write_tables
from mol.loso.sharing import locked
from mol.loso.spot_scores import write_spotting


def note_fold(run: Path, plan: Plan, fold: Fold, record: FoldRecord) -> dict[str, Any] | None:
    """Note how a fold was run, and write the tables of all folds that are done.

    One process does so at a time, so that the last to write knows all.

    Args:
        run: the run folder.
        plan: of the run.
        fold: that has ended.
        record: how.
    Returns:
        The scores; None if no fold is done.
    Raises:
        DataError: a file of a finished fold is damaged or missing.
        StorageError: a table could not be written.
    """
    with locked(run, wait=True):
        record_fold(run, fold, record)
        return _write_tables(run, plan)


def finish_tables(run: Path, plan: Plan) -> dict[str, Any] | None:
    """Write the tables of all folds that are done, also where none has ended meanwhile; otherwise as `note_fold`."""
    with locked(run, wait=True):
        return _write_tables(run, plan)


def _write_tables(run: Path, plan: Plan) -> dict[str, Any] | None:
    results = read_results(run, plan)
    write_spotting(run, plan, [result.fold for result in results])
    return write_tables(run, plan, results) if results else None


def place_of(fold: Fold, plan: Plan) -> str:
    """A fold in words: its seed if there are several, its number and its person."""
    people = len(plan.folds) // len(plan.seeds)
    seed = f"seed {fold.seed}  " if len(plan.seeds) > 1 else ""
    return f"{seed}{fold.number}/{people}  {fold.person}"


def describe_fold(run: Path, plan: Plan, fold: Fold, scores: dict[str, Any], seconds: float, rest: str) -> str:
    """The line on a fold that is done.

    Args:
        run, plan, fold: which.
        scores: of all folds that are done, as `note_fold` gives them.
        seconds: that it took.
        rest: end of the line.
    """
    facts = read_result(run, fold, plan.classes).facts
    so_far = scores["seeds"][str(fold.seed)][COMPOSITE]
    scored = f"so far UF1 {so_far['uf1']:.3f}, UAR {so_far['uar']:.3f} over {so_far['videos']} videos"
    return (
        f"{place_of(fold, plan)}: {facts['correct']} of {facts['videos']} videos right; "
        f"{scored}; {duration(seconds)}{rest}"
    )
