"""What a recognition protocol is: which clips it includes, under which class, and how many there must be.

A protocol maps the emotions of the data sets to class ids. Published counts are checked, so that an incomplete copy of
a set is never mistaken for the complete one. `mol.data.protocols` has the known ones.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mol.common.errors import DataError
from mol.data.manifest import HasName, key
from mol.data.sets.registry import SETS

AS_LABELLED = "as-labelled"
AS_LABELLED_NOTE = "Takes its classes from the clips; checks no counts. For your own videos and synthetic clips."


class HasLabelFields(HasName, typing.Protocol):
    """What a protocol needs to know about a clip: a `mol.data.manifest.Clip`, or a row of a cache."""

    @property
    def emotion(self) -> str: ...


@dataclass(frozen=True)
class Protocol:
    """Classes, included clips and, where published, the counts.

    Attributes:
        name: value of ``--protocol``.
        classes: class names in the order of the class ids.
        emotions: data set → emotion → class; other emotions are excluded.
        drop: keys ``dataset/subject/clip`` of clips that are excluded whatever their emotion; they need not exist.
        subjects: data set → subjects that are included; all subjects of a set that is not listed, or if None.
        counts: data set → class → number of clips; not checked for a set that is not listed, or if None.
        subject_counts: data set → number of subjects with at least one clip; likewise.
        people: data set → names of these subjects, where known. Only used in error messages: a subject who is not
            listed here is not excluded.
        source: publication that the protocol is from.
        note: what a user should know, such as which counts are not checked and why.
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
        """The data sets that the protocol has classes for."""
        return tuple(self.emotions)


def as_labelled(clips: Iterable[HasLabelFields]) -> Protocol:
    """A protocol in which every emotion of the clips is a class, in alphabetical order; it checks no counts.

    Raises:
        DataError: there are no clips.
    """
    emotions: dict[str, set[str]] = {}
    for clip in clips:
        emotions.setdefault(clip.dataset, set()).add(clip.emotion)
    if not emotions:
        raise DataError(f"the protocol {AS_LABELLED} takes its classes from the clips, but there are no clips.")
    return Protocol(
        name=AS_LABELLED,
        classes=tuple(sorted(set().union(*emotions.values()))),
        emotions={dataset: {emotion: emotion for emotion in sorted(emotions[dataset])} for dataset in sorted(emotions)},
        source="the clips' own labels",
        note=AS_LABELLED_NOTE,
    )


def apply(protocol: Protocol, clips: Sequence[HasLabelFields]) -> list[int | None]:
    """The class id of each clip, or None for a clip that the protocol excludes.

    Raises:
        DataError: the protocol has no classes for a clip's data set, or the data set has no such subject.
    """
    return [_class_id(protocol, clip) for clip in clips]


def left_out(protocol: Protocol, clip: HasLabelFields) -> str | None:
    """Why the protocol excludes a clip, or None if it includes it.

    Raises:
        DataError: as for `apply`.
    """
    emotions = _emotions(protocol, clip)
    _check_spelling(clip)
    if key(clip) in protocol.drop:
        return "dropped by name"
    if clip.subject not in (protocol.subjects or {}).get(clip.dataset, {clip.subject}):
        return f"subject {clip.subject} is excluded"
    return None if clip.emotion in emotions else f"emotion {clip.emotion}"


def count_differences(protocol: Protocol, clips: Sequence[HasLabelFields]) -> list[str]:
    """How the clips differ from the protocol's counts, one phrase per difference; empty if they agree.

    Only the data sets among the clips are checked. Several rows of one clip count once.

    Raises:
        DataError: as for `apply`.
    """
    unique = list({key(clip): clip for clip in clips}.values())
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
    """Check the number of clips and subjects against the protocol.

    Raises:
        DataError: they differ (every difference is listed), or as for `apply`.
    """
    differences = count_differences(protocol, clips)
    if differences:
        raise DataError(
            f"the clips differ from the protocol {protocol.name}: {'; '.join(differences)}. See what mol prepare "
            "dropped and what mol check-data reports, and complete the set; scores on other clips are not comparable."
        )


def _class_id(protocol: Protocol, clip: HasLabelFields) -> int | None:
    if left_out(protocol, clip) is not None:
        return None
    return protocol.classes.index(protocol.emotions[clip.dataset][clip.emotion])


def _emotions(protocol: Protocol, clip: HasLabelFields) -> Mapping[str, str]:
    if clip.dataset not in protocol.emotions:
        raise DataError(
            f"the protocol {protocol.name} has no classes for {clip.dataset} ({key(clip)}); it is for "
            f"{', '.join(protocol.datasets)}. Omit this data set, or choose another protocol such as {AS_LABELLED}."
        )
    return protocol.emotions[clip.dataset]


def _check_spelling(clip: HasLabelFields) -> None:
    own = SETS.get(clip.dataset)
    if own is None or own.allows_subject(clip.subject):
        return
    fits = [other.name for other in SETS.values() if other.subject_pattern and other.allows_subject(clip.subject)]
    hint = f"that looks like a subject of {' or '.join(fits)}; " if fits else ""
    raise DataError(
        f"{key(clip)}: {clip.dataset} has no subject {clip.subject!r} (its subjects have names like {own.subject}); "
        f"{hint}make the manifest again with the right --dataset and --root."
    )


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
