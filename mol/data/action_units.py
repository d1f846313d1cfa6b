"""Action units as data sets annotate them: read from the text of their sheets, made into targets, chosen to be learned.

The sheets differ, and so does the writing within a sheet:

    4+L10        CASME II, CAS(ME)³, MMEW: numbers, L or R before one that only one side of the face shows
    R12A+L14B    SAMM: letters A to E behind a number for its intensity
    AU4+AU7      4DME, SAMM: AU before the first number or before all of them
    12 or 25     either: both are unknown
    12?          not certain: unknown; a ? of its own means that there may be others
    4(k)+L7      4DME: a unit that is held during the whole clip, which is no motion of it: unknown
    0, none      no unit
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mol.common.errors import DataError, SettingsError
from mol.data.split import person
from mol.network.units import CODES, NOT_SHOWN, SHOWN, UNKNOWN, LearnedUnits

FACS = frozenset({1, 2, *range(4, 47), *range(50, 67), *range(68, 75), *range(80, 86), 91, 92, 97, 98})
"""Numbers that the Facial Action Coding System (Ekman, Friesen and Hager, 2002) gives to movements of face and head."""

ENOUGH = 10
"""Training videos that must show a unit for "auto" to choose it."""

_NONE = {"0", "AU0", "NONE", "NO AU", "NEUTRAL"}
_NOTHING_SAID = {"", "-", "–", "/", "N/A", "NA", "NAN", "UNKNOWN"}
_SEPARATOR = re.compile(r"(?:[\s+,;/&、]|AND(?![A-Z]))+")
_OR = re.compile(r"OR(?![A-Z])|\|")
_UNIT = re.compile(
    r"""
    (?:AUS?\s*)? (?:(?:L\s*[/&]\s*R|R\s*[/&]\s*L|LR|RL|[LRUTBM])\s*)? (?:AU\s*)?  # side: left, right, top, bottom, …
    (?P<code>\d+)
    (?:\s*(?:[A-E](?:\s*[-+/]\s*[A-E](?!\s*[0-9A-Z]))?|[LR])(?![0-9A-Z]))?        # intensity A to E, or the side
    (?P<unknown>\s*(?:\?|\(\s*\?\s*\)|\(\s*K\s*\)))*
    """,
    re.VERBOSE,
)
_SHOWN_TEXTS = 4


@dataclass(frozen=True)
class Annotation:
    """What is known of the action units of a clip.

    Attributes:
        shown: units that move, on whichever side.
        unknown: units that may move.
        complete: whether all other units are known not to move.
    """

    shown: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()
    complete: bool = True

    def target(self, unit: int) -> int:
        """`SHOWN`, `NOT_SHOWN` or `UNKNOWN`."""
        if unit in self.shown:
            return SHOWN
        return NOT_SHOWN if self.complete and unit not in self.unknown else UNKNOWN


def read_action_units(value: Any) -> Annotation | None:
    """Read the action units of a clip.

    Args:
        value: the text of a sheet, or a list of numbers.
    Returns:
        None if nothing is said about them.
    Raises:
        DataError: the text and what is wrong with it.
    """
    if value is None or isinstance(value, str):
        return _read_text(value or "")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _read_text(f"{value:g}")
    if isinstance(value, (list, tuple)) and all(type(unit) is int for unit in value):
        return Annotation(frozenset(_require_facs(unit, value) for unit in value))
    raise _unreadable(value, "it is neither a text nor a list of numbers")


@lru_cache(4096)
def _read_text(text: str) -> Annotation | None:
    # Sheets made with a Chinese keyboard have wide signs, ＋ and ？.
    plain = unicodedata.normalize("NFKC", text).upper().strip(" \t\r\n'\"’")
    if plain in _NOTHING_SAID:
        return None
    if plain in _NONE:
        return Annotation()
    found: list[tuple[int, bool]] = []
    complete, either, place = True, False, 0
    while place < len(plain):
        if separator := _SEPARATOR.match(plain, place):
            place = separator.end()
        elif alternative := _OR.match(plain, place):
            if either or not found:
                raise _unreadable(text, "“or” stands between two units")
            found[-1], either, place = (found[-1][0], True), True, alternative.end()
        elif unit := _UNIT.match(plain, place):
            found.append((_require_facs(int(unit["code"][:9]), text), either or unit["unknown"] is not None))
            either, place = False, unit.end()
            joined = _SEPARATOR.match(plain, place) or _OR.match(plain, place)
            if place < len(plain) and plain[place].isalnum() and not joined:
                raise _unreadable(text, f"{plain[unit.start() : place + 1]!r} is no unit")
        elif plain[place] == "?":
            complete, place = False, place + 1
        else:
            raise _unreadable(text, f"{plain[place]!r} has no meaning there")
    if either:
        raise _unreadable(text, "“or” stands between two units")
    if not found:
        return None
    shown = frozenset(unit for unit, unknown in found if not unknown)
    return Annotation(shown, frozenset(unit for unit, _ in found) - shown, complete)


def _require_facs(unit: int, value: Any) -> int:
    if unit not in FACS:
        raise _unreadable(value, f"the Facial Action Coding System has no unit {unit}")
    return unit


def _unreadable(value: Any, reason: str) -> DataError:
    text = repr(value)
    shown = text if len(text) <= 80 else f"{text[:79]}…"
    return DataError(
        f"the action units {shown} cannot be read: {reason}; write them as in '4+L10', 'AU12B or AU14' or '12?', and "
        "'0' for none"
    )


def unit_targets(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(n, `CODES`) int8: whether each clip shows each unit; what is not annotated or cannot be read is unknown.

    Args:
        rows: index rows of a cache.
    """
    table = np.full((len(rows), CODES), UNKNOWN, np.int8)
    for row, targets in zip(rows, table, strict=True):
        try:
            annotation = read_action_units(row.get("action_units"))
        except DataError:
            continue
        if annotation is not None:
            targets[:] = NOT_SHOWN if annotation.complete else UNKNOWN
            targets[list(annotation.unknown)] = UNKNOWN
            targets[list(annotation.shown)] = SHOWN
    return table


