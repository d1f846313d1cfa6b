"""The parameters of spotting as a file: with what they were chosen on, and the F1 that they had there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mol.common.storage import write_json
from mol.common.typed import NotNegative, Share, read_json
from mol.spotting.spot import SpotParameters


@dataclass(frozen=True)
class _Content:
    micro: NotNegative
    macro: NotNegative
    evidence: Share
    blink: NotNegative


def write_parameters(path: Path, parameters: SpotParameters, **chosen: Any) -> None:
    """Write parameters, and how they were chosen."""
    write_json(path, {**asdict(parameters), **chosen})


def read_parameters(path: Path) -> SpotParameters:
    """Read parameters.

    Raises:
        DataError: the file is missing or holds something else.
        SettingsError: a value that cannot work.
    """
    content = read_json(path, _Content, "give a parameters.json of mol loso --task spot, or leave --parameters out")
    return SpotParameters(**asdict(content))
