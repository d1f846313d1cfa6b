"""Checks of settings, with messages that name the setting."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from mol.common.errors import SettingsError

LARGEST = 2**63 - 1
"""The largest whole number that a setting can be."""

MOST_WORKERS = 1024
"""Processes or threads that a setting can ask for."""


def require_positive(config: Any, *names: str) -> None:
    """Raise a `SettingsError` for a setting that is not greater than 0 and finite; one that is None is left empty."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (value > 0 and _is_finite(value)):
            also = " and finite" if value > 0 else ""
            raise SettingsError(f"{name}={_shown(value)} must be greater than 0{also}")


def require_one_of(config: Any, name: str, allowed: Sequence[str | bool]) -> None:
    """Raise a `SettingsError` for a setting that is not one of the allowed values."""
    if getattr(config, name) not in allowed:
        shown = ", ".join(map(repr, allowed[:-1])) + f" or {allowed[-1]!r}"
        raise SettingsError(f"{name}={getattr(config, name)!r} must be {shown}")


def require_not_negative(config: Any, *names: str) -> None:
    """Raise a `SettingsError` for a setting that is negative or not finite."""
    for name in names:
        value = getattr(config, name)
        if not (value >= 0 and _is_finite(value)):
            wanted = "must be finite" if value > 0 else "must not be negative"
            raise SettingsError(f"{name}={_shown(value)} {wanted}")


def require_at_most(config: Any, **limits: float) -> None:
    """Raise a `SettingsError` for a setting that is larger than any use has for it; one that is None is left empty."""
    for name, most in limits.items():
        value = getattr(config, name)
        if value is not None and not value <= most:
            raise SettingsError(f"{name}={_shown(value)} must be at most {most:,}")


def require_plain_numbers(config: Any, section: str = "") -> None:
    """Refuse a number of a dataclass of settings that is not finite, too large for any computer, or a truth value.

    Args:
        config: the dataclass; those inside it are checked too.
        section: its dotted name, for messages.
    Raises:
        SettingsError: naming the setting and its value.
    """
    hints = get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{section}{item.name}"
        if dataclasses.is_dataclass(value):
            require_plain_numbers(value, f"{name}.")
            continue
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, bool) and "bool" not in str(hints[item.name]):
                raise SettingsError(f"{name}={str(number).lower()} must be {_expected(hints[item.name])}")
            if isinstance(number, (int, float)) and not _is_finite(number):
                raise SettingsError(f"{name}={_shown(number)} must be finite, with fewer than 19 digits")


def _expected(hint: Any) -> str:
    return "a number" if {"int", "float"} & set(re.findall(r"\w+", str(hint))) else "text"


def _is_finite(value: float) -> bool:
    return abs(value) <= LARGEST if isinstance(value, int) else math.isfinite(value)


def _shown(value: Any) -> str:
    """A number as messages show it; Python refuses to print one of thousands of digits."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"{'-' if value < 0 else ''}(a number of about {int(value.bit_length() * 0.30103)} digits)"
    return str(value)


def unknown_name(kind: str, name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> SettingsError:
    """The error for a name that is not known; its message suggests a similar one and lists them all.

    Args:
        kind: what is named, such as ``"protocol"``.
        name: as given.
        known: all names.
        aliases: other spelling, in lower case → name.
    """
    spellings = {**{entry: entry for entry in known}, **(aliases or {})}
    close = difflib.get_close_matches(name.lower().replace("_", "-"), spellings, n=1, cutoff=0.5)
    hint = f"; did you mean {spellings[close[0]]}?" if close else ""
    return SettingsError(f"unknown {kind} {name!r}{hint} ({kind}s: {', '.join(known)})")
