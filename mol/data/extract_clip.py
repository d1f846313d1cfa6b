"""One clip of a manifest: which frames of it a cache holds, and the way from its pictures to those rows.

All sub-clips of a clip are made together, so that every picture is read, searched for the face and aligned once:
read → face and 68 landmarks → one similarity transform (that of the median landmarks) → TV-L1 between sampled frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mol.common.errors import DataError, FaceError, MediaError, MissingExtraError, MOLError, SettingsError
from mol.data.manifest import Clip, Manifest, numbered_frames
from mol.vision.align import AlignSettings, align_clip
from mol.vision.landmarks import DlibDetector, only_face
from mol.vision.tvl1 import TVL1Settings, tvl1_flow
from mol.vision.video import interpolate_frames, read_frames, read_picture, sample_starts

FRAMES = 8
SIZE = 144
STAGES = ("read", "face and landmarks", "align", "TV-L1", "write")

# Eyes, nose and mouth; the jaw may leave a tightly cut picture.
_INNER = slice(27, 68)


@dataclass(frozen=True)
class ExtractionSettings:
    """Everything besides the manifest that shapes the rows of an extracted cache.

    Attributes:
        short: a clip of fewer than 8 frames is rejected, or lengthened by linear interpolation in time (2 frames at
            least).
        subclips: at most so many sub-clips a clip, their starts spread evenly; 0 takes all length // 8 of them.
        several: where a frame shows several faces, "raise" gives the clip up and "largest" takes the largest.
        upsample: how often a picture may be doubled where no face is found at its own size: 0 or 1.
        threshold: least score of a face.
        detect_width: wider pictures are averaged down to this width to find the face; landmarks are found in the
            picture itself. 0 never does.
        detect_every: look for the face in every so-many-th frame only and find the landmarks of the frames between in
            the box of the last one. Faster above 1, but a jump of the head or a second face goes unnoticed there.
        align: one transform for all frames of a clip, or each frame by its own landmarks, as the released code does.
        enlarge: side of the aligned box over the larger side of the box around eyes, nose tip and mouth corners.
        tvl1: parameters of the optical flow.
    """

    short: Literal["reject", "interpolate"] = "reject"
    subclips: int = 0
    several: Literal["raise", "largest"] = "raise"
    upsample: Literal[0, 1] = 1
    threshold: float = 0.1
    detect_width: int = 640
    detect_every: int = 1
    align: Literal["clip", "frame"] = "clip"
    enlarge: float = 2.5
    tvl1: TVL1Settings = field(default_factory=TVL1Settings)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("short", ("reject", "interpolate")),
            ("several", ("raise", "largest")),
            ("upsample", (0, 1)),
            ("align", ("clip", "frame")),
        ):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(str, allowed))}")
        for name, least in (("subclips", 0), ("detect_width", 0), ("detect_every", 1)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least {least}")
        if not self.enlarge > 0:
            raise SettingsError(f"enlarge={self.enlarge} must be greater than 0")


@dataclass(frozen=True)
class Job:
    """A clip of the manifest and the frames of it that go into the cache.

    Attributes:
        clip: as the manifest gives it.
        source: folder of frames or video file.
        numbers: frames of the interval that exist, ascending; those that the annotation promises where `problem` keeps
            them from being known.
        interval, starts: see `mol.vision.video.sample_starts`; no starts where the clip is too short.
        problem: why the clip cannot be extracted, known before a picture is read.
    """

    clip: Clip
    source: Path
    numbers: tuple[int, ...]
    interval: int
    starts: tuple[int, ...]
    problem: str = ""

    @property
    def interpolated(self) -> bool:
        """Whether the clip is lengthened in time to T frames."""
        return len(self.numbers) < FRAMES

    @property
    def samples(self) -> list[list[int]]:
        """T positions in `numbers` for each sub-clip; of an interpolated clip, positions in the lengthened one."""
        return [[start + self.interval * step for step in range(FRAMES)] for start in self.starts]

    @property
    def used(self) -> list[int]:
        """Positions in `numbers` of all frames to be read, ascending."""
        if self.interpolated:
            return list(range(len(self.numbers)))
        return sorted(position for sample in self.samples for position in sample)

    @property
    def absent(self) -> list[int]:
        """Frame numbers between onset and offset that have no picture."""
        return sorted(set(range(self.clip.onset, self.clip.offset + 1)) - set(self.numbers))

    def rows(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Entries of the cache's index, one a sub-clip."""
        clip = self.clip
        common = {
            "dataset": clip.dataset,
            "subject": clip.subject,
            "clip": clip.clip,
            "path": clip.path,
            "interval": self.interval,
            "length": len(self.numbers),
            "label": classes.index(clip.emotion),
            "emotion": clip.emotion,
            "action_units": clip.action_units,
            "onset": clip.onset,
            "apex": clip.apex,
            "offset": clip.offset,
            "fps": clip.fps,
        }
        return [
            {**common, "start": start, "frames": self._frame_numbers(sample)}
            for start, sample in zip(self.starts, self.samples, strict=True)
        ]

    def _frame_numbers(self, sample: Sequence[int]) -> list[int] | list[float]:
        """The T frame numbers of a sub-clip; broken numbers where frames are blended from their neighbours."""
        if not self.interpolated:
            return [self.numbers[position] for position in sample]
        times = np.linspace(0, len(self.numbers) - 1, FRAMES)
        return np.interp(times, range(len(self.numbers)), self.numbers).round(3).tolist()


