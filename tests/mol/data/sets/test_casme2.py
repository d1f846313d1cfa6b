"""The loader of CASME II on tiny sheets and folders, with the set's known errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sheet_files import touch_frames, write_book

from mol.common.errors import DataError
from mol.data.manifest import Loaded, key
from mol.data.sets.casme2 import SET, load_casme2

HEADER = (
    "Subject",
    "Filename",
    None,
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    None,
    "Action Units",
    "Estimated Emotion",
)
SHEET = "CASME2-coding-20140508.xlsx"


def row(
    subject: Any = 1,
    clip: Any = "EP02_01f",
    onset: Any = 46,
    apex: Any = 50,
    offset: Any = 60,
    emotion: Any = "happiness",
) -> tuple:
    return (subject, clip, None, onset, apex, offset, None, "12", emotion)


def write_set(root: Path, rows: Sequence[tuple], base: str = "CASME2_RAW_selected", sheet: str = SHEET) -> Path:
    """The sheet, and a folder of the frames 40 to 70 for every row."""
    write_book(root / sheet, [HEADER, *rows])
    for subject, clip, *_ in rows:
        touch_frames(root / base / f"sub{int(subject):02d}" / str(clip), range(40, 71))
    return root


def notes(loaded: Loaded, kind: str) -> list[str]:
    return [str(note) for note in loaded.notes if note.kind == kind]


@pytest.mark.parametrize("sheet", ["CASME2-coding-20140508.xlsx", "CASME2-coding-20190701.xlsx"])
def test_a_row_becomes_a_clip(tmp_path: Path, sheet: str) -> None:
    loaded = load_casme2(write_set(tmp_path, [row(subject=7, emotion=" Disgust ")], sheet=sheet))
    (clip,) = loaded.clips
    assert key(clip) == "casme2/sub07/EP02_01f"
    assert clip.path == "CASME2_RAW_selected/sub07/EP02_01f"
    assert (clip.onset, clip.apex, clip.offset, clip.emotion, clip.action_units) == (46, 50, 60, "disgust", "12")
    assert (clip.fps, clip.source) == (200.0, f"{sheet} row 2")
    assert loaded.notes == []


def test_newer_of_two_sheets_is_read_with_a_warning(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    write_set(tmp_path, [row(), row(clip="EP03_02")], sheet="CASME2-coding-20190701.xlsx")
    loaded = load_casme2(tmp_path)
    assert len(loaded.clips) == 2
    assert f"{SHEET}: this coding sheet is ignored" in notes(loaded, "warning")[0]


def test_subject_as_text_with_leading_zero_is_the_same_person(tmp_path: Path) -> None:
    assert load_casme2(write_set(tmp_path, [row(subject="01")])).clips[0].subject == "sub01"


@pytest.mark.parametrize("spelling", ["others", "Others", "other"])
def test_others_are_spelled_one_way(tmp_path: Path, spelling: str) -> None:
    assert load_casme2(write_set(tmp_path, [row(emotion=spelling)])).clips[0].emotion == "others"


@pytest.mark.parametrize("apex", ["/", None])
def test_missing_apex_is_none_with_a_note(tmp_path: Path, apex: str | None) -> None:
    loaded = load_casme2(write_set(tmp_path, [row(apex=apex)]))
    assert loaded.clips[0].apex is None
    assert notes(loaded, "repaired")[0].startswith(f"repaired: {SHEET} row 2 (sub01/EP02_01f): ApexFrame")


def test_doubled_folder_is_seen_through(tmp_path: Path) -> None:
    base = "CASME2_RAW_selected/CASME2_RAW_selected"
    assert load_casme2(write_set(tmp_path, [row()], base=base)).clips[0].path == f"{base}/sub01/EP02_01f"


def test_raw_frames_come_before_cropped_ones(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    touch_frames(tmp_path / "Cropped/sub01/EP02_01f", range(46, 61), "reg_img{}.jpg")
    assert load_casme2(tmp_path).clips[0].path.startswith("CASME2_RAW_selected")
    assert load_casme2(tmp_path, frames="cropped").clips[0].path == "Cropped/sub01/EP02_01f"


def test_selected_frames_come_before_the_longer_ones(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    touch_frames(tmp_path / "CASME2-RAW/sub01/EP02_01f", range(1, 100))
    assert load_casme2(tmp_path).clips[0].path.startswith("CASME2_RAW_selected")


def test_cropped_frames_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    assert load_casme2(write_set(tmp_path, [row()], base="Cropped")).clips[0].path.startswith("Cropped")


def test_known_short_clip_of_cropped_ends_at_its_last_frame(tmp_path: Path) -> None:
    loaded = load_casme2(write_set(tmp_path, [row(16, "EP01_08", 41, 60, 84)], base="Cropped"))
    assert loaded.clips[0].offset == 70
    assert "offset 84 changed to 70" in notes(loaded, "repaired")[0]


def test_the_same_clip_short_of_raw_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the frames 40–70, but the annotation is for 41–84"):
        load_casme2(write_set(tmp_path, [row(16, "EP01_08", 41, 60, 84)]))


@pytest.mark.parametrize("offset", [49, 200])
def test_offset_of_the_row_that_is_known_as_wrong_becomes_the_last_frame(tmp_path: Path, offset: int) -> None:
    rows = [row(clip=f"EP{number}") for number in range(60)] + [row(7, "EP61", offset=offset)]
    loaded = load_casme2(write_set(tmp_path, rows))
    assert loaded.clips[60].offset == 70
    assert f"row 62 (sub07/EP61): offset {offset} changed to 70" in notes(loaded, "repaired")[0]


def test_offset_of_the_row_that_is_known_as_wrong_becomes_91_where_that_frame_is_there(tmp_path: Path) -> None:
    rows = [row(clip=f"EP{number}") for number in range(60)] + [row(7, "EP61", offset=49)]
    write_set(tmp_path, rows)
    touch_frames(tmp_path / "CASME2_RAW_selected/sub07/EP61", range(71, 120))
    assert load_casme2(tmp_path).clips[60].offset == 91


def test_the_only_backward_offset_of_a_complete_sheet_is_repaired_in_any_row(tmp_path: Path) -> None:
    rows = [row(clip=f"EP{number}") for number in range(SET.clips)]
    rows[9] = row(clip="EP9", offset=48)
    loaded = load_casme2(write_set(tmp_path, rows))
    assert loaded.clips[9].offset == 70
    assert len(loaded.notes) == 1


@pytest.mark.parametrize("name", [(9, "EP02_02f"), (24, "EP02_07")])
def test_known_clips_without_emotion_are_dropped_with_a_note(tmp_path: Path, name: tuple[int, str]) -> None:
    loaded = load_casme2(write_set(tmp_path, [row(), row(*name, emotion=None)]))
    assert len(loaded.clips) == 1
    assert f"sub{name[0]:02d}/{name[1]}" in notes(loaded, "dropped")[0]


def test_known_clip_with_an_emotion_is_kept(tmp_path: Path) -> None:
    assert load_casme2(write_set(tmp_path, [row(24, "EP02_07", emotion="repression")])).clips[0].clip == "EP02_07"


def test_folder_without_a_row_is_a_warning(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    touch_frames(tmp_path / "CASME2_RAW_selected/sub01/EP99", [1])
    loaded = load_casme2(tmp_path)
    assert len(loaded.clips) == 1
    assert "EP99: the folder is ignored: it is not in the sheet" in notes(loaded, "warning")[0]


def test_missing_frames_inside_the_interval_are_a_warning(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    (tmp_path / "CASME2_RAW_selected/sub01/EP02_01f/img55.jpg").unlink()
    assert "lacks 1 frame inside the interval: 55" in notes(load_casme2(tmp_path), "warning")[0]


def test_shortcut_files_among_the_folders_are_ignored(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    (tmp_path / "CASME2_RAW_selected/sub01/Desktop - Shortcut.lnk").touch()
    (tmp_path / "CASME2_RAW_selected/sub01/EP02_01f/Thumbs.db").touch()
    assert load_casme2(tmp_path).notes == []


BAD_ROWS = {
    "onset after offset": (row(onset=61), "onset 61 is after offset 60"),
    "apex outside": (row(apex=61), "apex 61 is outside the interval 46"),
    "offset before apex": (row(offset=48), "apex 50 is outside"),
    "frames missing at the end": (row(offset=75), "has the frames 40–70, but the annotation is for 46–75"),
    "frames missing at the start": (row(onset=39), "has the frames 40–70"),
    "unknown emotion": (
        row(emotion="joyful"),
        "'joyful' is not one of this data set's: disgust, fear, happiness",
    ),
    "no emotion": (row(emotion=None), "emotion is blank"),
    "onset that is no number": (row(onset="x"), "column 'OnsetFrame' holds 'x'"),
    "no onset": (row(onset=None), "OnsetFrame is blank"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    bad, message = BAD_ROWS[name]
    write_set(tmp_path, [row(subject=2), bad])
    with pytest.raises(DataError, match=message) as caught:
        load_casme2(tmp_path)
    assert f"{SHEET} row 3" in str(caught.value)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_dropped_and_listed_where_rows_are_skipped(tmp_path: Path, name: str) -> None:
    loaded = load_casme2(write_set(tmp_path, [row(subject=2), BAD_ROWS[name][0]]), on_error="skip")
    assert [clip.subject for clip in loaded.clips] == ["sub02"]
    assert notes(loaded, "dropped")[0].startswith(f"dropped: {SHEET} row 3 (sub01/EP02_01f): ")


def test_row_without_a_folder_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    write_book(tmp_path / SHEET, [HEADER, row(), row(clip="EP03_02")])
    with pytest.raises(DataError, match=r"row 3 \(sub01/EP03_02\): the folder .*EP03_02 does not exist"):
        load_casme2(tmp_path)


def test_row_of_an_unknown_subject_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    write_book(tmp_path / SHEET, [HEADER, row(subject="s1")])
    with pytest.raises(DataError, match="no folder 's1' next to sub01"):
        load_casme2(tmp_path)


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row(clip="EP01")])
    write_book(tmp_path / SHEET, [HEADER, row(clip="EP02")])
    (tmp_path / "CASME2_RAW_selected/sub01/EP02").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        load_casme2(tmp_path)


def test_frame_names_without_numbers_are_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    (tmp_path / "CASME2_RAW_selected/sub01/EP02_01f/apex.jpg").touch()
    with pytest.raises(DataError, match=r"row 2 .*apex\.jpg has no number in its name"):
        load_casme2(tmp_path)


def test_clip_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 3 .*casme2/sub01/EP02_01f is already listed in .* row 2"):
        load_casme2(write_set(tmp_path, [row(), row()]))


def test_missing_sheet_names_what_is_there(tmp_path: Path) -> None:
    write_set(tmp_path, [row()], sheet="CASME2-ObjectiveClasses.xlsx")
    with pytest.raises(DataError, match=r"no coding sheet of CASME II .*found: CASME2-ObjectiveClasses\.xlsx"):
        load_casme2(tmp_path)


def test_another_versions_sheet_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    write_book(tmp_path / SHEET, [("Subject", "Filename", "Objective Class"), (1, "EP02_01f", 1)])
    with pytest.raises(DataError, match="row 1 lacks the columns OnsetFrame, ApexFrame, OffsetFrame"):
        load_casme2(tmp_path)


def test_renamed_column_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, [row()])
    header = tuple("Onset" if title == "OnsetFrame" else title for title in HEADER)
    write_book(tmp_path / SHEET, [header, row()])
    with pytest.raises(DataError, match="'Onset' looks like OnsetFrame"):
        load_casme2(tmp_path)


def test_missing_frames_folder_is_an_error(tmp_path: Path) -> None:
    write_book(tmp_path / SHEET, [HEADER, row()])
    with pytest.raises(DataError, match=r"no frames of CASME II .*CASME2_RAW_selected or CASME2-RAW"):
        load_casme2(tmp_path)


def test_set_without_a_usable_clip_is_an_error_even_where_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row was dropped"):
        load_casme2(write_set(tmp_path, [row(emotion="joyful")]), on_error="skip")
