"""Names from files as parts of paths: whatever they are, they name one file in one folder."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mol.common.names import path_inside, path_part, path_parts, shortened

HOSTILE = (
    *("", ".", "..", "../../victim/evil", "/etc/passwd", "a/b", "a\\b", "..\\..\\evil", "C:\\evil", "~root", "-rf"),
    *("a\0b", "a\nb", "\x1b[31mred", ".hidden", "con", "NUL.png", "trailing.", "x" * 5000, "微" * 300, "\udcff"),
    *("$(touch evil)", "%2e%2e%2f", "．．／evil", "a:b", "*", "[x]", "'; rm -rf ~"),
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_one_file_of_the_folder(tmp_path: Path, name: str):
    path = tmp_path / f"confusion-{path_part(name)}.png"
    path.touch()
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / path_part(name)).mkdir()
    assert len(list(tmp_path.iterdir())) == 2
    assert not path_part(name).startswith((".", "-"))


@given(st.text(alphabet=st.characters()))
def test_any_text_is_a_part_of_a_path(name: str):
    part = path_part(name)
    assert 0 < len(part) <= 101
    assert set(part) <= {*string.ascii_letters, *string.digits, *"._-"}
    assert part not in (".", "..")
    assert path_part(part) == part


@given(st.lists(st.text(alphabet="aA/_.1", max_size=4), unique=True))
def test_names_of_one_folder_stay_apart(names: list[str]):
    parts = [part.lower() for part in path_parts(names)]
    assert len(set(parts)) == len(names)


@pytest.mark.parametrize("name", ["casme2", "sub01", "s20_ne_01", "EP02_01f", "006_1_2", "casme2-sub01", "4dme", "a.b"])
def test_ordinary_names_stay_as_they_are(name: str):
    assert path_parts([name]) == [name]


def test_a_shortened_name_is_its_beginning_in_whole_letters():
    assert shortened("cache", 5) == "cache"
    assert shortened("ü" * 5, 5) == "üü"
    assert shortened("微笑", 4) == "微"


def test_long_names_that_begin_alike_stay_apart():
    assert path_part("x" * 300 + "1") != path_part("x" * 300 + "2")


@pytest.mark.parametrize("path", ["checkpoints/last", "folds/seed0/casme2-sub01", "a/./b", "..a/b"])
def test_a_path_inside_the_folder_is_taken(path: str):
    assert path_inside(path) == path


@pytest.mark.parametrize("path", ["", ".", "..", "a/../..", "/etc", "//etc", "a\\..\\b", "C:/x", "a\0"])
def test_a_path_that_leads_out_of_the_folder_is_refused(path: str):
    with pytest.raises(ValueError, match="inside the folder"):
        path_inside(path)
