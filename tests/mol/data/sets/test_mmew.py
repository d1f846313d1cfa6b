"""MMEW: CASME II's columns, one folder a clip under its emotion."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import notes, write_book, write_frames

from mol.common.errors import DataError
from mol.data.sets.mmew import load_mmew

HEADER = (
    "Subject",
    "Filename",
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    "Action Units",
    "Estimated Emotion",
    "remarks",
)
ROW = (13, "S13-07-001", 1, 9, 20, "4+7", "anger", None)
OTHER = (2, "S02-03-002", 1, 5, 12, "12", "happiness", None)


def write_set(root: Path, *rows: tuple, header: tuple = HEADER) -> Path:
    write_book(root / "MMEW_Micro_Exp.xlsx", [header, *rows])
    write_frames(root / "Micro_Expression" / "anger" / "S13-07-001", range(1, 21))
    write_frames(root / "Micro_Expression" / "happiness" / "S02-03-002", range(1, 13))
    return root


def test_clips_come_with_person_interval_emotion_and_rate(tmp_path: Path) -> None:
    loaded = load_mmew(write_set(tmp_path, ROW, OTHER))
    first, second = loaded.clips
    assert (first.subject, first.clip, first.path) == ("S13", "S13-07-001", "Micro_Expression/anger/S13-07-001")
    assert (first.onset, first.apex, first.offset, first.emotion) == (1, 9, 20, "anger")
    assert (first.action_units, first.fps, first.source) == ("4+7", 90.0, "MMEW_Micro_Exp.xlsx row 2")
    assert (second.subject, second.emotion) == ("S02", "happiness")
    assert loaded.notes == []


@pytest.mark.parametrize("missing", [None, "/", 0])
def test_missing_apex_and_offset_become_none_and_the_last_frame_with_notes(tmp_path: Path, missing: object) -> None:
    loaded = load_mmew(write_set(tmp_path, (*ROW[:3], missing, missing, *ROW[5:])))
    assert (loaded.clips[0].apex, loaded.clips[0].offset) == (None, 20)
    assert len(notes(loaded, "repaired")) == 2


def test_others_in_a_folder_repression_are_others_with_a_note(tmp_path: Path) -> None:
    write_set(tmp_path, (*ROW[:6], "others", None))
    (tmp_path / "Micro_Expression/anger").rename(tmp_path / "Micro_Expression/repression")
    loaded = load_mmew(tmp_path)
    assert loaded.clips[0].emotion == "others"
    assert "1 clips are in a folder repression" in notes(loaded, "warning")[0]


def filler(rows: int) -> list[tuple]:
    return [OTHER, *[(1, f"S01-01-{number:03d}", 1, 1, 1, "", "fear", None) for number in range(rows - 1)]]


def test_an_impossible_row_among_the_reported_ones_ends_at_its_last_frame(tmp_path: Path) -> None:
    loaded = load_mmew(write_set(tmp_path, *filler(33), (*ROW[:3], 30, 75, *ROW[5:])), on_error="skip")
    assert (loaded.clips[-1].source, loaded.clips[-1].apex, loaded.clips[-1].offset) == (
        "MMEW_Micro_Exp.xlsx row 35",
        None,
        20,
    )
    assert "reported wrong" in notes(loaded, "repaired")[0]


def test_an_impossible_row_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 3 \(S13-07-001\).*has the frames 1–20"):
        load_mmew(write_set(tmp_path, OTHER, (*ROW[:3], 30, 75, *ROW[5:])))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((13, "EP02_01f", *ROW[2:]), "not a name such as S13-07-001"),
        ((13, "S13-07-009", *ROW[2:]), "no folder Micro_Expression/…/S13-07-009"),
        ((*ROW[:2], 21, 22, 20, *ROW[5:]), "onset 21 is after offset 20"),
        ((*ROW[:3], 20, 19, *ROW[5:]), "apex 20 is outside"),
        ((*ROW[:2], None, *ROW[3:]), "OnsetFrame is blank"),
        ((*ROW[:3], "nine", *ROW[4:]), "expected a whole number"),
        ((*ROW[:6], "angr", None), "did the sheet mean 'anger'"),
        ((*ROW[:6], "fear", None), "the sheet says fear, but the clip is in"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_place_and_dropped_on_request(
    tmp_path: Path, row: tuple, message: str
) -> None:
    write_set(tmp_path, OTHER, row)
    with pytest.raises(DataError, match="row 3") as caught:
        load_mmew(tmp_path)
    assert message in str(caught.value)
    loaded = load_mmew(tmp_path, on_error="skip")
    assert [clip.clip for clip in loaded.clips] == ["S02-03-002"]
    assert message in notes(loaded, "dropped")[0]


def test_one_person_under_two_numbers_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "Micro_Expression" / "anger" / "S13-07-002", range(1, 21))
    with pytest.raises(DataError, match="S13 is '13' elsewhere in the sheet, but '14' here"):
        load_mmew(write_set(tmp_path, ROW, (14, "S13-07-002", *ROW[2:])))


def test_the_same_clip_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 3.*already listed in .* row 2"):
        load_mmew(write_set(tmp_path, ROW, ROW))
    write_frames(tmp_path / "Micro_Expression" / "fear" / "S13-07-001", [1])
    with pytest.raises(DataError, match="S13-07-001 is both in"):
        load_mmew(tmp_path)


def test_renamed_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Mood"):
        load_mmew(write_set(tmp_path, ROW, header=(*HEADER[:6], "Mood", "remarks")))


def test_a_missing_sheet_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MMEW_Micro_Exp"):
        load_mmew(tmp_path)
    write_book(tmp_path / "MMEW_Micro_Exp.xlsx", [HEADER, ROW])
    with pytest.raises(DataError, match="no folder Micro_Expression"):
        load_mmew(tmp_path)


def test_an_empty_folder_and_frames_without_numbers_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, ROW)
    folder = tmp_path / "Micro_Expression/anger/S13-07-001"
    (folder / "1.jpg").rename(folder / "one.jpg")
    with pytest.raises(DataError, match=r"one.jpg has no number"):
        load_mmew(tmp_path)
    for picture in folder.iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="holds no pictures"):
        load_mmew(tmp_path)
