"""Scores of a leave-one-subject-out run, pooled over the folds that are done, and the tables that hold them.

The tables are written again whenever another fold is done. They are made of the files in the folds' folders only, so
processes that share a run cannot lose each other's results.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mol.common.extras import require
from mol.common.storage import write_csv, write_json, write_text
from mol.loso.folds import Fold
from mol.loso.latex import latex_table
from mol.loso.measures import ERRORS, MEASURES, PRINTED, SCORES
from mol.loso.plan import Plan
from mol.loso.results import FoldResult, Video
from mol.scoring.action_units import ActionUnitScores, unit_scores
from mol.scoring.estimate import prediction_columns, prediction_row
from mol.scoring.metrics import confusion_matrix, recognition_scores

COMPOSITE = "composite"
"""The group of all data sets together."""

Values = dict[str, float]


def pool_scores(plan: Plan, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Scores of the folds that are done: the content of scores.json.

    Recognition scores are of all videos of a group together, one vote per video; errors of flow and landmarks are means
    over all its sub-clips.

    Args:
        plan: of the run.
        results: of the folds that are done; may be empty.
    """
    per_seed: dict[str, dict[str, Values]] = {}
    fold_means: dict[str, dict[str, Values]] = {}
    for seed in sorted({result.fold.seed for result in results}):
        for group in (COMPOSITE, *plan.datasets):
            members = [r for r in results if r.fold.seed == seed and group in (COMPOSITE, r.fold.dataset)]
            if members:
                per_seed.setdefault(str(seed), {})[group] = _pooled(members, plan.classes)
                fold_means.setdefault(str(seed), {})[group] = _fold_mean(members)
    against = [*plan.not_reportable, *_incomplete(plan, results)]
    mean, deviation = _over_seeds(per_seed)
    return {
        "protocol": plan.protocol,
        "classes": plan.classes,
        "datasets": plan.datasets,
        "selection": plan.selection,
        "normalisation": plan.normalisation,
        "ablation": plan.ablation,
        "reportable": not against,
        "not_reportable": against,
        "notes": [*against, *plan.notes, *_fold_notes(results)],
        "folds": {"done": len(results), "total": len(plan.folds)},
        "seeds": per_seed,
        "mean": mean,
        "sd": deviation,
        "fold_mean": {
            "what": "mean over folds, in which a person with one video counts as much as one with twenty; "
            "not comparable with the pooled scores above",
            "seeds": fold_means,
            "mean": _over_seeds(fold_means)[0],
        },
        **_unit_entry(results),
    }


def pooled_units(results: Sequence[FoldResult]) -> dict[int, ActionUnitScores]:
    """For each seed the scores of action units over the videos of all folds that tell them; empty if none does."""
    found = {}
    for seed in sorted({result.fold.seed for result in results}):
        votes = [r.action_units for r in results if r.fold.seed == seed and r.action_units is not None]
        if votes:
            found[seed] = unit_scores(votes)
    return found


def _unit_entry(results: Sequence[FoldResult]) -> dict[str, Any]:
    """The entry of scores.json about action units, if the networks tell some."""
    pooled = pooled_units(results)
    return (
        {"action_units": {str(seed): dataclasses.asdict(scores) for seed, scores in pooled.items()}} if pooled else {}
    )


def _incomplete(plan: Plan, results: Sequence[FoldResult]) -> list[str]:
    """Why a run whose folds are not all done is not reportable, with the first folds that are missing."""
    done = {result.fold for result in results}
    missing = [_named(fold, plan) for fold in plan.folds if fold not in done]
    if not missing:
        return []
    names = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
    return [f"incomplete: {len(done)} of {len(plan.folds)} folds are done (missing: {names})"]


def _fold_notes(results: Sequence[FoldResult]) -> list[str]:
    """What single folds have to say, each once, with the people who were held out."""
    people: dict[str, list[str]] = {}
    for result in results:
        for note in result.facts.get("notes", ()):
            people.setdefault(str(note), []).append(result.fold.person)
    return [f"{note} (held out: {', '.join(dict.fromkeys(held_out))})" for note, held_out in people.items()]


