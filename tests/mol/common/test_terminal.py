"""What commands show: text as it is, whatever it contains."""

from __future__ import annotations

import pytest
from hostile import NAMES
from rich.table import Table

from mol.cli import main
from mol.common.terminal import console, counting, printable, say, styled, tracking


@pytest.mark.parametrize("name", NAMES)
def test_a_line_is_shown_as_it_is(name: str, capsys: pytest.CaptureFixture[str]):
    say(f"{name} is done")
    assert capsys.readouterr().out == f"{printable(name)} is done\n".expandtabs(8)


@pytest.mark.parametrize("name", NAMES)
def test_heads_cells_titles_and_captions_are_shown_as_they_are(name: str, capsys: pytest.CaptureFixture[str]):
    table = Table(name, title=name, caption=name, min_width=320)
    table.add_row(name)
    console(width=400).print(table)
    shown = capsys.readouterr().out
    for line in printable(name).splitlines():
        assert shown.count(line.strip()) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_shown_as_it_is_in_one_line(name: str, capsys: pytest.CaptureFixture[str]):
    assert main([name]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: unknown command ")
    assert shown.count("\n") == 1
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_is_headed_by_any_text(name: str):
    with counting(name) as count:
        count(1, 2)
    with tracking() as track:
        assert list(track([1, 2], name)) == [1, 2]


def test_what_a_terminal_obeys_is_made_visible():
    assert printable("\x1b[2J\x07\x9b\x7f\u202e\u2066\r") == r"\x1b[2J\x07\x9b\x7f\u202e\u2066\r"
    assert printable("ä – 微\n\t😀") == "ä – 微\n\t😀"


def test_the_programs_own_text_has_its_colour(capsys: pytest.CaptureFixture[str]):
    table = Table(show_header=False)
    table.add_row(styled("[better]", "green"))
    console(force_terminal=True, color_system="standard").print(table)
    assert "\x1b[32m[better]\x1b[0m" in capsys.readouterr().out
