"""How many clips and people a data set has under its protocol, read from `mol.data`."""

from dataclasses import dataclass

from bench.network import FRAMES
from mol.common.errors import SettingsError
from mol.data.protocols import PROTOCOLS, Protocol, find_protocol
from mol.data.sets.registry import SETS

LONGEST_CLIP = 0.5  # seconds, the usual bound of a micro-expression
MEGC = "megc2019"
POOLED = "composite"  # all sets of MEGC 2019


@dataclass(frozen=True)
class DataSet:
    """What a leave-one-subject-out run goes through.

    Attributes:
        clips: labelled clips that take part.
        people: people with at least one such clip, which is the number of folds.
        most_subclips: rows of the cache if every clip lasted half a second. A clip of L frames gives L // 8 rows.
        protocol: the protocol and its sets in words.
    """

    clips: int
    people: int
    most_subclips: int
    protocol: str


def names() -> list[str]:
    """The names that `find_dataset` knows: the sets of MEGC 2019, "composite", and every protocol."""
    return [*PROTOCOLS[MEGC].datasets, POOLED, *PROTOCOLS]


def find_dataset(name: str, clips: int | None = None, people: int | None = None) -> DataSet:
    """The clips and people of a set of MEGC 2019, of "composite" (all three), or of a protocol.

    Args:
        name: one of `names()`.
        clips: number of clips, for protocols that do not publish it. Ignored if it is published.
        people: number of people; overrides the published one.
    Raises:
        SettingsError: an unknown name, or a number that is neither published nor given.
    """
    protocol, sets = _named(name)
    counts, subjects = protocol.counts or {}, protocol.subject_counts or {}
    found = {dataset: sum(counts[dataset].values()) for dataset in sets if dataset in counts}
    where = f"the protocol {protocol.name} does not say how many"
    if len(found) < len(sets):
        if clips is None:
            raise SettingsError(f"{name}: {where} clips there are; give the number with --clips")
        found = {sets[0]: clips}
    people = people or (sum(subjects[dataset] for dataset in sets) if set(sets) <= subjects.keys() else None)
    if people is None:
        raise SettingsError(f"{name}: {where} people there are, for {sum(found.values())} clips; give it with --folds")
    most = sum(count * _rows_per_clip(dataset) for dataset, count in found.items())
    return DataSet(sum(found.values()), people, most, f"{protocol.name}: {', '.join(SETS[s].title for s in sets)}")


def _named(name: str) -> tuple[Protocol, tuple[str, ...]]:
    megc = PROTOCOLS[MEGC]
    if name in megc.datasets:
        return megc, (name,)
    if name == POOLED:
        return megc, megc.datasets
    if name not in PROTOCOLS:
        raise SettingsError(f"data set {name!r} is not known; choose from {', '.join(names())}")
    protocol = find_protocol(name)
    return protocol, protocol.datasets


def _rows_per_clip(dataset: str) -> int:
    """Rows of half a second at the set's frame rate, at least one."""
    return max(1, int(LONGEST_CLIP * (SETS[dataset].fps or 0)) // FRAMES)
