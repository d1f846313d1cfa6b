"""People who may be counted twice: names that differ only in spelling, and films that are listed for two people.

Leave-one-subject-out holds out one name at a time. Whoever has two names is trained on and tested.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mol.data.manifest import Clip, Manifest

Person = tuple[str, str]
"""Data set and subject."""

# Letters of other alphabets that look like Latin ones, in the order of the Latin ones below them.
_CYRILLIC, _AS_CYRILLIC = "АВЕЅІЈКМНОРСТУХҮԌԚԜасеһіјӏоԛрѕтԝхуүԁ", "ABESIJKMHOPCTYXYGQWacehijloqpstwxyyd"
_GREEK, _AS_GREEK = "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹαγικνορυχϲ", "ABEZHIKMNOPTYXCayikvopuxc"
_OTHERS, _AS_OTHERS = "ıɑɡոսօⅼ", "iagnuol"
_LOOK_ALIKE = str.maketrans(_CYRILLIC + _GREEK + _OTHERS, _AS_CYRILLIC + _AS_GREEK + _AS_OTHERS)
_ACCENTS = dict.fromkeys(range(768, 880))


@dataclass(frozen=True)
class Alike:
    """Names that may be those of one person.

    Attributes:
        people: at least two, in order of appearance.
        differences: what they differ in, such as ``"upper and lower case"``.
    """

    people: tuple[Person, ...]
    differences: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.people)
        return (
            f"{_named(self.people)} differ only in {_listed(self.differences)}, but count as {count} people; if they "
            "are one, leave-one-subject-out trains on the person that it tests"
        )


def spelled_alike(people: Iterable[Person]) -> list[Alike]:
    """People whose data set and subject differ only in spelling.

    Spelling is case, leading zeros, blanks and punctuation, accents, Unicode form, invisible characters, letters of
    other alphabets that look the same, and O, l and I for the digits 0 and 1.
    """
    names = list(dict.fromkeys(people))
    groups: dict[str, list[Person]] = {}
    for name in names:
        keys = [_key(name, steps) for steps in (_STEPS, _WITH_LOOK_ALIKES, _WITH_DIGITS)]
        # Whoever shares one key with somebody is in that group; groups that a name joins become one.
        joined = {id(group): group for key in keys if (group := groups.get(key)) is not None}
        group = [*(member for one in joined.values() for member in one), name]
        for key in {*keys, *(key for key, one in groups.items() if id(one) in joined)} if joined else keys:
            groups[key] = group
    found = {id(group): group for group in groups.values() if len(group) > 1}
    ordered = [sorted(group, key=names.index) for group in found.values()]
    return [Alike(tuple(group), _differences(group)) for group in ordered]


def shared_films(manifest: Manifest) -> Iterator[tuple[str, tuple[Clip, ...]]]:
    """Films and folders that are listed for several people.

    Links count as what they point to.

    Yields:
        Path as in the manifest, and one clip of each person.
    """
    of_film: dict[object, dict[Person, Clip]] = defaultdict(dict)
    for clip in manifest.clips:
        of_film[_identity(manifest.path_of(clip))].setdefault((clip.dataset, clip.subject), clip)
    for clips in of_film.values():
        if len(clips) > 1:
            first, *_ = clips.values()
            yield first.path, tuple(clips.values())


def doubts_about_people(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What a user should know about the people of a manifest, with the remedy.

    Yields:
        Where it is, and what.
    """
    sources: dict[Person, str] = {}
    for clip in manifest.clips:
        sources.setdefault((clip.dataset, clip.subject), clip.source)
    for alike in spelled_alike(sources):
        where = ", ".join(dict.fromkeys(sources[person] for person in alike.people))
        yield where, f"{alike}. To merge them, give them one spelling there and run mol prepare again."
    for path, clips in shared_films(manifest):
        where = ", ".join(dict.fromkeys(clip.source for clip in clips))
        names = _named([(clip.dataset, clip.subject) for clip in clips])
        yield (
            where,
            f"{path} is listed for {len(clips)} people, {names}. If it shows one person, give them one name there and "
            "run mol prepare again.",
        )


Step = tuple[str, Callable[[str], str]]


def _visible(text: str) -> str:
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def _one_form(text: str) -> str:
    letters = unicodedata.normalize("NFKC", text)
    return "".join(str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in letters)


def _whole(text: str) -> str:
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def _latin(text: str) -> str:
    return text.translate(_LOOK_ALIKE)


def _digits(text: str) -> str:
    """O, l and I next to a digit as 0 and 1."""
    numbers = re.compile(r"[OolI]*[0-9][0-9OolI]*")
    return numbers.sub(lambda match: match[0].translate(str.maketrans("OolI", "0011")), text)


def _without_accents(text: str) -> str:
    return unicodedata.normalize("NFKD", text).translate(_ACCENTS)


def _joined(text: str) -> str:
    """Without blanks and punctuation, except between two numbers, where a blank stays: 1_2 is not 12."""
    blank = "".join(" " if unicodedata.category(letter)[0] in "ZPSC" else letter for letter in text).strip()
    return re.sub(r"(?<=\d) +(?=\d)", "_", blank).replace(" ", "")


def _without_zeros(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


_BEFORE: tuple[Step, ...] = (
    ("invisible characters", _visible),
    ("Unicode form", _one_form),
    ("a decimal point", _whole),
)
_AFTER: tuple[Step, ...] = (
    ("upper and lower case", str.casefold),
    ("accents", _without_accents),
    ("blanks or punctuation", _joined),
    ("leading zeros", _without_zeros),
)
_LETTERS: Step = ("letters that look alike", _latin)
_STEPS = (*_BEFORE, *_AFTER)
_WITH_LOOK_ALIKES = (*_BEFORE, _LETTERS, *_AFTER)
_WITH_DIGITS = (*_BEFORE, _LETTERS, ("letters that look like digits", _digits), *_AFTER)


def _key(person: Person, steps: Sequence[Step]) -> str:
    return "/".join(_after(name, steps) for name in person)


def _after(name: str, steps: Sequence[Step]) -> str:
    for _, step in steps:
        name = step(name)
    return name


def _differences(group: Sequence[Person]) -> tuple[str, ...]:
    """The fewest steps that make the names equal, of the shortest chain that makes the most of them equal."""

    def spellings(steps: Sequence[Step]) -> int:
        return len({_key(person, steps) for person in group})

    steps = min((_STEPS, _WITH_LOOK_ALIKES, _WITH_DIGITS), key=spellings)
    least = spellings(steps)
    for step in reversed(steps):
        fewer = tuple(one for one in steps if one is not step)
        if spellings(fewer) == least:
            steps = fewer
    return tuple(title for title, _ in steps)


def _named(people: Sequence[Person]) -> str:
    """Subjects, with their data sets if those differ."""
    several_sets = len({dataset for dataset, _ in people}) > 1
    return _listed([_shown(f"{dataset}/{subject}" if several_sets else subject) for dataset, subject in people])


def _shown(name: str) -> str:
    """A name in quotation marks, with the codes of what is not ASCII."""
    return f'"{name}"' if name.isascii() else f'"{name}" ({ascii(name)[1:-1]})'


def _listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; of many the first."""
    if len(parts) > 8:
        parts = [*parts[:7], f"{len(parts) - 7} others"]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return status.st_dev, status.st_ino