def plan_clip(manifest: Manifest, clip: Clip, settings: ExtractionSettings) -> Job:
    """Choose the frames of a clip by their names alone; what stands in the way is noted, not raised."""
    source, problem = manifest.path_of(clip), ""
    try:
        numbers = _existing_numbers(source, clip)
    except DataError as error:
        # The rows are planned as if all was well, so that they stay the same once the folder is repaired.
        numbers, problem = list(range(clip.onset, clip.offset + 1)), str(error)
    interval, starts = 1, [0]
    if len(numbers) >= FRAMES:
        interval, every_start = sample_starts(len(numbers), FRAMES)
        starts = _spread(every_start, settings.subclips)
    elif settings.short == "reject" or len(numbers) < 2:
        remedy = 'short="interpolate" lengthens clips of 2 frames and more in time'
        starts, problem = [], problem or f"{len(numbers)} frames in {source}, a clip needs {FRAMES}; {remedy}."
    return Job(clip, source, tuple(numbers), interval, tuple(starts), problem)


def _existing_numbers(source: Path, clip: Clip) -> list[int]:
    again = "repair the folder, or make the manifest again with mol prepare"
    if source.is_file():
        return list(range(clip.onset, clip.offset + 1))
    found = numbered_frames(source)
    if absent := [number for number in (clip.onset, clip.offset) if number not in found]:
        first, *_, last = [*found, *found]
        raise DataError(
            f"{source} lacks frame {absent[0]}, but the clip goes from {clip.onset} to {clip.offset} by {clip.source} "
            f"(pictures there: {first} to {last}); {again}."
        )
    return [number for number in found if clip.onset <= number <= clip.offset]


def _spread(starts: range, most: int) -> list[int]:
    if not 0 < most < len(starts):
        return list(starts)
    return [starts[round(place)] for place in np.linspace(0, len(starts) - 1, most)]


@dataclass(frozen=True)
class Extracted:
    """The rows of one clip.

    Attributes:
        frames: (n, T, S, S) uint8.
        flow: (n, T − 1, 2, S, S) float16, pixels.
        landmarks: (n, T, 68, 2) float32, pixels.
        seconds: time spent in each stage.
        outside: share of the aligned frame that lies outside the picture; edge pixels are repeated there.
    """

    frames: np.ndarray
    flow: np.ndarray
    landmarks: np.ndarray
    seconds: dict[str, float]
    outside: float


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


def attempt_clip(
    job: Job, settings: ExtractionSettings, given: Mapping[int, np.ndarray] | None = None
) -> Extracted | Failed:
    """`extract_clip`, with whatever is wrong with this clip as a result instead of an error.

    Raises:
        MissingExtraError: no clip could be extracted here.
    """
    try:
        return extract_clip(job, settings, given)
    except MissingExtraError:
        raise
    except MOLError as error:
        return Failed(str(error))
    except Exception as error:  # OpenCV and dlib raise what they like, and one clip must not cost the others
        return Failed(f"{job.source}: unexpected {type(error).__name__}: {error}")