def annotation_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a training on action units must say of annotations that cannot be read: one note, empty if there are none.

    Args:
        rows: index rows of a cache, numbered from 0.
    """
    places: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        try:
            read_action_units(row.get("action_units"))
        except DataError as error:
            places.setdefault(str(error), []).append(f"row {number}, {person(row)}/{row['clip']}")
    if not places:
        return []
    count = sum(map(len, places.values()))
    some = list(places.items())[:_SHOWN_TEXTS]
    texts = [
        f"{error} ({where[0]}" + (f" and {len(where) - 1} more)" if len(where) > 1 else ")") for error, where in some
    ]
    more = [f"and {len(places) - len(some)} other texts"] if len(places) > len(some) else []
    return [
        f"{count} of {len(rows)} clips take no part in the learning of action units. Correct clips.csv of the manifest "
        f"and extract again to have them: {'; '.join([*texts, *more])}"
    ]


def learned_units(
    wanted: Sequence[int] | Literal["auto"],
    source: Path | str,
    rows: Sequence[Mapping[str, Any]],
    training: Sequence[Mapping[str, Any]],
) -> tuple[LearnedUnits, list[str]]:
    """The units that a training learns, and what must be said about them.

    Args:
        wanted: numbers, or "auto" for every unit that at least `ENOUGH` training videos show.
        source: of the rows, for messages.
        rows: all index rows.
        training: those of the clips to train on.
    Raises:
        SettingsError: a unit that no row shows, clips without annotations, or no unit that enough videos show.
    """
    known = _shown(rows)
    if (unit_targets(rows) == UNKNOWN).all():
        raise SettingsError(
            f"action_units: no clip of {source} has action units that can be read; leave the setting out, or use "
            f"caches of data sets whose sheets have them.{''.join(f' {note}' for note in annotation_notes(rows))}"
        )
    targets = unit_targets(training)
    if (targets == UNKNOWN).all():
        raise SettingsError(f"action_units: no clip to train on in {source} has action units; hold out other people")
    if wanted == "auto":
        units = _shown_enough(training)
    else:
        units = sorted(set(wanted))
        if strange := [unit for unit in units if unit not in known]:
            raise SettingsError(
                f"action_units: no clip of {source} shows {describe_units(strange)}; its clips show "
                f"{describe_units(sorted(known))}"
            )
    annotated = tuple(int((targets[:, unit] != UNKNOWN).sum()) for unit in units)
    if not any(annotated):
        raise SettingsError(
            f"action_units: for no clip to train on is it known whether it shows {describe_units(units)}"
        )
    shown = tuple(int((targets[:, unit] == SHOWN).sum()) for unit in units)
    learned = LearnedUnits(tuple(units), annotated, shown, len(training))
    return learned, [*annotation_notes(rows), *absent_units(learned)]


def absent_units(learned: LearnedUnits) -> list[str]:
    """A note on the units that a network cannot have learned; empty if there are none."""
    never = [unit for unit, count in zip(learned.units, learned.shown, strict=True) if not count]
    return [f"no training clip shows {describe_units(never)}: it cannot be learned"] if never else []


def _shown(rows: Sequence[Mapping[str, Any]]) -> Counter[int]:
    """Units and the number of videos that show each."""
    shown: dict[tuple[str, str], set[int]] = {}
    for row, targets in zip(rows, unit_targets(rows), strict=True):
        shown.setdefault((person(row), str(row["clip"])), set()).update(np.flatnonzero(targets == SHOWN).tolist())
    return Counter(unit for units in shown.values() for unit in units)


def _shown_enough(training: Sequence[Mapping[str, Any]]) -> list[int]:
    counts = _shown(training)
    units = sorted(unit for unit, videos in counts.items() if videos >= ENOUGH)
    if not units:
        most = ", ".join(f"AU {unit} in {videos}" for unit, videos in counts.most_common(3)) or "none in any"
        raise SettingsError(
            f'action_units="auto" takes units that at least {ENOUGH} training videos show, and there is none ({most}); '
            "name the units, such as --action-units '[4, 12]', or leave the setting out"
        )
    return units


def describe_units(units: Iterable[int]) -> str:
    """``"AU 4"`` or ``"AUs 4, 7"``."""
    numbers = [str(unit) for unit in units]
    return f"AU{'s' if len(numbers) > 1 else ''} {', '.join(numbers) or '–'}"
