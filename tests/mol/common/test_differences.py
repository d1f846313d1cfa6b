"""Differences between settings: each is named with both values, and what may differ is left out."""

from __future__ import annotations

from mol.common.differences import differences, flat


def test_entries_of_nested_mappings_have_dotted_names():
    assert dict(flat({"a": 1, "b": {"c": 2, "d": {"e": [3]}}})) == {"a": 1, "b.c": 2, "b.d.e": [3]}


def test_every_difference_is_named_with_both_values():
    old = {"steps": 3, "loss": {"w_of": 1.42, "w_me": 1.0}, "graph": "channel", "gone": True}
    new = {"steps": 4, "loss": {"w_of": 0.0, "w_me": 1.0}, "graph": None, "later": [1, 2]}
    assert differences(old, new) == [
        "steps: 3 → 4",
        "loss.w_of: 1.42 → 0.0",
        'graph: "channel" → null',
        "gone: true → (absent)",
        "later: (absent) → [1, 2]",
    ]


def test_a_missing_entry_equals_one_that_is_none():
    assert differences({"a": None}, {}) == differences({}, {"a": None}) == []


def test_what_may_differ_is_left_out():
    assert differences({"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "c": 2}}, {"a.b"}) == ["a.c: 1 → 2"]


def test_long_values_are_cut():
    (line,) = differences({"a": "x" * 1000}, {"a": 1})
    assert len(line) < 230
    assert line.endswith("… → 1")
