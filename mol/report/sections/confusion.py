"""Confusion: which class was taken for which, per set, as tables and pictures."""

from __future__ import annotations

import numpy as np

from mol.common.names import path_parts
from mol.loso.saved_run import LosoRun
from mol.loso.scores import COMPOSITE, write_confusion
from mol.pictures.evaluation import confusion_picture
from mol.pictures.markup import Markup, element
from mol.report.context import Report
from mol.report.html import Section, section
from mol.report.numbers import group_name, readable


def confusion(report: Report) -> Section | None:
    """A confusion matrix per group; writes confusion-GROUP.csv and pictures/confusion-GROUP.png."""
    run = report.run
    if not run.results:
        return None
    parts = []
    for group, part in zip(run.groups, path_parts(run.groups), strict=True):
        counts = run.confusion(group)
        write_confusion(report.folder / f"confusion-{part}.csv", run.plan.classes, counts.tolist())
        _draw(report, group, part, counts)
        parts.append(_confusion_table(run, group, counts))
    seeds = f" summed over {len(run.seeds)} seeds" if len(run.seeds) > 1 else ""
    return section(
        "Confusion",
        f"Rows are the true class, columns the predicted one; numbers of videos{seeds}, and shares of the true class.",
        element("div", parts, class_="confusions", style=f"--classes: {len(run.plan.classes)}"),
    )


def _draw(report: Report, group: str, part: str, counts: np.ndarray) -> None:
    run, protocol = report.run, report.run.plan.protocol
    videos = len({video.key for video in run.of(group)})
    seeds = f", {len(run.seeds)} seeds summed" if len(run.seeds) > 1 else ""
    uf1, uar = run.score(group, "uf1").mean, run.score(group, "uar").mean
    confusion_picture(
        report.pictures / f"confusion-{part}.png",
        counts,
        run.plan.classes,
        protocol if group == COMPOSITE else f"{protocol}: {group}",
        f"{videos} videos{seeds}; UF1 {uf1:.3f}, UAR {uar:.3f}",
    )


def _confusion_table(run: LosoRun, group: str, counts: np.ndarray) -> Markup:
    names = [readable(name) for name in run.plan.classes]
    head = element(
        "tr",
        element("th", "true ↓ predicted →", class_="corner", scope="col"),
        [element("th", name, scope="col") for name in names],
    )
    body = []
    for row, name in enumerate(names):
        total = int(counts[row].sum())
        cells = [_confusion_cell(int(count), total, row == column) for column, count in enumerate(counts[row])]
        body.append(
            element("tr", element("th", name, element("br"), element("small", f"n = {total}"), scope="row"), cells)
        )
    caption = group_name(group)
    content = element(
        "table", element("caption", caption), element("thead", head), element("tbody", body), class_="confusion"
    )
    return element("div", content, class_="scroll", role="region", aria_label=f"Confusion: {caption}", tabindex="0")


def _confusion_cell(count: int, total: int, right: bool) -> Markup:
    share = count / total if total else 0.0
    return element(
        "td",
        element("b", count),
        element("small", f"{share:.0%}" if total else "–"),
        class_="right" if right else None,
        style=f"--share: {share:.3f}",
    )
