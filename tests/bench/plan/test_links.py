"""Links and all-reduces, by hand."""

import pytest

from bench.plan.links import LINKS, STARTED, Interconnect, Link, find_link
from mol.common.errors import SettingsError

JOINED = Interconnect(Link("fast", 100e9, 1e-6, "made up"), Link("slow", 10e9, 10e-6, "made up"), per_node=8)


def test_one_device_has_nothing_to_wait_for():
    assert JOINED.ring_seconds(1e9, 1) == JOINED.tree_seconds(1) == 0


def test_a_ring_within_a_node_moves_its_share_of_the_bytes_over_the_link():
    """8 devices: 14/8 of 1 GB at 100 GB/s, and 14 hops."""
    assert JOINED.ring_seconds(1e9, 8) == pytest.approx(STARTED + 14e-6 + 17.5e-3)


def test_a_ring_over_nodes_runs_at_the_network_and_crosses_it_with_few_hops():
    """16 devices on 2 nodes: 30/16 of 1 GB at 10 GB/s; of 30 hops, 2 cross the network."""
    assert JOINED.nodes(16) == 2
    assert JOINED.ring_seconds(1e9, 16) == pytest.approx(STARTED + 28e-6 + 20e-6 + 187.5e-3)


def test_nodes_of_one_device_use_the_network_alone():
    alone = Interconnect(LINKS["10gbe"], JOINED.network, per_node=1)  # the slow link joins nothing
    assert alone.ring_seconds(1e9, 2) == pytest.approx(STARTED + 20e-6 + 0.1)


def test_a_small_message_climbs_a_tree_and_comes_down():
    """64 devices on 8 nodes: 3 levels within, 3 between nodes."""
    assert JOINED.tree_seconds(64) == pytest.approx(STARTED + 6e-6 + 60e-6)


def test_links_are_named_or_given():
    assert find_link("nvlink4").bandwidth == 450e9
    given = find_link("25:10")
    assert (given.bandwidth, given.latency) == (25e9, pytest.approx(10e-6))


@pytest.mark.parametrize("name", ["nvlink", "25", "0:1", "25:-1", "nan:1", "1:2:3", "inf:1"])
def test_other_links_are_refused(name):
    with pytest.raises(SettingsError, match=r"choose from nvlink3, nvlink4.*25:10"):
        find_link(name)
