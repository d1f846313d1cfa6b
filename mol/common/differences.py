"""In what two sets of settings differ, one line per setting."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of a nested mapping under dotted names: ``{"loss": {"w_of": 0}}`` gives ``("loss.w_of", 0)``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = ()) -> list[str]:
    """Lines ``name: old → new`` for every entry in which two nested mappings of JSON values differ.

    Args:
        old, new: an entry that is missing equals one that is None.
        ignore: dotted names of entries that may differ.
    Returns:
        In the order of the entries; empty if the mappings are equal.
    """
    then, now = dict(flat(old)), dict(flat(new))
    return [
        f"{name}: {_shown(then, name)} → {_shown(now, name)}"
        for name in {**then, **now}
        if name not in ignore and then.get(name) != now.get(name)
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "(absent)"
    text = json.dumps(values[name], ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:199]}…"
