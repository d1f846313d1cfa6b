"""List scheduling, and the simulation of a cluster whose nodes fail: by hand, and beside closed formulas."""

import math
from itertools import pairwise

import numpy as np
import pytest

from bench.plan.cluster import Node, Recovery, lives, makespan, simulate

ALWAYS = [(0.0, math.inf)]


@pytest.mark.parametrize(("devices", "time"), [(1, 24), (5, 5), (8, 3), (24, 1), (100, 1)])
def test_the_busiest_device_runs_the_folds_that_do_not_divide(devices, time):
    assert makespan([1.0] * 24, devices) == time


def test_a_free_device_takes_the_next_fold():
    assert makespan([3, 1, 1, 1, 4], 2) == 7  # 3 + 4 beside 1 + 1 + 1


def test_without_failures_the_simulation_is_list_scheduling():
    rng = np.random.default_rng(0)
    for _ in range(50):
        folds = rng.exponential(100, rng.integers(1, 60)).tolist()
        sizes = rng.integers(1, 9, rng.integers(1, 9)).tolist()
        found = simulate(folds, [Node(size, ALWAYS) for size in sizes])
        assert found == (pytest.approx(makespan(folds, sum(sizes)), rel=1e-12), 0, 0)


def test_a_failure_by_hand():
    """The second fold starts at 4 s, and the node dies at 18 s: 2 s of start are lost, 12 s of training are saved."""
    recovery = Recovery(detect=5.0, start=2.0, checkpoint=4.0)
    nodes = [Node(1, [(0.0, 18.0), (30.0, math.inf)])]
    found = simulate([2.0, 13.0], nodes, recovery)  # 2 s to start and 1 s of training are left at 30 s
    assert found == (33.0, 1, 2.0)
    anew = simulate([2.0, 13.0], nodes, recovery._replace(checkpoint=math.inf))
    assert anew == (45.0, 1, 14.0)


def test_a_fold_of_a_dead_node_goes_on_elsewhere_and_waits_until_the_loss_is_noticed():
    nodes = [Node(1, ALWAYS), Node(1, [(0.0, 6.0)])]
    assert simulate([10.0, 10.0], nodes) == (20.0, 1, 6.0)
    assert simulate([10.0, 10.0], nodes, Recovery(detect=7.0)).makespan == 23.0


def test_a_fold_that_was_lost_comes_before_those_that_wait():
    """Lost at 6 s, it begins again on the first device that is free, at 9 s; after the others it would end at 23 s."""
    nodes = [Node(2, ALWAYS), Node(1, [(0.0, 6.0)])]
    assert simulate([5.0, 5.0, 10.0, 4.0, 4.0, 4.0, 4.0], nodes) == (19.0, 1, 6.0)


def test_a_node_takes_all_its_folds_with_it():
    assert simulate([10.0] * 4, [Node(4, [(0.0, 9.0), (9.0, math.inf)])]) == (19.0, 4, 36.0)


def test_a_cluster_without_machines_is_an_error():
    with pytest.raises(ValueError, match="2 folds still are"):
        simulate([1.0, 1.0, 1.0], [Node(1, [(0.0, 1.5)])])


def outcomes(folds, mtbf, recovery, repetitions=300, nodes=1, repair=0.0):
    found = [
        simulate(
            folds, [Node(1, lives(np.random.default_rng((seed, n)), mtbf, repair)) for n in range(nodes)], recovery
        )
        for seed in range(repetitions)
    ]
    return np.mean(found, axis=0)


def test_retries_without_checkpoints_are_geometric():
    """An attempt at a fold of length L survives with e^(−L/M): e^(L/M) − 1 retries, and M(e^(L/M) − 1) s in all."""
    mtbf, length, start = 100.0, 70.0, 10.0
    expected = math.exp((length + start) / mtbf) - 1
    time, retries, lost = outcomes([length] * 20, mtbf, Recovery(start=start))
    # 6000 folds: the mean of the retries is within 3 % of its value at three standard deviations.
    assert retries / 20 == pytest.approx(expected, rel=0.05)
    assert time / 20 == pytest.approx(mtbf * expected, rel=0.05)
    assert lost / 20 == pytest.approx(mtbf * expected - length - start, rel=0.08)


def test_retries_with_checkpoints_are_those_of_the_pieces_between_them():
    """A fold of n pieces of c seconds is n folds of length c."""
    mtbf, every, pieces = 100.0, 20.0, 4
    time, retries, _ = outcomes([every * pieces] * 20, mtbf, Recovery(checkpoint=every))
    expected = pieces * (math.exp(every / mtbf) - 1)
    assert retries / 20 == pytest.approx(expected, rel=0.05)
    assert time / 20 == pytest.approx(mtbf * expected, rel=0.05)


def test_nodes_that_fail_more_rarely_finish_earlier():
    recovery = Recovery(detect=5.0, start=5.0)
    found = [outcomes([60.0] * 24, mtbf, recovery, 100, nodes=4, repair=30.0) for mtbf in (60, 120, 240, 960, 1e9)]
    for column in np.transpose(found):
        assert (np.diff(column) < 0).all()
    assert found[-1] == pytest.approx((6 * 65.0, 0, 0))


def test_lives_follow_each_other_after_the_repair():
    found = lives(np.random.default_rng(0), 100.0, 7.0)
    few = [next(found) for _ in range(2000)]
    assert few[0][0] == 0
    assert all(after[0] == before[1] + 7 for before, after in pairwise(few))
    assert np.mean([dies - joins for joins, dies in few]) == pytest.approx(100, rel=0.1)
