"""``mol report``: a self-contained page, tables and pictures of one or several leave-one-subject-out runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mol.common.devices import start_fabric
from mol.common.errors import DataError, SettingsError
from mol.common.storage import write_text
from mol.common.terminal import say
from mol.loso.folds import COMPOSITE
from mol.loso.results import LosoRun, read_run
from mol.pictures.evaluation import confusion_picture, failure_picture
from mol.report.charts import comparison_picture, curve_picture, inline_svg, people_picture
from mol.report.compare import compare_runs, write_comparison_tables
from mol.report.compare_page import comparison_page
from mol.report.failures import Failure, confident_failures, read_again
from mol.report.html import Markup
from mol.report.page import PageParts, readable, run_page
from mol.report.tables import write_run_tables
from mol.training.runlog import read_log

CURVES = {
    "loss": ("Loss, weighted sum", ""),
    "loss_emotion": ("Emotion: cross entropy", ""),
    "loss_flow": ("Flow: mean squared error", "px²"),
    "loss_landmarks": ("Landmarks: error", "inter-ocular distances"),
}


@dataclass
class ReportConfig:
    """A report on one run, or a comparison of several.

    Attributes:
        runs: run folders of `mol loso`; the first of several is what the others are compared with.
        out: folder of the report; <run>/report when empty, reports/comparison for several runs.
        failures: wrong videos to show, the most confident first.
        pictures: read the failures again from checkpoint and cache, to show what the network saw; needs both.
        device: for that, "auto", "cpu", "cuda" or "cuda:N".
    """

    runs: list[str]
    out: str | None = None
    failures: int = 6
    pictures: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingsError("no run is given; name at least one run folder of mol loso")
        if self.failures < 0:
            raise SettingsError(f"failures={self.failures} must not be negative")


def run_report(config: ReportConfig) -> None:
    """Write the report and say where it is."""
    say(f"report: {report(config)}")


def report(config: ReportConfig) -> Path:
    """Write report.html with tables and pictures beside it.

    Args:
        config: of what, and where.
    Returns:
        The page. It holds everything that it shows and loads nothing.
    Raises:
        DataError: a folder that is no run of `mol loso`, a damaged file, or runs that can't be compared.
        SettingsError: an unknown device, or a run given twice.
        MissingExtraError: matplotlib is not installed.
        StorageError: a file could not be written.
    """
    runs = [read_run(path) for path in config.runs]
    if len(runs) > 1:
        return _report_comparison(config, runs)
    out = Path(config.out) if config.out else runs[0].path / "report"
    return _report_run(config, runs[0], out)


def _report_run(config: ReportConfig, run: LosoRun, out: Path) -> Path:
    curves, note = _draw_curves(run, out / "pictures")
    failures = _failures(config, run)
    if run.videos:
        write_run_tables(out, run)
        _draw_scores(run, out / "pictures")
        _draw_failures(run, failures, out / "pictures")
    wrong = sum(not video.right for video in run.videos)
    text = run_page(run, PageParts(curves, note, failures, wrong, _command(config)))
    write_text(out / "report.html", text)
    return out / "report.html"


def _report_comparison(config: ReportConfig, runs: Sequence[LosoRun]) -> Path:
    out = Path(config.out) if config.out else Path("reports/comparison")
    comparison = compare_runs(runs)
    write_comparison_tables(out, comparison)
    scores = {group: [run.score(group, "uf1") for run in runs] for group in comparison.groups}
    shown = {group: [(one.mean, one.deviation) for one in found] for group, found in scores.items()}
    comparison_picture(out / "pictures" / "comparison.png", comparison.names, shown)
    write_text(out / "report.html", comparison_page(comparison, _command(config)))
    return out / "report.html"


def _command(config: ReportConfig) -> str:
    out = ["--out", config.out] if config.out else []
    return shlex.join(["mol", "report", *config.runs, *out])


def _draw_curves(run: LosoRun, folder: Path) -> tuple[list[Markup], str]:
    """Training curves of the folds that have begun, and what is missing from them."""
    logs, missing = [], []
    for fold in run.folds:
        try:
            logs.append(read_log(fold.folder / "log.csv"))
        except DataError as error:
            if fold.result is not None:
                missing.append(str(error))
    drawn = []
    for column, (title, unit) in CURVES.items():
        curves = [log[column] for log in logs if column in log]
        if curves:
            name = column.replace("_", "-")
            paths = [folder / f"curve-{name}.png", folder / f"curve-{name}.svg"]
            curve_picture(paths, curves, title, unit)
            last = sum(curve[-1][1] for curve in curves) / len(curves)
            label = f"{title} over the steps of {len(curves)} folds; it ends at {last:.3g} on average"
            drawn.append(inline_svg(paths[1], label, f"{name}-"))
    note = f"{len(missing)} folds have no curve: {missing[0]}" if missing else ""
    return drawn, note or ("" if drawn else "No fold has logged a step yet.")


def _draw_scores(run: LosoRun, folder: Path) -> None:
    for group in run.groups:
        videos = len({video.key for video in run.of(group)})
        seeds = f", {len(run.seeds)} seeds summed" if len(run.seeds) > 1 else ""
        uf1, uar = run.score(group, "uf1").mean, run.score(group, "uar").mean
        subtitle = f"{videos} videos{seeds}; UF1 {uf1:.3f}, UAR {uar:.3f}"
        title = run.protocol if group == COMPOSITE else f"{run.protocol}: {group}"
        confusion_picture(folder / f"confusion-{group}.png", run.confusion(group), run.classes, title, subtitle)
    people_picture(folder / "people.png", run.right_by_person(), f"{run.protocol}: right videos of each person")


def _failures(config: ReportConfig, run: LosoRun) -> list[Failure]:
    chosen = confident_failures(run.videos, config.failures)
    if not (config.pictures and chosen):
        return chosen
    return read_again(run, chosen, start_fabric(config.device, "32").device)


def _draw_failures(run: LosoRun, failures: Sequence[Failure], folder: Path) -> None:
    # Those of an earlier report would pass for this one's.
    for stale in folder.glob("failure-*.png"):
        stale.unlink()
    for place, failure in enumerate(failures, 1):
        if failure.seen is None:
            continue
        video = failure.video
        said, truth = readable(run.classes[video.prediction]), readable(run.classes[video.label])
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", video.name)
        of_said, of_truth = (float(video.probabilities[index]) for index in (video.prediction, video.label))
        subtitle = f"{video.name}; {said} {of_said:.2f}, {truth} {of_truth:.2f}"
        failure_picture(folder / f"failure-{place}-{name}.png", failure.seen, f"{truth}, read as {said}", subtitle)
