"""Cells of workbooks and CSV files as people have them: stray cells, formulas, dates, other worksheets."""

from __future__ import annotations

import datetime
import os
import shutil
import time
import zipfile
from pathlib import Path

import openpyxl
import pytest
from openpyxl.chart import BarChart

from mol.common.errors import DataError
from mol.data.sets import cells
from mol.data.sets.cells import Unusable, read_cells, read_tables, table_text
from mol.data.sets.sheets import SheetRow, read_sheet, read_titles

COLUMNS = {"clip": ("Filename",), "onset": ("OnsetFrame",), "offset": ("OffsetFrame",)}
HEADER = ("Filename", "OnsetFrame", "OffsetFrame")
ROW = ("EP01", 46, 59)
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def book_of(path: Path, *worksheets: list[tuple], chart: bool = False) -> Path:
    """A workbook with the rows of each worksheet, perhaps after a chart sheet."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    if chart:
        book.create_chartsheet("chart").add_chart(BarChart())
    for number, rows in enumerate(worksheets, 1):
        sheet = book.create_sheet(f"S{number}")
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path


def with_part(path: Path, change) -> Path:
    """Change the XML of a workbook's first worksheet."""
    changed = path.with_name("changed.xlsx")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            data = old.read(part)
            new.writestr(part, change(data.decode()) if part.filename == "xl/worksheets/sheet1.xml" else data)
    shutil.move(changed, path)
    return path


@pytest.mark.parametrize("before", [[[]], [[("notes",), ("about the coding",)]], [[], [("a", "b")]]])
def test_the_first_worksheet_with_the_header_is_read(tmp_path: Path, before: list) -> None:
    path = book_of(tmp_path / "codes.xlsx", *before, [HEADER, ROW], chart=True)
    row = read_sheet(path, COLUMNS)[0]
    assert row.source == f"codes.xlsx [S{len(before) + 1}] row 2"
    assert read_titles(path, COLUMNS) == list(HEADER)


def test_worksheets_are_named_if_none_has_the_header(tmp_path: Path) -> None:
    path = book_of(tmp_path / "codes.xlsx", [("a",)], [("Filename", "Onset")])
    with pytest.raises(DataError, match=r"codes.xlsx \[S2\] row 1 lacks the columns OnsetFrame, OffsetFrame"):
        read_sheet(path, COLUMNS)
    with pytest.raises(DataError, match=r"\(worksheets \[S1\], \[S2\]\) is empty"):
        read_sheet(book_of(tmp_path / "empty.xlsx", [], []), COLUMNS)


def test_positions_count_the_worksheets_that_are_not_blank(tmp_path: Path) -> None:
    path = book_of(tmp_path / "codes.xlsx", [], [("a",)], [], [("b",)])
    assert [list(read_cells(path, at).rows.values()) for at in (0, 1)] == [[["a"]], [["b"]]]
    with pytest.raises(DataError, match="no worksheet 2; it has S1, S2, S3, S4"):
        read_cells(path, 2)


def test_a_stray_cell_in_the_last_row_and_column_costs_nothing(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(list(HEADER))
    book.active.append(list(ROW))
    book.active["XFD3000"] = "x"
    book.active["B1048576"] = "y"
    book.save(tmp_path / "codes.xlsx")
    assert (tmp_path / "codes.xlsx").stat().st_size < 10_000
    before = time.process_time()
    rows = read_sheet(tmp_path / "codes.xlsx", COLUMNS)
    assert time.process_time() - before < 30  # filling all the cells in between takes many minutes
    assert [row.source for row in rows] == ["codes.xlsx row 2", "codes.xlsx row 1048576"]


def test_an_extent_and_row_numbers_that_are_made_up_cost_nothing(tmp_path: Path) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER, ROW])
    with_part(path, lambda text: text.replace('ref="A1:C2"', 'ref="A1:XFD1048576"'))
    assert len(read_sheet(path, COLUMNS)) == 1
    with_part(path, lambda text: text.replace('<row r="2"', '<row r="2000000000"').replace('2"', '2000000000"'))
    assert len(read_tables(path).__next__().rows) <= 2


BLANK_ROWS = {
    "without cells": lambda row: f'<row r="{row}"></row>',
    "with a format": lambda row: f'<row r="{row}" s="1" customFormat="1" />',
    "of cells with a format": lambda row: f'<row r="{row}"><c r="A{row}" s="1"/><c r="B{row}" s="1"><v /></c></row>',
    "with a prefix": lambda row: f'<x:row r="{row}" xmlns:x="{MAIN}"><x:c r="A{row}" s="1"></x:c></x:row>',
}


