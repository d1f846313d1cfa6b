"""Numbers, names and tables of scores as report pages show them."""

from __future__ import annotations

from mol.loso.measures import MEASURES
from mol.loso.saved_run import Spread
from mol.loso.scores import COMPOSITE
from mol.pictures.markup import Markup, element


def cell(spread: Spread, name: str) -> Markup:
    """A score as tables show it: the mean, and beside it, smaller, its deviation over seeds."""
    measure = MEASURES[name]
    text = measure.number(spread.mean)
    if spread.deviation is None:
        return Markup(text)
    return Markup(text + element("small", f" ± {measure.number(spread.deviation)}"))


def column_head(name: str) -> str:
    """What a table calls a score or error, with its unit."""
    measure = MEASURES[name]
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def group_name(group: str) -> str:
    """What a row or a part of the page calls a group of videos."""
    return "all together" if group == COMPOSITE else group


def readable(name: str) -> str:
    """A class or group as words."""
    return name.replace("_", " ")
