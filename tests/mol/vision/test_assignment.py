"""The cheapest assignment, against a search over all."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mol.vision.assignment import cheapest_assignment


def cheapest_sum(costs: np.ndarray) -> float:
    """By trying every assignment."""
    if costs.shape[0] > costs.shape[1]:
        costs = costs.T
    rows, columns = costs.shape
    return min(sum(costs[row, chosen[row]] for row in range(rows)) for chosen in permutations(range(columns), rows))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_no_assignment_is_cheaper(rows, columns, seed, ties):
    generator = np.random.default_rng(seed)
    costs = generator.integers(-3, 4, (rows, columns)).astype(float) if ties else generator.normal(size=(rows, columns))
    pairs = cheapest_assignment(costs)
    assert len(pairs) == min(rows, columns) == len({row for row, _ in pairs}) == len({column for _, column in pairs})
    assert sum(costs[pair] for pair in pairs) == pytest.approx(cheapest_sum(costs))


def test_one_that_is_too_dear_costs_no_other_its_place():
    assert cheapest_assignment(np.array([[1.0, 1e6], [1e6, 1e6], [1e6, 2.0]]))[0] == (0, 0)


def test_nobody_is_assigned_to_nothing():
    assert cheapest_assignment(np.empty((0, 3))) == []
    assert cheapest_assignment(np.empty((3, 0))) == []
