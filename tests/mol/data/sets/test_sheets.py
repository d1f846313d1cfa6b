"""Reading annotation sheets."""

from __future__ import annotations

from pathlib import Path

import pytest
from sheet_files import write_book

from mol.common.errors import DataError
from mol.data.sets.sheets import SheetRow, read_cells, read_sheet, read_titles

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
    assert read_cells(path, "notes").rows == {}
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
    with pytest.raises(DataError, match="cannot be read as an Excel workbook"):
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
