"""Leave one subject out with a baseline: its tables have what the network estimates, and its notes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tiny_cache import write_tiny_cache

from mol.common.errors import DataError
from mol.data.cache import Cache
from mol.loso.run import LosoResult, loso
from mol.loso.saved_run import read_run
from mol.loso.settings import LosoConfig
from mol.network.checkpoint import read_state
from mol.report.report import ReportConfig, report


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Three people; only s1 shows disgust."""
    return write_tiny_cache(tmp_path_factory.mktemp("loso") / "cache", people=3, videos=1)


@pytest.fixture(scope="module")
def done(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> LosoResult:
    config = LosoConfig(
        caches=[str(cache.path)],
        protocol="as-labelled",
        run=str(tmp_path_factory.mktemp("loso") / "run"),
        network="apex-difference",
        steps=3,
        batch_size=2,
        device="cpu",
    )
    return loso(config)


def test_the_tables_have_no_errors_of_flow_and_landmarks(done: LosoResult) -> None:
    for name in ("scores.csv", "subjects.csv"):
        with open(done.run / name, newline="") as file:
            columns = set(next(csv.reader(file)))
        assert "uf1" in columns
        assert not columns & {"epe_px", "zero_flow_epe_px", "nme", "mean_shape_nme", "failure_rate"}
    assert "EPE" not in (done.run / "scores.tex").read_text()
    assert set(done.scores["mean"]["tiny"]) == {"accuracy", "war", "uar", "wf1", "uf1"}


def test_every_fold_holds_the_network_and_a_resumed_run_asks_for_it(done: LosoResult) -> None:
    run = read_run(done.run)
    assert run.network == "apex-difference"
    for result in run.results:
        assert read_state(run.folder(result.fold) / "checkpoints" / "last")["network"] == "apex-difference"


def test_folds_that_lack_a_class_say_so(done: LosoResult) -> None:
    notes = "\n".join(done.scores["notes"])
    for name, person in (("happiness", "s1"), ("surprise", "s2"), ("disgust", "s3")):
        assert f"no training clip of class {name!r}: it cannot be learned (held out: tiny/{person})" in notes
    assert "3 of 3 clips have no apex (3 of tiny): apex-difference takes the sampled frame of greatest motion" in notes


def test_the_report_shows_what_the_network_has(done: LosoResult) -> None:
    page = report(ReportConfig(runs=[str(done.run)], device="cpu")).read_text()
    assert "The network apex-difference estimates no optical flow and no landmarks." in page
    assert "have no apex (3 of tiny)" in page
    assert "Flow EPE" not in page
    assert "Emotion, pooled over folds" in page
    assert "landmarks estimated" not in page


def test_a_fold_that_lacks_one_of_its_errors_is_damaged(done: LosoResult, tmp_path: Path) -> None:
    facts = done.run / "folds" / "seed0" / "tiny-s1" / "fold.json"
    before = facts.read_text()
    try:
        facts.write_text(json.dumps({**json.loads(before), "epe_px": 0.2}))
        with pytest.raises(DataError, match="zero_flow_epe_px is missing"):
            read_run(done.run)
    finally:
        facts.write_text(before)
