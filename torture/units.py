"""All units of the campaign."""

from __future__ import annotations

from torture import full_disk, kills, operators
from torture.readers import films, project, tables
from torture.unit import Unit


def all_units() -> dict[str, Unit]:
    """The units by their titles, ``part/name``."""
    readers = [*project.readers(), *tables.readers(), *films.readers()]
    units = [*(reader.unit() for reader in readers), *kills.units(), *full_disk.units(), *operators.units()]
    return {unit.title: unit for unit in units}
