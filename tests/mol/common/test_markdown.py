"""Generated parts of Markdown pages."""

from __future__ import annotations

import pytest

from mol.common.errors import DataError
from mol.common.markdown import publish

PAGE = "# Title\n\n<!-- table: start -->\nold\n<!-- table: end -->\nafter\n"


def test_a_part_is_replaced_and_the_rest_is_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    publish("| é |\n|---|", "table", [str(page)])
    assert page.read_text(encoding="utf-8") == PAGE.replace("old", "| é |\n|---|")


def test_without_a_page_the_part_is_printed(capsys):
    publish("new", "table", [])
    assert capsys.readouterr().out == "new\n"


@pytest.mark.parametrize(
    "page", ["", PAGE + PAGE, "<!-- table: end -->\n<!-- table: start -->", PAGE.replace("end", "e")]
)
def test_a_page_without_exactly_one_such_part_is_left_alone(tmp_path, page):
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")
    with pytest.raises(DataError, match="<!-- table: start --> and <!-- table: end -->"):
        publish("new", "table", [str(path)])
    assert path.read_text(encoding="utf-8") == page
