"""Runs side by side: classes, people, and McNemar's test of every two, against numbers counted by hand."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from loso_runs import CLASSES, write_loso_run

from mol.loso.results import Video
from mol.loso.saved_run import LosoRun, read_run
from mol.networks.flow_cnn import NETWORK
from mol.report.compare import compare_runs, paired_test
from mol.report.report import ReportConfig, report
from mol.report.side_by_side import class_scores, people_side_by_side


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LosoRun:
    return read_run(write_loso_run(tmp_path_factory.mktemp("side") / "run", sets={"one": ("a", "b")}))


def answering(run: LosoRun, answers: Sequence[tuple[str, int, int]]) -> LosoRun:
    """The run with these videos: person, label and prediction of each."""
    results = [
        dataclasses.replace(
            result,
            videos=[
                Video(0, "one", person, f"v{i}", label, said, np.eye(len(CLASSES))[said])
                for i, (person, label, said) in enumerate(answers)
                if person == result.fold.subject
            ],
        )
        for result in run.results
    ]
    return dataclasses.replace(run, results=results)


def test_mcnemar_against_numbers_computed_by_hand(run: LosoRun) -> None:
    """8 videos right in the first run alone, 1 in the other alone: p = 2 (C(9,0) + C(9,1)) / 2⁹ = 20 / 512."""
    first = answering(run, [("a", 0, 0)] * 8 + [("b", 1, 0)] + [("b", 2, 2)] * 3 + [("a", 1, 2)] * 2)
    other = answering(run, [("a", 0, 1)] * 8 + [("b", 1, 1)] + [("b", 2, 2)] * 3 + [("a", 1, 0)] * 2)
    test = paired_test(first, other)
    assert (test.videos, test.both_right, test.both_wrong, test.only_first, test.only_other) == (14, 3, 2, 8, 1)
    assert test.p_value == pytest.approx(20 / 512)
    # 5 against 5 is as even as can be; 0 against 5 gives 2 / 2⁵.
    even = paired_test(
        answering(run, [("a", 0, 0)] * 5 + [("a", 0, 1)] * 5), answering(run, [("a", 0, 1)] * 5 + [("a", 0, 0)] * 5)
    )
    assert even.p_value == pytest.approx(1.0)
    worse = paired_test(answering(run, [("a", 0, 1)] * 5), answering(run, [("a", 0, 0)] * 5))
    assert worse.p_value == pytest.approx(2 / 32)


def test_every_two_runs_are_tested(tmp_path: Path) -> None:
    runs = [read_run(write_loso_run(tmp_path / f"run{i}", number=i, skill=0.3 + 0.2 * i)) for i in range(3)]
    comparison = compare_runs(runs)
    assert [(pair.first, pair.other) for pair in comparison.tests] == [(0, 1), (0, 2), (1, 2)]
    assert comparison.tests[2].test == paired_test(runs[1], runs[2])


def test_recall_and_f1_of_each_class(run: LosoRun) -> None:
    """Class 0: 3 of 4 right, 1 other called so: recall 3/4, precision 3/4. Class 1 has 1 of 2; class 2 no video."""
    answers = [("a", 0, 0)] * 3 + [("b", 0, 1)] + [("b", 1, 0), ("b", 1, 1)]
    found = class_scores(answering(run, answers), "one")
    assert [scores.videos for scores in found] == [4, 2, 0]
    assert [scores.recall.mean for scores in found[:2]] == [0.75, 0.5]
    assert [scores.f1.mean for scores in found[:2]] == [pytest.approx(0.75), pytest.approx(0.5)]


def test_people_whom_a_run_has_not_tested_have_a_gap(run: LosoRun) -> None:
    first = answering(run, [("a", 0, 0), ("a", 0, 1), ("b", 1, 1)])
    other = answering(run, [("a", 0, 0), ("a", 0, 0)])
    people = people_side_by_side([first, other])["one"]
    assert [(person.subject, person.videos, person.right) for person in people] == [
        ("a", 2, (1.0, 2.0)),
        ("b", 1, (1.0, None)),
    ]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_networks_that_estimate_different_things_are_compared(tmp_path: Path) -> None:
    """MOL beside a baseline, whose folds have no errors of flow and landmarks."""
    mol = write_loso_run(tmp_path / "mol")
    baseline = write_loso_run(tmp_path / "flow", number=1, settings={"network": "flow-cnn"})
    for path in baseline.glob("folds/*/*/fold.json"):
        kept = [line for line in path.read_text().splitlines() if not any(f'"{n}' in line for n in ERRORS)]
        path.write_text("\n".join(kept))
    page = report(ReportConfig([str(mol), str(baseline)], out=str(tmp_path / "out"))).read_text()
    for part in ("MOL: 7 of 7 folds", f"{NETWORK.title}: 7 of 7 folds", "F1 and recall of each class", "Paired test"):
        assert part in page
    assert "nan" not in page
    compared = {(row["run"], row["set"]): row for row in rows_of(tmp_path / "out" / "comparison.csv")}
    assert compared["mol", "composite"]["epe_px"]
    assert compared["flow", "composite"]["epe_px"] == compared["flow", "composite"]["epe_px_difference"] == ""
    classes = rows_of(tmp_path / "out" / "classes.csv")
    assert {row["run"] for row in classes} == {"mol", "flow"}
    people = rows_of(tmp_path / "out" / "people.csv")
    assert len(people) == 7
    assert sum(float(row["mol"]) for row in people) == sum(video.right for video in read_run(mol).videos)
    assert [(row["first"], row["other"]) for row in rows_of(tmp_path / "out" / "paired.csv")] == [("mol", "flow")]


ERRORS = ("epe_px", "zero_flow_epe_px", "nme", "mean_shape_nme", "failure_rate")
