"""What the loaders share: rows that are refused or dropped, intervals, emotions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mol.common.errors import DataError
from mol.data.manifest import Clip
from mol.data.sets.collector import ClipCollector, named_emotion, spellings

CLIP = Clip("lab", "anna", "smile", "frames", 1, None, 9, "joy", source="S.xlsx row 2")


def test_notes_on_a_row_that_is_dropped_go_with_it() -> None:
    collector = ClipCollector("skip")
    with collector.row("S.xlsx row 2", "anna/smile"):
        collector.add(CLIP)
        collector.warning("a frame is missing")
    with collector.row("S.xlsx row 3", "anna/frown"):
        collector.repaired("the apex was left out")
        raise DataError("the folder is empty; unpack it.")
    assert [str(note) for note in collector.loaded(Path("S.xlsx")).notes] == [
        "warning: S.xlsx row 2 (anna/smile): a frame is missing",
        "dropped: S.xlsx row 3 (anna/frown): the folder is empty; unpack it.",
    ]


def test_an_error_gets_its_row_in_front_once() -> None:
    collector = ClipCollector("raise")
    with (
        pytest.raises(DataError, match=r"^S.xlsx row 3 \(anna/frown\): empty$"),
        collector.row("S.xlsx row 3", "anna/frown"),
    ):
        raise DataError("empty")
    with pytest.raises(DataError, match=r"^S.xlsx row 4: no number$"), collector.row("S.xlsx row 4"):
        raise DataError("S.xlsx row 4: no number")


def test_other_errors_are_never_skipped() -> None:
    with pytest.raises(KeyError), ClipCollector("skip").row("S.xlsx row 3"):
        raise KeyError("a mistake in a loader")


def test_frames_missing_inside_an_interval_give_a_warning_and_those_at_its_ends_an_error() -> None:
    collector = ClipCollector("raise")
    with collector.row("S.xlsx row 2", "anna/smile"):
        collector.check_interval(2, 5, 8, [1, 2, 3, 6, 7, 8, 9], Path("f"))
    assert [str(note) for note in collector.notes] == [
        "warning: S.xlsx row 2 (anna/smile): f lacks 2 frames inside the interval: 4, 5."
    ]
    with pytest.raises(DataError, match="f has the frames 3–9, but the annotation is for 2–8"):
        collector.check_interval(2, 5, 8, range(3, 10), Path("f"))
    with pytest.raises(DataError, match="f has the frames 1–7, but the annotation is for 2–8"):
        collector.check_interval(2, 5, 8, range(1, 8), Path("f"))


def test_emotions_are_compared_without_regard_to_case_and_near_misses_offered() -> None:
    known = spellings("others", "fear", other="others")
    assert named_emotion(" Other ", known) == "others"
    with pytest.raises(DataError, match=r"'feer' is not one of this data set's: fear, others; did the sheet mean"):
        named_emotion("feer", known)
