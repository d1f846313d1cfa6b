"""Settings of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mol.common.checks import MOST_WORKERS, require_at_most
from mol.common.errors import SettingsError


@dataclass
class CheckDataConfig:
    """Check data sets and caches before they are used.

    Attributes:
        manifests: manifests made by `mol prepare`, one per set, and caches made by `mol extract` or `mol synth`; every
            row of a cache is read and compared with its checksum.
        protocol: also check that the clips are those of this protocol, such as megc2019 (docs/protocols.md).
        pictures: read every picture between onset and offset; otherwise only file names are checked.
        frames: minimum number of frames of a video: T, the length of the network's clips.
        short: whether shorter videos are an error ("reject") or a warning ("interpolate"), as in mol extract.
        workers: number of processes; 0 for one per core.
        out: CSV file for all findings.
    """

    manifests: list[str]
    protocol: str | None = None
    pictures: bool = True
    frames: int = 8
    short: Literal["reject", "interpolate"] = "reject"
    workers: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        if not self.manifests:
            raise SettingsError("manifests: give at least one folder made by mol prepare, mol extract or mol synth.")
        require_at_most(self, workers=MOST_WORKERS)
        if self.frames < 2 or self.workers < 0:
            raise SettingsError(f"frames={self.frames} must be at least 2 and workers={self.workers} not negative.")
        if self.short not in ("reject", "interpolate"):
            raise SettingsError(f"short={self.short!r} must be 'reject' or 'interpolate'")
