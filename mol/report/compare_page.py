"""The page that compares several leave-one-subject-out runs."""

from __future__ import annotations

import json
from typing import Any

from mol.loso.measures import ERRORS, MEASURES, PRINTED
from mol.loso.saved_run import LosoRun
from mol.networks.registry import title_of
from mol.pictures.markup import Markup, banner, element, facts, table
from mol.report.compare import Comparison, PairedTest, difference
from mol.report.html import Section, page, section
from mol.report.numbers import cell, column_head, group_name, readable
from mol.report.side_by_side import ClassScores, class_scores, people_side_by_side


def comparison_page(comparison: Comparison, command: str) -> str:
    """The whole HTML document of a comparison."""
    sections = [
        _scores_section(comparison),
        _classes_section(comparison),
        _paired_section(comparison),
        _people_section(comparison),
        _settings_section(comparison),
        section("Reproduce", None, element("pre", command)),
    ]
    footer = (
        "comparison.csv, classes.csv, people.csv, settings.csv, paired.csv and comparison.tex beside this page hold "
        "the same numbers."
    )
    return page(
        f"{comparison.runs[0].plan.protocol}: {len(comparison.runs)} runs", _header(comparison), sections, footer
    )


def _header(comparison: Comparison) -> Markup:
    first = comparison.runs[0]
    reasons = [
        f"{name}: {'; '.join(run.reasons)}"
        for name, run in zip(comparison.names, comparison.runs, strict=True)
        if run.reasons
    ]
    lead = f"{len(comparison.runs)} leave-one-subject-out runs; differences are from {comparison.names[0]}."
    return element(
        "header",
        element("p", "MOL · comparison", class_="eyebrow"),
        element("h1", first.plan.protocol),
        element("p", lead, class_="lead"),
        banner("Not reportable", reasons) if reasons else None,
        facts([(name, _run_facts(run)) for name, run in zip(comparison.names, comparison.runs, strict=True)]),
    )


def _run_facts(run: LosoRun) -> str:
    seeds = ", ".join(map(str, run.seeds))
    return f"{title_of(run.network)}: {len(run.results)} of {len(run.plan.folds)} folds, seeds {seeds}"


def _scores_section(comparison: Comparison) -> Section:
    note = (
        "Pooled over folds, one vote per video. Below each number is its difference from the first run: "
        "▲ better, ▼ worse. ± is the standard deviation over seeds."
    )
    content: list[Markup] = []
    for group in comparison.groups:
        content.append(_score_table(comparison, group))
    bars = [_bars(comparison, group) for group in comparison.groups]
    return section("Scores", note, element("div", bars, class_="panels"), *content)


def _bars(comparison: Comparison, group: str) -> Markup:
    """UF1 of every run as a bar from 0 to 1, with a mark where the first run's ends."""
    found = [run.score(group, "uf1") for run in comparison.runs]
    rows = []
    for name, spread in zip(comparison.names, found, strict=True):
        inner = element("i", style=f"width: {100 * spread.mean:.1f}%")
        mark = element("u", style=f"left: {100 * found[0].mean:.1f}%")
        rows += [
            element("span", name, class_="name"),
            element("span", element("span", inner, class_="bar"), mark, class_="track", aria_hidden="true"),
            element("span", cell(spread, "uf1")),
        ]
    return element("div", element("span", f"UF1, {group_name(group)}", class_="head"), rows, class_="race")


def _score_table(comparison: Comparison, group: str) -> Markup:
    names = comparison.measured(PRINTED)
    rows = [
        [comparison.names[index], *(_compared(comparison, index, group, name) for name in names)]
        for index in range(len(comparison.runs))
    ]
    return table(
        ["Run", *map(column_head, names)],
        rows,
        f"{group_name(group)}: scores and differences from {comparison.names[0]}",
    )


