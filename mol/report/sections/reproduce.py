"""Reproduce: the commands that make the run and its report again."""

from __future__ import annotations

import shlex

from mol.pictures.markup import element
from mol.report.context import Report
from mol.report.html import Section, section


def reproduce(report: Report) -> Section:
    """The commands to type."""
    run = report.run
    config = shlex.quote(str(run.path / "loso.yaml"))
    lines = [f"mol loso --config {config} --run {shlex.quote(str(run.path) + '-again')}", report.command]
    made = run.environment.get("command")
    return section(
        "Reproduce",
        "The same seeds give the same table on the CPU; on a GPU the last digits may differ.",
        element("pre", "\n".join(lines)),
        element("p", "The run was started with ", element("code", made), class_="small muted") if made else None,
    )