@pytest.mark.parametrize("kind", BLANK_ROWS)
def test_blank_rows_that_a_program_lists_are_never_parsed(tmp_path: Path, monkeypatch, kind: str) -> None:
    from openpyxl.worksheet._reader import WorkSheetParser

    path = book_of(tmp_path / "codes.xlsx", [HEADER, ROW])
    last = '<row r="20000"><c r="A20000"><v>7</v></c></row>'
    blank = "".join(map(BLANK_ROWS[kind], range(3, 20_000)))
    with_part(path, lambda text: text.replace("</sheetData>", f"{blank}{last}</sheetData>"))
    parsed, parse = [], WorkSheetParser.parse_row
    monkeypatch.setattr(WorkSheetParser, "parse_row", lambda self, row: parsed.append(row) or parse(self, row))
    rows = read_sheet(path, COLUMNS)
    assert [row.source for row in rows] == ["codes.xlsx row 2", "codes.xlsx row 20000"]
    assert [row.shown("clip") for row in rows] == ["EP01", "7"]
    assert len(parsed) <= 6  # each costs some 16 µs: a million of them, 16 s


def test_rows_without_numbers_and_texts_that_look_like_cells_stay_in_their_place(tmp_path: Path) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER])
    rows = """<row></row><row><c s="1"/><c><v>3</v></c></row>"""
    with_part(path, lambda text: text.replace("</sheetData>", f"{rows}</sheetData>"))
    assert read_cells(path).rows[3][:2] == [None, 3]
    quoted = """<row r="9"><c r="A9" t="inlineStr"><is><t><![CDATA[<c r="A1"/>]]></t></is></c></row>"""
    with_part(path, lambda text: text.replace("</sheetData>", f"{quoted}</sheetData>"))
    assert read_cells(path).rows[9] == ['<c r="A1"/>']


def test_parts_that_hold_no_cells_are_never_unpacked(tmp_path: Path, monkeypatch) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER, ROW])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in (
            "xl/media/image1.png",
            "xl/pivotCache/pivotCacheRecords1.xml",
            "xl/externalLinks/externalLink1.xml",
        ):
            archive.writestr(name, bytes(200_000))
    monkeypatch.setattr(cells, "LARGEST_FILE", 100_000)
    assert len(read_sheet(path, COLUMNS)) == 1
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/theme/theme2.xml", bytes(200_000))
    with pytest.raises(DataError, match="unpacks to 0 MB of cells"):
        read_sheet(path, COLUMNS)


def test_rows_of_cells_that_hold_only_blanks_are_refused_past_a_number(tmp_path: Path, monkeypatch) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER, *[(" ",)] * 30])
    assert read_sheet(path, COLUMNS) == []
    monkeypatch.setattr(cells, "MOST_ROWS", 20)
    (tmp_path / "codes.csv").write_text(",".join(HEADER) + "\n,," * 30 + "\nEP01,46,59\n")
    assert len(read_sheet(tmp_path / "codes.csv", COLUMNS)) == 1
    with pytest.raises(DataError, match="more than 20 filled rows"):
        read_sheet(path, COLUMNS)


def test_a_workbook_that_unpacks_to_too_much_and_too_many_rows_are_refused(tmp_path: Path, monkeypatch) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER, *[ROW] * 30])
    monkeypatch.setattr(cells, "MOST_ROWS", 20)
    with pytest.raises(DataError, match="more than 20 filled rows"):
        read_sheet(path, COLUMNS)
    monkeypatch.setattr(cells, "LARGEST_FILE", 1000)
    with pytest.raises(DataError, match=r"unpacks to 0 MB of cells.*copy its rows into a new workbook"):
        read_sheet(path, COLUMNS)
    (tmp_path / "codes.csv").write_text(",".join(HEADER) + "\n" * 2000)
    with pytest.raises(DataError, match=r"codes\.csv has 0 MB, a table at most"):
        read_sheet(tmp_path / "codes.csv", COLUMNS)


def test_a_formula_saved_without_its_value_is_named_where_it_is_needed(tmp_path: Path) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER, ("EP01", 46, "=B2+13"), ("=1/1", 5, 9)])
    first, second = read_sheet(path, COLUMNS)
    assert (first.text("clip"), first.whole("onset")) == ("EP01", 46)
    message = r"codes.xlsx row 2: the column 'OffsetFrame' holds the formula =B2\+13 without its value.*save it again"
    with pytest.raises(DataError, match=message):
        first.whole("offset")
    assert second.shown("clip") == "=1/1"
    with pytest.raises(DataError, match=r"row 3: the column 'Filename' holds the formula"):
        second.text("clip")


def test_a_formula_with_its_value_is_its_value_and_an_empty_result_is_blank(tmp_path: Path) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER, ("EP01", 46, "=B2+13"), ("EP02", "=A1", 9)])
    with_part(
        path,
        lambda text: text.replace("<f>B2+13</f><v />", "<f>B2+13</f><v>59</v>").replace(
            "<f>B2+13</f><v/>", "<f>B2+13</f><v>59</v>"
        ),
    )
    with_part(path, lambda text: text.replace('r="B3"', 'r="B3" t="str"'))
    first, second = read_sheet(path, COLUMNS)
    assert first.whole("offset") == 59
    assert second.whole("onset") is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime.datetime(2006, 1, 2), "2006-01-02"),
        (datetime.date(2006, 1, 2), "2006-01-02"),
        (datetime.time(6, 1, 2), "06:01:02"),
    ],
)
def test_what_excel_turned_into_a_date_is_named_with_the_remedy(tmp_path: Path, value: object, shown: str) -> None:
    row = read_sheet(book_of(tmp_path / "codes.xlsx", [HEADER, (value, value, 59)]), COLUMNS)[0]
    for read, column in ((row.text, "clip"), (row.whole, "onset")):
        with pytest.raises(DataError, match=f"row 2: .*holds the date {shown}.*format the column as text"):
            read(column)
    assert row.shown("clip") == shown


