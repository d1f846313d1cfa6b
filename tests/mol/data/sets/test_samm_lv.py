"""SAMM Long Videos, as far as public loaders tell what it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import notes, write_book, write_frames

from mol.common.errors import DataError
from mol.data.manifest import NEUTRAL
from mol.data.sets.folders import SetNotFoundError
from mol.data.sets.samm_lv import load_samm_lv

HEADER = (
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset",
    "Apex",
    "Offset",
    "Duration",
    "Type",
    "Action Units",
    "Notes",
)
MICRO = ("006", "006_1_2", 1, 100, 120, 150, 51, "Micro - 1/2", "AU4", None)
MACRO = ("006", "006_1_3", 1, 300, 350, 500, 201, "Macro", "AU12", None)
FACS = ("Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Estimated Emotion")


def write_set(root: Path, *rows: tuple, emotions: tuple = (("006", "006_1_2", 1, 1, 2, 3, "Anger"),)) -> Path:
    lines = [("A note of the authors",)] * 9
    write_book(root / "SAMM_LongVideos_V2_Release.xlsx", [*lines, HEADER, *rows])
    write_book(root / "SAMM_Micro_FACS_Codes_v2.xlsx", [FACS, *emotions])
    write_frames(root / "SAMM_longvideos/006_1", range(1, 1001), "006_1_{:04d}.jpg")
    return root


def test_micro_movements_are_clips_with_the_emotions_of_samm(tmp_path):
    loaded = load_samm_lv(write_set(tmp_path, MICRO, MACRO))
    (clip,) = loaded.clips
    assert (clip.dataset, clip.subject, clip.clip, clip.path) == (
        *("samm-lv", "006", "006_1_2"),
        "SAMM_longvideos/006_1",
    )
    assert (clip.onset, clip.apex, clip.offset, clip.emotion, clip.fps) == (100, 120, 150, "anger", 200.0)


def test_all_movements_are_kept_for_spotting(tmp_path):
    (recording,) = load_samm_lv(write_set(tmp_path, MICRO, MACRO)).recordings
    assert [(one.kind, one.onset, one.apex, one.offset, one.emotion) for one in recording.expressions] == [
        ("micro", 100, 120, 150, "anger"),
        ("macro", 300, 350, 500, ""),
    ]


def test_neutral_clips_keep_away_from_all_movements(tmp_path):
    loaded = load_samm_lv(write_set(tmp_path, MICRO, MACRO), neutral=5)
    neutral = [clip for clip in loaded.clips if clip.emotion == NEUTRAL]
    assert neutral
    assert all(clip.onset > 500 + 200 for clip in neutral)


def test_an_apex_outside_its_interval_is_left_out_with_a_note(tmp_path):
    loaded = load_samm_lv(write_set(tmp_path, (*MICRO[:4], 99, *MICRO[5:])))
    assert loaded.clips[0].apex is None
    assert "apex 99 is outside the interval" in notes(loaded, "repaired")[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((*MICRO[:7], "Mikro", *MICRO[8:]), "the type 'Mikro' is neither macro nor micro"),
        ((MICRO[0], "clip1", *MICRO[2:]), "'clip1' is not one such as 006_1_2"),
        ((MICRO[0], "006_9_2", *MICRO[2:]), "no folder 006_9"),
        ((MICRO[0], "006_1_9", *MICRO[2:]), "the sheet of SAMM has no emotion for 006_1_9"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=rf"row 11.*{message}"):
        load_samm_lv(write_set(tmp_path, row))


def test_without_samms_own_sheet_it_says_what_that_is_needed_for(tmp_path):
    (write_set(tmp_path, MICRO) / "SAMM_Micro_FACS_Codes_v2.xlsx").unlink()
    with pytest.raises(SetNotFoundError, match="which has the emotions of SAMM Long Videos"):
        load_samm_lv(tmp_path)
