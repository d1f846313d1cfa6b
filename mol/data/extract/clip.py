"""From the pictures of one clip to its rows of the cache.

All sub-clips of a clip are made together, so that every picture is read, detected and aligned only once:
read → face and 68 landmarks → one similarity transform (that of the median landmarks) → TV-L1 between sampled frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from mol.common.errors import DataError, FaceError, MediaError, MissingExtraError, MOLError
from mol.data.extract.frames import Job
from mol.data.extract.settings import FRAMES, SIZE, ExtractionSettings
from mol.data.manifest import numbered_frames
from mol.vision.align import AlignSettings, align_clip
from mol.vision.landmarks import DlibDetector
from mol.vision.tracking import FaceFollower, fill_short_gaps, follow_face
from mol.vision.tvl1 import tvl1_flow
from mol.vision.video import interpolate_frames, read_frames_and_notes, read_pictures

STAGES = ("read", "face and landmarks", "align", "TV-L1", "write")

# Eyes, nose and mouth; the jaw may lie outside a tightly cropped picture.
_INNER = slice(27, 68)


@dataclass(frozen=True)
class Extracted:
    """The rows of one clip.

    Attributes:
        frames: (n, T, S, S) uint8.
        flow: (n, T − 1, 2, S, S) float16, pixels.
        landmarks: (n, T, 68, 2) float32, pixels.
        seconds: time spent in each stage.
        outside: share of the aligned frame outside the picture, which is filled by repeating edge pixels.
        interpolated: numbers of the frames whose landmarks were interpolated, because no face was found in them.
        notes: what a user should know about the grey levels.
    """

    frames: np.ndarray
    flow: np.ndarray
    landmarks: np.ndarray
    seconds: dict[str, float]
    outside: float
    interpolated: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A clip that could not be extracted, and why."""

    reason: str


class Stopwatch:
    """Adds up the seconds spent in named stages."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - before

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the times of another stopwatch."""
        for stage, spent in seconds.items():
            self.seconds[stage] += spent


def attempt_clip(
    job: Job, settings: ExtractionSettings, given: Mapping[int, np.ndarray] | None = None
) -> Extracted | Failed:
    """`extract_clip`, with any problem of this clip as a result instead of an error.

    Raises:
        MissingExtraError: a package is not installed, so no clip can be extracted.
    """
    try:
        return extract_clip(job, settings, given)
    except MissingExtraError:
        raise
    except MOLError as error:
        return Failed(str(error))
    except Exception as error:  # OpenCV and dlib raise anything, and one clip must not cost the others
        return Failed(f"{job.source}: unexpected {type(error).__name__}: {error}")


def extract_clip(job: Job, settings: ExtractionSettings, given: Mapping[int, np.ndarray] | None = None) -> Extracted:
    """Extract frames, flow and landmarks of all sub-clips of a clip.

    Args:
        job: the clip and its frames.
        settings: of the extraction.
        given: frame number → landmarks (68, 2) in pixels from a landmarks file; None if dlib finds them.
    Raises:
        DataError, MediaError: the job has a known problem, or a picture cannot be read or differs in size.
        NoFaceError, SeveralFacesError, FaceError: a frame does not show exactly one face inside the picture.
    """
    if job.problem:
        raise DataError(job.problem)
    stage = Stopwatch()
    numbers = [job.numbers[position] for position in job.used]
    with stage("read"):
        frames, names, notes = _read(job.source, numbers)
    with stage("face and landmarks"):
        if given is None:
            follower = FaceFollower(detector_of(settings), every=settings.detect_every)
            found = follow_face(frames, follower, names, settings.several, max_gap=settings.max_gap)
            points, filled = found.points, found.filled
        else:
            points, filled = _given_points(given, numbers, names, settings.max_gap)
    _require_inside(points, frames.shape[1:], names)
    places = {position: place for place, position in enumerate(job.used)}
    if job.interpolated:
        frames, points = interpolate_frames(frames, FRAMES), _interpolate_points(points, FRAMES)
        places = {place: place for place in range(FRAMES)}
    with stage("align"):
        aligned, moved, matrices = align_clip(frames, points, AlignSettings(SIZE, settings.enlarge, settings.align))
    samples = [[places[position] for position in sample] for sample in job.samples]
    with stage("TV-L1"):
        flow = np.stack([tvl1_flow(aligned[sample], settings.tvl1) for sample in samples])
    outside = max(_outside(matrix, frames.shape[1:]) for matrix in np.unique(matrices, axis=0))
    gaps, flow = tuple(numbers[place] for place in filled), flow.astype(np.float16)
    return Extracted(aligned[samples], flow, moved[samples], stage.seconds, outside, gaps, notes)


