"""Synthetic micro-expression clips: real faces under exactly known motion, rendered into the cache format.

One clip = one picture of one person, moved by the action units of an emotion (`mol.synth.action_units`) and by a small
head motion (`mol.synth.motion`), with lighting drift and sensor noise. Flow, landmarks, action units, apex and label
are exact. Scores on such clips show that the pipeline works and that the network learns; they say nothing about real
micro-expressions.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mol.common.environment import available_cores, versions_of
from mol.common.errors import ClipError, SettingsError, StorageError
from mol.common.extras import require
from mol.common.storage import write_atomic
from mol.common.workers import in_processes
from mol.data.cache import Cache, CacheSettings, CacheWriter
from mol.synth.action_units import EMOTIONS, displacement_field
from mol.synth.faces import ORL_PEOPLE, SOURCE_DISTRIBUTIONS, SOURCES, FaceImage, load_faces
from mol.synth.motion import Motion, head_motion, intensity_profile
from mol.vision.align import AlignSettings, alignment_matrix, transform_points
from mol.vision.landmarks import LandmarkDetector
from mol.vision.video import sample_starts

# Raised whenever the same settings would give other bytes.
GENERATOR = 1
CASME2_FPS = 200.0
_OVERSAMPLE = 3
_MARGIN = 12


@dataclass(frozen=True)
class SynthSettings:
    """Everything that shapes a synthetic set.

    Attributes:
        sources: ``"orl"`` (40 people), ``"astronaut"``, ``"grace_hopper"``.
        people: how many of the ORL people.
        pictures: at most so many pictures a person; each clip takes one of them.
        clips: clips a person; the emotions take turns.
        subclips: rows a clip: samplings of the same video with different starts.
        emotions: classes in the order of their labels, keys of `EMOTIONS`.
        amplitude: (least, most) peak displacement of the expression in pixels of the aligned frame.
        length: (least, most) frames of the notional video, at 200 frames a second.
        head_shift: largest head translation in pixels of the aligned frame.
        head_turn: largest in-plane head rotation in degrees.
        head_zoom: largest relative change of the head's size.
        noise: standard deviation of the sensor noise in grey levels.
        lighting: largest relative change of the light, over time and across the face.
        seed: same settings, same bytes, whatever the number of workers or interruptions.
        frames: T.
        size: side of the aligned frames in pixels.
        enlarge: see `AlignSettings`.
    """

    sources: tuple[str, ...] = ("orl",)
    people: int = ORL_PEOPLE
    pictures: int = 4
    clips: int = 6
    subclips: int = 1
    emotions: tuple[str, ...] = ("happiness", "surprise", "disgust", "repression", "sadness", "others")
    amplitude: tuple[float, float] = (0.3, 3.0)
    length: tuple[int, int] = (24, 72)
    head_shift: float = 0.6
    head_turn: float = 0.4
    head_zoom: float = 0.004
    noise: float = 1.5
    lighting: float = 0.03
    seed: int = 0
    frames: int = 8
    size: int = 144
    enlarge: float = 2.5

    def __post_init__(self) -> None:
        for name, known in (("sources", tuple(SOURCES)), ("emotions", tuple(EMOTIONS))):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values) or not set(values) <= set(known):
                raise SettingsError(f"{name}: give some of {', '.join(known)}, each once; got {values}.")
        for name in ("people", "pictures", "clips", "subclips"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("head_shift", "head_turn", "head_zoom", "noise", "lighting", "seed"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.people > ORL_PEOPLE:
            raise SettingsError(f"people: the ORL set has {ORL_PEOPLE} people, got {self.people}.")
        if self.frames < 2 or self.size < 32:
            raise SettingsError(f"frames must be at least 2 and size at least 32, got {self.frames} and {self.size}.")
        if not 0 < self.amplitude[0] <= self.amplitude[1] <= 3 * self.size / 144:
            # Beyond that the field would fold the skin over itself and flow would no longer be one-to-one.
            raise SettingsError(f"amplitude: 0 < least ≤ most ≤ {3 * self.size / 144:g} pixels, got {self.amplitude}.")
        if not max(2 * self.frames, self.subclips * self.frames) <= self.length[0] <= self.length[1]:
            raise SettingsError(
                f"length: at least {max(2, self.subclips) * self.frames} frames (T = {self.frames}, "
                f"{self.subclips} sub-clips), least ≤ most; got {self.length}."
            )

    def align(self) -> AlignSettings:
        return AlignSettings(size=self.size, enlarge=self.enlarge)


class Clip(NamedTuple):
    """What one row of the cache holds.

    Attributes:
        frames: (T, S, S) uint8.
        flow: (T − 1, 2, S, S) float32, pixels.
        landmarks: (T, 68, 2) float32, pixels.
    """

    frames: np.ndarray
    flow: np.ndarray
    landmarks: np.ndarray


@dataclass(frozen=True)
class ClipPlan:
    """Everything drawn at random for one clip; rendering it draws nothing but the noise.

    Attributes:
        face: position of the picture in the list of faces.
        clip: such as ``"clip03"``.
        emotion: its name.
        intensities: action unit → (left, right) intensity.
        amplitude: pixels at the apex.
        length, onset, apex, offset: frames of the notional video.
        residue: intensity that remains after the offset.
        starts: first sampled frame of each sub-clip.
        head_waves: (4, 2, 2) amplitudes (−1 … 1) and phases of the slow waves of x, y, turn and zoom.
        light_waves: (3, 2, 2) the same for brightness and for its slopes along x and y.
        noise_seed: seed of the sensor noise.
    """

    face: int
    clip: str
    emotion: str
    intensities: dict[int, tuple[float, float]]
    amplitude: float
    length: int
    onset: int
    apex: int
    offset: int
    residue: float
    starts: tuple[int, ...]
    head_waves: np.ndarray
    light_waves: np.ndarray
    noise_seed: int


def plan_clips(faces: Sequence[FaceImage], settings: SynthSettings) -> list[ClipPlan]:
    """Draw all clips, person by person; each clip has its own generator, so plans do not depend on one another."""
    pictures: dict[str, list[int]] = {}
    for index, face in enumerate(faces):
        pictures.setdefault(face.subject, []).append(index)
    plans = []
    for person, (subject, choices) in enumerate(pictures.items()):
        for clip in range(settings.clips):
            # The turn starts at another emotion for each person: with few clips all emotions still occur.
            emotion = settings.emotions[(clip + person) % len(settings.emotions)]
            seed = [settings.seed, zlib.crc32(f"{subject}/{clip}".encode())]
            plans.append(_draw_plan(np.random.default_rng(seed), choices, f"clip{clip + 1:02d}", emotion, settings))
    return plans


def _draw_plan(
    rng: np.random.Generator, choices: list[int], clip: str, emotion: str, settings: SynthSettings
) -> ClipPlan:
    units = EMOTIONS[emotion][rng.integers(len(EMOTIONS[emotion]))]
    length = int(rng.integers(settings.length[0], settings.length[1] + 1))
    interval, starts = sample_starts(length, settings.frames)
    onset = int(rng.uniform(0, 0.1) * length)
    apex = max(onset + 1, int(rng.uniform(0.35, 0.65) * length))
    # Before the last sampled frame, so that the fall is seen as well.
    offset = max(apex + 1, min(int(rng.uniform(0.85, 1.0) * length), interval * settings.frames) - 1)
    return ClipPlan(
        face=int(rng.choice(choices)),
        clip=clip,
        emotion=emotion,
        intensities={unit: _draw_sides(rng) for unit in units},
        amplitude=float(rng.uniform(*settings.amplitude)),
        length=length,
        onset=onset,
        apex=apex,
        offset=offset,
        residue=float(rng.uniform(0, 0.3)),
        starts=tuple(sorted(rng.choice(len(starts), settings.subclips, replace=False).tolist())),
        head_waves=_draw_waves(rng, 4),
        light_waves=_draw_waves(rng, 3),
        noise_seed=int(rng.integers(2**63)),
    )


def _draw_sides(rng: np.random.Generator) -> tuple[float, float]:
    """Left and right intensity of one action unit: expressions are seldom even."""
    intensity, tilt = rng.uniform(0.65, 1.0), rng.uniform(-0.25, 0.25)
    return float(intensity * (1 + tilt)), float(intensity * (1 - tilt))


def _draw_waves(rng: np.random.Generator, count: int) -> np.ndarray:
    """Two slow sines for each quantity: (count, 2, 2) of amplitude and phase, the amplitudes summing to at most 1."""
    amplitude = rng.uniform(-1, 1, (count, 2)) * [0.65, 0.35]
    return np.stack([amplitude, rng.uniform(0, 2 * np.pi, (count, 2))], axis=-1)


def _waves(waves: np.ndarray, length: int) -> np.ndarray:
    """(count, length) in −1 … 1: half a turn and one and a half turns over the video."""
    turns = np.linspace(0, 1, length) * np.pi * np.array([1, 3])[:, None]
    return (waves[:, :, :1] * np.sin(turns + waves[:, :, 1:])).sum(axis=1)


def plan_motion(plan: ClipPlan, face: FaceImage, settings: SynthSettings) -> tuple[Motion, np.ndarray]:
    """The motion of a planned clip, and the landmarks at rest, (68, 2) float64 aligned pixels."""
    matrix = alignment_matrix(face.points, settings.align())
    points = transform_points(matrix, face.points.astype(np.float64))
    field = displacement_field(points, plan.intensities, plan.amplitude, settings.size)
    across, down, turn, zoom = _waves(plan.head_waves, plan.length)
    shift = settings.head_shift * np.stack([across, down], axis=-1)
    head = head_motion(shift, np.deg2rad(settings.head_turn) * turn, settings.head_zoom * zoom, settings.size)
    intensity = intensity_profile(plan.length, plan.onset, plan.apex, plan.offset, plan.residue)
    return Motion(field, intensity, head), points


def sampled_times(plan: ClipPlan, start: int, frames: int) -> np.ndarray:
    """(T,) frame numbers of the notional video that a sub-clip holds."""
    interval, _ = sample_starts(plan.length, frames)
    return start + interval * np.arange(frames)


def render_clip(plan: ClipPlan, face: FaceImage, start: int, settings: SynthSettings) -> Clip:
    """Render one sub-clip with its exact flow and landmarks.

    Args:
        plan: what happens.
        face: the picture, ``faces[plan.face]``.
        start: one of ``plan.starts``.
        settings: those that made the plan.
    """
    motion, points = plan_motion(plan, face, settings)
    times = sampled_times(plan, start, settings.frames).tolist()
    texture = _aligned_texture(face, settings.align())
    columns = points.T.copy()
    landmarks = np.stack([motion.forward(time, columns).T for time in times])
    grid = _grid(settings.size, settings.size)
    frames = np.empty((len(times), settings.size, settings.size), np.float32)
    flow = np.empty((len(times) - 1, 2, settings.size, settings.size), np.float32)
    for index, time in enumerate(times):
        rest = motion.backward(time, grid)
        frames[index] = _sample(texture, (rest + _MARGIN) * _OVERSAMPLE)
        if index < len(flow):
            flow[index] = motion.forward(times[index + 1], rest) - grid
    light = _light(plan, times, grid, settings)
    return Clip(_expose(frames, light, [plan.noise_seed, start], settings.noise), flow, landmarks.astype(np.float32))


def render_video(plan: ClipPlan, face: FaceImage, settings: SynthSettings, enlarge: int = 3) -> np.ndarray:
    """Render every frame of the notional video as a camera would see it: the whole picture, not aligned.

    Args:
        plan, face, settings: as for `render_clip`.
        enlarge: side of a frame over the side of the picture.
    Returns:
        (L, H · enlarge, W · enlarge) uint8.
    """
    cv2 = require("cv2", extra="data")
    motion, _ = plan_motion(plan, face, settings)
    texture = cv2.resize(face.image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    # Video pixel p shows the picture at (p + ½) / enlarge − ½.
    to_aligned = alignment_matrix(face.points, settings.align())
    to_aligned = np.concatenate(
        [to_aligned[:, :2] / enlarge, to_aligned @ [[0.5 / enlarge - 0.5], [0.5 / enlarge - 0.5], [1]]], axis=1
    )
    from_aligned = cv2.invertAffineTransform(to_aligned)
    grid = _grid(*texture.shape)
    aligned = _affine(to_aligned, grid)
    times = range(plan.length)
    places = (_affine(from_aligned, motion.backward(time, aligned)) for time in times)
    frames = np.stack([_sample(texture, place) for place in places])
    light = _light(plan, times, aligned, settings)
    return _expose(frames, light, [plan.noise_seed], settings.noise)


def _aligned_texture(face: FaceImage, align: AlignSettings) -> np.ndarray:
    """The picture in aligned pixels, 3 × finer and with a margin, so that one bilinear look-up loses nothing.

    Texture pixel q shows the aligned point q / 3 − margin. Beyond its edge the picture is mirrored.
    """
    cv2 = require("cv2", extra="data")
    matrix = alignment_matrix(face.points, align)
    scale = np.sqrt(np.linalg.det(matrix[:, :2]))
    image = face.image.astype(np.float32)
    if scale < 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(1 / scale**2 - 1) + 1e-3)
    finer = _OVERSAMPLE * matrix
    finer[:, 2] += _OVERSAMPLE * _MARGIN
    side = _OVERSAMPLE * (align.size + 2 * _MARGIN)
    texture: np.ndarray = cv2.warpAffine(
        image, finer, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.clip(texture, 0, 255)


def _grid(height: int, width: int) -> np.ndarray:
    """(2, H, W) float32, the (x, y) of every pixel."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))


