"""The loader of SAMM on tiny sheets and folders, with the set's known errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sheet_files import touch_frames, write_book

from mol.common.errors import DataError
from mol.data.manifest import Loaded, key
from mol.data.sets.samm import load_samm

HEADER = (
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset Frame",
    "Apex Frame",
    "Offset Frame",
    "Duration",
    "Micro",
    "Action Units",
    "Estimated Emotion",
    "Objective Classes",
    "Notes",
)
SHEET = "SAMM_Micro_FACS_Codes_v2.xlsx"
NOTES_ABOVE = [(f"Note {number} about the subject and the onset frame",) for number in range(1, 14)]


def row(
    subject: Any, clip: str, onset: Any = 5562, apex: Any = 5570, offset: Any = 5580, emotion: Any = "Anger"
) -> tuple:
    return (subject, clip, 1, onset, apex, offset, 19, "Micro - 1/2", "AU4 + AU7", emotion, 1, None)


def write_set(root: Path, rows: Sequence[tuple], above: Sequence[tuple] = NOTES_ABOVE, padding: int = 5) -> Path:
    """The sheet below its notes, and a folder of the frames 5560 to 5590 for every row."""
    write_book(root / SHEET, [*above, HEADER, *rows])
    for subject, clip, *_ in rows:
        name = f"{int(subject):03d}_{{:0{padding}d}}.jpg"
        touch_frames(root / "SAMM" / f"{int(subject):03d}" / clip, range(5560, 5591), name)
    return root


def notes(loaded: Loaded, kind: str) -> list[str]:
    return [str(note) for note in loaded.notes if note.kind == kind]


def test_a_row_below_the_notes_becomes_a_clip(tmp_path: Path) -> None:
    loaded = load_samm(write_set(tmp_path, [row(6, "006_1_2")]))
    (clip,) = loaded.clips
    assert key(clip) == "samm/006/006_1_2"
    assert clip.path == "SAMM/006/006_1_2"
    assert (clip.onset, clip.apex, clip.offset) == (5562, 5570, 5580)
    assert (clip.emotion, clip.action_units, clip.fps) == ("anger", "AU4 + AU7", 200.0)
    assert clip.source == f"{SHEET} row 15"
    assert loaded.notes == []


def test_header_in_the_first_row_is_found_as_well(tmp_path: Path) -> None:
    assert load_samm(write_set(tmp_path, [row("006", "006_1_2")], above=[])).clips[0].source == f"{SHEET} row 2"


def test_dated_sheet_name_is_accepted(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    (tmp_path / SHEET).rename(tmp_path / "SAMM_20181215_Micro_FACS_Codes_v2.xlsx")
    assert len(load_samm(tmp_path).clips) == 1


@pytest.mark.parametrize("spelling", ["Other", "Others", "others"])
def test_others_are_spelled_one_way(tmp_path: Path, spelling: str) -> None:
    assert load_samm(write_set(tmp_path, [row(6, "006_1_2", emotion=spelling)])).clips[0].emotion == "others"


@pytest.mark.parametrize("padding", [0, 4, 5, 7])
def test_any_zero_padding_is_read(tmp_path: Path, padding: int) -> None:
    loaded = load_samm(write_set(tmp_path, [row(13, "013_1_12")], padding=padding))
    assert loaded.clips[0].onset == 5562


def test_mixed_zero_padding_within_a_clip_is_read(tmp_path: Path) -> None:
    write_set(tmp_path, [row(13, "013_1_12", 98, 100, 102)])
    touch_frames(tmp_path / "SAMM/013/013_1_12", range(95, 100), "013_{:05d}.jpg")
    touch_frames(tmp_path / "SAMM/013/013_1_12", range(100, 105), "013_{:04d}.jpg")
    assert load_samm(tmp_path).notes == []


@pytest.mark.parametrize("clip", ["028_4_1", "032_3_1"])
@pytest.mark.parametrize("apex", [5550, 5585])
def test_known_apex_outside_becomes_none_with_a_note(tmp_path: Path, clip: str, apex: int) -> None:
    loaded = load_samm(write_set(tmp_path, [row(int(clip[:3]), clip, apex=apex)]))
    assert loaded.clips[0].apex is None
    assert f"({clip}): apex {apex} is outside the interval 5562–5580" in notes(loaded, "repaired")[0]


def test_known_clip_with_an_apex_inside_keeps_it(tmp_path: Path) -> None:
    assert load_samm(write_set(tmp_path, [row(28, "028_4_1")])).clips[0].apex == 5570


def test_reported_apex_outside_becomes_none(tmp_path: Path) -> None:
    rows = [row(6, f"006_1_{number}") for number in range(133)] + [row(33, "033_1_1", apex=5585)]
    assert load_samm(write_set(tmp_path, rows)).clips[133].apex is None


def test_blank_apex_is_none_with_a_warning(tmp_path: Path) -> None:
    loaded = load_samm(write_set(tmp_path, [row(6, "006_1_2", apex=None)]))
    assert loaded.clips[0].apex is None
    assert "has no apex" in notes(loaded, "warning")[0]


def test_reported_wrong_offset_is_corrected(tmp_path: Path) -> None:
    rows = [row(6, f"006_1_{number}") for number in range(56)] + [row(14, "014_1_1", 5700, 5710, 9739)]
    write_set(tmp_path, rows)
    touch_frames(tmp_path / "SAMM/014/014_1_1", range(5700, 5740), "014_{:05d}.jpg")
    loaded = load_samm(tmp_path)
    assert loaded.clips[56].offset == 5739
    assert "offset 9739 changed to 5739" in notes(loaded, "repaired")[0]


def test_doubled_folder_is_seen_through(tmp_path: Path) -> None:
    write_set(tmp_path / "SAMM", [row(6, "006_1_2")])
    assert load_samm(tmp_path).clips[0].path == "SAMM/SAMM/006/006_1_2"


def test_subjects_may_lie_in_the_root_itself(tmp_path: Path) -> None:
    write_book(tmp_path / SHEET, [*NOTES_ABOVE, HEADER, row(6, "006_1_2")])
    touch_frames(tmp_path / "006" / "006_1_2", range(5560, 5591), "006_{:05d}.jpg")
    assert load_samm(tmp_path).clips[0].path == "006/006_1_2"


def test_folder_without_a_row_is_a_warning(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    touch_frames(tmp_path / "SAMM/006/006_9_9", [1])
    assert "006_9_9: the folder is ignored: it is not in the sheet" in notes(load_samm(tmp_path), "warning")[0]


def test_missing_frames_inside_the_interval_are_a_warning(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    (tmp_path / "SAMM/006/006_1_2/006_05565.jpg").unlink()
    assert "lacks 1 frame inside the interval: 5565" in notes(load_samm(tmp_path), "warning")[0]


BAD_ROWS = {
    "another apex outside": (row(6, "006_1_3", apex=5585), "apex 5585 is outside the interval 5562"),
    "onset after offset": (row(6, "006_1_3", onset=5585), "onset 5585 is after offset 5580"),
    "frames missing": (row(6, "006_1_3", offset=5595), "has the frames 5560–5590, but the annotation is for 5562–5595"),
    "unknown emotion": (
        row(6, "006_1_3", emotion="Joy"),
        "'Joy' is not one of this data set's: anger, contempt",
    ),
    "no emotion": (row(6, "006_1_3", emotion=None), "emotion is blank"),
    "apex that is no number": (row(6, "006_1_3", apex="/"), "column 'Apex Frame' holds '/'"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    bad, message = BAD_ROWS[name]
    write_set(tmp_path, [row(7, "007_3_1"), bad])
    with pytest.raises(DataError, match=message) as caught:
        load_samm(tmp_path)
    assert f"{SHEET} row 16" in str(caught.value)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_dropped_and_listed_where_rows_are_skipped(tmp_path: Path, name: str) -> None:
    loaded = load_samm(write_set(tmp_path, [row(7, "007_3_1"), BAD_ROWS[name][0]]), on_error="skip")
    assert [clip.clip for clip in loaded.clips] == ["007_3_1"]
    assert notes(loaded, "dropped")[0].startswith(f"dropped: {SHEET} row 16 (006_1_3): ")


def test_subject_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    write_book(tmp_path / SHEET, [*NOTES_ABOVE, HEADER, row("sub06", "006_1_2")])
    with pytest.raises(DataError, match="subject 'sub06' is not a number such as 006"):
        load_samm(tmp_path)


def test_row_without_a_folder_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    write_book(tmp_path / SHEET, [*NOTES_ABOVE, HEADER, row(6, "006_1_8")])
    with pytest.raises(DataError, match=r"row 15 \(006_1_8\): the folder .*006_1_8 does not exist"):
        load_samm(tmp_path)


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    for frame in (tmp_path / "SAMM/006/006_1_2").iterdir():
        frame.unlink()
    with pytest.raises(DataError, match="holds no pictures"):
        load_samm(tmp_path)


def test_frame_names_without_numbers_are_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    (tmp_path / "SAMM/006/006_1_2/apex.jpg").touch()
    with pytest.raises(DataError, match=r"apex\.jpg has no number"):
        load_samm(tmp_path)


def test_missing_frames_folder_is_an_error(tmp_path: Path) -> None:
    write_book(tmp_path / SHEET, [HEADER, row(6, "006_1_2")])
    with pytest.raises(DataError, match=r"no frames of SAMM .*a folder SAMM with 006"):
        load_samm(tmp_path)


def test_sheet_of_the_long_videos_is_not_taken(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    (tmp_path / SHEET).rename(tmp_path / "SAMM_LongVideos_V2_Release.xlsx")
    with pytest.raises(DataError, match=r"found: SAMM_LongVideos_V2_Release\.xlsx"):
        load_samm(tmp_path)


def test_renamed_column_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, [row(6, "006_1_2")])
    header = tuple("Emotion Estimated" if title == "Estimated Emotion" else title for title in HEADER)
    write_book(tmp_path / SHEET, [*NOTES_ABOVE, header, row(6, "006_1_2")])
    with pytest.raises(DataError, match=r"row 14 lacks the columns Estimated Emotion.*'Emotion Estimated' looks like"):
        load_samm(tmp_path)