def test_excels_own_errors_are_named(tmp_path: Path) -> None:
    path = book_of(tmp_path / "codes.xlsx", [HEADER, ("EP01", "#REF!", 59)])
    with pytest.raises(DataError, match=r"'OnsetFrame' holds Excel's error #REF!"):
        read_sheet(path, COLUMNS)[0].whole("onset")


@pytest.mark.parametrize("text", ["46", "46.0", "46.00", "46,0", "46.", "+46", " 46 ", "046"])
def test_whole_numbers_as_programs_write_them(text: str) -> None:
    assert SheetRow("f row 1", {"onset": cells.usable(text)}).whole("onset") == 46


@pytest.mark.parametrize("text", ["", "nan", "NaN", "None", "<NA>", "n/a", "NULL"])
def test_missing_numbers_as_programs_write_them(text: str) -> None:
    assert SheetRow("f row 1", {"onset": cells.usable(text)}).whole("onset") is None


@pytest.mark.parametrize("text", ["46.5", "46,5", "1,234", "4e1", "0x2e", "9" * 4301, "46 47", "1.0.0"])
def test_other_numbers_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(DataError, match="expected") as caught:
        SheetRow("f row 1", {"onset": cells.usable(text)}).whole("onset")
    assert len(str(caught.value)) < 300


def test_a_name_written_as_a_number_with_a_point_is_the_number() -> None:
    row = SheetRow("f row 1", {"subject": "12.0", "clip": "1.5", "other": "v2.0"})
    assert [row.identifier(name) for name in ("subject", "clip", "other")] == ["12", "1.5", "v2.0"]


@pytest.mark.parametrize("suffix", [".xlsx", ".csv"])
def test_a_very_long_cell_is_named_in_one_line_where_it_is_needed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"codes{suffix}"
    rows = [HEADER, ("x" * 100_000, 46, 59), ("EP02", 46, 59)]
    if suffix == ".xlsx":
        book_of(path, rows)
    else:
        path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    first, second = read_sheet(path, COLUMNS)
    assert second.text("clip") == "EP02"
    assert len(first.shown("clip")) < 200
    with pytest.raises(DataError, match=r"the column 'Filename' holds [0-9,]+ characters, expected at most 1,000"):
        first.text("clip")


def test_a_cell_of_a_million_characters_in_a_csv_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_text(f"{','.join(HEADER)}\n{'x' * 1_000_000},1,2\n")
    with pytest.raises(DataError, match="line 2 cannot be read as a table: a cell has more than 131,072 characters"):
        read_sheet(tmp_path / "codes.csv", COLUMNS)
    (tmp_path / "codes.csv").write_text(f"{'title' * 20_000},{','.join(HEADER[:2])}\n")
    with pytest.raises(DataError, match="lacks the columns OffsetFrame") as caught:
        read_sheet(tmp_path / "codes.csv", COLUMNS)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_the_separator_is_the_one_that_gives_the_header(tmp_path: Path, separator: str) -> None:
    other = "," if separator != "," else ";"
    lines = [
        separator.join((*HEADER, "AU")),
        separator.join(("EP01", "46", "59,0", other.join("1247"))).replace("59,0", "59"),
    ]
    (tmp_path / "codes.csv").write_text("\n".join(["sep=" + separator, *lines, *lines[1:] * 3]), encoding="utf-8-sig")
    row = read_sheet(tmp_path / "codes.csv", COLUMNS)[0]
    assert (row.source, row.text("clip"), row.whole("offset")) == ("codes.csv row 3", "EP01", 59)


def test_quoted_line_ends_stay_in_their_cell(tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_text(
        'Filename,OnsetFrame,OffsetFrame,Notes\r\nEP01,1,2,"a\r\nb, c"\r\nEP02,3,4,\r\n'
    )
    assert [row.source for row in read_sheet(tmp_path / "codes.csv", COLUMNS)] == ["codes.csv row 2", "codes.csv row 3"]


def test_utf_16_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "codes.csv").write_text(",".join(HEADER), encoding="utf-16")
    with pytest.raises(DataError, match="is UTF-16; save it as UTF-8"):
        read_sheet(tmp_path / "codes.csv", COLUMNS)


def test_a_cell_that_cannot_be_used_shows_what_it_held() -> None:
    assert cells.as_text(Unusable("2006-01-02", "holds the date")) == "2006-01-02"


def test_a_pipe_in_the_place_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"table\.csv is a pipe; give an ordinary file"):
        table_text(tmp_path / "table.csv")


@pytest.mark.parametrize("leads_to", ["table.csv", "nowhere.csv"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, leads_to: str) -> None:
    (tmp_path / "table.csv").symlink_to(leads_to)
    with pytest.raises(DataError, match=r"cannot read .*table\.csv: .*where a link leads"):
        table_text(tmp_path / "table.csv")
