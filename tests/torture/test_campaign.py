"""The command: its units and their numbers, the table, one small campaign from end to end, and a repetition."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from torture import campaign
from torture.campaign import _in_process, _Running, _Time, main, table
from torture.unit import PARTS, REPORT
from torture.units import all_units


def test_a_whole_campaign_tries_as_much_as_the_documentation_says():
    units = all_units().values()
    assert {unit.part for unit in units} == set(PARTS)
    assert sum(unit.target for unit in units if unit.part == "readers") >= 10_000
    assert sum(unit.target for unit in units if unit.part == "kills") >= 100
    assert sum(unit.seconds for unit in units) <= 30 * 60 * 2 * 1.3  # two cores; some need less than is set aside


def test_a_unit_that_takes_too_long_leaves_every_other_its_share(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(campaign.time, "monotonic", lambda: clock[0])
    units = list(all_units().values())
    whole = sum(unit.seconds for unit in units)
    shared = _Time(units, 2, 1700.0)
    for number, unit in enumerate(units):
        share = shared.share(unit)
        assert share > 0.45 * (1700 if number == 0 else 1700 - 600) * 2 * unit.seconds / whole
        clock[0] += 600 if number == 0 else share / 2  # two at a time, the first of which takes far too long
        shared.ended(unit)
    assert clock[0] <= 1700


def test_a_unit_that_hangs_is_killed_with_its_children_and_keeps_its_counts(tmp_path: Path):
    words = "import subprocess, sys, time; print('lost', file=sys.stderr, flush=True); subprocess.run(['sleep', '77'])"
    started = time.monotonic()
    assert _Running().run([sys.executable, "-c", words], 1.0) == (None, "lost\n")
    assert time.monotonic() - started < 30  # what the child held open has ended, too

    class Hanging(_Running):
        def run(self, command, seconds, **options):
            report = {"done": 7, "kinds": {"result": 7}, "seconds": 1.0, "processor": 1.0, "notes": [], "faults": []}
            (options["cwd"] / REPORT).write_text(json.dumps(report))
            return None, ""

    unit = all_units()["readers/sheets"]
    order = {"title": unit.title, "work": str(tmp_path / "work"), "target": 20, "budget": 5.0}
    report = _in_process(unit, order, Hanging())
    assert (report["unit"], report["done"], report["target"]) == ("readers/sheets", 7, 20)
    assert "hung in an edit or an example: killed after 65 s" in report["error"]
    assert "BROKEN" in table([report])


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
