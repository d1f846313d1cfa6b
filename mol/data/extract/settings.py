"""Settings of an extraction."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from mol.common.checks import MOST_WORKERS, require_at_most, require_one_of, require_plain_numbers, require_positive
from mol.common.errors import SettingsError
from mol.vision.tracking import MAX_GAP
from mol.vision.tvl1 import TVL1Settings

# T and S of an extracted cache: the network takes 8 frames and crops 128 of 144 pixels.
FRAMES, SIZE = 8, 144


@dataclass(frozen=True)
class ExtractionSettings:
    """Everything besides the manifest that shapes the rows of an extracted cache.

    Attributes:
        short: reject a clip of fewer than 8 frames, or interpolate it linearly in time (at least 2 frames).
        subclips: maximum number of sub-clips per clip, their starts spread evenly; 0 for all length // 8 of them.
        several: if a frame shows several faces, "raise" rejects the clip and "largest" takes the largest face.
        upsample: how often a picture is doubled in size if no face is found at its own size: 0 or 1.
        threshold: minimum score of a detected face.
        detect_width: pictures wider than this are averaged down to it for face detection; landmarks are always found in
            the full picture. 0 never scales down.
        detect_every: detect the face only in every n-th frame and find the landmarks of the frames in between within
            the last box. Above 1 it is faster, but a jump of the head or a second face goes unnoticed there.
        max_gap: if no face is found in up to this many frames in a row, their landmarks are interpolated in time, and
            the clip is listed in the cache's interpolated.json; 0 gives such a clip up, and so does a face that is
            missing in more than half of its frames.
        align: one transform for all frames of a clip, or each frame by its own landmarks as in the released code.
        enlarge: side of the aligned box relative to the larger side of the box around eyes, nose tip and mouth corners.
        tvl1: parameters of the optical flow.
    """

    short: Literal["reject", "interpolate"] = "reject"
    subclips: int = 0
    several: Literal["raise", "largest"] = "raise"
    upsample: Literal[0, 1] = 1
    threshold: float = 0.1
    detect_width: int = 640
    detect_every: int = 1
    max_gap: int = MAX_GAP
    align: Literal["clip", "frame"] = "clip"
    enlarge: float = 2.5
    tvl1: TVL1Settings = field(default_factory=TVL1Settings)

    def __post_init__(self) -> None:
        require_plain_numbers(self)
        require_at_most(self, subclips=10**6, detect_width=10**5, detect_every=10**6, enlarge=100)
        for name, allowed in (
            ("short", ("reject", "interpolate")),
            ("several", ("raise", "largest")),
            ("upsample", (0, 1)),
            ("align", ("clip", "frame")),
        ):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(str, allowed))}")
        for name, least in (("subclips", 0), ("detect_width", 0), ("detect_every", 1), ("max_gap", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least {least}")
        require_positive(self, "enlarge")
        if abs(self.threshold) > 100:
            raise SettingsError(f"threshold={self.threshold} must be between -100 and 100")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionSettings):
    """Detect, align and measure the flow of every clip of a manifest, into a cache.

    Attributes:
        manifest: folder made by `mol prepare`.
        out: folder of the cache; if empty, cache/ and the name of the manifest's folder.
        workers: number of processes, each with one thread; 0 for one per core, with engine "ray" of all nodes.
        on_error: "raise" extracts all other clips and then ends with an error that lists those that cannot be used;
            "skip" finishes the cache without them and lists them in its skipped.json.
        landmarks: CSV or NPZ file of landmarks to use instead of dlib's: one row per frame with the columns subject,
            clip, frame, x_0, y_0, …, x_67, y_67; or for each clip arrays "subject/clip" (frames, 68, 2) and
            "subject/clip/frames".
        plan: extract nothing, but estimate rows, disk space, memory and time from 3 clips.
        engine: "local" extracts in processes of this machine; "ray" extracts every clip as a task on a Ray cluster, on
            the nodes that see the pictures under the same path (pip install "molkernels[scale]"), into the same cache.
        ray_address: with engine "ray", "auto" for the cluster that this machine is part of, or HOST:PORT; a cluster of
            this machine alone, which ends with the run, when empty.
    """

    manifest: str
    out: str = ""
    workers: int = 0
    on_error: Literal["raise", "skip"] = "raise"
    landmarks: str | None = None
    plan: bool = False
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out:
            object.__setattr__(self, "out", str(Path("cache") / Path(self.manifest).resolve().name))
        if self.workers < 0:
            raise SettingsError(f"workers={self.workers} must not be negative; 0 means one per core")
        require_at_most(self, workers=MOST_WORKERS)
        require_one_of(self, "engine", ("local", "ray"))
        if self.ray_address is not None and self.engine != "ray":
            raise SettingsError("ray_address is a setting of the engine ray; add --engine ray")
        if self.on_error not in ("raise", "skip"):
            raise SettingsError(f"on_error={self.on_error!r} must be 'raise' or 'skip'")

    def settings(self) -> ExtractionSettings:
        """The settings that shape the rows."""
        return ExtractionSettings(**{field.name: getattr(self, field.name) for field in fields(ExtractionSettings)})
