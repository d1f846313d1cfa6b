"""Finding the sheets and folders of a data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from sheet_files import touch_frames, write_book

from mol.common.errors import DataError
from mol.data.sets.folders import clip_folder, find_folders, find_sheet, names_within, subject_folders, unlisted_folders

COLUMNS = {"subject": ("Subject",), "onset": ("OnsetFrame", "Onset"), "emotion": ("Estimated Emotion",)}
HEADER = ("Subject", "OnsetFrame", None, "Estimated Emotion")


def test_newest_sheet_is_found_by_name(tmp_path: Path) -> None:
    for name in ("a/coding-20140508.xlsx", "coding-20190701.xlsx", "~$coding-20200101.xlsx"):
        write_book(tmp_path / name, [HEADER])
    assert find_sheet(tmp_path, ["CODING-*.xlsx"], "sheet").name == "coding-20190701.xlsx"


def test_links_that_lead_to_themselves_are_passed_over(tmp_path: Path) -> None:
    write_book(tmp_path / "a" / "coding-1.xlsx", [HEADER])
    for name in ("coding-2.xlsx", "loop", "a/coding-3.xlsx"):
        (tmp_path / name).symlink_to(Path(name).name)
    assert find_sheet(tmp_path, ["coding-*.xlsx"], "sheet").name == "coding-1.xlsx"
    assert find_folders(tmp_path, ["loop"], 2) == []
    assert names_within(tmp_path, 2) >= {"a", "loop", "coding-1.xlsx"}


def test_missing_sheet_lists_what_is_needed_and_what_is_there(tmp_path: Path) -> None:
    write_book(tmp_path / "docs" / "ObjectiveClasses.xlsx", [HEADER])
    with pytest.raises(
        DataError, match=r"no coding sheet .*: expected a file coding-\*\.xlsx\..*ObjectiveClasses\.xlsx"
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


def test_the_folder_that_one_is_in_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "SAMM" / "006").mkdir(parents=True)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "SAMM")
    monkeypatch.chdir(tmp_path / "SAMM")
    assert find_folders(Path(), ["samm"]) == [Path()]
    assert find_folders(Path("006/.."), ["samm"]) == [Path("006/..")]
    assert find_folders(tmp_path, ["samm"]) == [tmp_path / "SAMM"]  # a link has a name of its own


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
    with pytest.raises(DataError, match="no folder 'sub02' next to sub01"):
        clip_folder(subjects, "sub02", "EP03")
    with pytest.raises(DataError, match="has no clip name"):
        clip_folder(subjects, "sub01", "")


def test_folders_that_no_row_names_are_listed(tmp_path: Path) -> None:
    for name in ("EP01", "EP02"):
        (tmp_path / "sub01" / name).mkdir(parents=True)
    assert unlisted_folders({"sub01": tmp_path / "sub01"}, ["sub01/ep01"]) == {
        "sub01/EP02": tmp_path / "sub01" / "EP02"
    }
