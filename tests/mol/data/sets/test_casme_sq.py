"""CAS(ME)²: a book without a header, naming rules on two more worksheets, several clips a video."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import notes, write_book, write_frames

from mol.common.errors import DataError
from mol.data.sets.casme_sq import load_casme_sq

MICRO = (1, "anger1_1", 4, 6, 9, "4+7", "negative", "micro-expression", "anger")
LATER = (1, "anger1_2", 20, 24, 28, "12", "positive", "micro-expression", "happiness")
MACRO = (1, "happy1_1", 3, 9, 30, "6+12", "positive", "macro-expression", "happiness")
SUBJECTS = [(1, "s15", 1), (2, "s16", 2)]
VIDEOS = [("0401", "anger1"), (502, "happy1")]


def write_set(root: Path, *rows: tuple, name: str = "code_final.xlsx") -> Path:
    write_book(root / name, rows, SUBJECTS, VIDEOS)
    for subject in ("s15", "s16"):
        for video in ("0401girlcrashing", "0502funnyerrors"):
            folder = root / "rawpic" / subject / f"{subject[1:]}_{video}"
            write_frames(folder, range(1, 41), "img{:03d}.jpg")
    return root


def test_micro_expressions_of_one_video_are_clips_and_macro_expressions_are_counted(tmp_path: Path) -> None:
    loaded = load_casme_sq(write_set(tmp_path, MICRO, LATER, MACRO))
    first, second = loaded.clips
    assert (first.subject, first.clip, first.path) == ("s15", "anger1_4", "rawpic/s15/15_0401girlcrashing")
    assert (first.onset, first.apex, first.offset) == (4, 6, 9)
    assert (first.emotion, first.action_units, first.fps) == ("negative", "4+7", 30.0)
    assert second.clip == "anger1_20"
    assert second.path == first.path
    assert first.source == "code_final.xlsx [Sheet1] row 1"
    assert [note.what for note in loaded.notes] == [
        "1 macro-expressions were ignored; only micro-expressions become clips."
    ]


def test_code_stored_as_a_number_finds_the_folder_with_its_leading_zero(tmp_path: Path) -> None:
    row = (2, "happy1_1", *MICRO[2:])
    assert load_casme_sq(write_set(tmp_path, row)).clips[0].path == "rawpic/s16/16_0502funnyerrors"


def test_missing_offset_ends_the_clip_at_its_apex_with_a_note(tmp_path: Path) -> None:
    loaded = load_casme_sq(write_set(tmp_path, (1, "anger1_1", 4, 6, 0, *MICRO[5:])))
    assert (loaded.clips[0].apex, loaded.clips[0].offset) == (6, 6)
    assert "offset is missing" in notes(loaded, "repaired")[0]


def test_missing_apex_is_left_out_with_a_note(tmp_path: Path) -> None:
    loaded = load_casme_sq(write_set(tmp_path, (1, "anger1_1", 4, 0, 9, *MICRO[5:])))
    assert loaded.clips[0].apex is None
    assert "apex is missing" in notes(loaded, "repaired")[0]


def test_face_cropped_pictures_serve_where_the_raw_ones_are_not_there(tmp_path: Path) -> None:
    write_set(tmp_path, MICRO)
    (tmp_path / "rawpic").rename(tmp_path / "CASME_sq_raw")
    write_frames(tmp_path / "longVideoFaceCropped" / "s15" / "casme_015_0401", range(1, 41), "img_{}.jpg")
    assert load_casme_sq(tmp_path).clips[0].path == "longVideoFaceCropped/s15/casme_015_0401"


def test_sheet_under_its_other_name_and_a_doubled_folder_are_found(tmp_path: Path) -> None:
    write_set(tmp_path, MICRO, name="CAS(ME)^2code_final.xlsx")
    (tmp_path / "rawpic").rename(tmp_path / "inner")
    (tmp_path / "rawpic").mkdir()
    (tmp_path / "inner").rename(tmp_path / "rawpic" / "rawpic")
    assert load_casme_sq(tmp_path).clips[0].path == "rawpic/rawpic/s15/15_0401girlcrashing"


def test_frames_missing_inside_the_interval_are_a_warning(tmp_path: Path) -> None:
    write_set(tmp_path, MICRO)
    (tmp_path / "rawpic/s15/15_0401girlcrashing/img007.jpg").unlink()
    assert "lacks 1 frame inside the interval: 7" in notes(load_casme_sq(tmp_path), "warning")[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((3, *MICRO[1:]), "subject '3' is not in the second worksheet"),
        ((1, "fear9_1", *MICRO[2:]), "video 'fear9' is not in the third worksheet"),
        ((1, "anger1_1", 10, 11, 9, *MICRO[5:]), "onset 10 is after offset 9"),
        ((1, "anger1_1", 4, 12, 9, *MICRO[5:]), "apex 12 is outside"),
        ((1, "anger1_1", 4, 6, 99, *MICRO[5:]), "has the frames 1–40, but the annotation is for 4–99"),
        ((1, "anger1_1", 4, 0, 0, *MICRO[5:]), "offset and apex are both missing"),
        ((1, "anger1_1", None, 6, 9, *MICRO[5:]), "onset is blank"),
        ((1, "anger1_1", "four", 6, 9, *MICRO[5:]), "expected a whole number"),
        ((*MICRO[:6], "negativ", *MICRO[7:]), "did the sheet mean 'negative'"),
        ((*MICRO[:7], "meso", "anger"), "neither micro-expression nor macro-expression"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_place_and_dropped_on_request(
    tmp_path: Path, row: tuple, message: str
) -> None:
    write_set(tmp_path, LATER, row)
    with pytest.raises(DataError, match="row 2") as caught:
        load_casme_sq(tmp_path)
    assert message in str(caught.value)
    loaded = load_casme_sq(tmp_path, on_error="skip")
    assert [clip.clip for clip in loaded.clips] == ["anger1_20"]
    assert message in notes(loaded, "dropped")[0]


def test_the_same_expression_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2.*is already listed in .* row 1"):
        load_casme_sq(write_set(tmp_path, MICRO, MICRO))


def test_a_sheet_without_naming_rules_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, MICRO)
    write_book(tmp_path / "code_final.xlsx", [MICRO])
    with pytest.raises(DataError, match="Worksheets 2 and 3"):
        load_casme_sq(tmp_path)


def test_a_sheet_of_other_columns_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_book(tmp_path / "code_final.xlsx", [(1, "anger1_1", 4)], SUBJECTS, VIDEOS)
    with pytest.raises(DataError, match="row 1 has 3 cells, expected subject, video"):
        load_casme_sq(tmp_path)


def test_a_missing_sheet_names_what_is_needed(tmp_path: Path) -> None:
    write_set(tmp_path, MICRO).joinpath("code_final.xlsx").unlink()
    with pytest.raises(DataError, match="code_final"):
        load_casme_sq(tmp_path)


def test_missing_pictures_name_the_folder(tmp_path: Path) -> None:
    write_book(tmp_path / "code_final.xlsx", [MICRO], SUBJECTS, VIDEOS)
    with pytest.raises(DataError, match="no folder rawpic"):
        load_casme_sq(tmp_path)


def test_a_video_without_folder_names_those_that_are_there(tmp_path: Path) -> None:
    write_set(tmp_path, MICRO)
    (tmp_path / "rawpic/s15/15_0401girlcrashing").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"code 0401.*15_0502funnyerrors"):
        load_casme_sq(tmp_path)


def test_an_empty_folder_and_frames_without_numbers_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, MICRO)
    folder = tmp_path / "rawpic/s15/15_0401girlcrashing"
    (folder / "img001.jpg").rename(folder / "first.jpg")
    with pytest.raises(DataError, match=r"first.jpg has no number"):
        load_casme_sq(tmp_path)
    for picture in folder.iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="holds no pictures"):
        load_casme_sq(tmp_path)


def test_all_expressions_are_kept_for_spotting_also_those_that_are_no_clips(tmp_path: Path) -> None:
    loaded = load_casme_sq(write_set(tmp_path, MICRO, LATER, MACRO, (1, "happy1_2", 35, 0, 0, *MACRO[5:])))
    anger, happy = loaded.recordings
    assert (anger.subject, anger.video, anger.path, anger.fps) == (
        *("s15", "anger1", "rawpic/s15/15_0401girlcrashing"),
        30.0,
    )
    assert [(one.kind, one.onset, one.offset, one.emotion) for one in anger.expressions] == [
        ("micro", 4, 9, "negative"),
        ("micro", 20, 28, "positive"),
    ]
    assert [(one.kind, one.onset, one.apex, one.offset) for one in happy.expressions] == [("macro", 3, 9, 30)]
    assert "1 macro-expressions can't be used for spotting" in notes(loaded, "warning")[1]
