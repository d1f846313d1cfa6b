"""Checks of settings: the message names the setting, its value and what is allowed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from mol.common.checks import require_not_negative, require_one_of, require_positive, unknown_name
from mol.common.errors import SettingsError


def test_settings_that_can_work_are_accepted():
    config = SimpleNamespace(steps=1, rate=1e-9, fps=None, kind="a", weight=0)
    require_positive(config, "steps", "rate", "fps")
    require_not_negative(config, "weight", "steps")
    require_one_of(config, "kind", ("a", "b"))


@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf])
def test_what_is_not_positive_and_finite_is_refused(value: float):
    with pytest.raises(SettingsError, match=f"steps={value} must be greater than 0"):
        require_positive(SimpleNamespace(steps=value), "steps")


@pytest.mark.parametrize("value", [-1, math.nan])
def test_what_is_negative_is_refused(value: float):
    with pytest.raises(SettingsError, match=f"weight={value} must not be negative"):
        require_not_negative(SimpleNamespace(weight=value), "weight")


def test_the_allowed_values_are_listed():
    with pytest.raises(SettingsError, match="kind='d' must be 'a', 'b' or 'c'"):
        require_one_of(SimpleNamespace(kind="d"), "kind", ("a", "b", "c"))


def test_an_unknown_name_is_answered_with_the_nearest_and_all_names():
    known = ["megc2019", "casme2-5"]
    assert str(unknown_name("protocol", "MEGC_2019", known)) == (
        "unknown protocol 'MEGC_2019'; did you mean megc2019? (protocols: megc2019, casme2-5)"
    )
    assert "did you mean casme2-5?" in str(unknown_name("protocol", "CASME II", known, {"casme ii": "casme2-5"}))
    assert "did you mean" not in str(unknown_name("protocol", "x", known))