def _named(fold: Fold, plan: Plan) -> str:
    return f"{fold.person} (seed {fold.seed})" if len(plan.seeds) > 1 else fold.person


def _pooled(results: Sequence[FoldResult], classes: Sequence[str]) -> Values:
    """Recognition scores of the pooled videos; errors as means over all sub-clips."""
    videos = [video for result in results for video in result.videos]
    recognition = recognition_scores(*_labels_and_predictions(videos), len(classes))
    clips = sum(result.facts["clips"] for result in results)
    errors = {name: sum(r.facts[name] * r.facts["clips"] for r in results) / clips for name in errors_in(results)}
    return {"videos": len(videos), "folds": len(results), **dataclasses.asdict(recognition), **errors}


def _labels_and_predictions(videos: Sequence[Video]) -> tuple[list[int], list[int]]:
    return [video.label for video in videos], [video.prediction for video in videos]


def _fold_mean(results: Sequence[FoldResult]) -> Values:
    return {name: statistics.fmean(r.facts[name] for r in results) for name in (*SCORES, *errors_in(results))}


def errors_in(results: Sequence[FoldResult]) -> list[str]:
    """The errors of flow and landmarks that all these folds have: none if their network estimates neither."""
    return [name for name in ERRORS if all(name in result.facts for result in results)]


