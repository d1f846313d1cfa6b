"""Checks of settings: the message names the setting, its value and what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from mol.common.checks import (
    require_at_most,
    require_not_negative,
    require_one_of,
    require_plain_numbers,
    require_positive,
    unknown_name,
)
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


def test_what_is_negative_or_infinite_is_told_apart():
    with pytest.raises(SettingsError, match="weight=inf must be finite"):
        require_not_negative(SimpleNamespace(weight=math.inf), "weight")
    with pytest.raises(
        SettingsError, match=r"steps=\(a number of about 4000 digits\) must be greater than 0 and finite"
    ):
        require_positive(SimpleNamespace(steps=10**4000), "steps")


def test_a_setting_has_a_largest_value():
    require_at_most(SimpleNamespace(rate=3, empty=None), rate=3, empty=1)
    with pytest.raises(SettingsError, match="rate=4 must be at most 3"):
        require_at_most(SimpleNamespace(rate=4), rate=3)


@dataclass
class Inner:
    rate: float = 1.0
    names: list[str] = field(default_factory=list)


@dataclass
class Outer:
    k: int = 4
    flag: bool = True
    share: float | list[str] = 0.5
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Outer(k=True), "k=true must be a number"),
        (Outer(k=2**63), "k=.a number of about 19 digits. must be finite"),
        (Outer(share=math.nan), "share=nan must be finite"),
        (Outer(pair=(0.0, math.inf)), "pair=inf must be finite"),
        (Outer(inner=Inner(rate=-math.inf)), r"inner\.rate=-inf must be finite"),
    ],
)
def test_numbers_that_are_none_are_refused_wherever_they_are(config: Outer, message: str):
    require_plain_numbers(Outer())
    require_plain_numbers(Outer(share=["a"], k=2**63 - 1))
    with pytest.raises(SettingsError, match=message):
        require_plain_numbers(config)