def extract_clip(job: Job, settings: ExtractionSettings, given: Mapping[int, np.ndarray] | None = None) -> Extracted:
    """Frames, flow and landmarks of all sub-clips of a clip.

    Args:
        job: the clip and its frames.
        settings: how.
        given: landmarks found elsewhere, frame number → (68, 2) pixels; dlib finds them where None.
    Raises:
        DataError, MediaError: the clip has a problem that was known, or a picture cannot be read or differs in size.
        NoFaceError, SeveralFacesError, FaceError: a frame without exactly one face that lies in the picture.
    """
    if job.problem:
        raise DataError(job.problem)
    stage = Stopwatch()
    numbers = [job.numbers[position] for position in job.used]
    with stage("read"):
        frames, names = _read(job.source, numbers)
    with stage("face and landmarks"):
        points = _given_points(given, numbers, names) if given is not None else _detected(frames, names, settings)
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
    return Extracted(aligned[samples], flow.astype(np.float16), moved[samples], stage.seconds, outside)


def _read(source: Path, numbers: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """(n, H, W) uint8 and what to call each frame in a message."""
    if source.is_file():
        return read_frames(source, numbers), [f"frame {number} of {source}" for number in numbers]
    found = numbered_frames(source)
    if absent := [number for number in numbers if number not in found]:
        raise MediaError(f"{source} lost frame {absent[0]} since the work began; put it back.")
    paths = [found[number] for number in numbers]
    frames = [read_picture(path) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise MediaError(
                f"{path} is {frame.shape[1]}×{frame.shape[0]} pixels and {paths[0].name} is "
                f"{frames[0].shape[1]}×{frames[0].shape[0]}; the frames of a clip must have one size."
            )
    return np.stack(frames), [str(path) for path in paths]


@cache
def _detector(upsample: Literal[0, 1], threshold: float, width: int) -> DlibDetector:
    """One a process: reading the predictor takes a second."""
    return DlibDetector(upsample=upsample, threshold=threshold, width=width)


def detector_of(settings: ExtractionSettings) -> DlibDetector:
    """dlib as the settings say.

    Raises:
        MissingExtraError: it is not installed.
    """
    return _detector(settings.upsample, settings.threshold, settings.detect_width)


def _detected(frames: np.ndarray, names: Sequence[str], settings: ExtractionSettings) -> np.ndarray:
    """(n, 68, 2) float32."""
    detector = detector_of(settings)
    points = np.empty((len(frames), 68, 2), np.float32)
    for index, frame in enumerate(frames):
        if index % settings.detect_every == 0:
            face = only_face(detector(frame), names[index], settings.several)
        else:
            face = detector.face_in(frame, face.box)
        points[index] = face.points
    return points


def _given_points(given: Mapping[int, np.ndarray], numbers: Sequence[int], names: Sequence[str]) -> np.ndarray:
    for number, name in zip(numbers, names, strict=True):
        if number not in given or not np.isfinite(given[number]).all():
            raise FaceError(f"the landmarks file has no landmarks for {name}; add them, or let dlib find them.")
    return np.stack([given[number] for number in numbers])


def _interpolate_points(points: np.ndarray, count: int) -> np.ndarray:
    """(n, 68, 2) → (count, 68, 2) float32, as `interpolate_frames` does with the pictures."""
    times, flat = np.linspace(0, len(points) - 1, count), points.reshape(len(points), -1)
    columns = [np.interp(times, range(len(points)), column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(count, *points.shape[1:]).astype(np.float32)


def _require_inside(points: np.ndarray, extent: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a face of which eyes, nose or mouth are cut off by the edge of the picture."""
    inner = points[:, _INNER]
    out = ((inner < 0) | (inner > np.array(extent[::-1]) - 1)).any(axis=(1, 2))
    if out.any():
        raise FaceError(
            f"the face leaves the picture in {names[int(out.argmax())]} ({int(out.sum())} of {len(names)} frames); "
            "its eyes, nose and mouth must be visible throughout. Shorten the clip or leave it out."
        )


def _outside(matrix: np.ndarray, extent: Sequence[int]) -> float:
    """Share of the aligned frame whose pixels lie outside a picture of `extent` (H, W)."""
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1)
    places = (grid - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return float(((places < -0.5) | (places > np.array(extent[::-1]) - 0.5)).any(axis=-1).mean())
