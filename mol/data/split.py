"""Division of rows by person: who is trained on and who is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mol.common.errors import SettingsError

# This module's stream of random numbers; 1 and 2 belong to mol.data.clips.
_SPLIT = 3


class Split(NamedTuple):
    """Rows of a cache divided by person.

    Attributes:
        train: cache rows to train on.
        held_out: cache rows of the people never trained on.
        train_people: names as `person` gives them, sorted.
        held_out_people: the same for the people held out.
    """

    train: np.ndarray
    held_out: np.ndarray
    train_people: list[str]
    held_out_people: list[str]


def person(row: Mapping[str, Any]) -> str:
    """Name of the person of a cache row, ``dataset/subject``: two sets number different people alike."""
    return f"{row['dataset']}/{row['subject']}"


def split_by_subject(
    rows: Sequence[Mapping[str, Any]],
    held_out: float | Sequence[str],
    seed: int = 0,
    train: Sequence[str] | None = None,
) -> Split:
    """Divide rows so that nobody is in both parts.

    Args:
        rows: index rows of a cache.
        held_out: the fraction of the people to hold out (rounded to whole people, at least one), or their names, as
            ``subject`` or ``dataset/subject``.
        seed: chooses the people when `held_out` is a fraction.
        train: names of the people to train on; everybody who is not held out by default.
    Raises:
        SettingsError: a name that is not in the rows or is on both sides, a fraction outside (0, 1), or an empty part.
    """
    people = sorted({person(row) for row in rows})
    if isinstance(held_out, (int, float)):
        out = _draw_people(people, float(held_out), seed)
    else:
        out = _named_people(people, held_out)
    kept = set(people) - out if train is None else _named_people(people, train)
    if both := sorted(kept & out):
        raise SettingsError(f"{', '.join(both)} would be both trained on and held out; put each person in one part")
    owners = np.array([person(row) for row in rows])
    split = Split(
        np.flatnonzero(np.isin(owners, sorted(kept))),
        np.flatnonzero(np.isin(owners, sorted(out))),
        sorted(kept),
        sorted(out),
    )
    for name, part in (("training", split.train), ("held-out", split.held_out)):
        if not len(part):
            raise SettingsError(
                f"the {name} part of the split is empty ({len(people)} people in the cache, {len(out)} held out); "
                "hold out at least one person and keep at least one"
            )
    return split


def _draw_people(people: Sequence[str], fraction: float, seed: int) -> set[str]:
    if not 0 < fraction < 1:
        raise SettingsError(f"held_out={fraction} must be a fraction between 0 and 1, or a list of names")
    count = max(1, round(fraction * len(people)))
    order = np.random.default_rng((seed, _SPLIT)).permutation(len(people))
    return {people[i] for i in order[:count]}


def _named_people(people: Sequence[str], names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for name in map(str, names):
        matches = {p for p in people if name in (p, p.split("/", 1)[1])}
        if not matches:
            known = ", ".join(people[:12]) + (" and others" if len(people) > 12 else "")
            raise SettingsError(f"no person {name!r} in the cache (people: {known})")
        found |= matches
    return found
