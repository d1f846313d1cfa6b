"""``mol report``: a self-contained page, tables and pictures of one or several leave-one-subject-out runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mol.common.checks import require_not_negative
from mol.common.errors import SettingsError
from mol.common.storage import write_text
from mol.common.terminal import say
from mol.loso.saved_run import LosoRun, read_run
from mol.report.charts import comparison_picture
from mol.report.compare import compare_runs, write_comparison_tables
from mol.report.compare_page import comparison_page
from mol.report.context import Report
from mol.report.page import run_page
from mol.report.side_by_side import write_side_by_side


@dataclass
class ReportConfig:
    """A report on one run, or a comparison of several.

    Attributes:
        runs: run folders of `mol loso`; if there are several, they are compared, differences being from the first.
        out: folder of the report; <run>/report when empty, reports/comparison for several runs.
        failures: number of misread videos to show, the most confident first.
        pictures: read the failures again from checkpoint and cache, to show what the network saw; needs both.
        device: for that: "auto", "cpu", "cuda" or "cuda:N".
    """

    runs: list[str]
    out: str | None = None
    failures: int = 6
    pictures: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingsError("no run is given; name at least one run folder of mol loso")
        require_not_negative(self, "failures")


def run_report(config: ReportConfig) -> None:
    """Write the report and print its path."""
    say(f"report: {report(config)}")


def report(config: ReportConfig) -> Path:
    """Write report.html, with tables and pictures beside it.

    Args:
        config: which runs, and where to write.
    Returns:
        Path of the page. It contains everything that it shows and loads nothing.
    Raises:
        DataError: a folder is not a run folder of `mol loso`, or a file in it is damaged.
        SettingsError: an unknown device, a run given twice, or runs that cannot be compared.
        MissingExtraError: matplotlib is not installed.
        StorageError: a file could not be written.
    """
    runs = [read_run(path) for path in config.runs]
    if len(runs) > 1:
        return _report_comparison(config, runs)
    return _report_run(config, runs[0])


def _report_run(config: ReportConfig, run: LosoRun) -> Path:
    folder = Path(config.out) if config.out else run.path / "report"
    page = run_page(Report(run, folder, _command(config), config.failures, config.pictures, config.device))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _report_comparison(config: ReportConfig, runs: Sequence[LosoRun]) -> Path:
    out = Path(config.out) if config.out else Path("reports/comparison")
    comparison = compare_runs(runs)
    write_comparison_tables(out, comparison)
    write_side_by_side(out, comparison)
    scores = {group: [run.score(group, "uf1") for run in runs] for group in comparison.groups}
    shown = {group: [(one.mean, one.deviation) for one in found] for group, found in scores.items()}
    comparison_picture(out / "pictures" / "comparison.png", comparison.names, shown)
    write_text(out / "report.html", comparison_page(comparison, _command(config)))
    return out / "report.html"


def _command(config: ReportConfig) -> str:
    out = ["--out", config.out] if config.out else []
    return shlex.join(["mol", "report", *config.runs, *out])
