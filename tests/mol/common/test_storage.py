"""Reading files: rows come with their line numbers, and every damage is named with file, row and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mol.common.errors import DataError, MediaError, MOLError
from mol.common.storage import read_csv, write_csv

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
