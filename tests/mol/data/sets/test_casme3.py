"""CAS(ME)³ part A: folders in another case than the sheet's, several clips a video, two releases of the pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import notes, write_book, write_frames

from mol.common.errors import DataError
from mol.data.sets.casme3 import load_casme3

SHEET = "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
HEADER = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
ROW = ("spNO.1", "a", 175, 178, 181, "4", 1, "disgust")
LATER = ("spNO.1", "a", 190, 195, 199, "6+12", 2, "happy")


def write_set(root: Path, *rows: tuple, header: tuple = HEADER) -> Path:
    write_book(root / "annotation" / SHEET, [header, *rows])
    write_frames(root / "Part_A" / "spNo.1" / "A" / "Color", range(170, 201))
    (root / "Part_A" / "spNo.1" / "A" / "depth").mkdir()
    return root


def test_two_expressions_of_one_video_are_two_clips_in_folders_of_another_case(tmp_path: Path) -> None:
    loaded = load_casme3(write_set(tmp_path, ROW, LATER))
    first, second = loaded.clips
    assert (first.subject, first.clip, first.path) == ("spNO.1", "a_175", "Part_A/spNo.1/A/Color")
    assert (first.onset, first.apex, first.offset, first.emotion, first.fps) == (175, 178, 181, "disgust", 30.0)
    assert (second.clip, second.emotion, second.action_units) == ("a_190", "happiness", "6+12")
    assert first.source == f"{SHEET} row 2"
    assert loaded.notes == []


@pytest.mark.parametrize(("annotated", "kept"), [("sad", "sadness"), ("Others", "others"), ("Anger", "anger")])
def test_emotions_have_one_spelling(tmp_path: Path, annotated: str, kept: str) -> None:
    assert load_casme3(write_set(tmp_path, (*ROW[:7], annotated))).clips[0].emotion == kept


def test_the_release_of_cut_clips_is_read(tmp_path: Path) -> None:
    write_book(tmp_path / SHEET, [HEADER, ROW])
    write_frames(tmp_path / "Part_A_ME_clip" / "Part_A_ME_clip" / "frame" / "spNo.1_a_175", range(175, 182))
    clip = load_casme3(tmp_path).clips[0]
    assert (clip.path, clip.clip) == ("Part_A_ME_clip/Part_A_ME_clip/frame/spNo.1_a_175", "a_175")


def test_the_newest_sheet_is_read(tmp_path: Path) -> None:
    write_set(tmp_path, ROW)
    write_book(tmp_path / "cas(me)3_part_A_ME_label_JpgIndex_v2_20250903.xlsx", [HEADER, LATER])
    assert [clip.clip for clip in load_casme3(tmp_path).clips] == ["a_190"]


def test_a_known_impossible_row_is_corrected_with_a_note(tmp_path: Path) -> None:
    write_set(tmp_path, *distinct(799), ("spNO.1", "a", 2395, 2399, 2350, "4", 1, "fear"))
    write_frames(tmp_path / "Part_A" / "spNo.1" / "A" / "Color", range(2380, 2410))
    loaded = load_casme3(tmp_path, on_error="skip")
    assert (loaded.clips[-1].onset, loaded.clips[-1].offset) == (2395, 2403)
    assert notes(loaded, "repaired") == [
        f"repaired: {SHEET} row 800 (spNO.1/a): the row is impossible; offset 2350 → 2403, as in a public loader."
    ]


def test_a_row_of_the_same_number_that_is_possible_stays_as_it_is(tmp_path: Path) -> None:
    write_set(tmp_path, *distinct(799), ("spNO.1", "a", 191, 192, 193, "4", 1, "fear"))
    loaded = load_casme3(tmp_path, on_error="skip")
    assert (loaded.clips[-1].onset, loaded.clips[-1].offset) == (191, 193)
    assert notes(loaded, "repaired") == []


def test_frames_that_a_recording_lacks_are_replaced_by_the_nearest_with_a_note(tmp_path: Path) -> None:
    root = write_set(tmp_path, ("spNO.1", "a", 163, 169, 180, "4", 1, "disgust"), ROW, LATER)
    for number in (175, 178, 199, 200):
        (root / "Part_A" / "spNo.1" / "A" / "Color" / f"{number}.jpg").unlink()
    loaded = load_casme3(root)
    assert [(clip.clip, clip.onset, clip.apex, clip.offset) for clip in loaded.clips] == [
        ("a_163", 170, 170, 180),
        ("a_175", 176, 179, 181),
        ("a_190", 190, 195, 198),
    ]
    assert (
        f"{SHEET} row 4 (spNO.1/a): the offset 199 is missing; the nearest frame, 198" in notes(loaded, "repaired")[-1]
    )


def distinct(before: int) -> list[tuple]:
    """Rows 2 … before of a sheet; only the first is a clip, the others have no subject that exists."""
    return [ROW, *[("spNO.99", "a", onset, onset, onset, "", 1, "fear") for onset in range(before - 2)]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("subject one", *ROW[1:]), "not a name such as spNO.1"),
        (("spNO.7", *ROW[1:]), "has no folder spNO.7"),
        (("spNO.1", "m", *ROW[2:]), "has no folder m"),
        (("spNO.1", "a", 181, 182, 175, *ROW[5:]), "onset 181 is after offset 175"),
        (("spNO.1", "a", 176, 175, 181, *ROW[5:]), "apex 175 is outside"),
        (("spNO.1", "a", 201, 203, 250, *ROW[5:]), "has the frames 170–200, but none from 201 to 250"),
        (("spNO.1", "a", 176, 178, None, *ROW[5:]), "Offset is blank"),
        (("spNO.1", "a", 176, "178?", 181, *ROW[5:]), "expected a whole number"),
        (("spNO.1", "a", 176, *ROW[3:7], "bored"), "is not one of this data set's: anger, disgust"),
        (("spNO.1", "a", 176, *ROW[3:7], None), "emotion is blank"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_place_and_dropped_on_request(
    tmp_path: Path, row: tuple, message: str
) -> None:
    write_set(tmp_path, ROW, row)
    with pytest.raises(DataError, match="row 3") as caught:
        load_casme3(tmp_path)
    assert message in str(caught.value)
    loaded = load_casme3(tmp_path, on_error="skip")
    assert [clip.clip for clip in loaded.clips] == ["a_175"]
    assert message in notes(loaded, "dropped")[0]


def test_the_same_expression_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 3.*already listed in .* row 2"):
        load_casme3(write_set(tmp_path, ROW, ROW))


def test_a_sheet_in_which_nothing_can_be_used_is_refused_even_when_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row was dropped, the first because"):
        load_casme3(write_set(tmp_path, ("spNO.7", *ROW[1:])), on_error="skip")


def test_renamed_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="OnsetFrames"):
        load_casme3(write_set(tmp_path, ROW, header=("Subject", "Filename", "OnsetFrames", *HEADER[3:])))


def test_the_sheet_of_the_macro_expressions_is_not_taken_for_it(tmp_path: Path) -> None:
    write_set(tmp_path, ROW).joinpath("annotation", SHEET).unlink()
    write_book(tmp_path / "cas(me)3_part_A_MaE_label_JpgIndex_v2_emotion.xlsx", [HEADER, ROW])
    with pytest.raises(DataError, match="JpgIndex"):
        load_casme3(tmp_path)


def test_missing_pictures_name_the_folders(tmp_path: Path) -> None:
    write_book(tmp_path / SHEET, [HEADER, ROW])
    with pytest.raises(DataError, match="no folder part_A or Part_A_ME_clip"):
        load_casme3(tmp_path)


def test_a_video_without_colour_pictures_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, ROW)
    (tmp_path / "Part_A/spNo.1/A/Color").rename(tmp_path / "colour")
    with pytest.raises(DataError, match="no folder color"):
        load_casme3(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, ROW)
    for picture in (tmp_path / "Part_A/spNo.1/A/Color").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="holds no pictures"):
        load_casme3(tmp_path)


def test_all_expressions_are_kept_for_spotting_with_the_sheet_of_macro_expressions(tmp_path: Path) -> None:
    write_set(tmp_path, ROW, LATER)
    rows = [("spNO.1", "a", 171, 172, 174, "12", 1, "happy"), ("spNO.2", "a", 1, 2, 3, "4", 1, "fear")]
    write_book(tmp_path / "cas(me)3_part_A_MaE_label_JpgIndex_v2_emotion.xlsx", [HEADER, *rows])
    (recording,) = load_casme3(tmp_path).recordings
    assert [(one.kind, one.onset, one.offset, one.emotion) for one in recording.expressions] == [
        ("macro", 171, 174, "happiness"),
        ("micro", 175, 181, "disgust"),
        ("micro", 190, 199, "happiness"),
    ]


def test_cut_clips_are_no_long_videos(tmp_path: Path) -> None:
    write_book(tmp_path / SHEET, [HEADER, ROW])
    write_frames(tmp_path / "Part_A_ME_clip" / "frame" / "spNo.1_a_175", range(175, 182))
    assert load_casme3(tmp_path).recordings == []