def _affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A (2, 3) matrix on points (2, H, W)."""
    ((a, b, c), (d, e, f)) = matrix.tolist()
    return np.stack([a * points[0] + b * points[1] + c, d * points[0] + e * points[1] + f])


def _sample(texture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear look-up at float coordinates; cv2.remap rounds them to 1/32 pixel, which would spoil the exact flow.

    Args:
        texture: (H, W) float32.
        places: (2, ...) float32, (x, y); clamped to the texture.
    """
    height, width = texture.shape
    x, y = np.clip(places[0], 0, width - 1.001), np.clip(places[1], 0, height - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x -= column
    y -= row
    flat, first = texture.ravel(), row * width + column
    upper = flat[first] * (1 - x) + flat[first + 1] * x
    lower = flat[first + width] * (1 - x) + flat[first + width + 1] * x
    return upper * (1 - y) + lower * y


def _light(plan: ClipPlan, times: Sequence[int], grid: np.ndarray, settings: SynthSettings) -> Iterator[np.ndarray]:
    """The light of each frame, (H, W) float32 around 1: brightness and a slope that drift over the video."""
    waves = settings.lighting * _waves(plan.light_waves, plan.length)
    across, down = (grid - (settings.size - 1) / 2) / settings.size
    for time in times:
        level, slope_x, slope_y = waves[:, time].tolist()
        yield 1 + level + slope_x * across + slope_y * down


def _expose(frames: np.ndarray, light: Iterator[np.ndarray], seed: list[int], noise: float) -> np.ndarray:
    """Light, sensor noise and rounding: float frames → uint8."""
    rng = np.random.default_rng(seed)
    exposed = np.empty(frames.shape, np.uint8)
    for index, (frame, gain) in enumerate(zip(frames, light, strict=True)):
        noisy = frame * gain + np.float32(noise) * rng.standard_normal(frame.shape, np.float32)
        exposed[index] = np.clip(np.rint(noisy), 0, 255)
    return exposed


def clip_rows(plans: Sequence[ClipPlan], faces: Sequence[FaceImage], settings: SynthSettings) -> list[dict[str, Any]]:
    """The index of the cache: one entry a sub-clip."""
    rows = []
    for plan in plans:
        interval, _ = sample_starts(plan.length, settings.frames)
        row = {
            "dataset": "synthetic",
            "subject": faces[plan.face].subject,
            "clip": plan.clip,
            "interval": interval,
            "label": settings.emotions.index(plan.emotion),
            "emotion": plan.emotion,
            "action_units": sorted(plan.intensities),
            "onset": plan.onset,
            "apex": plan.apex,
            "offset": plan.offset,
            "length": plan.length,
            "fps": CASME2_FPS,
            "amplitude": round(plan.amplitude, 6),
            "picture": faces[plan.face].name,
        }
        rows += [{**row, "start": start} for start in plan.starts]
    return rows


def synthesize(
    path: str | Path,
    settings: SynthSettings | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    detector: LandmarkDetector | None = None,
) -> Cache:
    """Render a synthetic set into a cache; an interrupted run goes on where it stopped, a finished one is kept.

    Args:
        path: folder of the cache.
        settings: what to render.
        workers: processes; by default one for each core. With 1 everything runs in this process.
        progress: called with (rows done, rows in all), once before the first and after every row.
        detector: finds the 68 landmarks of the pictures; dlib by default.
    Raises:
        CacheSettingsError: the folder holds a set of other settings.
        StorageError: not enough space, or the disk refused.
        MissingExtraError: the pictures or the detector are not installed.
    """
    settings = settings or SynthSettings()
    workers = workers if workers is not None else available_cores()
    if workers < 1:
        raise SettingsError(f"workers must be at least 1, got {workers}.")
    faces = load_faces(settings.sources, settings.people, settings.pictures, detector)
    plans = plan_clips(faces, settings)
    jobs = [(plan, faces[plan.face], start, settings) for plan in plans for start in plan.starts]
    cache_settings = CacheSettings(
        kind="synthetic",
        classes=settings.emotions,
        settings={"generator": GENERATOR, **asdict(settings)},
        versions=_versions(settings.sources),
        frames=settings.frames,
        size=settings.size,
    )
    with CacheWriter(path, cache_settings, clip_rows(plans, faces, settings)) as writer:
        pending = writer.pending()
        done, total = len(jobs) - len(pending), len(jobs)
        report = progress or (lambda done, total: None)
        report(done, total)
        # Two clips take less time than a process takes to start.
        workers = workers if len(pending) >= 2 * workers else 1
        kept = "What is rendered is kept."
        for index, clip in in_processes(render_clip, (jobs[row] for row in pending), workers, kept=kept):
            writer.write(pending[index], *clip)
            done += 1
            report(done, total)
        return Cache.open(writer.finish())


def _versions(sources: Sequence[str]) -> dict[str, str]:
    faces = (SOURCE_DISTRIBUTIONS[name] for name in sources)
    return versions_of(["numpy", "opencv-contrib-python-headless", "dlib-bin", *faces])


def write_frames_folder(frames: np.ndarray, folder: str | Path) -> list[Path]:
    """Write frames as ``img001.png, img002.png, …``, as `read_video` and `mol predict FOLDER` read them.

    Args:
        frames: (L, H, W) uint8: one clip of a cache (``cache.frames[row]``) or a whole `render_video`.
        folder: is created; must not hold pictures of another video.
    Returns:
        The paths, in the order of the frames.
    Raises:
        ClipError: frames of another shape or dtype.
        StorageError: the folder is in use or a picture could not be written.
    """
    cv2 = require("cv2", extra="data")
    folder = Path(folder)
    if frames.ndim != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ClipError(f"frames must be (L, H, W) uint8 with L ≥ 1, got {frames.shape} {frames.dtype}.")
    paths = [folder / f"img{index + 1:03d}.png" for index in range(len(frames))]
    if folder.exists() and (foreign := {path.name for path in folder.iterdir()} - {path.name for path in paths}):
        raise StorageError(f"{folder} already holds other files such as {min(foreign)}; choose an empty folder.")
    for path, frame in zip(paths, frames, strict=True):
        content = cv2.imencode(".png", np.ascontiguousarray(frame))[1].tobytes()
        write_atomic(path, partial(_write_bytes, content))
    return paths


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
