"""Reading files: rows come with their line numbers, and every damage is named with file, row and remedy."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hostile import NAMES
from hypothesis import given
from hypothesis import strategies as st

from mol.common.errors import DataError, MediaError, MOLError, StorageError
from mol.common.storage import csv_cell, csv_text, read_csv, write_csv, write_json, write_text

REMEDY = "write it again"


def test_rows_come_with_their_line_numbers(tmp_path: Path):
    write_csv(tmp_path / "a.csv", ["name", "value"], [["x", 1], ["two\nlines", 2], ["z", 3]])
    rows = list(read_csv(tmp_path / "a.csv", ["value"], REMEDY))
    assert rows == [
        (2, {"name": "x", "value": "1"}),
        (4, {"name": "two\nlines", "value": "2"}),
        (5, {"name": "z", "value": "3"}),
    ]


def test_a_byte_order_mark_and_spaces_around_names_do_not_matter(tmp_path: Path):
    (tmp_path / "a.csv").write_text("\ufeffname, value\nx,1\n", encoding="utf-8")
    assert list(read_csv(tmp_path / "a.csv", ["name", "value"], REMEDY)) == [(2, {"name": "x", "value": "1"})]


@pytest.mark.parametrize("error", [DataError, MediaError])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,value\nx,1\ny\n", "line 3 has too few values; write it again"),
        (b"name,value\nx,1,2\n", "line 2 has too many values; write it again"),
        (b"name\nx\n", "lacks the column value; write it again"),
        (b"", "lacks the column name; write it again"),
        (b"name,value\n\xff,1\n", "cannot be read .*; write it again"),
        (b'name,value\n"x' + b"y" * 200000, "cannot be read .*; write it again"),
        (None, "is missing; write it again"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, message: str, error: type[MOLError]
):
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        list(read_csv(path, ["name", "value"], REMEDY, error))
    assert str(path) in str(caught.value)


def test_a_folder_in_the_place_of_a_table_is_named(tmp_path: Path):
    with pytest.raises(MediaError, match="cannot be read"):
        list(read_csv(tmp_path, ["name"], REMEDY, MediaError))


# Text that a spreadsheet would run, and names that are long or not UTF-8

FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "＋x",
    "－x",
    "＠x",
    "-",
    "--",
    "=",
    "'=1",
    "''",
)
PLAIN = ("-1", "+0.25", "-3e-05", "-.5", "-12%", "nan", "-inf", "", "x=1", "a-b", "it's", "'quoted'", "sub01")


def test_no_cell_starts_a_formula_and_all_text_comes_back(tmp_path: Path):
    texts = [*NAMES, *FORMULAS, *PLAIN]
    write_csv(tmp_path / "a.csv", ["name", "=head"], [[text, text] for text in texts])
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        raw = list(csv.reader(file))
    for cell in (cell for row in raw for cell in row if len(cell) > 1):
        assert (
            not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
            or float(cell.rstrip("%")) <= 1
        )
    read = list(read_csv(tmp_path / "a.csv", ["name", "=head"], REMEDY))
    assert [row for _, row in read] == [{"name": text, "=head": text} for text in texts]


def test_numbers_and_ordinary_text_are_written_as_they_are(tmp_path: Path):
    write_csv(tmp_path / "a.csv", ["a"], [[value] for value in (*PLAIN[:-1], -1, -0.5, None)])
    text = (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert text == "a\n" + "".join(f"{value}\n" if value else '""\n' for value in PLAIN[:-1]) + '-1\n-0.5\n""\n'


@given(st.text(alphabet=st.sampled_from("'=+-@\t\r\n1ax＝"), max_size=6))
def test_every_cell_comes_back(cell: str):
    assert csv_text(csv_cell(cell)) == cell


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "ü" * 125 + ".csv", "微" * 83 + ".json", "a." + "b" * 250])
def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path, name: str):
    write_text(tmp_path / name, "content")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_longer_than_that_is_refused_in_words(tmp_path: Path):
    with pytest.raises(StorageError, match="File name too long"):
        write_text(tmp_path / ("x" * 256), "content")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_utf8_is_written_and_comes_back(tmp_path: Path):
    name = os.fsdecode(b"film-\xff.mp4")
    write_json(tmp_path / "a.json", {"video": name})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "video": "film-\\udcff.mp4"\n}\n'
    write_csv(tmp_path / name, ["video"], [[name]])
    assert list(read_csv(tmp_path / name, ["video"], REMEDY)) == [(2, {"video": r"film-\udcff.mp4"})]


def test_a_pipe_or_a_device_is_refused_before_it_is_read(tmp_path: Path):
    os.mkfifo(tmp_path / "table")
    with pytest.raises(DataError, match="table is a pipe; give an ordinary file"):
        list(read_csv(tmp_path / "table", [], REMEDY))
    with pytest.raises(DataError, match="/dev/zero is a device; give an ordinary file"):
        list(read_csv(Path("/dev/zero"), [], REMEDY))
