"""Plans of long synthetic recordings: when a person shows what, how the head moves and the light changes.

A recording lasts minutes. Micro-expressions (at most 0.5 s) and macro-expressions (longer, with a hold at the apex) do
not overlap one another and are at least `GAP` apart; blinks come at any time. The head moves as that of somebody who
talks: slow turns and fast nods at once. Intervals are exact: nothing moves before the onset, and at the offset the face
is at rest again.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mol.common.checks import require_at_most, require_not_negative, require_plain_numbers, require_positive
from mol.common.errors import SettingsError
from mol.data.annotations import LONGEST_EXPRESSION
from mol.data.manifest import NEUTRAL
from mol.synth.action_units import EMOTIONS
from mol.synth.clip_plan import SynthSettings, draw_sides
from mol.synth.faces import ORL_PEOPLE, ORL_PICTURES

MICRO, MACRO, BLINK = "micro", "macro", "blink"
GAP = 0.5
"""Seconds at rest between two expressions, at least."""
# Hertz and share of the amplitude of the four sines of a movement of the head: sway, turns, nods, tremble.
_BANDS = ((0.05, 0.15, 0.5), (0.15, 0.4, 0.25), (0.4, 0.9, 0.15), (0.9, 1.8, 0.1))
# Seconds. Closing is 40 to 47 % faster than opening (Sforza et al., Ophthalmic and Physiological Optics 28, 2008).
_BLINK_LENGTH, _CLOSING_SHARE = (0.1, 0.4), 0.36
_STEP_SECONDS = 0.2


@dataclass(frozen=True)
class LongSettings:
    """What shapes a set of long synthetic recordings.

    Attributes:
        people: how many.
        first: number of the first of them in the ORL set, from 1; two sets with different people share no face.
        videos: recordings per person, each of another picture if there are enough.
        minutes: length of a recording.
        fps: frames per second.
        enlarge: side of a frame relative to the side of the 92×112 picture; 2 gives 184×224 pixels.
        emotions: shown in turn, at random; any but "neutral".
        micro: micro-expressions per minute.
        macro: macro-expressions per minute.
        blinks: blinks per minute.
        micro_seconds: (minimum, maximum) from onset to offset; at most 0.5.
        macro_seconds: the same of macro-expressions; more than 0.5.
        amplitude: (minimum, maximum) peak displacement of an expression in pixels of the aligned frame of 144 pixels.
        head_shift: maximum head translation in pixels of the aligned frame.
        head_turn: maximum in-plane head rotation in degrees.
        head_zoom: maximum relative change of the head's size.
        lighting: maximum relative drift of the light.
        lamps: sudden changes of the light per minute, each by up to `lighting`.
        noise: standard deviation of the sensor noise in grey levels.
        pictures: maximum number of pictures per person, the most frontal ones.
        seed: equal settings give equal frames, whatever the number of workers or interruptions.
    """

    people: int = 4
    first: int = 1
    videos: int = 2
    minutes: float = 1.0
    fps: float = 30.0
    enlarge: int = 2
    emotions: tuple[str, ...] = ("happiness", "surprise", "disgust", "repression", "sadness", "others")
    micro: float = 6.0
    macro: float = 3.0
    blinks: float = 12.0
    micro_seconds: tuple[float, float] = (0.2, 0.5)
    macro_seconds: tuple[float, float] = (0.8, 3.0)
    amplitude: tuple[float, float] = (1.0, 3.0)
    head_shift: float = 4.0
    head_turn: float = 3.0
    head_zoom: float = 0.02
    lighting: float = 0.05
    lamps: float = 2.0
    noise: float = 1.0
    pictures: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        require_plain_numbers(self)
        require_positive(self, "people", "first", "videos", "minutes", "fps")
        require_not_negative(self, "micro", "macro", "blinks", "lamps", "noise", "lighting", "seed")
        require_not_negative(self, "head_shift", "head_turn", "head_zoom")
        require_at_most(self, videos=10**4, minutes=600, fps=1000, micro=60, macro=60, blinks=120, lamps=60)
        require_at_most(self, head_shift=72, head_turn=90, head_zoom=0.5, lighting=1, noise=255)
        if self.first + self.people - 1 > ORL_PEOPLE:
            raise SettingsError(
                f"first={self.first}, people={self.people}: the ORL set has {ORL_PEOPLE} people, so first + people − 1 "
                f"must be at most {ORL_PEOPLE}."
            )
        if not 2 <= self.enlarge <= 12:
            raise SettingsError(f"enlarge must be between 2 and 12 (no face is found below 2); got {self.enlarge}.")
        if not 1 <= self.pictures <= ORL_PICTURES:
            raise SettingsError(f"pictures must be between 1 and {ORL_PICTURES} (per person); got {self.pictures}.")
        shown = [name for name in EMOTIONS if name != NEUTRAL]
        if not self.emotions or len(set(self.emotions)) < len(self.emotions) or not set(self.emotions) <= set(shown):
            raise SettingsError(f"emotions must be one or more of {', '.join(shown)}, each once; got {self.emotions}.")
        self._check_lengths()
        SynthSettings(amplitude=self.amplitude)

    def _check_lengths(self) -> None:
        low, high = self.micro_seconds
        if not 2 / self.fps <= low <= high <= LONGEST_EXPRESSION:
            raise SettingsError(
                f"micro_seconds must satisfy 2 frames ≤ minimum ≤ maximum ≤ {LONGEST_EXPRESSION:g}; got "
                f"{self.micro_seconds} at {self.fps:g} frames per second."
            )
        low, high = self.macro_seconds
        if not LONGEST_EXPRESSION + 1 / self.fps < low <= high <= 60:
            raise SettingsError(
                f"macro_seconds must satisfy {LONGEST_EXPRESSION:g} and a frame < minimum ≤ maximum ≤ 60; got "
                f"{self.macro_seconds}."
            )
        need = self.micro * (self.micro_seconds[1] + GAP) + self.macro * (self.macro_seconds[1] + GAP)
        if need > 45:
            raise SettingsError(
                f"{self.micro:g} micro- and {self.macro:g} macro-expressions may take {need:.0f} of a minute's 60 s "
                "with the rest between them, and 45 is the most; ask for fewer or shorter ones."
            )


@dataclass(frozen=True)
class Event:
    """One expression or blink.

    Attributes:
        kind: "micro", "macro" or "blink".
        onset, apex, offset: frames; nothing has moved yet at the onset, and no longer at the offset. The apex of a
            macro-expression is the middle of its hold.
        hold: frames around the apex in which it stays at its strongest.
        emotion: None for a blink.
        intensities: action unit → (left, right) intensity.
        amplitude: pixels at the apex; for a blink how far the lids close, at most 1.
    """

    kind: str
    onset: int
    apex: int
    offset: int
    hold: int = 0
    emotion: str | None = None
    intensities: dict[int, tuple[float, float]] | None = None
    amplitude: float = 0.0

    def strength(self, time: int) -> float:
        """0 at rest, 1 at the apex: half cosines from onset to apex and back; minimum jerk for a blink."""
        if not self.onset < time < self.offset:
            return 0.0
        rise, fall = self.apex - self.hold // 2, self.apex + self.hold - self.hold // 2
        if rise <= time <= fall:
            return 1.0
        way, whole = (time - self.onset, rise - self.onset) if time < rise else (self.offset - time, self.offset - fall)
        share = way / whole
        if self.kind == BLINK:
            return share**3 * (10 - 15 * share + 6 * share**2)
        return 0.5 - 0.5 * float(np.cos(np.pi * share))


@dataclass(frozen=True)
class LongPlan:
    """One recording.

    Attributes:
        subject: such as ``"p01"``.
        video: such as ``"take1"``.
        person: of the ORL set, from 1.
        picture: number of the person's picture.
        length: frames.
        events: in the order of their onsets.
        head: (4, 4, 3) amplitude (−1 … 1), Hertz and phase of the sines of x, y, turn and zoom.
        light: (3, 2, 3) the same of brightness and of its slopes.
        lamps: (n, 2) second and relative size of each sudden change of the light.
        noise_seed: of the sensor noise.
    """

    subject: str
    video: str
    person: int
    picture: int
    length: int
    events: tuple[Event, ...]
    head: np.ndarray
    light: np.ndarray
    lamps: np.ndarray
    noise_seed: int

    @property
    def name(self) -> str:
        """``p01_take1``, the name of its file."""
        return f"{self.subject}_{self.video}"

    def active(self, time: int) -> list[Event]:
        """The events that move something in a frame."""
        return [event for event in self.events if event.onset < time < event.offset]


def plan_long(settings: LongSettings) -> list[LongPlan]:
    """Draw all recordings, person by person; each has a generator of its own."""
    people = range(settings.first, settings.first + settings.people)
    return [_plan_recording(person, take, settings) for person in people for take in range(settings.videos)]


def _plan_recording(person: int, take: int, settings: LongSettings) -> LongPlan:
    rng = np.random.default_rng([settings.seed, zlib.crc32(f"long/{person}/{take}".encode())])
    length = round(settings.minutes * 60 * settings.fps)
    expressions = _draw_expressions(rng, length, settings)
    return LongPlan(
        subject=f"p{person:02d}",
        video=f"take{take + 1}",
        person=person,
        picture=take % settings.pictures,
        length=length,
        events=tuple(sorted([*expressions, *_draw_blinks(rng, length, settings)], key=lambda event: event.onset)),
        head=np.stack([_draw_sines(rng, _BANDS) for _ in range(4)]),
        light=np.stack([_draw_sines(rng, ((0.03, 0.1, 0.6), (0.1, 0.5, 0.4))) for _ in range(3)]),
        lamps=_draw_lamps(rng, settings),
        noise_seed=int(rng.integers(2**63)),
    )


def _draw_expressions(rng: np.random.Generator, length: int, settings: LongSettings) -> list[Event]:
    """Expressions in a random order, the time that is left spread at random between them."""
    kinds = [kind for kind in (MICRO, MACRO) for _ in range(round(getattr(settings, kind) * settings.minutes))]
    rng.shuffle(kinds)
    lengths = [_draw_length(rng, kind, settings) for kind in kinds]
    gap = round(GAP * settings.fps)
    free = length - 1 - sum(lengths) - gap * (len(kinds) + 1)
    if free < 0:
        raise SettingsError(
            f"{len(kinds)} expressions do not fit into {settings.minutes:g} minutes; ask for fewer or longer videos."
        )
    cuts = np.sort(rng.integers(0, free + 1, len(kinds)))
    events, used = [], 0
    for kind, frames, cut in zip(kinds, lengths, cuts.tolist(), strict=True):
        onset = int(cut) + used + gap
        events.append(_draw_event(rng, kind, onset, frames, settings))
        used += gap + frames
    return events


def _draw_length(rng: np.random.Generator, kind: str, settings: LongSettings) -> int:
    """Frames from onset to offset."""
    low, high = settings.micro_seconds if kind == MICRO else settings.macro_seconds
    # Both ends count, so a micro-expression of 0.5 s has 15 frames at 30 frames per second.
    most = int(high * settings.fps + 1e-9) - 1
    return int(np.clip(round(rng.uniform(low, high) * settings.fps) - 1, 2, max(most, 2)))


def _draw_event(rng: np.random.Generator, kind: str, onset: int, frames: int, settings: LongSettings) -> Event:
    emotion = str(rng.choice(list(settings.emotions)))
    units = EMOTIONS[emotion][rng.integers(len(EMOTIONS[emotion]))]
    hold = int(rng.uniform(0.2, 0.5) * frames) if kind == MACRO else 0
    middle = int(np.clip(round(rng.uniform(0.4, 0.6) * frames), 1 + (hold + 1) // 2, frames - 1 - (hold + 1) // 2))
    intensities = {unit: draw_sides(rng) for unit in units}
    amplitude = float(rng.uniform(*settings.amplitude))
    return Event(kind, onset, onset + middle, onset + frames, hold, emotion, intensities, amplitude)


def _draw_blinks(rng: np.random.Generator, length: int, settings: LongSettings) -> list[Event]:
    """Blinks at any time, none during another."""
    count = round(settings.blinks * settings.minutes)
    slot = length / max(count, 1)
    blinks = []
    for place in range(count):
        frames = max(round(rng.uniform(*_BLINK_LENGTH) * settings.fps), 2)
        start = int(place * slot + rng.uniform(0, max(slot - frames - 1, 1)))
        if start + frames < length:
            closed = start + int(np.clip(round(_CLOSING_SHARE * frames), 1, frames - 1))
            depth = float(rng.uniform(0.75, 1.0))
            blinks.append(Event(BLINK, start, closed, start + frames, amplitude=depth))
    return blinks


def _draw_sines(rng: np.random.Generator, bands: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """(len(bands), 3) amplitude, Hertz and phase; the amplitudes sum to at most 1."""
    return np.array(
        [(rng.uniform(0.5, 1) * share, rng.uniform(low, high), rng.uniform(0, 2 * np.pi)) for low, high, share in bands]
    )


def _draw_lamps(rng: np.random.Generator, settings: LongSettings) -> np.ndarray:
    count = round(settings.lamps * settings.minutes)
    seconds = np.sort(rng.uniform(0, settings.minutes * 60, count))
    return np.stack([seconds, rng.uniform(-1, 1, count)], axis=-1)


def sines(waves: np.ndarray, seconds: float) -> np.ndarray:
    """(n,) sums of sines (n, k, 3) at a time, each in −1 … 1."""
    amplitude, hertz, phase = np.moveaxis(waves, -1, 0)
    values: np.ndarray = (amplitude * np.sin(2 * np.pi * hertz * seconds + phase)).sum(axis=-1)
    return values


def lamp_level(lamps: np.ndarray, seconds: float) -> float:
    """How far the sudden changes have moved the light, −1 … 1: each lasts until the next one."""
    level = 0.0
    for begin, size in lamps[lamps[:, 0] <= seconds].tolist():
        level += (size - level) * min((seconds - begin) / _STEP_SECONDS, 1.0)
    return level
