"""Tables of a leave-one-subject-out run, made anew from the folds that are done whenever one more is.

What counts is what the folds' own folders hold, so that processes which share a run can't lose each other's results.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mol.common.extras import require
from mol.common.storage import write_csv, write_json, write_text
from mol.loso.folds import COMPOSITE, ERRORS, SCORES, FoldResult
from mol.scoring.metrics import confusion_matrix, recognition_scores

Row = Mapping[str, str]
Values = dict[str, float]
# Columns of the tables that people read: key, heading, scale, digits.
_SHOWN = (
    ("accuracy", "accuracy", 1, 3),
    ("war", "WAR", 1, 3),
    ("uar", "UAR", 1, 3),
    ("wf1", "WF1", 1, 3),
    ("uf1", "UF1", 1, 3),
    ("epe_px", "EPE (px)", 1, 3),
    ("nme", "NME (%)", 100, 2),
)


def write_tables(run: Path, head: Mapping[str, Any], results: Sequence[FoldResult]) -> dict[str, Any]:
    """Write predictions.csv, subjects.csv, confusion-seed*.csv and scores.json, .csv and .tex.

    Args:
        run: the run folder.
        head: content of folds.json.
        results: at least one.
    Returns:
        Content of scores.json.
    """
    classes = head["classes"]
    header = ["seed", *results[0].videos[0]]
    write_csv(run / "predictions.csv", header, [[r.fold.seed, *row.values()] for r in results for row in r.videos])
    write_csv(run / "subjects.csv", _SUBJECT_COLUMNS, [_subject_row(result) for result in results])
    for seed in sorted({result.fold.seed for result in results}):
        rows = [row for result in results if result.fold.seed == seed for row in result.videos]
        counts = confusion_matrix(*_class_indices(rows, classes), len(classes)).tolist()
        table = [[name, *line] for name, line in zip(classes, counts, strict=True)]
        write_csv(run / f"confusion-seed{seed}.csv", ["true \\ predicted", *classes], table)
    scores = _scores(head, results)
    write_csv(run / "scores.csv", ["set", "seed", "videos", *SCORES, *ERRORS], _score_rows(scores))
    write_text(run / "scores.tex", latex_table(scores))
    write_json(run / "scores.json", scores)
    return scores


_SUBJECT_COLUMNS = ("seed", "dataset", "subject", "videos", "correct", "accuracy", "uf1", "uar", "epe_px", "nme")


def _subject_row(result: FoldResult) -> list[Any]:
    facts = result.facts
    shares = [f"{facts[name]:.6f}" for name in ("accuracy", "uf1", "uar", "epe_px", "nme")]
    return [result.fold.seed, result.fold.dataset, result.fold.subject, facts["videos"], facts["correct"], *shares]


def _class_indices(rows: Sequence[Row], classes: Sequence[str]) -> tuple[list[int], list[int]]:
    index = {name: i for i, name in enumerate(classes)}
    return [index[row["label"]] for row in rows], [index[row["prediction"]] for row in rows]


def _scores(head: Mapping[str, Any], results: Sequence[FoldResult]) -> dict[str, Any]:
    seeds = sorted({result.fold.seed for result in results})
    groups = [COMPOSITE, *head["datasets"]]
    per_seed: dict[str, dict[str, Values]] = {}
    fold_means: dict[str, dict[str, Values]] = {}
    for seed in seeds:
        for group in groups:
            members = [r for r in results if r.fold.seed == seed and group in (COMPOSITE, r.fold.dataset)]
            if members:
                per_seed.setdefault(str(seed), {})[group] = _pooled(members, head["classes"])
                fold_means.setdefault(str(seed), {})[group] = _fold_mean(members)
    done, total = len(results), len(head["folds"])
    reasons = [*head["not_reportable"], *([f"incomplete: {done} of {total} folds are done"] if done < total else [])]
    mean, deviation = _over_seeds(per_seed)
    return {
        "protocol": head["protocol"],
        "classes": head["classes"],
        "datasets": head["datasets"],
        "selection": head["selection"],
        "normalisation": head["normalisation"],
        "ablation": head["ablation"],
        "reportable": not reasons,
        "not_reportable": reasons,
        "notes": [*reasons, *head["notes"]],
        "folds": {"done": done, "total": total},
        "seeds": per_seed,
        "mean": mean,
        "sd": deviation,
        "fold_mean": {
            "what": "mean over folds, in which a person with one video counts as much as one with twenty; "
            "not comparable with the pooled scores above",
            "seeds": fold_means,
            "mean": _over_seeds(fold_means)[0],
        },
    }


def _pooled(results: Sequence[FoldResult], classes: Sequence[str]) -> Values:
    """Recognition from the pooled videos; errors as means over all sub-clips."""
    rows = [row for result in results for row in result.videos]
    recognition = recognition_scores(*_class_indices(rows, classes), len(classes))
    clips = sum(result.facts["clips"] for result in results)
    errors = {name: sum(r.facts[name] * r.facts["clips"] for r in results) / clips for name in ERRORS}
    return {"videos": len(rows), "folds": len(results), **dataclasses.asdict(recognition), **errors}


def _fold_mean(results: Sequence[FoldResult]) -> Values:
    return {name: statistics.fmean(r.facts[name] for r in results) for name in (*SCORES, *ERRORS)}


def _over_seeds(per_seed: Mapping[str, Mapping[str, Values]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mean and sample standard deviation (None for one seed) of every score of every group."""
    mean: dict[str, Any] = {}
    deviation: dict[str, Any] = {}
    for group in dict.fromkeys(group for groups in per_seed.values() for group in groups):
        found = [groups[group] for groups in per_seed.values() if group in groups]
        for name in (*SCORES, *ERRORS):
            values = [values[name] for values in found]
            mean.setdefault(group, {})[name] = statistics.fmean(values)
            deviation.setdefault(group, {})[name] = statistics.stdev(values) if len(values) > 1 else None
    return mean, deviation


