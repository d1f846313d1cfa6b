"""The estimate of an extraction, against the extraction."""

import pytest
from extract_sets import config_of, make_set

from mol.data.cache import row_bytes
from mol.data.extract.estimate import plan_extraction
from mol.data.extract.report import describe_plan
from mol.data.extract.run import extract, run_extract
from mol.data.manifest import Clip, Manifest, write_manifest


def test_plan_of_a_set_of_the_size_of_casme2_is_the_closed_form(tmp_path):
    (tmp_path / "v.avi").touch()
    clips = [Clip("casme2", f"s{i % 26}", f"c{i}", "v.avi", 0, None, 67, "others") for i in range(255)]
    write_manifest(tmp_path / "manifest", Manifest("casme2", tmp_path, clips))
    plan = plan_extraction(config_of(tmp_path / "manifest"))
    rows = 255 * (68 // 8)
    assert (plan.clips, plan.rows, plan.frames) == (255, rows, rows * 8)
    assert plan.cache_bytes == rows * (8 * 144**2 + 7 * 2 * 144**2 * 2 + 8 * 68 * 2 * 4 + 8) == 1_531_746_240
    assert plan.hours is None  # an empty file shows nothing that could be timed
    assert "v.avi" in plan.failed[0]
    assert not (tmp_path / "cache").exists()


def test_plan_is_the_size_of_the_cache_that_follows_and_estimates_the_time(tmp_path, capsys):
    manifest = make_set(tmp_path)
    plan = plan_extraction(config_of(manifest, workers=4))
    assert plan.timed == 3
    assert plan.hours == pytest.approx(plan.frames * plan.seconds_per_frame / 4 / 3600)
    path = extract(config_of(manifest)).path
    arrays = sum(file.stat().st_size for file in path.glob("*.npy"))
    assert 0 <= arrays - plan.cache_bytes == 4 * 128  # headers
    assert plan.cache_bytes == plan.rows * row_bytes()
    run_extract(config_of(manifest, plan=True))
    said = capsys.readouterr().out
    assert "3 clips, 32 pictures, 4 sub-clips of 8 frames" in said
    assert "cache     2.9 MiB of" in said
    assert "time      about" in said


def test_plan_lists_the_clips_that_cannot_be_extracted(tmp_path):
    manifest = make_set(tmp_path, (8, 7))
    plan = plan_extraction(config_of(manifest))
    assert (plan.clips, [clip["subject"] for clip in plan.problems]) == (1, ["sub02"])
    assert "1 clips cannot be extracted:\n  sub02/EP01: 7 frames" in describe_plan(plan)