def _compared(comparison: Comparison, index: int, group: str, name: str) -> Markup:
    """A score, and below it its difference from the first run's, with an arrow that says whether that is better."""
    found, more = comparison.runs[index].score(group, name), difference(comparison, index, group, name)
    shown = cell(found, name)
    if more is None:
        return shown
    signed = MEASURES[name].difference(more)
    if not any(digit in signed for digit in "123456789"):
        return Markup(shown + element("br") + element("small", "equal"))
    better = (more > 0) == (name not in ERRORS)
    text = f"{'▲' if better else '▼'} {signed}"
    return Markup(shown + element("br") + element("span", text, class_="small up" if better else "small down"))


def _settings_section(comparison: Comparison) -> Section:
    note = "Only the settings in which the runs are not all alike; everything else is the same."
    if not comparison.settings:
        return section("What differs", None, element("p", "No setting differs between these runs."))
    rows = [[element("code", name), *map(_value, values)] for name, values in comparison.settings.items()]
    return section("What differs", note, table(["Setting", *comparison.names], rows, "Settings that differ", "words"))


def _value(value: Any) -> Any:
    if value is None:
        return element("span", "–", class_="muted")
    return element("code", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _classes_section(comparison: Comparison) -> Section:
    note = (
        "F1 of each class, and below it the recall: the share of the class’s videos that are right. "
        "± is the standard deviation over seeds."
    )
    return section("Classes", note, *(_class_table(comparison, group) for group in comparison.groups))


def _class_table(comparison: Comparison, group: str) -> Markup:
    found = [class_scores(run, group) for run in comparison.runs]
    rows = [
        [readable(name), *(_class_cell(scores[index]) for scores in found)]
        for index, name in enumerate(comparison.runs[0].plan.classes)
    ]
    return table(["Class", *comparison.names], rows, f"{group_name(group)}: F1 and recall of each class")


def _class_cell(scores: ClassScores) -> Markup:
    if not scores.videos:
        return element("span", "–", class_="muted")
    recall = f"recall {MEASURES['uar'].number(scores.recall.mean)} of {scores.videos}"
    return Markup(cell(scores.f1, "uf1") + element("br") + element("small", recall))


def _people_section(comparison: Comparison) -> Section:
    several = any(len(run.seeds) > 1 for run in comparison.runs)
    note = "How many videos of each person are right in each run." + (" Means over seeds." if several else "")
    content = []
    for dataset, people in people_side_by_side(comparison.runs).items():
        rows = [[person.subject, person.videos, *map(_right, person.right)] for person in people]
        head = ["Person", "Videos", *comparison.names]
        content.append(table(head, rows, f"{dataset}: right videos of each person"))
    return section("People", note, *content)


def _right(right: float | None) -> str:
    if right is None:
        return "–"
    return f"{right:.0f}" if abs(right - round(right)) < 0.005 else f"{right:.1f}"


def _paired_section(comparison: Comparison) -> Section:
    note = (
        "McNemar’s exact test on the videos that both runs tested. Videos of one person are not independent, "
        "which makes p too small; with several comparisons, expect a small one by chance."
    )
    head = ["", "Against", "Videos", "Both right", "Only first", "Only second", "Both wrong", "p"]
    rows = [
        [
            comparison.names[first],
            comparison.names[other],
            test.videos,
            test.both_right,
            test.only_first,
            test.only_other,
            test.both_wrong,
            "–" if test.p_value is None else _p_value(test.p_value),
        ]
        for first, other, test in comparison.tests
    ]
    return section(
        "Paired test",
        note,
        table(head, rows, "Every two runs, video by video: the first against the second"),
        element("p", _votes([pair.test for pair in comparison.tests]), class_="small muted"),
    )


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _votes(tests: list[PairedTest]) -> str:
    if all(len(test.seeds) == 1 for test in tests):
        return f"Votes under seed {', '.join(sorted({str(test.seeds[0]) for test in tests}))}."
    if all(test.seeds for test in tests):
        return "A video’s vote is the mean probability over the seeds that both runs share."
    return "Runs without a seed in common vote with the mean over their own seeds."
