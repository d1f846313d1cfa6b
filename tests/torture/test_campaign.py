"""The command: its units and their numbers, the table, one small campaign from end to end, and a repetition."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from torture.campaign import main, table
from torture.unit import PARTS
from torture.units import all_units


def test_a_whole_campaign_tries_as_much_as_the_documentation_says():
    units = all_units().values()
    assert {unit.part for unit in units} == set(PARTS)
    assert sum(unit.target for unit in units if unit.part == "readers") >= 10_000
    assert sum(unit.target for unit in units if unit.part == "kills") >= 100
    assert sum(unit.seconds for unit in units) <= 30 * 60 * 2 * 1.3  # two cores; some need less than is set aside


def test_units_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["--list", "--only", "kills", "readers/cache"]) == 0
    listed = capsys.readouterr().out
    assert "kills/train " in listed
    assert "readers/cache " in listed
    assert "readers/video" not in listed
    with pytest.raises(SystemExit, match="no part or unit readers/nothing"):
        main(["--list", "--only", "readers/nothing"])


def test_the_table_has_counts_sums_and_reproducers():
    said = "raised KeyError in mol/data/cache/format.py:read_rows: 'label'"
    fault = {"outcome": said, "count": 3, "reproducer": "f.gz"}
    same = {"target": 20, "done": 10, "seconds": 2.0, "processor": 1.0, "notes": []}
    reports = [
        {"unit": "readers/cache", "kinds": {"result": 1, "refused": 6, "raised": 3}, "faults": [fault], **same},
        {"unit": "readers/table", "kinds": {"result": 10}, "faults": [], **same},
    ]
    lines = table(reports).splitlines()
    assert lines[1].split() == ["readers/cache", "10", "20", "1", "6", "3", "1", "2", "1"]
    assert lines[3].split() == ["readers,", "all", "20", "40", "11", "6", "3", "1", "4", "2"]
    assert lines[4:] == [f"readers/cache: 3 × {said}", "    f.gz"]


def test_a_small_campaign_leaves_counts(tmp_path: Path):
    out = tmp_path / "out"
    arguments = [
        "--only",
        "operators/knn",
        "--minutes",
        "0.5",
        "--seed",
        "1",
        "--out",
        str(out),
        "--work",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "torture", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    counts = json.loads((out / "counts.json").read_text())
    assert counts["seed"] == 1
    assert [(unit["unit"], unit["done"], unit.get("error")) for unit in counts["units"]] == [("operators/knn", 9, None)]
    assert "operators/knn" in done.stdout
