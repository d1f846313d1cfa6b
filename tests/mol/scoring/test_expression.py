"""Expressions as intervals of frames."""

from __future__ import annotations

import pytest

from mol.scoring.expression import Expression


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [((10, 19), (10, 19), 1.0), ((10, 19), (15, 24), 5 / 15), ((10, 19), (20, 29), 0.0), ((10, 19), (12, 13), 0.2)],
)
def test_overlap_counts_both_ends(first: tuple[int, int], second: tuple[int, int], share: float) -> None:
    one, other = (Expression(onset, onset, offset) for onset, offset in (first, second))
    assert one.overlap(other) == other.overlap(one) == pytest.approx(share)
