"""Lists of numbers in findings."""

from mol.data.check.findings import ranges


def test_ranges_join_neighbours():
    assert ranges([5, 3, 4, 9, 11, 12]) == "3–5, 9, 11–12"
