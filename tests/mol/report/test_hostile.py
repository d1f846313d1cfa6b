"""Reports of run folders from strangers: nothing is written elsewhere, and no text is taken for a command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from hostile import NAMES
from loso_runs import write_loso_run

from mol.cli import main
from mol.common.errors import DataError
from mol.loso.saved_run import read_run
from mol.report.report import ReportConfig, report

pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")

# Every name is a data set, a person or a class; videos are called after persons.
THIRD = len(NAMES) // 3
SETS = {name: NAMES[THIRD + 2 * place : THIRD + 2 * place + 2] for place, name in enumerate(NAMES[:THIRD])}
CLASSES = ("x/../../../evil", r"$\foo$", "[/x]", "=1+1", "</script><img src=x>")


def files_outside(folder: Path, root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and folder not in path.parents]


def formulas(table: Path) -> list[str]:
    """Cells that a spreadsheet would run; numbers are none."""

    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return False
        return True

    with open(table, encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    return [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number(cell)]


def test_a_report_stays_in_its_folder_and_shows_names_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_loso_run(tmp_path / "deep" / "er" / "run", sets=SETS, classes=CLASSES, protocol=NAMES[7], videos=2)
    assert main(["report", str(run), "--pictures", "false"]) == 0
    assert files_outside(run, tmp_path) == []
    assert not Path("/tmp/victim").exists()
    folder = run / "report"
    assert len(list(folder.glob("confusion-*.csv"))) == len(SETS) + 1
    assert len(list((folder / "pictures").glob("confusion-*.png"))) == len(SETS) + 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    for table in run.rglob("*.csv"):
        assert formulas(table) == []
    assert "\x1b" not in capsys.readouterr().out


def test_a_comparison_stays_in_its_folder(tmp_path: Path):
    runs = [
        write_loso_run(tmp_path / "runs" / f"run-{number}", sets=SETS, classes=CLASSES, videos=2, number=number)
        for number in range(2)
    ]
    out = tmp_path / "out" / "er"
    report(ReportConfig([str(run) for run in runs], out=str(out)))
    assert {path for path in files_outside(out, tmp_path) if "runs" not in path.parts} == set()
    for table in out.rglob("*.csv"):
        assert formulas(table) == []


@pytest.mark.parametrize("folder", ["../../victim", "/tmp/victim", "folds/../../../victim", ""])
def test_a_fold_is_in_the_folder_of_its_run(tmp_path: Path, folder: str):
    run = write_loso_run(tmp_path / "run")
    plan = json.loads((run / "folds.json").read_text())
    plan["folds"][0]["folder"] = folder
    (run / "folds.json").write_text(json.dumps(plan))
    with pytest.raises(
        DataError, match=r"folds\.json: folds\[0\]\.folder.*(not a path inside the folder|must be text)"
    ):
        read_run(run)


def test_a_loss_of_any_name_has_a_curve_in_the_folder(tmp_path: Path):
    run = write_loso_run(tmp_path / "deep" / "run", done=1)
    (log,) = run.glob("folds/*/*/log.csv")
    names = ["step", "split", "loss", "loss_../../../evil", 'loss_"><script>', "loss_$\\foo$"]
    log.write_text(
        ",".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names) + "\n1,train,1,1,1,1\n2,train,1,1,1,1\n"
    )
    page = report(ReportConfig([str(run)], pictures=False)).read_text(encoding="utf-8")
    assert len(list((run / "report" / "pictures").glob("curve-*.svg"))) == 4
    assert files_outside(run, tmp_path) == []
    assert "<script>" not in page
    shutil.rmtree(run)
