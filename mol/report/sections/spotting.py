"""Spotting: what was found in the long videos of the people held out, beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mol.common.storage import write_csv
from mol.loso.spot_scores import pool_spotting
from mol.pictures.markup import Markup, element, table
from mol.report.context import Report
from mol.report.html import Section, section
from mol.scoring.expression import MACRO, MICRO
from mol.scoring.spotting import OVERALL

_KINDS = {MICRO: "micro-expressions", MACRO: "macro-expressions", OVERALL: "both"}
_TITLES = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "uf1": "UF1 of the hits",
    "uar": "UAR of the hits",
    "strs": "STRS",
}
_NOTE = (
    "An interval counts if it overlaps an annotated one by half of what both cover together; counts are pooled over "
    "all videos. The emotion is scored on the intervals that were found (UF1, UAR); STRS is F1 times UF1. Parameters "
    "were chosen on other people."
)


def spotting(report: Report) -> Section | None:
    """Scores of spotting; writes spotting.csv. None if the run is not one of the task spot."""
    run = report.run
    scores = pool_spotting(run.path, run.plan, [result.fold for result in run.results])
    if scores is None:
        return None
    kinds = [*scores["kinds"], *([OVERALL] if len(scores["kinds"]) > 1 else [])]
    rows = [(way, kind, values[kind]) for way, values in scores["mean"].items() for kind in kinds]
    heads = [text for name in _TITLES for text in (name, f"{name}_sd")]
    write_csv(report.folder / "spotting.csv", ["by", "kind", *heads], [[*row[:2], *_texts(row[2])] for row in rows])
    deviation = " ± is the standard deviation over seeds." if len(scores["seeds"]) > 1 else ""
    caption = f"Spotting in {scores['videos']} long videos"
    cells = [[way, _KINDS[kind], *(_cell(values[name]) for name in _TITLES)] for way, kind, values in rows]
    problems = [f"{name}: {problem}" for name, problem in scores["problems"].items()]
    problems += [f"{name} has no long video" for name in scores["without_videos"]]
    return section(
        "Spotting",
        _NOTE + deviation,
        table(["Spotted by", "Expressions", *_TITLES.values()], cells, caption),
        element("ul", [element("li", problem) for problem in problems], class_="small") if problems else None,
    )


def _cell(spread: Mapping[str, Any]) -> Markup:
    text = f"{spread['mean']:.3f}"
    return Markup(text if spread["sd"] is None else text + element("small", f" ± {spread['sd']:.3f}"))


def _texts(values: Mapping[str, Any]) -> list[str]:
    return [
        text
        for name in _TITLES
        for text in (
            f"{values[name]['mean']:.6f}",
            "" if values[name]["sd"] is None else f"{values[name]['sd']:.6f}",
        )
    ]