def _score_rows(scores: Mapping[str, Any]) -> list[list[Any]]:
    names = (*SCORES, *ERRORS)
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


def latex_table(scores: Mapping[str, Any]) -> str:
    """The scores as a LaTeX table (package booktabs): one line a data set, mean ± sd where there are several seeds."""
    heads = " & ".join(_escape(heading) for _, heading, _, _ in _SHOWN)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(scores)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(_SHOWN)}}}",
        r"\toprule",
        rf"Set & {heads} \\",
        r"\midrule",
        *(
            rf"{_escape(group)} & {' & '.join(_cells(scores, group, _latex_number))} \\"
            for group in _shown_groups(scores)
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def score_table(scores: Mapping[str, Any]) -> Any:
    """The scores as a `rich.table.Table`, mean ± sd where there are several seeds."""
    table = require("rich.table", "train").Table()
    table.add_column("set")
    for _, heading, _, _ in _SHOWN:
        table.add_column(heading, justify="right")
    for group in _shown_groups(scores):
        table.add_row(group, *_cells(scores, group, _plain_number))
    return table


def _shown_groups(scores: Mapping[str, Any]) -> list[str]:
    """The composite and the sets; of one set the composite says nothing new."""
    groups = list(scores["mean"])
    return groups[1:] if len(groups) == 2 else groups


def describe_scores(scores: Mapping[str, Any]) -> str:
    """What the table of scores is of, and what speaks against reporting it."""
    folds = scores["folds"]
    return "\n".join(
        [
            f"{scores['protocol']}: {folds['done']} of {folds['total']} folds, selection {scores['selection']}, "
            "pooled per video",
            *([] if scores["reportable"] else ["NOT REPORTABLE"]),
            *(f"- {note}" for note in scores["notes"]),
        ]
    )


def _caption(scores: Mapping[str, Any]) -> str:
    reasons = "" if scores["reportable"] else f" Not reportable: {'; '.join(scores['not_reportable'])}."
    seeds = len(scores["seeds"])
    over = f"mean and standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return _escape(
        f"Leave-one-subject-out, protocol {scores['protocol']}, pooled per video, {over}; "
        f"checkpoint selection {scores['selection']}.{reasons}"
    )


def _cells(scores: Mapping[str, Any], group: str, number: Any) -> list[str]:
    mean, deviation = scores["mean"][group], scores["sd"][group]
    return [number(mean[key], deviation[key], scale, digits) for key, _, scale, digits in _SHOWN]


def _plain_number(mean: float, deviation: float | None, scale: float, digits: int) -> str:
    spread = "" if deviation is None else f" ± {deviation * scale:.{digits}f}"
    return f"{mean * scale:.{digits}f}{spread}"


def _latex_number(mean: float, deviation: float | None, scale: float, digits: int) -> str:
    spread = "" if deviation is None else rf" \pm {deviation * scale:.{digits}f}"
    return f"${mean * scale:.{digits}f}{spread}$"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
