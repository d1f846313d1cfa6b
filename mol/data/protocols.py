"""Recognition protocols: which clips of which sets take part, under which class, and how many there must be.

A protocol turns the emotions that the sets give into class ids and says what it leaves out. Where its counts are
published they are asserted, so that an incomplete copy of a set never passes for the whole. ``docs/protocols.md``
explains them; ``python -m mol.data.protocols`` prints its table.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from mol.common.errors import DataError, SettingsError

AS_LABELLED = "as-labelled"

# How each set spells its people; a clip of another set under this name is a mistake, whatever its label.
_SUBJECTS = {
    "casme2": (r"sub\d{2}", "sub01"),
    "samm": (r"\d{3}", "006"),
    "smic": (r"s\d{1,2}", "s1"),
    "casme-sq": (r"s\d{1,2}", "s15"),
    "casme3": (r"spNO\.\d+", "spNO.1"),
    "mmew": (r"S\d{2}", "S13"),
    "4dme": (r"sub_\d+", "sub_01"),
}


class HasLabelFields(typing.Protocol):
    """What a protocol needs of a clip: a `mol.data.manifest.Clip`, or a row of a cache in such a dress."""

    @property
    def dataset(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def clip(self) -> str: ...
    @property
    def emotion(self) -> str: ...


@dataclass(frozen=True)
class Protocol:
    """Classes, the clips that take part and, where they are published, the counts.

    Attributes:
        name: as given to ``--protocol``.
        classes: names in the order of the class ids.
        emotions: data set → emotion → class; an emotion that is not listed is left out.
        drop: keys ``dataset/subject/clip`` that are left out whatever their emotion; they need not exist.
        subjects: data set → the people who take part; None, or a set that is not listed, for all.
        counts: data set → class → clips; None, or a set that is not listed, where nothing is asserted.
        subject_counts: data set → people with at least one clip; None, or a set that is not listed, likewise.
        people: data set → who these people are, where it is known. Only to name them in a message: nobody is left out
            for not being listed here.
        source: where all this is from.
        note: what a user should know, such as what is not asserted and why.
    """

    name: str
    classes: tuple[str, ...]
    emotions: Mapping[str, Mapping[str, str]]
    drop: frozenset[str] = frozenset()
    subjects: Mapping[str, frozenset[str]] | None = None
    counts: Mapping[str, Mapping[str, int]] | None = None
    subject_counts: Mapping[str, int] | None = None
    people: Mapping[str, frozenset[str]] = field(default_factory=dict)
    source: str = ""
    note: str = ""

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets it knows the emotions of."""
        return tuple(self.emotions)


