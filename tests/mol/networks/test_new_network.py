"""A new network is one file in ``mol/networks``: added to a copy of the package, every command knows it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT
from tiny_cache import write_tiny_cache

ADDED = ROOT / "tests/helpers/lab_network.py"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a copy of `mol` to which one file was added, and a cache."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "mol", folder / "mol", ignore=shutil.ignore_patterns("__pycache__"))
    before = {path.relative_to(folder) for path in folder.rglob("*.py")}
    shutil.copy(ADDED, folder / "mol/networks/lab.py")
    write_tiny_cache(folder / "clips", people=3)
    yield folder
    after = {path.relative_to(folder) for path in folder.rglob("*.py")}
    assert after - before == {Path("mol/networks/lab.py")}


def mol(package: Path, *arguments: str) -> str:
    """Run a command of the copy; its output."""
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mol", *arguments]
    run = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_it_trains_with_its_own_defaults_and_is_evaluated(package: Path) -> None:
    out = mol(package, "train", "--cache", "clips", "--network", "lab", "--run", "run", "--device", "cpu")
    assert "7 steps of 3 clips" in out
    state = json.loads((package / "run/checkpoints/last/state.json").read_text())
    assert (state["network"], state["step"]) == ("lab", 7)
    with open(package / "run/log.csv", newline="") as file:
        columns = next(csv.reader(file))
    assert columns[:5] == ["step", "split", "loss", "loss_emotion", "gradient_norm"]
    assert not {"epe", "nme", "loss_flow"} & set(columns)
    table = mol(package, "evaluate", "--weights", "run", "--pictures", "false", "--device", "cpu")
    assert "Lab" in table
    assert "UF1" in table
    assert "EPE" not in table
    assert "NME" not in table


@pytest.mark.slow
def test_it_runs_leave_one_subject_out_and_is_reported(package: Path) -> None:
    settings = ["--protocol", "as-labelled", "--network", "lab", "--steps", "2", "--device", "cpu", "--run", "folds"]
    assert "UF1" in mol(package, "loso", "clips", *settings)
    assert "Lab" in (package / mol(package, "report", "folds").split("report: ")[1].strip()).read_text()


def test_it_is_listed_in_the_help(package: Path) -> None:
    assert "\n  lab: A linear layer on the last frame.\n    7 steps of 3 clips" in mol(package, "train", "--help")
