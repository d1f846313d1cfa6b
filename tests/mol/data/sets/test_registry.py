"""The registry of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mol.common.errors import DataError, SettingsError
from mol.data.sets.registry import SETS, describe_sets, find_set, manifest_root


def test_every_set_of_the_documentation_is_there() -> None:
    names = ["casme2", "samm", "smic", "smic-e", "casme-sq", "casme3", "mmew", "4dme", "released", "generic"]
    assert list(SETS) == names


@pytest.mark.parametrize("name", list(SETS))
def test_every_loader_refuses_an_empty_and_a_missing_folder(tmp_path: Path, name: str) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            SETS[name](root)
        assert str(root) in str(caught.value)
        with pytest.raises(DataError):
            SETS[name](root, "skip")


def test_help_has_one_line_a_set() -> None:
    lines = describe_sets().splitlines()
    assert [line.split()[0] for line in lines] == list(SETS)


@pytest.mark.parametrize(
    ("name", "meant"), [("casme_2", "casme2"), ("CASME II", "casme2"), ("casme_sq", "casme-sq"), ("SMIC", "smic")]
)
def test_a_near_miss_is_offered(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"Did you mean {meant}"):
        find_set(name)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(SettingsError, match="there are casme2, samm, smic"):
        find_set("fer2013")


def test_manifest_root_is_the_folder_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("subject,clip,path,label\n")
    assert manifest_root(table) == manifest_root(tmp_path) == tmp_path.resolve()
    with pytest.raises(DataError, match="does not exist"):
        manifest_root(tmp_path / "nowhere")