def find_protocol(name: str) -> Protocol:
    """The named protocol.

    Raises:
        SettingsError: there is none of that name, or it is ``as-labelled``, which is made from clips (`protocol_for`).
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name == AS_LABELLED:
        raise SettingsError(
            f"the protocol {AS_LABELLED} is made from the clips that it is for: use as_labelled(clips)."
        )
    close = difflib.get_close_matches(name, [*PROTOCOLS, AS_LABELLED], 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise SettingsError(f"there is no protocol {name!r}{hint} (protocols: {', '.join([*PROTOCOLS, AS_LABELLED])})")


def protocol_for(name: str, clips: Iterable[HasLabelFields]) -> Protocol:
    """The named protocol, or the one that takes every emotion of these clips for a class.

    Raises:
        SettingsError: there is none of that name.
    """
    return as_labelled(clips) if name == AS_LABELLED else find_protocol(name)


def as_labelled(clips: Iterable[HasLabelFields]) -> Protocol:
    """A protocol in which every emotion of the clips is a class of its own, in alphabetical order; nothing is asserted.

    Raises:
        DataError: there are no clips.
    """
    emotions: dict[str, set[str]] = {}
    for clip in clips:
        emotions.setdefault(clip.dataset, set()).add(clip.emotion)
    if not emotions:
        raise DataError(f"the protocol {AS_LABELLED} takes its classes from the clips, and there are none.")
    return Protocol(
        name=AS_LABELLED,
        classes=tuple(sorted(set().union(*emotions.values()))),
        emotions={dataset: {emotion: emotion for emotion in sorted(emotions[dataset])} for dataset in sorted(emotions)},
        source="the clips' own labels",
        note=_AS_LABELLED_NOTE,
    )


def apply(protocol: Protocol, clips: Sequence[HasLabelFields]) -> list[int | None]:
    """The class id of each clip; None for a clip that takes no part.

    Raises:
        DataError: a set whose emotions the protocol does not know, or a person that the clip's set does not have.
    """
    return [_class_id(protocol, clip) for clip in clips]


def left_out(protocol: Protocol, clip: HasLabelFields) -> str | None:
    """Why a clip takes no part; None where it does.

    Raises:
        DataError: as `apply`.
    """
    emotions = _emotions(protocol, clip)
    _check_spelling(clip)
    if _key(clip) in protocol.drop:
        return "dropped by name"
    if clip.subject not in (protocol.subjects or {}).get(clip.dataset, {clip.subject}):
        return f"subject {clip.subject} takes no part"
    return None if clip.emotion in emotions else f"emotion {clip.emotion}"


def count_differences(protocol: Protocol, clips: Sequence[HasLabelFields]) -> list[str]:
    """What the clips lack or have beyond the counts of the protocol, in sentences; empty where all is as published.

    Only the sets that are among the clips are looked at, and only what the protocol asserts. Rows of one clip count
    once.

    Raises:
        DataError: as `apply`.
    """
    unique = list({_key(clip): clip for clip in clips}.values())
    labels = apply(protocol, unique)
    differences: list[str] = []
    for dataset in sorted({clip.dataset for clip in unique}):
        taken = [(clip, label) for clip, label in zip(unique, labels, strict=True) if clip.dataset == dataset]
        found = Counter(protocol.classes[label] for _, label in taken if label is not None)
        differences += _class_differences(protocol, dataset, found)
        differences += _subject_differences(
            protocol, dataset, {clip.subject for clip, label in taken if label is not None}
        )
    return differences


def require_counts(protocol: Protocol, clips: Sequence[HasLabelFields]) -> None:
    """Refuse clips that are not as many as the protocol asserts.

    Raises:
        DataError: with every difference, or as `apply`.
    """
    differences = count_differences(protocol, clips)
    if differences:
        raise DataError(
            f"the clips are not those of the protocol {protocol.name}: {'; '.join(differences)}. See what mol prepare "
            "dropped and what mol check-data finds, and complete the set; scores on other clips are not comparable."
        )


def _class_id(protocol: Protocol, clip: HasLabelFields) -> int | None:
    if left_out(protocol, clip) is not None:
        return None
    return protocol.classes.index(protocol.emotions[clip.dataset][clip.emotion])


def _emotions(protocol: Protocol, clip: HasLabelFields) -> Mapping[str, str]:
    if clip.dataset not in protocol.emotions:
        raise DataError(
            f"the protocol {protocol.name} has no classes for {clip.dataset} ({_key(clip)}); it is for "
            f"{', '.join(protocol.datasets)}. Leave the set out, or choose another protocol such as {AS_LABELLED}."
        )
    return protocol.emotions[clip.dataset]


def _check_spelling(clip: HasLabelFields) -> None:
    pattern, example = _SUBJECTS.get(clip.dataset, (".+", ""))
    if re.fullmatch(pattern, clip.subject):
        return
    fits = [dataset for dataset, (other, _) in _SUBJECTS.items() if re.fullmatch(other, clip.subject)]
    hint = f"that is how {' and '.join(fits)} spell theirs; " if fits else ""
    raise DataError(
        f"{_key(clip)}: {clip.dataset} has no subject {clip.subject!r} (its people are spelled like {example}); "
        f"{hint}make the manifest again with the right --dataset and --root."
    )


def _key(clip: HasLabelFields) -> str:
    return f"{clip.dataset}/{clip.subject}/{clip.clip}"


def _class_differences(protocol: Protocol, dataset: str, found: Mapping[str, int]) -> list[str]:
    expected = (protocol.counts or {}).get(dataset, {})
    return [
        f"{dataset} {name}: {expected[name]} clips expected, {found.get(name, 0)} found"
        for name in protocol.classes
        if name in expected and expected[name] != found.get(name, 0)
    ]


def _subject_differences(protocol: Protocol, dataset: str, found: set[str]) -> list[str]:
    expected = (protocol.subject_counts or {}).get(dataset)
    people = protocol.people.get(dataset, (protocol.subjects or {}).get(dataset, found))
    missing, foreign = sorted(people - found), sorted(found - people)
    if expected is None or (expected == len(found) and not missing and not foreign):
        return []
    names = [f"{what} {', '.join(who)}" for what, who in (("missing", missing), ("not expected", foreign)) if who]
    return [
        f"{dataset}: {expected} subjects expected, {len(found)} found" + (f" ({'; '.join(names)})" if names else "")
    ]


# --- The protocols --------------------------------------------------------------------------------------------------


def _same(*emotions: str) -> dict[str, str]:
    return {emotion: emotion for emotion in emotions}


def _numbered(pattern: str, numbers: Iterable[int]) -> frozenset[str]:
    return frozenset(pattern.format(number) for number in numbers)


_AS_LABELLED_NOTE = "Classes from the clips at hand; nothing asserted. For your own videos and synthetic clips."

_MEGC_CASME2 = {"disgust": "negative", "repression": "negative", "happiness": "positive", "surprise": "surprise"}
_MEGC_SAMM = {
    **dict.fromkeys(("anger", "contempt", "disgust", "fear", "sadness"), "negative"),
    "happiness": "positive",
    "surprise": "surprise",
}
_THREE = _same("negative", "positive", "surprise")
_BY_VALENCE = {
    **dict.fromkeys(("anger", "disgust", "fear", "sadness"), "negative"),
    "happiness": "positive",
    "surprise": "surprise",
}
_SEVEN = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "others")

_CASME2_PEOPLE = _numbered("sub{:02d}", range(1, 27))
_SAMM_PEOPLE = _numbered("{:03d}", set(range(6, 38)) - {8, 27, 29})
_SMIC_PEOPLE = _numbered("s{}", (*range(1, 7), 8, 9, *range(11, 16), *range(18, 21)))
_RELEASED = "lists in the published code of MOL (Shao et al., IEEE TPAMI 2025)"
_RELEASED_IDS = ("surprise", "positive", "negative")

_ALL = (
    Protocol(
        name="megc2019",
        classes=("negative", "positive", "surprise"),
        emotions={"casme2": _MEGC_CASME2, "samm": _MEGC_SAMM, "smic": _THREE},
        drop=frozenset({"casme2/sub04/EP12_01f", "casme2/sub05/EP12_03f", "casme2/sub24/EP02_07"}),
        counts={
            "casme2": {"negative": 88, "positive": 32, "surprise": 25},
            "samm": {"negative": 92, "positive": 26, "surprise": 15},
            "smic": {"negative": 70, "positive": 51, "surprise": 43},
        },
        subject_counts={"casme2": 24, "samm": 28, "smic": 16},
        people={"casme2": _CASME2_PEOPLE - {"sub10", "sub18"}, "smic": _SMIC_PEOPLE},
        source="See et al., MEGC 2019: the second facial micro-expressions grand challenge, FG 2019",
        note=(
            "442 clips, 68 subjects. CASME II's subjects 10 and 18 fall out because none of their clips has one of the "
            "three classes, not by a list: a labelled clip of theirs is a difference, not left out silently."
        ),
    ),
    Protocol(
        name="casme2-5",
        classes=("surprise", "happiness", "disgust", "repression", "others"),
        emotions={"casme2": _same("surprise", "happiness", "disgust", "repression", "others")},
        counts={"casme2": {"surprise": 25, "happiness": 32, "disgust": 63, "repression": 27, "others": 99}},
        source="Yan et al., CASME II, PLoS ONE 2014; counts of the distributed sheet",
        note="246 clips; sadness (7) and fear (2) left out. The number of subjects is not asserted.",
    ),
    Protocol(
        name="samm-5",
        classes=("surprise", "happiness", "anger", "contempt", "others"),
        emotions={"samm": _same("surprise", "happiness", "anger", "contempt", "others")},
        counts={"samm": {"surprise": 15, "happiness": 26, "anger": 57, "contempt": 12, "others": 26}},
        source="Davison et al., SAMM, IEEE TAC 2018; counts of the distributed sheet",
        note="136 clips; disgust (9), fear (8) and sadness (6) left out. The number of subjects is not asserted.",
    ),
    Protocol(
        name="released-casme2-3",
        classes=_RELEASED_IDS,
        emotions={"casme2": {**_THREE, **_MEGC_CASME2}},
        subjects={"casme2": _CASME2_PEOPLE - {"sub18"}},
        source=_RELEASED,
        note=(
            "25 subjects, with 10 and without 18. Nothing asserted: which emotions the published code's class folders "
            "hold is not known. From the official sheet they are taken to be MEGC 2019's, and then 10 has no clip."
        ),
    ),
    Protocol(
        name="released-casme2-5",
        classes=("surprise", "happiness", "disgust", "repression", "others"),
        emotions={"casme2": _same("surprise", "happiness", "disgust", "repression", "others")},
        subjects={"casme2": _CASME2_PEOPLE - {"sub18"}},
        subject_counts={"casme2": 25},
        source=_RELEASED,
        note="25 subjects, with 10 and without 18. Clips per class not asserted.",
    ),
    Protocol(
        name="released-samm-3",
        classes=_RELEASED_IDS,
        emotions={"samm": {**_THREE, **_MEGC_SAMM}},
        subjects={"samm": _SAMM_PEOPLE - {"025"}},
        subject_counts={"samm": 28},
        source=_RELEASED,
        note="28 subjects, without 025. Clips per class not asserted.",
    ),
    Protocol(
        name="released-samm-5",
        classes=("surprise", "happiness", "anger", "contempt", "others"),
        emotions={"samm": _same("surprise", "happiness", "anger", "contempt", "others")},
        subjects={"samm": _SAMM_PEOPLE - {"024"}},
        subject_counts={"samm": 28},
        source=_RELEASED,
        note="28 subjects, without 024. Clips per class not asserted.",
    ),
    Protocol(
        name="released-smic-3",
        classes=_RELEASED_IDS,
        emotions={"smic": _THREE},
        subjects={"smic": _SMIC_PEOPLE},
        counts={"smic": {"negative": 70, "positive": 51, "surprise": 43}},
        subject_counts={"smic": 16},
        source=_RELEASED + "; counts of SMIC-HS",
        note="The same clips as in megc2019, other class ids.",
    ),
    Protocol(
        name="casme3-3",
        classes=("negative", "positive", "surprise"),
        emotions={"casme3": _BY_VALENCE},
        source="Li et al., CAS(ME)³, IEEE TPAMI 2023 (?)",
        note="Part A without others, by valence. Nothing asserted; the mapping is not confirmed by the publication.",
    ),
    Protocol(
        name="casme3-4",
        classes=("negative", "positive", "surprise", "others"),
        emotions={"casme3": {**_BY_VALENCE, "others": "others"}},
        source="Li et al., CAS(ME)³, IEEE TPAMI 2023 (?)",
        note="Part A by valence. Nothing asserted; the mapping is not confirmed by the publication.",
    ),
    Protocol(
        name="casme3-7",
        classes=_SEVEN,
        emotions={"casme3": _same(*_SEVEN)},
        source="Li et al., CAS(ME)³, IEEE TPAMI 2023",
        note="Part A as annotated (860 rows in the distributed sheet). Clips per class and subjects not asserted.",
    ),
    Protocol(
        name="mmew-3",
        classes=("negative", "positive", "surprise"),
        emotions={"mmew": _BY_VALENCE},
        source="this project's, by valence",
        note="Without others. Nothing asserted; the mapping is not confirmed by a publication.",
    ),
    Protocol(
        name="mmew-4",
        classes=("negative", "positive", "surprise", "others"),
        emotions={"mmew": {**_BY_VALENCE, "others": "others"}},
        source="this project's, by valence",
        note="Nothing asserted; the mapping is not confirmed by a publication.",
    ),
    Protocol(
        name="mmew-7",
        classes=_SEVEN,
        emotions={"mmew": _same(*_SEVEN)},
        source="Ben et al., IEEE TPAMI 2022",
        note="As annotated. Nothing asserted.",
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})


# --- The table of docs/protocols.md ---------------------------------------------------------------------------------


def markdown_table() -> str:
    """All protocols as a Markdown table, as it stands in ``docs/protocols.md``."""
    rows = [
        "| name | class ids | sets | clips asserted | subjects asserted | what to know |",
        "|---|---|---|---|---|---|",
    ]
    for protocol in PROTOCOLS.values():
        classes = ", ".join(f"{index} {name}" for index, name in enumerate(protocol.classes))
        cells = (
            classes,
            ", ".join(protocol.datasets),
            *_asserted(protocol),
            f"{protocol.note} Source: {protocol.source}.",
        )
        rows.append(f"| `{protocol.name}` | {' | '.join(cells)} |")
    rows.append(f"| `{AS_LABELLED}` | the clips' emotions in alphabetical order | any | – | – | {_AS_LABELLED_NOTE} |")
    return "\n".join(rows)


def _asserted(protocol: Protocol) -> Iterator[str]:
    counts = protocol.counts or {}
    yield (
        "; ".join(
            f"{dataset} {'/'.join(str(counts[dataset][name]) for name in protocol.classes)}" for dataset in counts
        )
        or "–"
    )
    yield "; ".join(f"{dataset} {count}" for dataset, count in (protocol.subject_counts or {}).items()) or "–"


if __name__ == "__main__":
    print(markdown_table())
