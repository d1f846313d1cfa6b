"""Which of several numbers in the names of pictures is that of the frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from mol.common.errors import MediaError
from mol.vision.frame_numbers import frame_numbers
from mol.vision.video import numbered_pictures


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["img1", "img2", "img10"], [1, 2, 10]),
        (["006_05562", "006_05563"], [5562, 5563]),
        (["001_640x480", "002_640x480", "003_640x480"], [1, 2, 3]),
        (["frame7_crop2", "frame8_crop2"], [7, 8]),
        (["s01_f0007_v2.1", "s01_f0008_v2.1"], [7, 8]),
        (["2023-04-15_0007", "2023-04-15_0008"], [7, 8]),
        (["cam1_1_000", "cam1_2_040", "cam1_3_080"], [0, 40, 80]),  # both differ: the last, as long as they agree
        (["f12_t0.5s", "f13_t1.0s", "f14_t1.5s"], [12, 13, 14]),  # the last is 5, 0, 5
        (["f1_t0.98", "f2_t1.02", "f3_t1.06"], [1, 2, 3]),  # the last starts again
        (["only_12_3"], [3]),
        (["a1", "b1_2"], [1, 2]),  # names of different make: the last
        (["img9_640", "img09_640", "img10_640"], [9, 9, 10]),  # a frame twice
    ],
)
def test_the_number_that_varies_is_that_of_the_frame(names: list[str], numbers: list[int]) -> None:
    assert frame_numbers(names) == numbers


def test_a_name_without_a_number_has_none() -> None:
    assert frame_numbers(["img1", "img"]) is None
    assert frame_numbers([]) == []


def test_a_folder_is_ordered_by_the_number_that_varies(tmp_path: Path) -> None:
    for number in (9, 10, 11):
        (tmp_path / f"img{number}_640x480.png").touch()
    (tmp_path / "notes_1.txt").touch()
    assert {number: path.name for number, path in numbered_pictures(tmp_path).items()} == {
        9: "img9_640x480.png",
        10: "img10_640x480.png",
        11: "img11_640x480.png",
    }


def test_two_pictures_of_one_frame_are_named(tmp_path: Path) -> None:
    for name in ("img9_640x480.png", "img9_320x240.png", "img10_640x480.png"):
        (tmp_path / name).touch()
    with pytest.raises(MediaError, match=r"img10_640x480\.png and img9_640x480\.png .* the same frame number 480"):
        numbered_pictures(tmp_path)
