"""Small data sets to check, of real pictures; a test spoils what it needs spoiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from mol.data.check import CheckDataConfig, Finding, check_data
from mol.data.manifest import Clip, Manifest, write_manifest


def encoded(rng: np.random.Generator, suffix: str = ".png", size: tuple[int, int] = (12, 16), flags=()) -> bytes:
    picture = rng.integers(0, 256, size, dtype=np.uint8)
    return cv2.imencode(suffix, picture, list(flags))[1].tobytes()


class DataSet:
    """A data set on disk that grows clip by clip; every clip is whole until a test spoils it."""

    def __init__(self, folder: Path, dataset: str = "smic", seed: int = 0) -> None:
        self.root, self.dataset, self.clips = folder, dataset, []
        self.rng = np.random.default_rng(seed)

    def add(self, subject="s1", clip="c1", emotion="negative", onset=5, offset=16, apex=None, suffix=".png") -> Clip:
        folder = self.root / subject / clip
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(onset, offset + 1):
            (folder / f"image{number:06d}{suffix}").write_bytes(encoded(self.rng, suffix))
        path = f"{subject}/{clip}"
        self.clips.append(Clip(self.dataset, subject, clip, path, onset, apex, offset, emotion, source=path))
        return self.clips[-1]

    def picture(self, clip: Clip, number: int, suffix: str = ".png") -> Path:
        return self.root / clip.path / f"image{number:06d}{suffix}"

    def change(self, clip: Clip, **fields) -> None:
        self.clips[self.clips.index(clip)] = replace(clip, **fields)

    def manifest(self, name: str = "") -> str:
        folder = self.root.with_name(f"{self.root.name}-manifest{name}")
        write_manifest(folder, Manifest(self.dataset, self.root, self.clips))
        return str(folder)


def found(*manifests: str, **settings) -> list[Finding]:
    """Errors and warnings."""
    findings = check_data(CheckDataConfig(list(manifests), workers=1, **settings))
    return [finding for finding in findings if finding.severity != "info"]


def only(findings: list[Finding], severity: str, kind: str) -> Finding:
    assert [(finding.severity, finding.kind) for finding in findings] == [(severity, kind)]
    return findings[0]
