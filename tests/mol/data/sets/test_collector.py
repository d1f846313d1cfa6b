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
        collector.check_interval(2, 3, 8, [1, 2, 3, 6, 7, 8, 9], Path("f"))
    assert [str(note) for note in collector.notes] == [
        "warning: S.xlsx row 2 (anna/smile): f lacks 2 frames inside the interval: 4–5."
    ]
    with pytest.raises(DataError, match="f has the frames 3–9, but the annotation is for 2–8"):
        collector.check_interval(2, 5, 8, range(3, 10), Path("f"))
    with pytest.raises(DataError, match="f has the frames 1–7, but the annotation is for 2–8"):
        collector.check_interval(2, 5, 8, range(1, 8), Path("f"))


def test_the_nearest_frame_stands_in_for_a_missing_onset_apex_or_offset() -> None:
    collector = ClipCollector("raise")
    with collector.row("S.xlsx row 2"):
        assert collector.check_interval(2, 5, 8, [1, 3, 4, 6, 7, 9], Path("f")) == (3, 6, 7)
    assert [note.what for note in collector.notes if note.kind == "repaired"] == [
        "the onset 2 is missing; the nearest frame, 3, stands in for it (f).",
        "the apex 5 is missing; the nearest frame, 6, stands in for it (f).",
        "the offset 8 is missing; the nearest frame, 7, stands in for it (f).",
    ]


def test_only_sets_known_for_it_may_lack_frames_beyond_the_folders_ends() -> None:
    assert ClipCollector("raise").check_interval(2, None, 80, range(7, 31), Path("f"), beyond=True) == (7, None, 30)
    with pytest.raises(DataError, match="f has the frames 7–30, but none from 40 to 80"):
        ClipCollector("raise").check_interval(40, None, 80, range(7, 31), Path("f"), beyond=True)


def test_emotions_are_compared_without_regard_to_case_and_near_misses_offered() -> None:
    known = spellings("others", "fear", other="others")
    assert named_emotion(" Other ", known) == "others"
    with pytest.raises(DataError, match=r"'feer' is not one of this data set's: fear, others; did the sheet mean"):
        named_emotion("feer", known)
