"""Who shows what in a synthetic data set with the layout of a real one: people, clips, emotions, frame numbers.

True of the real sets: names of folders, files, columns and people; the number of clips per emotion in CASME II (255),
SAMM (159) and SMIC (164), also per class and for the people of MEGC 2019; clips that are known by name, such as
sub04/EP12_01f. CASME II's clips per person follow published lists from memory; they add up to 255 but are not
confirmed.

Not true of them: the clips per person of SAMM and SMIC are invented (few people with many clips, as in the real sets).
Each person's emotions are drawn evenly from the set's totals, except where a protocol fixes them (CASME II's 10 and
18 and SAMM's 025 have no clip of the three classes, SAMM's 024 none of the five). All other clip names, frame numbers,
apexes and action units are made up, and clips are shorter than the real ones. The other sets are smaller than the real
ones.

All sets use the same 40 people: the n-th subject of each is the n-th person of the ORL set. Within a set every subject
has a face of its own, but sets share faces, so a composite leave-one-subject-out run on such sets has seen the faces of
the people that it holds out.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from mol.common.checks import require_plain_numbers
from mol.common.errors import SettingsError
from mol.synth.clip_plan import ClipPlan, SynthSettings, plan_clips
from mol.synth.faces import ORL_PEOPLE, ORL_PICTURES, FaceImage

# How emotions without action units of their own look (`mol.synth.action_units`); each clip draws one of several.
_LOOKS: dict[str, tuple[str, ...]] = {
    "contempt": ("repression",),
    "negative": ("disgust", "repression", "sadness", "anger", "fear"),
    "positive": ("happiness",),
    "positive+surprise": ("surprise",),
    "negative+repression": ("repression",),
}


@dataclass(frozen=True)
class LayoutSettings:
    """What shapes a synthetic set, besides its layout.

    Attributes:
        people: use only the first people of the set (of each of the three sets in "released"); 0 for all.
        clips: maximum number of clips, taken from the people in turn; 0 for all.
        enlarge: side of a frame relative to the side of the 92×112 picture; 3 gives 276×336 pixels. With 2, files and
            detection take half as much.
        length: (minimum, maximum) frames from onset to offset, both included; at least 16.
        amplitude: (minimum, maximum) peak displacement in pixels of the aligned frame of 144 pixels.
        pictures: maximum number of pictures per person, the most frontal ones; each clip uses one of them.
        noise: standard deviation of the sensor noise in grey levels.
        neutral: clips without an expression per person, for "smic", whose folders have a place for them.
        seed: equal settings give equal pictures, whatever the number of workers or interruptions.
    """

    people: int = 0
    clips: int = 0
    enlarge: int = 3
    length: tuple[int, int] = (16, 32)
    amplitude: tuple[float, float] = (0.3, 3.0)
    pictures: int = 3
    noise: float = 1.5
    neutral: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require_plain_numbers(self)
        for name in ("people", "clips"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} must be positive, or 0 for all; got {getattr(self, name)}.")
        if self.neutral < 0:
            raise SettingsError(f"neutral must be positive, or 0 for none; got {self.neutral}.")
        if not 2 <= self.enlarge <= 12:
            raise SettingsError(f"enlarge must be between 2 and 12 (no face is found below 2); got {self.enlarge}.")
        if not 1 <= self.pictures <= ORL_PICTURES:
            raise SettingsError(f"pictures must be between 1 and {ORL_PICTURES} (per person); got {self.pictures}.")
        self.synth("others")

    def synth(self, emotion: str, seed: int = 0) -> SynthSettings:
        """The settings of one clip.

        Raises:
            SettingsError: a value that cannot be rendered.
        """
        return SynthSettings(
            people=1,
            pictures=self.pictures,
            clips=1,
            emotions=(emotion,),
            amplitude=self.amplitude,
            length=self.length,
            noise=self.noise,
            seed=seed,
        )


class Entry(NamedTuple):
    """One clip of a set before it is planned: who shows what.

    Attributes:
        subject, clip, emotion: as the set's loader spells them.
        dataset: as the loader spells it.
    """

    subject: str
    clip: str
    emotion: str
    dataset: str


@dataclass(frozen=True)
class PlannedClip:
    """One clip of a synthetic set.

    Attributes:
        dataset, subject, clip, emotion: as the set's loader spells them.
        person: of the ORL set, counted from 1.
        folder: of its frames, relative to the set's root, with ``/``.
        names: file names in temporal order; they start before the onset in videos that hold more than the clip.
        onset, apex, offset: true frame numbers.
        motion: the plan for `render_video`.
    """

    dataset: str
    subject: str
    clip: str
    emotion: str
    person: int
    folder: str
    names: tuple[str, ...]
    onset: int
    apex: int
    offset: int
    motion: ClipPlan

    @property
    def action_units(self) -> list[int]:
        return self.motion.action_units

    @property
    def length(self) -> int:
        return self.offset - self.onset + 1


Rows = list[list[Any]]


@dataclass(frozen=True)
class LayoutPlan:
    """Everything that a synthetic set consists of.

    Attributes:
        layout: its name, one of `mol.synth.layouts.LAYOUTS`.
        settings: those that it was planned with.
        clips: in the order of the sheet.
        books: path of an Excel book → worksheet → rows.
        tables: path of a CSV file → rows.
        empty_folders: folders without a frame.
    """

    layout: str
    settings: LayoutSettings
    clips: list[PlannedClip]
    books: dict[str, dict[str, Rows]]
    tables: dict[str, Rows]
    empty_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Numbering:
    """Where the frames of a clip are and how they are named.

    Attributes:
        folder: of an entry; entries with the same folder follow one another in it.
        name: of a frame, from the entry, its number and its position in the clip.
        first: (minimum, maximum) number of the first frame.
        margin: frames at rest before the onset and after the offset.
    """

    folder: Callable[[Entry], str]
    name: Callable[[Entry, int, int], str]
    first: tuple[int, int]
    margin: int = 0


def deal(
    totals: Mapping[str, int], places: Mapping[str, int], reserved: Mapping[str, Mapping[str, int]] | None = None
) -> list[tuple[str, str]]:
    """Deal emotions to people: (subject, emotion) for every clip, subject by subject.

    Every emotion is spread evenly over the list of all clips, so a person with many clips shows about the set's mix.

    Args:
        totals: emotion → clips in the set.
        places: subject → clips of that person; the same number in total.
        reserved: subject → emotion → clips of this person that are fixed.
    """
    reserved = reserved or {}
    left = Counter(totals)
    for wishes in reserved.values():
        left.subtract(wishes)
    spread = ((emotion, (turn + 0.5) / count) for emotion, count in left.items() for turn in range(count))
    row = iter([emotion for emotion, _ in sorted(spread, key=lambda item: item[1])])
    dealt = []
    for subject, count in places.items():
        own = list(Counter(reserved.get(subject, {})).elements())
        dealt += [(subject, emotion) for emotion in own]
        dealt += [(subject, next(row)) for _ in range(count - len(own))]
    return dealt


def limit(entries: Sequence[Entry], settings: LayoutSettings) -> list[Entry]:
    """The entries of the first people, and as many of their clips as the settings allow, in order."""
    people = subjects(entries)
    kept = [entry for entry in entries if not settings.people or entry.subject in people[: settings.people]]
    if not settings.clips:
        return kept
    turns: Counter[str] = Counter()
    order = []
    for position, entry in enumerate(kept):
        order.append((turns[entry.subject], position))
        turns[entry.subject] += 1
    chosen = sorted(position for _, position in sorted(order)[: settings.clips])
    return [kept[position] for position in chosen]


def subjects(entries: Iterable[Entry | PlannedClip]) -> list[str]:
    """Subjects of entries or clips, in order of appearance."""
    return list(dict.fromkeys(entry.subject for entry in entries))


def plan_entries(entries: Sequence[Entry], numbering: Numbering, settings: LayoutSettings) -> list[PlannedClip]:
    """Draw frame numbers and motion of the entries that the settings select.

    Args:
        entries: the whole set, so that a limit does not change who has which face.
        numbering: where the frames go.
        settings: of the set.
    """
    person = {subject: index + 1 for index, subject in enumerate(subjects(entries))}
    if len(person) > ORL_PEOPLE:
        raise SettingsError(f"there are only {ORL_PEOPLE} faces for {len(person)} people.")
    planned: list[PlannedClip] = []
    following: dict[str, int] = {}
    for entry in limit(entries, settings):
        clip = _plan_entry(entry, person[entry.subject], numbering, settings, following.get(numbering.folder(entry)))
        following[clip.folder] = clip.offset + numbering.margin + 1
        planned.append(clip)
    return planned


def _plan_entry(
    entry: Entry, person: int, numbering: Numbering, settings: LayoutSettings, first: int | None
) -> PlannedClip:
    seed = zlib.crc32(f"{settings.seed}/{entry.dataset}/{entry.subject}/{entry.clip}".encode())
    rng = np.random.default_rng(seed)
    looks = _LOOKS.get(entry.emotion, (entry.emotion,))
    look = looks[rng.integers(len(looks))]
    drawn = int(rng.integers(numbering.first[0], numbering.first[1] + 1))
    first = drawn if first is None else first
    motion = _within_margin(_draw_motion(person, look, settings, seed), numbering.margin)
    names = tuple(numbering.name(entry, first + index, index) for index in range(motion.length))
    return PlannedClip(
        dataset=entry.dataset,
        subject=entry.subject,
        clip=entry.clip,
        emotion=entry.emotion,
        person=person,
        folder=numbering.folder(entry),
        names=names,
        onset=first + motion.onset,
        apex=first + motion.apex,
        offset=first + motion.offset,
        motion=motion,
    )


def _draw_motion(person: int, look: str, settings: LayoutSettings, seed: int) -> ClipPlan:
    """A plan for one of the person's pictures; plans need only the names of faces, so none is loaded."""
    none = np.zeros((0, 0))
    faces = [FaceImage(f"orl-s{person:02d}", "", none, none) for _ in range(settings.pictures)]
    return plan_clips(faces, settings.synth(look, seed))[0]


def _within_margin(plan: ClipPlan, margin: int) -> ClipPlan:
    """The motion stretched from onset to offset, which is where clips are cut, plus a margin at rest."""
    apex, blink = min(max(plan.apex, 2), plan.length - 3), plan.blink
    if blink is not None:
        blink = replace(blink, first=blink.first + margin, closed=blink.closed + margin, last=blink.last + margin)
    return replace(
        plan,
        blink=blink,
        length=plan.length + 2 * margin,
        onset=margin,
        apex=margin + apex,
        offset=margin + plan.length - 1,
        starts=(0,),
    )