def _read(source: Path, numbers: Sequence[int]) -> tuple[np.ndarray, list[str], tuple[str, ...]]:
    """Frames (n, H, W) uint8, a name of each for messages, and notes about their grey levels."""
    if source.is_file():
        frames, notes = read_frames_and_notes(source, numbers)
        return frames, [f"frame {number} of {source}" for number in numbers], notes
    found = numbered_frames(source)
    if absent := [number for number in numbers if number not in found]:
        raise MediaError(f"{source} has lost frame {absent[0]} since the extraction began; put it back.")
    paths = [found[number] for number in numbers]
    frames, notes = read_pictures(paths)
    return frames, [str(path) for path in paths], notes


@cache
def _detector(upsample: Literal[0, 1], threshold: float, width: int) -> DlibDetector:
    """One per process, because reading the predictor takes a second."""
    return DlibDetector(upsample=upsample, threshold=threshold, width=width)


def detector_of(settings: ExtractionSettings) -> DlibDetector:
    """dlib's detector with these settings, one per process.

    Raises:
        MissingExtraError: dlib is not installed.
    """
    return _detector(settings.upsample, settings.threshold, settings.detect_width)


def _given_points(
    given: Mapping[int, np.ndarray], numbers: Sequence[int], names: Sequence[str], max_gap: int
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Given landmarks with short gaps filled, and the positions of the frames that were."""
    for number, name in zip(numbers, names, strict=True):
        if number not in given:
            raise FaceError(f"the landmarks file has no landmarks for {name}; add them, or let dlib find them.")
    points, filled = fill_short_gaps(np.stack([given[number] for number in numbers]), max_gap)
    for place, name in enumerate(names):
        if not np.isfinite(points[place]).all():
            raise FaceError(
                f"the landmarks file has no landmarks for {name}, and they are interpolated over at most {max_gap} "
                "frames in a row (--max-gap) and half of all; add them, or let dlib find them."
            )
    return points, filled


def _interpolate_points(points: np.ndarray, count: int) -> np.ndarray:
    """(n, 68, 2) → (count, 68, 2) float32, at the same times as `interpolate_frames`."""
    times, flat = np.linspace(0, len(points) - 1, count), points.reshape(len(points), -1)
    columns = [np.interp(times, range(len(points)), column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(count, *points.shape[1:]).astype(np.float32)


def _require_inside(points: np.ndarray, extent: Sequence[int], names: Sequence[str]) -> None:
    """Raise if the edge of the picture cuts off eyes, nose or mouth."""
    inner = points[:, _INNER]
    out = ((inner < 0) | (inner > np.array(extent[::-1]) - 1)).any(axis=(1, 2))
    if out.any():
        raise FaceError(
            f"the face leaves the picture in {names[int(out.argmax())]} ({int(out.sum())} of {len(names)} frames); "
            "its eyes, nose and mouth must be visible throughout. Shorten the clip or leave it out."
        )


def _outside(matrix: np.ndarray, extent: Sequence[int]) -> float:
    """Share of the pixels of the aligned frame that lie outside a picture of `extent` (H, W)."""
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1)
    places = (grid - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return float(((places < -0.5) | (places > np.array(extent[::-1]) - 0.5)).any(axis=-1).mean())
