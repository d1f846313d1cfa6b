"""The loader of SMIC-E, the extended clips, on tiny folders and sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sheet_files import touch_frames, write_book

from mol.common.errors import DataError
from mol.data.manifest import Loaded, key
from mol.data.sets.smic_e import load_smic_e

HEADER = (
    *("Subject", "Filename", None, "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F", "Offset3F", None),
    *("FirstF", "LastF", "TotalVL", "TotalMF1", "TotalMF2", "TotalMF3", "Emotion"),
)
LONG = "SMIC-E_raw image/HS_long"


def notes(loaded: Loaded, kind: str) -> list[str]:
    return [str(note) for note in loaded.notes if note.kind == kind]


def row(subject: int, clip: str, intervals: Sequence[Any], emotion: Any = None) -> tuple:
    padded = (*intervals, *(None,) * (6 - len(intervals)))
    return (subject, clip, None, *padded, None, 1000, 1099, 100, 20, None, None, emotion)


def write_extended(root: Path, rows: Sequence[tuple], header: Sequence[Any] = HEADER) -> Path:
    write_book(root / LONG / "SMIC-HS-E_annotation.xlsx", [header, *rows])
    for subject, clip, *_ in rows:
        touch_frames(root / LONG / "SMIC-HS-E" / f"s{subject:02d}" / clip, range(1000, 1100), "image{:06d}.jpg")
    return root


def test_an_interval_becomes_a_clip(tmp_path: Path) -> None:
    loaded = load_smic_e(write_extended(tmp_path, [row(1, "s1_ne_01", [1020, 1045], "negative")]))
    (clip,) = loaded.clips
    assert key(clip) == "smic-e/s1/s1_ne_01"
    assert clip.path == f"{LONG}/SMIC-HS-E/s01/s1_ne_01"
    assert (clip.onset, clip.apex, clip.offset, clip.emotion) == (1020, None, 1045, "negative")
    assert clip.source == "SMIC-HS-E_annotation.xlsx row 2"


def test_several_intervals_of_a_row_become_several_clips(tmp_path: Path) -> None:
    loaded = load_smic_e(write_extended(tmp_path, [row(1, "s1_ne_01", [1020, 1045, 1050, 1060, 1070, 1080])]))
    assert [(clip.clip, clip.onset) for clip in loaded.clips] == [
        ("s1_ne_01", 1020),
        ("s1_ne_01.2", 1050),
        ("s1_ne_01.3", 1070),
    ]
    assert len({clip.path for clip in loaded.clips}) == 1


def test_columns_are_found_by_title_in_any_order(tmp_path: Path) -> None:
    header = ("Emotion", "OffsetF", "OnsetF", "Filename", "Subject")
    write_extended(tmp_path, [row(1, "s1_ne_01", [1020, 1045])])
    write_book(tmp_path / LONG / "SMIC-HS-E_annotation.xlsx", [header, ("negative", 1045, 1020, "s1_ne_01", 1)])
    assert load_smic_e(tmp_path).clips[0].onset == 1020


def test_folders_may_spell_the_subject_with_a_zero(tmp_path: Path) -> None:
    write_extended(tmp_path, [row(1, "s01_ne_01", [1020, 1045])])
    write_book(tmp_path / LONG / "SMIC-HS-E_annotation.xlsx", [HEADER, row(1, "s1_ne_01", [1020, 1045])])
    (clip,) = load_smic_e(tmp_path).clips
    assert (clip.subject, clip.path) == ("s1", f"{LONG}/SMIC-HS-E/s01/s01_ne_01")


def test_known_missing_recording_is_dropped_and_another_is_an_error(tmp_path: Path) -> None:
    write_extended(tmp_path, [row(1, "s1_ne_01", [1020, 1045])])
    sheet = tmp_path / LONG / "SMIC-HS-E_annotation.xlsx"
    good = row(1, "s1_ne_01", [1020, 1045])
    write_book(sheet, [HEADER, good, row(3, "s3_ne_03", [1020, 1045])])
    assert "s3_ne_03): the archive lacks this clip's folder" in notes(load_smic_e(tmp_path), "dropped")[0]
    write_book(sheet, [HEADER, good, row(3, "s3_ne_04", [1020, 1045])])
    with pytest.raises(DataError, match=r"row 3 \(s3_ne_04\): the folder of s3_ne_04 does not exist"):
        load_smic_e(tmp_path)


def test_title_about_an_interval_that_is_not_understood_is_an_error(tmp_path: Path) -> None:
    write_extended(tmp_path, [row(1, "s1_ne_01", [1020, 1045])], header=(*HEADER, "Onset4F"))
    with pytest.raises(DataError, match="unknown column 'Onset4F'"):
        load_smic_e(tmp_path)


BAD_ROWS = {
    "half an interval": (row(1, "s1_ne_01", [1020, 1045, 1050]), "Offset2F is blank"),
    "onset after offset": (row(1, "s1_ne_01", [1045, 1020]), "onset 1045 is after offset 1020"),
    "frames missing": (row(1, "s1_ne_01", [1020, 1145]), "has the frames 1000–1099"),
    "no number": (row(1, "s1_ne_01", ["?", 1045]), "column 'OnsetF' holds"),
    "another subject": (row(2, "s1_ne_01", [1020, 1045]), "subject is '2', but the name says s1"),
    "emotion of another class": (
        row(1, "s1_ne_01", [1020, 1045], "positive"),
        "'positive', but the name says negative",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    bad, message = BAD_ROWS[name]
    with pytest.raises(DataError, match=message) as caught:
        load_smic_e(write_extended(tmp_path, [bad]))
    assert "SMIC-HS-E_annotation.xlsx row 2" in str(caught.value)


def test_row_that_names_no_clip_is_a_warning(tmp_path: Path) -> None:
    write_extended(tmp_path, [row(1, "s1_ne_01", [1020, 1045])])
    total = (None, None, None, 20, *(None,) * 13)
    write_book(tmp_path / LONG / "SMIC-HS-E_annotation.xlsx", [HEADER, row(1, "s1_ne_01", [1020, 1045]), total])
    assert "row 3: the row is ignored: it has no clip name" in notes(load_smic_e(tmp_path), "warning")[0]


def test_missing_sheet_is_an_error(tmp_path: Path) -> None:
    touch_frames(tmp_path / LONG / "SMIC-HS-E/s01/s1_ne_01", [1000])
    with pytest.raises(DataError, match=r"no annotation sheet of the extended SMIC \(HS\)"):
        load_smic_e(tmp_path)
