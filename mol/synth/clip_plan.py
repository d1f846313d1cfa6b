"""Plans of synthetic clips: person, emotion, motion and light, drawn from a seed before rendering."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mol.common.checks import require_at_most, require_plain_numbers, require_positive
from mol.common.errors import SettingsError
from mol.data.manifest import NEUTRAL
from mol.synth.action_units import BLINK, EMOTIONS
from mol.synth.faces import ORL_PEOPLE, SOURCES, FaceImage
from mol.vision.align import AlignSettings
from mol.vision.video import sample_starts

FPS = 200.0
"""Frames per second of the notional videos, as of CASME II."""
NEUTRAL_BLINKS = 0.5
"""Share of the neutral clips with a blink."""
# Seconds. Closing is 40 to 47 % faster than opening (Sforza et al., Ophthalmic and Physiological Optics 28, 2008).
_BLINK_DURATION, _CLOSING_SHARE = (0.1, 0.4), 0.36


@dataclass(frozen=True)
class SynthSettings:
    """Everything that shapes a synthetic set.

    Attributes:
        sources: ``"orl"`` (40 people), ``"astronaut"``, ``"grace_hopper"``.
        people: how many of the ORL people.
        pictures: maximum number of pictures per person; each clip uses one of them.
        clips: clips per person; the emotions take turns.
        subclips: rows per clip: samplings of the same video with different starts.
        emotions: classes in the order of their labels: any of "happiness", "surprise", "disgust", "repression",
            "sadness", "anger", "fear", "others", and "neutral" for clips without an expression. Half of the neutral
            clips have a blink.
        amplitude: (minimum, maximum) peak displacement of the expression in pixels of the aligned frame.
        length: (minimum, maximum) frames of the notional video, at 200 frames per second.
        head_shift: maximum head translation in pixels of the aligned frame.
        head_turn: maximum in-plane head rotation in degrees.
        head_zoom: maximum relative change of the head's size.
        noise: standard deviation of the sensor noise in grey levels.
        lighting: maximum relative change of the light, over time and across the face.
        blinks: share of the clips with an expression in which the person also blinks, 0 to 1. If there are neutral
            clips, 0.5 makes blinks as frequent in all classes.
        seed: equal settings give equal bytes, whatever the number of workers or interruptions.
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
    blinks: float = 0.0
    seed: int = 0
    frames: int = 8
    size: int = 144
    enlarge: float = 2.5

    def __post_init__(self) -> None:
        require_plain_numbers(self)
        require_positive(self, "enlarge")
        most = {"head_shift": self.size, "head_turn": 180, "head_zoom": 0.9, "noise": 255, "lighting": 1}
        require_at_most(self, **most, clips=10**6, subclips=10**6, size=10**4, frames=10**4, enlarge=100)
        for name, known in (("sources", tuple(SOURCES)), ("emotions", tuple(EMOTIONS))):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values) or not set(values) <= set(known):
                raise SettingsError(f"{name} must be one or more of {', '.join(known)}, each once; got {values}.")
        for name in ("people", "pictures", "clips", "subclips"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("head_shift", "head_turn", "head_zoom", "noise", "lighting", "seed"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.blinks <= 1:
            raise SettingsError(f"blinks must be between 0 and 1, a share of the clips; got {self.blinks}.")
        if self.people > ORL_PEOPLE:
            raise SettingsError(f"people must be at most {ORL_PEOPLE}, the size of the ORL set; got {self.people}.")
        if self.frames < 2 or self.size < 32:
            raise SettingsError(f"frames must be at least 2 and size at least 32, got {self.frames} and {self.size}.")
        if not 0 < self.amplitude[0] <= self.amplitude[1] <= 3 * self.size / 144:
            # Beyond that the field would fold the skin over itself and flow would no longer be one-to-one.
            raise SettingsError(
                f"amplitude must satisfy 0 < minimum ≤ maximum ≤ {3 * self.size / 144:g} pixels; got {self.amplitude}."
            )
        if not max(2 * self.frames, self.subclips * self.frames) <= self.length[0] <= self.length[1]:
            raise SettingsError(
                f"length must be at least {max(2, self.subclips) * self.frames} frames (T = {self.frames}, "
                f"{self.subclips} sub-clips), minimum ≤ maximum; got {self.length}."
            )

    def align(self) -> AlignSettings:
        """The alignment of the frames."""
        return AlignSettings(size=self.size, enlarge=self.enlarge)


@dataclass(frozen=True)
class Blink:
    """One blink.

    Attributes:
        first, closed, last: frames of the notional video in which the lids start, are closed and are open again; first
            and last may lie outside the video.
        depth: how far they close, at most 1.
    """

    first: int
    closed: int
    last: int
    depth: float


@dataclass(frozen=True)
class ClipPlan:
    """Everything random about one clip except the noise.

    Attributes:
        face: position of the picture in the list of faces.
        clip: such as ``"clip03"``.
        emotion: its name.
        intensities: action unit → (left, right) intensity.
        amplitude: pixels at the apex; 0 for a neutral clip.
        length, onset, apex, offset: frames of the notional video. A neutral clip has them as well, drawn like the
            others', so that frames chosen by them don't tell its class.
        residue: intensity that remains after the offset.
        starts: first sampled frame of each sub-clip.
        head_waves: (4, 2, 2) amplitudes (−1 … 1) and phases of the slow waves of x, y, turn and zoom.
        light_waves: (3, 2, 2) the same for brightness and for its slopes along x and y.
        noise_seed: seed of the sensor noise.
        blink: None for most clips.
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
    blink: Blink | None = None

    @property
    def action_units(self) -> list[int]:
        """All action units that move, a blink's included."""
        return sorted([*self.intensities, *([BLINK] if self.blink else [])])


def plan_clips(faces: Sequence[FaceImage], settings: SynthSettings) -> list[ClipPlan]:
    """Draw all clips, person by person; each has its own generator, so that plans do not depend on one another."""
    pictures: dict[str, list[int]] = {}
    for index, face in enumerate(faces):
        pictures.setdefault(face.subject, []).append(index)
    plans = []
    for person, (subject, choices) in enumerate(pictures.items()):
        for clip in range(settings.clips):
            # Each person starts with another emotion, so that all emotions occur even with few clips.
            emotion = settings.emotions[(clip + person) % len(settings.emotions)]
            rng, blink_rng = (
                np.random.default_rng([settings.seed, zlib.crc32(f"{subject}/{clip}{what}".encode())])
                for what in ("", "/blink")
            )
            plan = _draw_plan(rng, choices, f"clip{clip + 1:02d}", emotion, settings)
            plans.append(replace(plan, blink=_draw_blink(blink_rng, plan, settings)))
    return plans


def plan_one(rng: np.random.Generator, face: int, clip: str, emotion: str, settings: SynthSettings) -> ClipPlan:
    """Draw a single clip of a picture.

    Args:
        rng: decides everything that is not given.
        face: position of the picture in the list of faces.
        clip: its name.
        emotion: one of those of the settings.
        settings: of the clip.
    """
    plan = _draw_plan(rng, [face], clip, emotion, settings)
    return replace(plan, blink=_draw_blink(rng, plan, settings))


def _draw_plan(
    rng: np.random.Generator, choices: list[int], clip: str, emotion: str, settings: SynthSettings
) -> ClipPlan:
    units = EMOTIONS[emotion][rng.integers(len(EMOTIONS[emotion]))]
    length = int(rng.integers(settings.length[0], settings.length[1] + 1))
    interval, starts = sample_starts(length, settings.frames)
    onset = int(rng.uniform(0, 0.1) * length)
    apex = max(onset + 1, int(rng.uniform(0.35, 0.65) * length))
    # Before the last sampled frame, so that the fall is visible as well.
    offset = max(apex + 1, min(int(rng.uniform(0.85, 1.0) * length), interval * settings.frames) - 1)
    return ClipPlan(
        face=int(rng.choice(choices)),
        clip=clip,
        emotion=emotion,
        intensities={unit: draw_sides(rng) for unit in units},
        amplitude=float(rng.uniform(*settings.amplitude)) if units else 0.0,
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


def _draw_blink(rng: np.random.Generator, plan: ClipPlan, settings: SynthSettings) -> Blink | None:
    """A blink whose closed eyes are in the video, in the share of the clips that the settings ask for."""
    share = NEUTRAL_BLINKS if plan.emotion == NEUTRAL else settings.blinks
    if rng.uniform() >= share:
        return None
    frames = rng.uniform(*_BLINK_DURATION) * FPS
    closed = int(rng.uniform(0.1, 0.9) * plan.length)
    first = closed - round(_CLOSING_SHARE * frames)
    return Blink(first, closed, closed + round((1 - _CLOSING_SHARE) * frames), float(rng.uniform(0.75, 1.0)))


def draw_sides(rng: np.random.Generator) -> tuple[float, float]:
    """Left and right intensity of one action unit: expressions are rarely symmetric."""
    intensity, tilt = rng.uniform(0.65, 1.0), rng.uniform(-0.25, 0.25)
    return float(intensity * (1 + tilt)), float(intensity * (1 - tilt))


def _draw_waves(rng: np.random.Generator, count: int) -> np.ndarray:
    """Two slow sines per quantity: (count, 2, 2) amplitudes and phases, the amplitudes summing to at most 1."""
    amplitude = rng.uniform(-1, 1, (count, 2)) * [0.65, 0.35]
    return np.stack([amplitude, rng.uniform(0, 2 * np.pi, (count, 2))], axis=-1)
