"""4DME: combined emotions, folders that are not confirmed, frames numbered as in the video or anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import notes, write_book, write_frames

from mol.common.errors import DataError
from mol.data.sets.fourdme import combined_emotion, load_fourdme

SHEET = "4DME_Labelling_Micro_release v1.xlsx"
HEADER = ("sub_ID", "fold_name", "Onset", "Apex", "Offset", "AUs", "Emotion", "Positive")
ROW = ("sub_01", "001_01_1", 100, 104, 109, "AU1+2", "Positive_Surprise", 1)
OTHER = (2, "002_01_1", 50, 52, 55, "AU4", "Negative", 0)


def write_set(root: Path, *rows: tuple, header: tuple = HEADER) -> Path:
    write_book(root / SHEET, [header, *rows])
    write_frames(root / "gray_micro" / "sub_01" / "001_01_1", range(95, 115), "Frame_{:09d}.jpg")
    write_frames(root / "gray_micro" / "sub_02" / "002_01_1", range(50, 56), "Frame_{:09d}.jpg")
    return root


def test_clips_come_with_person_interval_emotion_and_rate(tmp_path: Path) -> None:
    loaded = load_fourdme(write_set(tmp_path, ROW, OTHER))
    first, second = loaded.clips
    assert (first.subject, first.clip, first.path) == ("sub_01", "001_01_1", "gray_micro/sub_01/001_01_1")
    assert (first.onset, first.apex, first.offset, first.emotion) == (100, 104, 109, "positive+surprise")
    assert (first.action_units, first.fps, first.source) == ("AU1+2", 60.0, f"{SHEET} row 2")
    assert (second.subject, second.emotion) == ("sub_02", "negative")
    assert loaded.notes == []


@pytest.mark.parametrize("text", ["Positive_Surprise", "Surprise+Positive", "surprise / positive", "Positive Surprise"])
def test_a_combination_has_one_spelling(text: str) -> None:
    assert combined_emotion(text) == "positive+surprise"


def test_frames_counted_anew_are_taken_for_the_interval_with_a_note(tmp_path: Path) -> None:
    write_set(tmp_path, OTHER)
    folder = tmp_path / "gray_micro/sub_02/002_01_1"
    for picture in folder.iterdir():
        picture.unlink()
    write_frames(folder, range(1, 7))
    loaded = load_fourdme(tmp_path)
    assert (loaded.clips[0].onset, loaded.clips[0].apex, loaded.clips[0].offset) == (1, 3, 6)
    assert "50–55 changed to 1–6" in notes(loaded, "repaired")[0]


def test_other_frames_than_the_interval_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, OTHER)
    (tmp_path / "gray_micro/sub_02/002_01_1/Frame_000000055.jpg").unlink()
    with pytest.raises(DataError, match="has the frames 50–54, but the annotation is for 50–55"):
        load_fourdme(tmp_path)


@pytest.mark.parametrize("place", ["sub_01/001_01_1", "gray_micro/001_01_1", "gray_micro_crop/S1/001_01_1"])
def test_other_places_of_a_clip_are_found(tmp_path: Path, place: str) -> None:
    write_book(tmp_path / SHEET, [HEADER, ROW])
    write_frames(tmp_path / place, range(95, 115))
    assert load_fourdme(tmp_path).clips[0].path == place


def test_rows_whose_labels_are_doubted_carry_a_warning(tmp_path: Path) -> None:
    filler = [("sub_09", f"x{number}", 1, 1, 1, "", "Others", 0) for number in range(144)]
    loaded = load_fourdme(write_set(tmp_path, *filler, ROW), on_error="skip")
    assert [note.split(": ")[1] for note in notes(loaded, "warning")] == [f"{SHEET} row 146 (sub_01/001_01_1)"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("anna", *ROW[1:]), "the subject 'anna' has no number"),
        (("sub_01", "009_01_1", *ROW[2:]), "no folder 009_01_1 of sub_01"),
        ((*ROW[:2], 110, 111, 100, *ROW[5:]), "onset 110 is after offset 100"),
        ((*ROW[:3], 99, *ROW[4:]), "apex 99 is outside"),
        ((*ROW[:4], None, *ROW[5:]), "Offset is blank"),
        ((*ROW[:6], "Positive_Joy", 1), "is not one of this data set's: negative, others"),
        ((*ROW[:6], None, 1), "emotion is blank"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_place_and_dropped_on_request(
    tmp_path: Path, row: tuple, message: str
) -> None:
    write_set(tmp_path, OTHER, row)
    with pytest.raises(DataError, match="row 3") as caught:
        load_fourdme(tmp_path)
    assert message in str(caught.value)
    loaded = load_fourdme(tmp_path, on_error="skip")
    assert [clip.clip for clip in loaded.clips] == ["002_01_1"]
    assert message in notes(loaded, "dropped")[0]


def test_renamed_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        load_fourdme(write_set(tmp_path, ROW, header=("sub_ID", "folder", *HEADER[2:])))


def test_a_missing_sheet_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4DME_Labelling_Micro"):
        load_fourdme(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, ROW)
    for picture in (tmp_path / "gray_micro/sub_01/001_01_1").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="holds no pictures"):
        load_fourdme(tmp_path)
