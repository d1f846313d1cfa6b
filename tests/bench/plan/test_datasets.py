"""Clips, people and sub-clips of the data sets, as their protocols say."""

import pytest

from bench.plan.datasets import find_dataset, names
from mol.common.errors import SettingsError
from mol.data.protocols import PROTOCOLS


@pytest.mark.parametrize(
    ("name", "clips", "people", "most"),
    [
        ("casme2", 145, 24, 145 * 12),  # half a second at 200 frames per second is 12 sub-clips
        ("samm", 133, 28, 133 * 12),
        ("smic", 164, 16, 164 * 6),
        ("composite", 442, 68, 278 * 12 + 164 * 6),
        ("megc2019", 442, 68, 278 * 12 + 164 * 6),
        ("released-smic-3", 164, 16, 164 * 6),
    ],
)
def test_published_numbers(name, clips, people, most):
    found = find_dataset(name)
    assert (found.clips, found.people, found.most_subclips) == (clips, people, most)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_can_be_planned_with_the_numbers_that_it_lacks(name):
    assert name in names()
    found = find_dataset(name, clips=100, people=9)
    counts = PROTOCOLS[name].counts
    assert found.people == 9
    assert found.clips == (sum(sum(by_class.values()) for by_class in counts.values()) if counts else 100)
    assert found.most_subclips >= found.clips


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("casme2-5", {}, "people there are, for 246 clips; give it with --folds"),
        ("released-samm-3", {}, "clips there are; give the number with --clips"),
        ("mmew-7", {"clips": 300}, "people there are, for 300 clips"),
        ("casme", {}, "choose from casme2, samm, smic, composite, megc2019"),
    ],
)
def test_numbers_that_are_neither_published_nor_given_are_asked_for(name, given, message):
    with pytest.raises(SettingsError, match=message):
        find_dataset(name, **given)
