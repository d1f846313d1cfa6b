"""Action units: what sheets write is read exactly or named, made into targets, and chosen to be learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mol.common.errors import DataError, SettingsError
from mol.data.action_units import (
    ENOUGH,
    Annotation,
    annotation_notes,
    learned_units,
    read_action_units,
    unit_targets,
)
from mol.network.units import CODES, NOT_SHOWN, SHOWN, UNKNOWN, LearnedUnits


def row(units: Any, clip: str = "c1", subject: str = "p1") -> dict[str, Any]:
    return {"dataset": "lab", "subject": subject, "clip": clip, "action_units": units}


@pytest.mark.parametrize(
    ("text", "shown", "unknown"),
    [
        ("4", {4}, set()),
        ("4+L10", {4, 10}, set()),
        ("R12A+L14B", {12, 14}, set()),
        ("AU4+AU7", {4, 7}, set()),
        ("AU1+2", {1, 2}, set()),
        ("au12c, AU 14 D", {12, 14}, set()),
        ("12L", {12}, set()),
        ("L/R 12", {12}, set()),
        ("AUL12; R/L14", {12, 14}, set()),
        ("12A+B", {12}, set()),
        ("12A-C+4", {12, 4}, set()),
        ("T23+B24", {23, 24}, set()),
        ("M57", {57}, set()),
        ("1, 2; 4 / 5、6 and 7", {1, 2, 4, 5, 6, 7}, set()),
        ("１２＋４？", {12}, {4}),
        ("12?", set(), {12}),
        ("4+12 (?)", {4}, {12}),
        ("12 or 25", set(), {12, 25}),
        ("6+12 or 14+25", {6, 25}, {12, 14}),
        ("AU12A or AU14A or 15", set(), {12, 14, 15}),
        ("12or25", set(), {12, 25}),
        ("4|7", set(), {4, 7}),
        ("AU4(k)+L7", {7}, {4}),
        ("AUR2+12(k)+45", {2, 45}, {12}),
        ("L4+R4?", {4}, set()),
        ("4+7+", {4, 7}, set()),
        ("4'", {4}, set()),
        (4, {4}, set()),
        (12.0, {12}, set()),
        ([4, 7], {4, 7}, set()),
        ([], set(), set()),
        ("0", set(), set()),
        ("none", set(), set()),
        ("Neutral", set(), set()),
    ],
)
def test_what_sheets_write(text: Any, shown: set[int], unknown: set[int]) -> None:
    assert read_action_units(text) == Annotation(frozenset(shown), frozenset(unknown))


@pytest.mark.parametrize("text", [None, "", "  ", "?", "-", "/", "n/a", "nan"])
def test_nothing_said(text: str | None) -> None:
    assert read_action_units(text) is None


def test_a_question_mark_of_its_own_leaves_the_rest_open() -> None:
    found = read_action_units("4+?")
    assert found is not None
    assert [found.target(unit) for unit in (4, 7)] == [SHOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3", "has no unit 3"),
        ("4+77", "has no unit 77"),
        ("123456789123456789", "has no unit 123456789"),
        ([4, 3], "has no unit 3"),
        ("hello", "'H' has no meaning"),
        ("4.7", r"'\.' has no meaning"),
        ("4x", "'4X' is no unit"),
        ("AU4AU7", "'4A' is no unit"),
        ("12AB", "'12A' is no unit"),
        ("L", "'L' has no meaning"),
        ("4(b)", r"'\(' has no meaning"),
        ("or 4", "between two units"),
        ("4 or", "between two units"),
        ("4 or or 7", "between two units"),
        (["4"], "neither a text nor a list of numbers"),
        ([True], "neither a text nor a list of numbers"),
        ({"4": 1}, "neither a text nor a list of numbers"),
        ("2001-04-07", "has no unit 2001"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_remedy(text: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_action_units(text)
    assert repr(text) in str(caught.value)
    assert "write them as in '4+L10'" in str(caught.value)


def test_targets_by_number() -> None:
    table = unit_targets([row("4+12?"), row(""), row("0"), row("hello"), row("7+?"), {"dataset": "lab"}])
    assert table.shape == (6, CODES)
    assert table.dtype == np.int8
    assert table[:, [4, 7, 12]].tolist() == [
        [SHOWN, NOT_SHOWN, UNKNOWN],
        [UNKNOWN] * 3,
        [NOT_SHOWN] * 3,
        [UNKNOWN] * 3,
        [UNKNOWN, SHOWN, UNKNOWN],
        [UNKNOWN] * 3,
    ]


def test_texts_that_cannot_be_read_are_noted_once_with_their_place() -> None:
    rows = [row("4"), row("bad", "c2"), row("bad", "c3"), row("3", "c4")]
    (note,) = annotation_notes(rows)
    assert note.startswith("3 of 4 clips take no part in the learning of action units")
    assert "'bad' cannot be read" in note
    assert "(row 1, lab/p1/c2 and 1 more)" in note
    assert "(row 3, lab/p1/c4)" in note
    assert annotation_notes(rows[:1]) == []


def test_named_units_with_their_numbers() -> None:
    rows = [row("4+12", "a"), row("4+12?", "b"), row("0", "c"), row("", "d"), row("9", "e", "p2")]
    learned, notes = learned_units([12, 4], "here", rows, rows[:4])
    assert learned == LearnedUnits((4, 12), (3, 2), (2, 1), 4)
    assert learned.frequencies == (2 / 3, 1 / 2)
    assert learned.known_share == 5 / 8
    assert notes == []


def test_auto_takes_what_enough_videos_show_not_clips() -> None:
    often = [row("4+7", f"c{video}") for video in range(ENOUGH) for _ in range(2)]
    seldom = [row("12", f"d{video}") for video in range(ENOUGH - 1) for _ in range(2)]
    assert learned_units("auto", "here", often + seldom, often + seldom)[0].units == (4, 7)
    with pytest.raises(SettingsError, match=rf"at least {ENOUGH} training videos show.*AU 12 in {ENOUGH - 1}"):
        learned_units("auto", "here", often + seldom, seldom)


def test_a_unit_that_no_row_shows_and_one_that_no_training_clip_shows() -> None:
    rows = [row("4", "a"), row("12", "b", "p2")]
    with pytest.raises(SettingsError, match="no clip of here shows AU 9; its clips show AUs 4, 12"):
        learned_units([4, 9], "here", rows, rows[:1])
    learned, notes = learned_units([4, 12], "here", rows, rows[:1])
    assert notes == ["no training clip shows AU 12: it cannot be learned"]
    assert learned.weights == (1.0, 1.0)


def test_clips_without_annotations() -> None:
    with pytest.raises(SettingsError, match="no clip of here has action units that can be read; leave the setting out"):
        learned_units("auto", "here", [row(""), row("?")], [row("")])
    with pytest.raises(SettingsError, match=r"no clip of here .*'bad' cannot be read"):
        learned_units([4], "here", [row("bad")], [row("bad")])
    with pytest.raises(SettingsError, match="no clip to train on in here has action units; hold out other people"):
        learned_units([4], "here", [row("4"), row("")], [row("")])
    with pytest.raises(SettingsError, match="for no clip to train on is it known whether it shows AU 4"):
        learned_units([4], "here", [row("4"), row("4?", "b")], [row("4?", "b")])


def test_rare_units_weigh_more_up_to_ten() -> None:
    learned = LearnedUnits((1, 2, 4, 5), (100, 100, 1000, 10), (50, 10, 1, 9), 1000)
    assert learned.weights == pytest.approx((1.0, 3.0, 10.0, 1.0))
