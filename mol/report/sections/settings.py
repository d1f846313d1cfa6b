"""Settings: caches, hardware, versions and configuration of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mol.common.extras import require
from mol.pictures.markup import element, facts, table
from mol.report.context import Report
from mol.report.html import Section, section
from mol.report.numbers import readable


def settings(report: Report) -> Section:
    """Everything that affects the numbers."""
    run = report.run
    yaml = require("yaml", "train")
    shown = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
    versions = [(name, str(value)) for name, value in run.environment.get("versions", {}).items()]
    hardware = [(_part(name), _plain(value)) for name, value in run.environment.get("hardware", {}).items()]
    caches = [[cache.path, cache.fingerprint[:16]] for cache in run.plan.caches]
    return section(
        "Settings",
        "Everything that affects the numbers, as resolved when the run began.",
        table(["Cache", "Fingerprint"], caches, "Where the clips came from", "words") if caches else None,
        [element("h3", "Hardware"), facts(hardware)] if hardware else None,
        [element("h3", "Versions"), facts(versions)] if versions else None,
        element("h3", "Configuration"),
        element(
            "details",
            element("summary", "loso.yaml"),
            element("pre", shown if run.settings else "loso.yaml is missing"),
        ),
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{_part(name)} {_plain(entry)}" for name, entry in value.items() if name != "name")
        return " · ".join(str(part) for part in (value.get("name"), rest) if part)
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_plain, value)) or "none"
    return "unknown" if value is None else str(value)


def _part(name: str) -> str:
    """``memory_gib`` → memory, GiB."""
    return readable(name.removesuffix("_gib")) + (", GiB" if name.endswith("_gib") else "")
