"""The measurement of spotting: means over networks, and people who are not on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from films import write_film

from bench.spotting import measure, table
from mol.data.prepare import PrepareConfig, prepare
from mol.scoring.expression import Expression
from mol.scoring.spotting import score_video


def test_the_table_has_means_and_deviations_over_the_networks() -> None:
    truth = [Expression(0, 4, 9), Expression(20, 24, 29)]
    networks = [score_video(truth, truth).describe(), score_video(truth, truth[:1]).describe()]
    lines = table({"network": networks, "nothing": [score_video(truth, []).describe()] * 2}).splitlines()
    # Recall 1 and ½, F1 1 and ⅔.
    assert lines[2] == "| network | micro | 2 | 1.000 | 0.750 ± 0.354 | 0.833 ± 0.236 | 0.000 | 0.000 |"
    assert lines[5].startswith("| nothing | micro | 2 | 0.000 | 0.000 | 0.000 |")


def test_people_who_are_chosen_on_and_scored_are_refused(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mkv", np.zeros((20, 16, 16), np.uint8), codec="ffv1", pixels="gray")
    head = "subject,video,path,kind,onset,apex,offset,emotion"
    (tmp_path / "expressions.csv").write_text(f"{head}\nanna,a,a.mkv,micro,2,4,6,fear\n")
    prepare(PrepareConfig("long", str(tmp_path), str(tmp_path / "manifest")))
    with pytest.raises(SystemExit, match="long/anna are in both sets"):
        measure(["run"], tmp_path / "manifest", tmp_path / "manifest", tmp_path / "out", None)
