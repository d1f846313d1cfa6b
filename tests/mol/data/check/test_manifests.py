"""What a check finds in manifests, and against a protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from check_sets import DataSet, found, only

from mol.common.errors import DataError
from mol.data.check import CheckDataConfig, Finding, check_data, run_check_data


def test_a_missing_root_is_an_error(data, tmp_path):
    folder = data.manifest()
    data.root.rename(tmp_path / "moved")
    assert ("root missing", "smic") in [(finding.kind, finding.where) for finding in found(folder)]


def test_a_set_from_two_manifests_is_an_error_and_so_is_each_clip_of_both(data):
    findings = found(data.manifest("-a"), data.manifest("-b"))
    assert {finding.kind for finding in findings} == {
        "set twice",
        "clip twice",
    }
    assert len([finding for finding in findings if finding.kind == "clip twice"]) == 3


def test_a_set_mixed_from_two_roots_names_both(data, tmp_path):
    other = DataSet(tmp_path / "elsewhere", seed=1)
    other.add("s4", "s4_ne_01")
    finding = only(found(data.manifest(), other.manifest()), "error", "set twice")
    assert str(data.root) in finding.what
    assert str(other.root) in finding.what


def test_people_spelled_alike_and_one_folder_of_two_people_are_warnings(data):
    data.change(data.clips[0], subject="S1")
    assert '"S1" and "s1"' in only(found(data.manifest(), pictures=False), "warning", "one person?").what
    data.change(data.clips[0], subject="s7")
    data.clips.append(replace(data.clips[1], subject="s8", clip="again"))
    assert "is listed for 2 people" in only(found(data.manifest(), pictures=False), "warning", "one person?").what


def test_an_annotation_that_cannot_be_a_micro_expression_is_a_warning(data):
    data.change(data.clips[0], apex=5)
    finding = only(found(data.manifest()), "warning", "annotation")
    assert finding.where == "smic/s1/s1_ne_01"
    assert "have their apex at the onset" in finding.what


def test_counts_that_are_not_the_protocols_are_errors(data):
    findings = found(data.manifest(), protocol="megc2019")
    assert {finding.kind for finding in findings} == {"counts"}
    assert "smic negative: 70 clips expected, 1 found" in [finding.what for finding in findings]


def test_emotions_that_the_protocol_leaves_out_are_counted(tmp_path):
    samm = DataSet(tmp_path / "samm", "samm")
    samm.add("006", "006_1_2", "anger")
    samm.add("006", "006_1_3", "others")
    samm.add("007", "007_1_3", "others")
    findings = check_data(CheckDataConfig([samm.manifest()], protocol="megc2019", workers=1))
    left = [finding for finding in findings if finding.kind == "left out"]
    assert left == [Finding("info", "left out", "samm", "emotion others: 2 clips take no part in megc2019")]


def test_people_and_sets_foreign_to_the_protocol_are_errors(data, tmp_path):
    data.add("sub01", "EP01_01", "negative")
    own = DataSet(tmp_path / "own", "mine", seed=1)
    own.add("ann", "smile")
    foreign = [f for f in found(data.manifest(), own.manifest(), protocol="megc2019") if f.kind == "not in protocol"]
    assert [finding.where for finding in foreign] == ["smic/sub01/EP01_01", "mine/ann/smile"]


def test_an_empty_manifest_is_an_error(tmp_path):
    data = DataSet(tmp_path / "smic")
    data.root.mkdir()
    with pytest.raises(DataError, match="no clips"):
        run_check_data(CheckDataConfig([data.manifest()], workers=1))


def test_a_manifest_edited_by_hand_is_refused(data):
    folder = data.manifest()
    table = Path(folder) / "clips.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("negative", "positive"), encoding="utf-8")
    with pytest.raises(DataError, match="SHA-256"):
        check_data(CheckDataConfig([folder]))