def _over_seeds(per_seed: Mapping[str, Mapping[str, Values]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mean and sample standard deviation (None for one seed) of every score of every group."""
    mean: dict[str, Any] = {}
    deviation: dict[str, Any] = {}
    for group in dict.fromkeys(group for groups in per_seed.values() for group in groups):
        found = [groups[group] for groups in per_seed.values() if group in groups]
        for name in (name for name in (*SCORES, *ERRORS) if name in found[0]):
            values = [values[name] for values in found]
            mean.setdefault(group, {})[name] = statistics.fmean(values)
            deviation.setdefault(group, {})[name] = statistics.stdev(values) if len(values) > 1 else None
    return mean, deviation


def reasons(scores: Mapping[str, Any]) -> list[str]:
    """Why scores are not reportable; empty if they are."""
    return [str(reason).removeprefix("not reportable: ") for reason in scores["not_reportable"]]


def shown_groups(scores: Mapping[str, Any]) -> list[str]:
    """The composite and each set with results; if there is only one, it is the composite, which is left out."""
    groups = list(scores["mean"])
    return groups[1:] if len(groups) == 2 else groups


def measured(scores: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of some scores and errors that a run has: no errors of flow or landmarks if its network estimates none."""
    return [name for name in names if all(name in values for values in scores["mean"].values())]


# Tables


def write_tables(run: Path, plan: Plan, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Write predictions.csv, subjects.csv, confusion-seed*.csv and scores.json, .csv and .tex.

    Args:
        run: the run folder.
        plan: of the run.
        results: at least one.
    Returns:
        The content of scores.json.
    """
    scores = pool_scores(plan, results)
    votes = [
        [video.seed, *prediction_row(video.key, video.label, video.prediction, video.probabilities, plan.classes)]
        for result in results
        for video in result.videos
    ]
    write_csv(run / "predictions.csv", ["seed", *prediction_columns(plan.classes)], votes)
    shares = measured(scores, _SHARES)
    head = ["seed", "dataset", "subject", "videos", "correct", *shares]
    write_csv(run / "subjects.csv", head, [_subject_row(result, shares) for result in results])
    for seed in sorted({result.fold.seed for result in results}):
        videos = [video for result in results for video in result.videos if video.seed == seed]
        counts = confusion_matrix(*_labels_and_predictions(videos), len(plan.classes))
        write_confusion(run / f"confusion-seed{seed}.csv", plan.classes, counts.tolist())
    write_csv(run / "scores.csv", ["set", "seed", "videos", *measured(scores, (*SCORES, *ERRORS))], _score_rows(scores))
    write_text(run / "scores.tex", latex_scores(scores))
    write_json(run / "scores.json", scores)
    return scores


_SHARES = ("accuracy", "uf1", "uar", "epe_px", "nme")


def _subject_row(result: FoldResult, shares: Sequence[str]) -> list[Any]:
    facts = result.facts
    texts = [f"{facts[name]:.6f}" for name in shares]
    return [result.fold.seed, result.fold.dataset, result.fold.subject, facts["videos"], facts["correct"], *texts]


def write_confusion(path: Path, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Write a confusion matrix as CSV, rows true and columns predicted."""
    table = [[name, *row] for name, row in zip(classes, counts, strict=True)]
    write_csv(path, ["true \\ predicted", *classes], table)


def _score_rows(scores: Mapping[str, Any]) -> list[list[Any]]:
    names = measured(scores, (*SCORES, *ERRORS))
    rows: list[list[Any]] = []
    for group in scores["mean"]:
        for seed, groups in scores["seeds"].items():
            if group in groups:
                values = groups[group]
                rows.append([group, seed, values["videos"], *(f"{values[name]:.6f}" for name in names)])
        for kind in ("mean", "sd"):
            values = scores[kind][group]
            rows.append([group, kind, "", *("" if values[n] is None else f"{values[n]:.6f}" for n in names)])
    return rows


def latex_scores(scores: Mapping[str, Any]) -> str:
    """The scores as a LaTeX table: one row per data set, mean ± sd if there are several seeds."""
    against = f" Not reportable: {'; '.join(reasons(scores))}." if reasons(scores) else ""
    seeds = len(scores["seeds"])
    over = f"mean and standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    caption = (
        f"Leave-one-subject-out, protocol {scores['protocol']}, pooled over folds per video, {over}; "
        f"checkpoint selection {scores['selection']}.{against}"
    )
    heads = ["Set", *(MEASURES[name].heading for name in measured(scores, PRINTED))]
    rows = [[group, *_cells(scores, group)] for group in shown_groups(scores)]
    return latex_table(heads, rows, caption, f"tab:{scores['protocol']}")


def score_table(scores: Mapping[str, Any]) -> Any:
    """The scores as a `rich.table.Table`, mean ± sd if there are several seeds."""
    table = require("rich.table", "train").Table()
    table.add_column("set")
    for name in measured(scores, PRINTED):
        table.add_column(MEASURES[name].heading, justify="right")
    for group in shown_groups(scores):
        table.add_row(group, *_cells(scores, group))
    return table


def _cells(scores: Mapping[str, Any], group: str) -> list[str]:
    mean, deviation = scores["mean"][group], scores["sd"][group]
    return [MEASURES[name].spread(mean[name], deviation[name]) for name in measured(scores, PRINTED)]


def describe_scores(scores: Mapping[str, Any]) -> str:
    """What the table of scores is of, and what speaks against reporting it."""
    folds = scores["folds"]
    return "\n".join(
        [
            f"{scores['protocol']}: {folds['done']} of {folds['total']} folds, selection {scores['selection']}, "
            "pooled per video",
            *_unit_lines(scores.get("action_units", {})),
            *([] if scores["reportable"] else ["NOT REPORTABLE"]),
            *(f"- {note}" for note in scores["notes"]),
        ]
    )


def _unit_lines(seeds: Mapping[str, Any]) -> list[str]:
    """What is said of action units: the mean F1, and that of the baseline."""
    scored = [one for one in seeds.values() if one["f1"] is not None]
    if not scored:
        return []
    ours, always = (statistics.fmean(one[name] for one in scored) for name in ("f1", "always_f1"))
    units = len({unit["unit"] for one in scored for unit in one["units"] if unit["f1"] is not None})
    return [f"action units: mean F1 {ours:.3f} of {units}, per video (always shown: {always:.3f})"]
