"""What a check finds in caches: damaged rows, left-out clips, counts, unfinished and foreign folders."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import SMALL, small_clip, small_rows, write_small_cache
from tiny_cache import write_tiny_cache

from mol.cli import main
from mol.common.errors import DataError, SettingsError
from mol.data.cache import CacheWriter
from mol.data.check import CheckDataConfig, Finding, check_data, run_check_data


def damage(path: Path, array: str, *rows: int) -> None:
    """Change one bit of each row."""
    content = np.load(path / f"{array}.npy", mmap_mode="r+")
    for row in rows:
        content[row].view(np.uint8).flat[0] ^= 1
    content.flush()


def found(*folders: Path, **settings) -> list[Finding]:
    return check_data(CheckDataConfig([str(folder) for folder in folders], workers=1, **settings))


def test_whole_cache_has_no_findings(tmp_path):
    assert found(write_small_cache(tmp_path / "set")) == []


@pytest.mark.parametrize("array", ["frames", "flow", "landmarks"])
def test_damaged_row_is_named_with_its_clip(tmp_path, array):
    path = write_small_cache(tmp_path / "set")
    damage(path, array, 2)
    what = "row 2 differs from what was written (checksum)"
    assert found(path) == [Finding("error", "damaged rows", f"{path}: test/s0/c2", what)]


def test_damaged_rows_of_a_clip_are_one_finding(tmp_path):
    cache = write_tiny_cache(tmp_path / "set", people=2, videos=2, windows=4)
    assert [row["clip"] for row in cache.rows] == ["v1", "v2", "v2", "v2", "v2"] * 2
    damage(cache.path, "flow", 1, 2, 4, 5)
    assert [(finding.where, finding.what) for finding in found(cache.path)] == [
        (f"{cache.path}: tiny/s1/v2", "rows 1–2, 4 differ from what was written (checksums)"),
        (f"{cache.path}: tiny/s2/v1", "row 5 differs from what was written (checksum)"),
    ]


def test_clips_that_were_left_out_are_noted(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(2)) as writer:
        writer.write(0, *small_clip(0))
        path = writer.finish([{"dataset": "test", "subject": "s1", "clip": "c1", "reason": "no face"}])
    (finding,) = found(path)
    assert (finding.severity, finding.kind, finding.where) == ("info", "left out", str(path))
    assert "1 clips were left out" in finding.what


def test_cache_that_cannot_be_opened_hides_no_other(tmp_path):
    first, second = write_small_cache(tmp_path / "first"), write_small_cache(tmp_path / "second")
    (first / "settings.json").unlink()
    damage(second, "frames", 0)
    assert [(finding.kind, finding.severity) for finding in found(first, second)] == [
        ("unreadable", "error"),
        ("damaged rows", "error"),
    ]
    assert "settings.json is missing" in found(first)[0].what


def test_unfinished_cache_is_an_error_with_the_way_to_go_on(tmp_path):
    CacheWriter(tmp_path / "set", SMALL, small_rows(2)).close()
    (finding,) = found(tmp_path / "set")
    assert "set.partial is unfinished: run the command that made it again" in finding.what


def test_folder_that_is_neither_manifest_nor_cache_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"holds neither a manifest .* nor a cache"):
            found(folder)
    with pytest.raises(SettingsError, match="at least one folder"):
        CheckDataConfig([])


def test_progress_counts_clips_of_manifests_and_rows_of_caches(data, tmp_path):
    seen: list[tuple[int, int]] = []
    first, second = write_small_cache(tmp_path / "first", 2), write_small_cache(tmp_path / "second", 3)
    config = CheckDataConfig([str(first), data.manifest(), str(second)], workers=1)
    check_data(config, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(9)]


def test_cache_and_its_manifest_are_both_checked_and_no_duplicates(data, tmp_path):
    rows = [
        {"dataset": "smic", "subject": clip.subject, "clip": clip.clip, "emotion": clip.emotion} for clip in data.clips
    ]
    rows = [{**row, "start": 0, "interval": 1, "label": 0} for row in rows]
    with CacheWriter(tmp_path / "cache", SMALL, rows) as writer:
        for row in range(3):
            writer.write(row, *small_clip(row))
        path = writer.finish()
    assert [finding.kind for finding in found(Path(data.manifest()), path)] == ["picture size"]
    findings = found(Path(data.manifest()), path, protocol="megc2019")
    counts = [finding.what for finding in findings if finding.kind == "counts"]
    assert counts.count("smic negative: 70 clips expected, 1 found") == 2


def test_people_foreign_to_the_protocol_are_found_in_a_cache(tmp_path):
    (finding,) = found(write_tiny_cache(tmp_path / "set", 1, 1).path, protocol="megc2019")
    assert (finding.kind, finding.where) == ("not in protocol", "tiny/s1/v1")


def test_command_counts_the_videos_and_names_the_next_command(tmp_path, capsys):
    cache = write_tiny_cache(tmp_path / "set", people=2, videos=3, windows=2)
    run_check_data(CheckDataConfig([str(cache.path)]))
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.replace("│", " ").splitlines()]
    assert ["tiny", "clips", "6", "–"] in rows
    assert f"no errors\nnext: mol loso {cache.path} --protocol as-labelled" in shown


def test_command_fails_on_damaged_rows_and_tells_how_to_repair_them(tmp_path, capsys):
    path = write_small_cache(tmp_path / "set")
    damage(path, "landmarks", 1, 2)
    assert main(["check-data", str(path), "--out", str(tmp_path / "findings.csv")]) == 2
    told = capsys.readouterr().err
    assert "the data has 2 errors, listed above (2 × damaged rows)" in told
    assert f"To repair {path}, rename it to {path}.partial and run the command that made it again" in told
    with (tmp_path / "findings.csv").open(encoding="utf-8", newline="") as table:
        assert [row["where"] for row in csv.DictReader(table)] == [f"{path}: test/s1/c1", f"{path}: test/s0/c2"]


def test_repair_writes_only_the_damaged_rows_again(tmp_path):
    path = write_small_cache(tmp_path / "set")
    damage(path, "flow", 1)
    path.rename(path.with_name("set.partial"))
    with CacheWriter(path, SMALL, small_rows(4)) as writer:
        assert writer.pending() == [1]
        writer.write(1, *small_clip(1))
        writer.finish()
    assert found(path) == []


def test_damaged_cache_without_all_its_clips_must_be_made_again(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(2)) as writer:
        writer.write(0, *small_clip(0))
        path = writer.finish([{"dataset": "test", "subject": "s1", "clip": "c1", "reason": "no face"}])
    damage(path, "frames", 0)
    with pytest.raises(DataError, match=r"To repair .*set, delete it and run the command that made it again"):
        run_check_data(CheckDataConfig([str(path)]))


def test_people_of_caches_who_may_be_one_are_found_over_all_of_them(tmp_path):
    for name, subject in (("a", "anna"), ("b", "Anna")):
        rows = [{**row, "subject": subject, "clip": f"{name}{at}"} for at, row in enumerate(small_rows(2))]
        with CacheWriter(tmp_path / name, SMALL, rows) as writer:
            writer.write(0, *small_clip(0))
            writer.write(1, *small_clip(5 if name == "a" else 6))
            writer.finish()
    findings = check_data(CheckDataConfig([str(tmp_path / "a"), str(tmp_path / "b")], workers=1))
    assert [(finding.severity, finding.kind) for finding in findings] == [
        ("error", "copies"),
        ("warning", "one person?"),
    ]
    assert findings[0].where == "test/anna/a0"
    assert "has the same rows as test/Anna/b0" in findings[0].what
    assert '"anna" and "Anna" differ only in upper and lower case' in findings[1].what
