"""Checks of settings, with messages that name the setting."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mol.common.errors import SettingsError


def require_positive(config: Any, *names: str) -> None:
    """Raise a `SettingsError` for a setting that is not greater than 0 and finite; one that is None is left empty."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise SettingsError(f"{name}={value} must be greater than 0" + (" and finite" if value == math.inf else ""))


def require_one_of(config: Any, name: str, allowed: Sequence[str]) -> None:
    """Raise a `SettingsError` for a setting that is not one of the allowed values."""
    if getattr(config, name) not in allowed:
        shown = ", ".join(map(repr, allowed[:-1])) + f" or {allowed[-1]!r}"
        raise SettingsError(f"{name}={getattr(config, name)!r} must be {shown}")


def require_not_negative(config: Any, *names: str) -> None:
    """Raise a `SettingsError` for a negative setting."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise SettingsError(f"{name}={getattr(config, name)} must not be negative")


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
