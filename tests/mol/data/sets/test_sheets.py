"""Finding and reading annotation sheets, and finding folders of a data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from sheet_files import touch_frames, write_book

from mol.common.errors import DataError
from mol.data.sets.sheets import (
    SheetRow,
    clip_folder,
    find_folders,
    find_sheet,
    other_sets,
    read_cells,
    read_sheet,
    read_titles,
    subject_folders,
    unlisted_folders,
)

COLUMNS = {"subject": ("Subject",), "onset": ("OnsetFrame", "Onset"), "emotion": ("Estimated Emotion",)}
HEADER = ("Subject", "OnsetFrame", None, "Estimated Emotion")


def test_header_is_found_below_notes(tmp_path: Path) -> None:
    notes = [("Notes about the coding",), (), ("Subject is the person",)]
    path = write_book(tmp_path / "codes.xlsx", [*notes, HEADER, (6, 46, None, "fear")])
    row = read_sheet(path, COLUMNS)[0]
    assert row.source == "codes.xlsx row 5"
    assert row.values == {"subject": 6, "onset": 46, "emotion": "fear"}


@pytest.mark.parametrize("title", ["Onset Frame", "onset_frame", "OnsetFrame ", "ONSETFRAME", "Onset"])
def test_titles_are_compared_by_letters_and_digits(tmp_path: Path, title: str) -> None:
    path = write_book(tmp_path / "codes.xlsx", [("Subject", title, "Estimated emotion"), (1, 46, "fear")])
    assert read_sheet(path, COLUMNS)[0].whole("onset") == 46


def test_preferred_spelling_of_a_title_wins(tmp_path: Path) -> None:
    path = write_book(
        tmp_path / "codes.xlsx", [("Subject", "Onset", "OnsetFrame", "Estimated Emotion"), (1, 2, 3, "x")]
    )
    assert read_sheet(path, COLUMNS)[0].whole("onset") == 3


def test_blank_rows_are_passed_over_and_rows_keep_their_numbers(tmp_path: Path) -> None:
    path = write_book(tmp_path / "codes.xlsx", [HEADER, (1, 2, None, "a"), (), (None, "  "), (3, 4, None, "b")])
    assert [row.source for row in read_sheet(path, COLUMNS)] == ["codes.xlsx row 2", "codes.xlsx row 5"]


def test_worksheet_is_named_where_the_book_has_several(tmp_path: Path) -> None:
    path = write_book(tmp_path / "codes.xlsx", [HEADER, (1, 2, None, "a")], title="MICRO", others=["notes"])
    assert read_sheet(path, COLUMNS)[0].source == "codes.xlsx [MICRO] row 2"


def test_worksheet_can_be_chosen_by_name(tmp_path: Path) -> None:
    path = write_book(tmp_path / "codes.xlsx", [HEADER, (1, 2, None, "a")], title="MICRO", others=["notes"])
    assert read_cells(path, "notes").rows == []
    with pytest.raises(DataError, match="no worksheet 'codes'; it has MICRO, notes"):
        read_cells(path, "codes")


def test_columns_that_are_not_required_may_be_absent(tmp_path: Path) -> None:
    path = write_book(tmp_path / "codes.xlsx", [("Subject", "OnsetFrame"), (1, 2)])
    row = read_sheet(path, COLUMNS, required={"subject", "onset"})[0]
    assert row.text("emotion") == ""
    assert row.whole("emotion") is None


def test_titles_list_every_column_of_the_header(tmp_path: Path) -> None:
    path = write_book(tmp_path / "codes.xlsx", [("note",), (*HEADER, "Remarks"), (1, 2, None, "a", "b")])
    assert read_titles(path, COLUMNS) == ["Subject", "OnsetFrame", "Estimated Emotion", "Remarks"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_read_with_its_separator_and_byte_order_mark(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "codes.csv"
    lines = [separator.join(("Subject", "OnsetFrame", "Estimated Emotion")), separator.join(("1", " 46 ", "fear"))]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    row = read_sheet(path, COLUMNS)[0]
    assert (row.source, row.text("subject"), row.whole("onset")) == ("codes.csv row 2", "1", 46)


def test_renamed_column_is_named_with_what_looks_like_it(tmp_path: Path) -> None:
    header = ("Subject", "Onset of the frame", "Estimated Emotion")
    path = write_book(tmp_path / "codes.xlsx", [("notes",), header, (1, 2, "a")])
    with pytest.raises(
        DataError, match=r"row 2 lacks the columns OnsetFrame.*'Onset of the frame' looks like OnsetFrame"
    ):
        read_sheet(path, COLUMNS)


def test_sheet_without_any_wanted_column_is_refused(tmp_path: Path) -> None:
    path = write_book(tmp_path / "codes.xlsx", [("a", "b"), (1, 2)])
    with pytest.raises(DataError, match="no row with the columns Subject, OnsetFrame, Estimated Emotion"):
        read_sheet(path, COLUMNS)


def test_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"codes\.xlsx is empty"):
        read_sheet(write_book(tmp_path / "codes.xlsx", []), COLUMNS)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"codes\.xlsx does not exist"):
        read_sheet(tmp_path / "codes.xlsx", COLUMNS)


def test_file_that_is_no_book_is_refused(tmp_path: Path) -> None:
    (tmp_path / "codes.xlsx").write_bytes(b"not a zip archive")
    with pytest.raises(DataError, match="cannot be read as an Excel book"):
        read_sheet(tmp_path / "codes.xlsx", COLUMNS)


def test_old_excel_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "codes.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match=r"save it as \.xlsx or \.csv"):
        read_sheet(tmp_path / "codes.xls", COLUMNS)


def test_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_bytes("Subject,Émotion".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_sheet(tmp_path / "codes.csv", COLUMNS)


def test_numbers_become_text_without_a_decimal_point() -> None:
    row = SheetRow("f row 1", {"a": 3.0, "b": 3.5, "c": None, "d": "x"})
    assert [row.text(name) for name in "abcd"] == ["3", "3.5", "", "x"]


@pytest.mark.parametrize("value", ["/", "1_2", 2.5, "12a"])
def test_cell_that_is_no_whole_number_is_refused_with_row_and_column(value: object) -> None:
    row = SheetRow("f.xlsx row 7", {"onset": value}, {"onset": "OnsetFrame"})
    with pytest.raises(DataError, match=r"f\.xlsx row 7: column 'OnsetFrame' holds"):
        row.whole("onset")


@pytest.mark.parametrize(("value", "number"), [(46, 46), (46.0, 46), ("46", 46), (None, None), ("-1", -1)])
def test_whole_numbers_are_read_from_numbers_and_text(value: object, number: int | None) -> None:
    assert SheetRow("f row 1", {"onset": value}).whole("onset") == number


def test_newest_sheet_is_found_by_name(tmp_path: Path) -> None:
    for name in ("a/coding-20140508.xlsx", "coding-20190701.xlsx", "~$coding-20200101.xlsx"):
        write_book(tmp_path / name, [HEADER])
    assert find_sheet(tmp_path, ["CODING-*.xlsx"], "sheet").name == "coding-20190701.xlsx"


def test_missing_sheet_lists_what_is_needed_and_what_is_there(tmp_path: Path) -> None:
    write_book(tmp_path / "docs" / "ObjectiveClasses.xlsx", [HEADER])
    with pytest.raises(
        DataError, match=r"no coding sheet .*: a file coding-\*\.xlsx is needed.*ObjectiveClasses\.xlsx"
    ):
        find_sheet(tmp_path, ["coding-*.xlsx"], "coding sheet")


def test_sheet_is_searched_three_levels_down(tmp_path: Path) -> None:
    write_book(tmp_path / "a/b/coding.xlsx", [HEADER])
    write_book(tmp_path / "a/b/c/deeper.xlsx", [HEADER])
    assert find_sheet(tmp_path, ["coding.xlsx"], "sheet").parent.name == "b"
    with pytest.raises(DataError):
        find_sheet(tmp_path, ["deeper.xlsx"], "sheet")


def test_missing_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_sheet(tmp_path / "nowhere", ["*.xlsx"], "sheet")


def test_doubled_folder_gives_the_inner_one(tmp_path: Path) -> None:
    (tmp_path / "Cropped" / "cropped" / "sub01").mkdir(parents=True)
    assert find_folders(tmp_path, ["Cropped"]) == [tmp_path / "Cropped" / "cropped"]


def test_folders_come_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name in ("a/Cropped/sub01", "b/RAW/sub01"):
        (tmp_path / name).mkdir(parents=True)
    assert find_folders(tmp_path, ["raw", "cropped"]) == [tmp_path / "b" / "RAW", tmp_path / "a" / "Cropped"]


def test_root_itself_can_be_the_folder(tmp_path: Path) -> None:
    (tmp_path / "SAMM" / "006").mkdir(parents=True)
    assert find_folders(tmp_path / "SAMM", ["samm"]) == [tmp_path / "SAMM"]


def test_folders_without_folders_are_not_found(tmp_path: Path) -> None:
    touch_frames(tmp_path / "Cropped", [1])
    assert find_folders(tmp_path, ["Cropped"]) == []


def test_subjects_are_taken_from_the_first_base_that_has_any(tmp_path: Path) -> None:
    (tmp_path / "a" / "docs").mkdir(parents=True)
    (tmp_path / "b" / "Sub01").mkdir(parents=True)
    assert subject_folders([tmp_path / "a", tmp_path / "b"], r"sub\d+") == {"sub01": tmp_path / "b" / "Sub01"}


def test_clip_folder_is_found_in_any_case_or_named(tmp_path: Path) -> None:
    (tmp_path / "sub01" / "EP02_01F").mkdir(parents=True)
    subjects = {"sub01": tmp_path / "sub01"}
    assert clip_folder(subjects, "sub01", "EP02_01f").name == "EP02_01F"
    with pytest.raises(DataError, match="sub01/EP03 does not exist"):
        clip_folder(subjects, "sub01", "EP03")
    with pytest.raises(DataError, match="'sub02' has no folder beside sub01"):
        clip_folder(subjects, "sub02", "EP03")
    with pytest.raises(DataError, match="names no clip"):
        clip_folder(subjects, "sub01", "")


def test_folders_that_no_row_names_are_listed(tmp_path: Path) -> None:
    for name in ("EP01", "EP02"):
        (tmp_path / "sub01" / name).mkdir(parents=True)
    assert unlisted_folders({"sub01": tmp_path / "sub01"}, ["sub01/ep01"]) == {
        "sub01/EP02": tmp_path / "sub01" / "EP02"
    }


def test_other_sets_are_recognised_by_their_sheets(tmp_path: Path) -> None:
    write_book(tmp_path / "SAMM_Micro_FACS_Codes_v2.xlsx", [HEADER])
    assert "--dataset samm" in other_sets(tmp_path, own="casme2")
    assert other_sets(tmp_path, own="samm") == ""
