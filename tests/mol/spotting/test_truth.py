"""Tables of annotated expressions: what is wrong with them is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mol.common.errors import DataError
from mol.data.recordings import Annotated, Recording
from mol.scoring.expression import Expression
from mol.spotting.truth import expressions_of, read_truth

VIDEO = Path("films/anna.mp4")


def read(tmp_path: Path, text: str, numbers=range(100), fps: float = 30.0, classes=("anger", "fear", "neutral")):
    table = tmp_path / "truth.csv"
    table.write_text(text)
    return read_truth(table, VIDEO, numbers, fps, classes)


def test_onset_and_offset_are_enough_and_the_kind_follows_from_the_length(tmp_path):
    found = read(tmp_path, "onset,offset\n50,80\n10,20\n")
    assert found == [Expression(10, 15, 20, "micro"), Expression(50, 65, 80, "macro")]


def test_everything_that_is_known_is_read(tmp_path):
    text = "video,kind,onset,apex,offset,emotion\nanna,micro,10,14,20,Fear\nanna.mp4,blink,30,,33,\nanna,,,,,\n"
    assert read(tmp_path, text) == [Expression(10, 14, 20, "micro", "fear"), Expression(30, 31, 33, "blink")]


def test_numbers_of_pictures_become_places_in_the_folder(tmp_path):
    numbers = [100, 101, 103, 104, 105, 106]
    assert read(tmp_path, "onset,apex,offset\n102,104,105\n", numbers) == [Expression(2, 3, 4, "micro")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onset\n3\n", "lacks the column offset"),
        ("onset,offset\n3,\n", "line 2 has no offset"),
        ("onset,offset\n20,10\n", r"line 2 is out of order \(onset 20, apex –, offset 10\)"),
        ("onset,apex,offset\n10,30,20\n", "line 2 is out of order"),
        ("onset,offset\n10,120\n", "the interval 10–120 lies outside the video, whose frames are 0 to 99"),
        ("onset,offset\n-5,12\n", "lies outside the video"),
        ("onset,offset\nten,12\n", "the onset 'ten' is not a frame number"),
        ("onset,offset,kind\n10,12,mikro\n", "the kind 'mikro' is not one of micro, macro, blink"),
        ("onset,offset,emotion\n10,12,joy\n", "the emotion 'joy' is not one of the network's, anger, fear, neutral"),
        ("onset,offset,video\n10,12,ben\n", "line 2 is of the video ben, and this one is anna.mp4"),
        ("onset,offset,path\n10,12,films/anna_2.mp4\n", "is of the video anna_2.mp4"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_with_line_and_remedy(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_table_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv is missing"):
        read_truth(tmp_path / "nothing.csv", VIDEO, range(9), 30.0)


def test_expressions_of_a_recording_are_placed_in_its_frames():
    recording = Recording(
        "set", "s1", "v", "v", 30.0, (Annotated(5, None, 9, "micro", ""), Annotated(7, 8, 30, "macro"))
    )
    with pytest.raises(DataError, match=r"set/s1/v: the interval 7–30 lies outside the video"):
        expressions_of(recording, range(5, 20))
    found = expressions_of(recording, range(5, 31))
    assert found == [Expression(0, 2, 4, "micro"), Expression(2, 3, 25, "macro")]
