"""Contact sheets show the rows that are asked for, and their motion."""

import cv2
import numpy as np
import pytest
from synth_clips import make_tiny_set

from mol.common.errors import SettingsError
from mol.data.cache import Cache
from mol.pictures.contact_sheet import contact_sheet, describe_row, motion_to_apex
from mol.synth.render import _sample


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory) -> tuple[Cache, list[tuple[int, int]]]:
    return make_tiny_set(tmp_path_factory.mktemp("synth") / "tiny")


def test_contact_sheet_is_a_picture_of_the_asked_rows(tiny_set, tmp_path):
    made, _ = tiny_set
    sheet = cv2.imread(str(contact_sheet(made, tmp_path / "sheet.png", rows=[0, 5])))
    taller = cv2.imread(str(contact_sheet(made, tmp_path / "all.png")))
    assert sheet.std() > 30
    assert taller.shape[0] > sheet.shape[0]
    assert taller.shape[1] == sheet.shape[1]


@pytest.mark.parametrize("rows", [[], [12], [-1]])
def test_contact_sheet_of_rows_that_do_not_exist_is_refused(tiny_set, tmp_path, rows):
    with pytest.raises(SettingsError, match="0 to 11"):
        contact_sheet(tiny_set[0], tmp_path / "sheet.png", rows=rows)


def test_motion_to_the_apex_carries_the_first_frame_to_the_apex_frame(tiny_set):
    made, _ = tiny_set
    for row in range(len(made)):
        apex, motion = motion_to_apex(made, row)
        entry = made.rows[row]
        assert abs(entry["start"] + apex * entry["interval"] - entry["apex"]) <= entry["interval"] / 2
        first, moved = made.landmarks[row, 0], made.landmarks[row, apex]
        inside = ((first > 1) & (first < 142)).all(axis=-1)
        carried = first + np.stack([_sample(channel, first.T) for channel in motion], axis=-1)
        np.testing.assert_allclose(carried[inside], moved[inside], atol=0.05)


def test_a_clip_without_expression_is_labelled_so():
    row = {"subject": "orl-s01", "clip": "clip03", "action_units": [45], "apex": 20, "length": 47, "amplitude": 0.0}
    assert describe_row({**row, "blink": 38}) == [
        "AU 45",
        "orl-s01 · clip03",
        "no expression",
        "blink at frame 38 of 47",
    ]


def test_a_clip_with_an_expression_is_labelled_with_its_peak():
    row = {"subject": "orl-s01", "clip": "clip03", "action_units": [6, 12], "apex": 20, "length": 47, "amplitude": 2.04}
    assert describe_row(row) == ["AU 6 + 12", "orl-s01 · clip03", "peak 2.0 px", "apex at frame 20 of 47"]
    assert describe_row({"subject": "s1", "clip": "s1_ne_01", "apex": None}) == ["s1 · s1_ne_01"]


def test_action_units_of_an_annotation_stay_as_they_were_written():
    row = {"subject": "sub01", "clip": "EP02_01f", "action_units": "R4+L7"}
    assert describe_row(row)[0] == "AU R4+L7"
