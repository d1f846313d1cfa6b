"""Training: the losses of all folds over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mol.common.errors import DataError
from mol.common.names import path_parts
from mol.loso.results import is_done
from mol.loso.saved_run import LosoRun
from mol.pictures.markup import element
from mol.report.charts import curve_picture, inline_svg
from mol.report.context import Report
from mol.report.html import Section, section
from mol.report.numbers import readable
from mol.training.runlog import read_log

# Titles and units; the losses of other networks go by their names.
_CURVES = {
    "loss": ("Loss, weighted sum", ""),
    "loss_emotion": ("Emotion: cross entropy", ""),
    "loss_flow": ("Flow: mean squared error", "px²"),
    "loss_landmarks": ("Landmarks: error", "inter-ocular distances"),
}


def training(report: Report) -> Section:
    """A panel per loss, with the curves of the folds that have begun; writes pictures/curve-LOSS.png and .svg."""
    logs, missing = _logs(report.run)
    figures = []
    losses = _losses(logs)
    for column, part in zip(losses, path_parts(losses), strict=True):
        title, unit = _CURVES.get(column, (readable(column).capitalize(), ""))
        curves = [log[column] for log in logs if column in log]
        name = part.replace("_", "-")
        paths = [report.pictures / f"curve-{name}{suffix}" for suffix in (".png", ".svg")]
        curve_picture(paths, curves, title, unit)
        last = sum(curve[-1][1] for curve in curves) / len(curves)
        label = f"{title} over the steps of {len(curves)} folds; it ends at {last:.3g} on average"
        figures.append(element("figure", inline_svg(paths[1], label, f"{name}-")))
    lack = f"{len(missing)} folds have no curve: {missing[0]}" if missing else ""
    if not figures and not lack:
        lack = "No fold has logged a step yet."
    return section(
        "Training",
        "Losses over the steps, logarithmic if they span decades. Thin: one fold each. Thick: their mean.",
        element("div", figures, class_="panels") if figures else None,
        element("p", lack, class_="small muted") if lack else None,
    )


def _losses(logs: Sequence[Mapping[str, object]]) -> list[str]:
    """The columns of losses: the total, then its terms, which are left out if there is only one."""
    terms = list(dict.fromkeys(name for log in logs for name in log if name.startswith("loss_")))
    total = ["loss"] if any("loss" in log for log in logs) else []
    return [*total, *terms] if len(terms) > 1 else total


def _logs(run: LosoRun) -> tuple[list[dict[str, list[tuple[int, float]]]], list[str]]:
    """The logs of the folds that have begun, and why those of finished folds are missing."""
    logs, missing = [], []
    for fold in run.plan.folds:
        try:
            logs.append(read_log(run.folder(fold) / "log.csv"))
        except DataError as error:
            if is_done(run.path, fold):
                missing.append(str(error))
    return logs, missing
