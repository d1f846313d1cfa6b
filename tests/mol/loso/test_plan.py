"""folds.json: the plan of a run, and how its folds were run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loso_runs import write_loso_run

from mol.common.errors import DataError
from mol.loso.plan import FoldRecord, read_plan, read_records, record_fold


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_loso_run(tmp_path / "run")


def test_a_record_stands_beside_the_plan_and_the_last_counts(run: Path) -> None:
    plan = read_plan(run)
    assert read_records(run) == {}  # as in the folders of earlier versions
    first, second = plan.folds[:2]
    record_fold(run, first, FoldRecord("a", 1.5, 2, "the disk is full"))
    record_fold(run, second, FoldRecord("b", 2.5))
    record_fold(run, first, FoldRecord("b", 3.5, 1))
    assert read_plan(run) == plan
    assert read_records(run) == {first.folder: FoldRecord("b", 3.5, 1), second.folder: FoldRecord("b", 2.5)}


def test_a_damaged_record_is_named(run: Path) -> None:
    fold = read_plan(run).folds[0]
    record_fold(run, fold, FoldRecord("a", 1.5))
    content = json.loads((run / "folds.json").read_text())
    content["records"][fold.folder]["retries"] = "many"
    (run / "folds.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"folds\.json, records.*retries.*copy the whole run folder again"):
        read_records(run)
