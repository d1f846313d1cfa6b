"""The facts that each data set states about itself, and how they agree with each other."""

from __future__ import annotations

import re

import pytest

from mol.data.protocols import PROTOCOLS
from mol.data.sets import casme2, samm, smic
from mol.data.sets.registry import SETS

LICENSED = [entry for entry in SETS.values() if entry.access]


@pytest.mark.parametrize("entry", LICENSED, ids=lambda entry: entry.name)
def test_a_licensed_set_states_what_a_user_must_know(entry) -> None:
    assert entry.title
    assert re.search(r"et al\., \".+\", .+ 20\d\d$", entry.citation)
    assert entry.tree.strip().partition("\n")[0].endswith("/")
    assert entry.quirks
    assert entry.fps > 0
    assert entry.sheets or entry.telltales


@pytest.mark.parametrize("entry", LICENSED, ids=lambda entry: entry.name)
def test_names_of_subjects_match_their_pattern(entry) -> None:
    assert entry.subject_pattern
    assert all(entry.allows_subject(name) for name in (entry.subject, *entry.people))
    assert not entry.allows_subject("")
    assert not entry.people or entry.subject in entry.people
    assert len(set(entry.people)) == len(entry.people)


@pytest.mark.parametrize(
    ("entry", "clips", "people", "fps"),
    [(casme2.SET, 255, 26, 200), (samm.SET, 159, 29, 200), (smic.SET, 164, 16, 100)],
    ids=lambda value: getattr(value, "name", None),
)
def test_published_numbers(entry, clips, people, fps) -> None:
    assert (entry.clips, len(entry.people), entry.fps) == (clips, people, fps)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_a_protocol_counts_no_more_than_its_sets_have(protocol) -> None:
    for name, counts in (protocol.counts or {}).items():
        emotions = protocol.emotions[name]
        for label, count in counts.items():
            annotated = sum(SETS[name].counts.get(emotion, 0) for emotion in emotions if emotions[emotion] == label)
            dropped = sum(key.startswith(f"{name}/") for key in protocol.drop)
            assert annotated - dropped <= count <= annotated
    for name, people in (protocol.subjects or {}).items():
        assert people <= set(SETS[name].people)


def test_any_name_is_allowed_where_subjects_are_the_users() -> None:
    assert SETS["generic"].allows_subject("anna")
