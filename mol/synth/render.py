"""Rendering synthetic micro-expression clips: real faces under exactly known motion.

A clip is one picture of one person, moved by the action units of an emotion (`mol.synth.action_units`) and by a small
head motion (`mol.synth.motion`), with lighting drift and sensor noise; a neutral clip has no expression, and some clips
have a blink. Flow, landmarks, action units, apex and label are exact. Scores on such clips show that the pipeline works
and that the network learns; they say nothing about real micro-expressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mol.common.extras import require
from mol.synth.action_units import displacement_field, eyelid_field
from mol.synth.clip_plan import ClipPlan, SynthSettings
from mol.synth.faces import FaceImage
from mol.synth.motion import Motion, blink_profile, head_motion, intensity_profile
from mol.vision.align import AlignSettings, alignment_matrix, transform_points
from mol.vision.video import sample_starts

# The texture is this many times finer than the aligned frame, with this many pixels around it.
_OVERSAMPLE = 3
_MARGIN = 12


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
    blink = plan.blink
    if blink is None:
        return Motion(field, intensity, head), points
    closure = blink.depth * blink_profile(plan.length, blink.first, blink.closed, blink.last)
    return Motion(field, intensity, head, eyelid_field(points), closure), points


def sampled_times(plan: ClipPlan, start: int, frames: int) -> np.ndarray:
    """(T,) frame numbers of the notional video that a sub-clip consists of."""
    interval, _ = sample_starts(plan.length, frames)
    return start + interval * np.arange(frames)


def render_clip(plan: ClipPlan, face: FaceImage, start: int, settings: SynthSettings) -> Clip:
    """Render one sub-clip with its exact flow and landmarks.

    Args:
        plan: what happens in the clip.
        face: the picture, ``faces[plan.face]``.
        start: one of ``plan.starts``.
        settings: the ones of the plan.
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


def render_stored(plan: ClipPlan, face: FaceImage, start: int, settings: SynthSettings) -> Clip:
    """`render_clip` with the flow as a cache stores it: (T − 1, 2, S, S) float16."""
    clip = render_clip(plan, face, start, settings)
    return clip._replace(flow=clip.flow.astype(np.float16))


def render_video(plan: ClipPlan, face: FaceImage, settings: SynthSettings, enlarge: int = 3) -> np.ndarray:
    """Render every frame of the notional video as a camera would see it: full pictures, not aligned.

    Args:
        plan, face, settings: as for `render_clip`.
        enlarge: side of a frame relative to the side of the picture.
    Returns:
        (L, H · enlarge, W · enlarge) uint8.
    """
    motion, _ = plan_motion(plan, face, settings)
    camera = Camera(face, settings.align(), enlarge)
    times = range(plan.length)
    frames = np.stack([camera.picture(motion, time) for time in times])
    light = _light(plan, times, camera.aligned, settings)
    return _expose(frames, light, [plan.noise_seed], settings.noise)


class Camera:
    """Full pictures of one face that moves, without light and noise.

    Args:
        face: the picture at rest.
        align: of the aligned pixels in which the motion is described.
        enlarge: side of a frame relative to the side of the picture.
    Attributes:
        aligned: (2, H, W) float32, where in aligned pixels every pixel of a frame is.
    """

    def __init__(self, face: FaceImage, align: AlignSettings, enlarge: int) -> None:
        cv2 = require("cv2", extra="data")
        image = cv2.resize(face.image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
        self._texture = image.astype(np.float32)
        # Video pixel p shows the picture at (p + ½) / enlarge − ½.
        to_aligned = alignment_matrix(face.points, align)
        to_aligned = np.concatenate(
            [to_aligned[:, :2] / enlarge, to_aligned @ [[0.5 / enlarge - 0.5], [0.5 / enlarge - 0.5], [1]]], axis=1
        )
        self._from_aligned = cv2.invertAffineTransform(to_aligned)
        self.aligned = _affine(to_aligned, _grid(*self._texture.shape))

    def picture(self, motion: Motion, time: int) -> np.ndarray:
        """The face in a frame of a motion: (H, W) float32."""
        return _sample(self._texture, _affine(self._from_aligned, motion.backward(time, self.aligned)))


def _aligned_texture(face: FaceImage, align: AlignSettings) -> np.ndarray:
    """The picture in aligned pixels, three times finer and with a margin, so that bilinear look-up loses no detail.

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
    """Light of each frame, (H, W) float32 around 1: brightness and its slope, drifting over the video."""
    waves = settings.lighting * _waves(plan.light_waves, plan.length)
    for time in times:
        yield light_of(*waves[:, time].tolist(), grid, settings.size)


def light_of(level: float, slope_x: float, slope_y: float, grid: np.ndarray, size: int) -> np.ndarray:
    """Light of one frame, (H, W) float32 around 1: its brightness and slopes, at the aligned pixels `grid`."""
    across, down = (grid - (size - 1) / 2) / size
    light: np.ndarray = 1 + level + slope_x * across + slope_y * down
    return light


def expose(frame: np.ndarray, light: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Light, sensor noise and rounding: (H, W) float32 → uint8."""
    noisy = frame * light + np.float32(noise) * rng.standard_normal(frame.shape, np.float32)
    exposed: np.ndarray = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return exposed


def _expose(frames: np.ndarray, light: Iterator[np.ndarray], seed: list[int], noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([expose(frame, gain, noise, rng) for frame, gain in zip(frames, light, strict=True)])
