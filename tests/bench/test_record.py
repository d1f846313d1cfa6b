"""Saved results: where they are, which are refused, what their cases are called."""

import json

import pytest
from bench_results import FOLDER, whole_result

from bench import record
from mol.common.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "complaint"),
    [('{"format": 1}', "format 1.*pytest bench/ --save-results"), ("[]", "format None"), ("{", "cannot be read")],
)
def test_other_formats_are_refused_with_the_way_out(tmp_path, text, complaint):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=complaint):
        record.load(path)


def test_a_second_of_video_is_named_as_such():
    second = {"subject": "mol", "task": "prediction", "sizes": {"batch": 5, "threads": 2}}
    assert record.label(second) == "MOL released, prediction, 1 s of video"


@pytest.mark.parametrize(("suffix", "name"), [("", "2026-01-02-abc.json"), ("-gpu", "2026-01-02-abc-gpu.json")])
def test_a_saved_result_is_found_again(tmp_path, suffix, name):
    result = json.loads(json.dumps(whole_result()))  # lists for tuples
    path = record.save(result, tmp_path, suffix)
    assert path == tmp_path / FOLDER / name
    assert record.read(path) == record.load(path) == result


def test_every_committed_result_can_be_read():
    paths = sorted(record.RESULTS.glob("*/*.json"))
    assert paths
    for path in paths:
        assert {"loso", "pretraining", "cluster"} & record.read(path).keys() or record.load(path)["rows"]
