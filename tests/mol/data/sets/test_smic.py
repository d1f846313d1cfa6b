"""The loader of SMIC, the short clips, on tiny folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sheet_files import touch_frames

from mol.common.errors import DataError
from mol.data.manifest import Loaded, key
from mol.data.sets.smic import load_smic

CLASSES = {"ne": "negative", "po": "positive", "sur": "surprise"}
BMP = "reg_image{:06d}.bmp"


def place(clip: str, base: str = "SMIC_all_cropped/HS") -> str:
    subject, name_class, _ = clip.split("_")
    return f"{base}/{subject}/micro/{CLASSES[name_class]}/{clip}"


def write_clips(root: Path, clips: Sequence[str], base: str = "SMIC_all_cropped/HS") -> Path:
    for clip in clips:
        touch_frames(root / place(clip, base), range(835, 855), BMP)
    return root


def notes(loaded: Loaded, kind: str) -> list[str]:
    return [str(note) for note in loaded.notes if note.kind == kind]


def test_a_folder_becomes_a_clip_from_its_first_to_its_last_frame(tmp_path: Path) -> None:
    loaded = load_smic(write_clips(tmp_path, ["s1_ne_01"]))
    (clip,) = loaded.clips
    assert key(clip) == "smic/s1/s1_ne_01"
    assert clip.path == clip.source == place("s1_ne_01")
    assert (clip.onset, clip.apex, clip.offset) == (835, None, 854)
    assert (clip.emotion, clip.action_units, clip.fps) == ("negative", "", 100.0)
    assert loaded.notes == []


def test_classes_come_from_folders_and_names(tmp_path: Path) -> None:
    loaded = load_smic(write_clips(tmp_path, ["s1_ne_01", "s1_po_01", "s1_sur_01"]))
    assert [clip.emotion for clip in loaded.clips] == ["negative", "positive", "surprise"]


def test_subjects_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    loaded = load_smic(write_clips(tmp_path, ["s11_ne_01", "s2_ne_01", "s20_ne_01"]))
    assert [clip.subject for clip in loaded.clips] == ["s2", "s11", "s20"]


def test_subject_with_leading_zero_is_the_same_person(tmp_path: Path) -> None:
    assert load_smic(write_clips(tmp_path, ["s01_ne_01"])).clips[0].subject == "s1"


def test_non_micro_folders_are_ignored(tmp_path: Path) -> None:
    write_clips(tmp_path, ["s1_ne_01"])
    touch_frames(tmp_path / "SMIC_all_cropped/HS/s1/non_micro/s1_non_01", [1], BMP)
    loaded = load_smic(tmp_path)
    assert (len(loaded.clips), loaded.notes) == (1, [])


def test_known_empty_folder_is_dropped_with_a_note(tmp_path: Path) -> None:
    write_clips(tmp_path, ["s1_ne_01"])
    (tmp_path / place("s18_sur_03")).mkdir(parents=True)
    loaded = load_smic(tmp_path)
    assert len(loaded.clips) == 1
    assert "s18_sur_03: the folder is empty" in notes(loaded, "dropped")[0]


def test_known_folder_with_frames_is_kept(tmp_path: Path) -> None:
    assert load_smic(write_clips(tmp_path, ["s18_sur_03"])).clips[0].clip == "s18_sur_03"


def test_another_empty_folder_is_an_error(tmp_path: Path) -> None:
    write_clips(tmp_path, ["s1_ne_01"])
    (tmp_path / place("s1_ne_02")).mkdir()
    with pytest.raises(DataError, match="s1_ne_02 holds no pictures"):
        load_smic(tmp_path)
    loaded = load_smic(tmp_path, on_error="skip")
    assert len(loaded.clips) == 1
    assert "s1_ne_02" in notes(loaded, "dropped")[0]


def test_gap_between_frames_is_a_warning(tmp_path: Path) -> None:
    write_clips(tmp_path, ["s3_po_08"])
    (tmp_path / place("s3_po_08") / BMP.format(840)).unlink()
    assert "lacks 1 frame inside the interval: 840" in notes(load_smic(tmp_path), "warning")[0]


def test_subject_without_micro_is_a_warning(tmp_path: Path) -> None:
    write_clips(tmp_path, ["s1_ne_01"])
    (tmp_path / "SMIC_all_cropped/HS/s7/non_micro").mkdir(parents=True)
    assert "s7: the subject is ignored" in notes(load_smic(tmp_path), "warning")[0]


def test_cropped_frames_come_before_raw_ones(tmp_path: Path) -> None:
    write_clips(tmp_path, ["s1_ne_01"])
    write_clips(tmp_path, ["s1_ne_01", "s1_ne_02"], "SMIC_all_raw/HS")
    assert len(load_smic(tmp_path).clips) == 1
    assert len(load_smic(tmp_path, frames="raw").clips) == 2


def test_raw_frames_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    assert load_smic(write_clips(tmp_path, ["s1_ne_01"], "SMIC_all_raw/HS")).clips[0].path.startswith("SMIC_all_raw")


def test_frames_that_were_asked_for_are_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder SMIC_all_raw/HS with s1/micro"):
        load_smic(write_clips(tmp_path, ["s1_ne_01"]), frames="raw")


def test_doubled_folder_is_seen_through(tmp_path: Path) -> None:
    base = "SMIC_all_cropped/SMIC_all_cropped/HS"
    assert load_smic(write_clips(tmp_path, ["s1_ne_01"], base)).clips[0].path == place("s1_ne_01", base)


def test_root_may_be_the_folder_of_the_camera(tmp_path: Path) -> None:
    root = write_clips(tmp_path, ["s1_ne_01"]) / "SMIC_all_cropped" / "HS"
    assert load_smic(root).clips[0].path == "s1/micro/negative/s1_ne_01"


@pytest.mark.parametrize("part", ["VIS", "NIR"])
def test_other_cameras_are_read_by_argument(tmp_path: Path, part: Any) -> None:
    write_clips(tmp_path, ["s1_ne_01"])
    write_clips(tmp_path, ["s12_po_01"], f"SMIC_all_cropped/{part}")
    (clip,) = load_smic(tmp_path, part=part).clips
    assert (clip.clip, clip.fps) == ("s12_po_01", 25.0)


def test_class_of_the_name_must_be_that_of_the_folder(tmp_path: Path) -> None:
    touch_frames(tmp_path / "SMIC_all_cropped/HS/s1/micro/positive/s1_ne_01", [1, 2], BMP)
    with pytest.raises(DataError, match="in a folder of positive, but its name says negative"):
        load_smic(tmp_path)


def test_subject_of_the_name_must_be_that_of_the_folder(tmp_path: Path) -> None:
    touch_frames(tmp_path / "SMIC_all_cropped/HS/s1/micro/negative/s2_ne_01", [1, 2], BMP)
    with pytest.raises(DataError, match="in a folder of s1, but its name says s2"):
        load_smic(tmp_path)


def test_unknown_class_folder_lists_the_known_ones(tmp_path: Path) -> None:
    touch_frames(tmp_path / "SMIC_all_cropped/HS/s1/micro/angry/s1_ne_01", [1, 2], BMP)
    with pytest.raises(DataError, match="'angry' is not one of this data set's: negative, positive, surprise"):
        load_smic(tmp_path)


def test_folder_with_a_foreign_name_is_an_error(tmp_path: Path) -> None:
    touch_frames(tmp_path / "SMIC_all_cropped/HS/s1/micro/negative/EP02_01f", [1, 2], BMP)
    with pytest.raises(DataError, match="'EP02_01f' is not a clip name such as s1_ne_01"):
        load_smic(tmp_path)


def test_frame_names_without_numbers_are_an_error(tmp_path: Path) -> None:
    write_clips(tmp_path, ["s1_ne_01"])
    (tmp_path / place("s1_ne_01") / "apex.bmp").touch()
    with pytest.raises(DataError, match=r"apex\.bmp has no number"):
        load_smic(tmp_path)


def test_missing_folder_names_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder SMIC_all_cropped/HS or SMIC_all_raw/HS with s1/micro"):
        load_smic(tmp_path)
