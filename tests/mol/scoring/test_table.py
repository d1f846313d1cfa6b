"""Tables of an evaluation: which score is better, and what is shown where; the file that holds the scores."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mol.common.errors import DataError
from mol.scoring.evaluation import Evaluation, FlowScores, LandmarkScores, read_evaluation, write_evaluation
from mol.scoring.metrics import RecognitionScores
from mol.scoring.table import score_rows, short_table


def scores(**changes) -> Evaluation:
    ours, always = RecognitionScores(0.6, 0.6, 0.5, 0.6, 0.5), RecognitionScores(0.3, 0.3, 0.2, 0.1, 0.1)
    flow = FlowScores(0.1, 0.2, 4, 0.05, 0.12)
    landmarks = LandmarkScores(0.04, 0.0, 0.06, 0.1)
    return replace(
        Evaluation(
            "run",
            1,
            "last",
            "clip",
            "synthetic",
            "a note",
            ["s1"],
            5,
            6,
            ["a", "b"],
            flow,
            landmarks,
            ours,
            "a",
            always,
            [],
        ),
        **changes,
    )


def rendered(table, width: int = 80) -> str:
    console = Console(width=width, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_short_table_fits_80_columns_and_makes_the_better_score_bold():
    shown = rendered(short_table(scores()))
    assert "\033[1m0.100 px\033[0m" in shown
    assert "\033[1m0.050 px\033[0m" in shown
    assert re.search(r"\033\[1m *0\.600\033", shown)
    assert "a note" in shown
    rows = [line for line in shown.splitlines() if "│" in line]
    assert len(rows) == 5


def test_the_short_table_leaves_out_tvl1_where_it_was_not_run():
    assert "TV-L1" not in rendered(short_table(scores(flow=FlowScores(0.1, 0.2))))


@pytest.mark.parametrize(
    ("epe", "verdict"), [(0.1, "better"), (0.3, "worse"), (0.2, "equal"), (0.2001, "equal"), (0.2006, "worse")]
)
def test_what_looks_equal_is_called_equal(epe: float, verdict: str):
    assert score_rows(scores(flow=FlowScores(epe, 0.2)))[0].verdict() == verdict


def test_an_evaluation_comes_back_from_its_file(tmp_path: Path):
    write_evaluation(tmp_path / "evaluation.json", scores())
    assert read_evaluation(tmp_path / "evaluation.json") == scores()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"flow": {"speed": 1}}'])
def test_a_damaged_evaluation_is_named(tmp_path: Path, content: str):
    path = tmp_path / "evaluation.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="delete it and evaluate again") as caught:
        read_evaluation(path)
    assert str(path) in str(caught.value)
