"""The cheapest assignment of rows to columns."""

from __future__ import annotations

import numpy as np


def cheapest_assignment(costs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of a row and a column, each at most once and as many as possible, whose costs have the least sum.

    The Hungarian method by shortest augmenting paths, exact, in O(n²m) for n ≤ m.

    Args:
        costs: (rows, columns), finite.
    Returns:
        The pairs, by rows.

    Source: Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38, 1987.
    """
    rows, columns = costs.shape
    if rows > columns:
        return sorted((row, column) for column, row in cheapest_assignment(costs.T))
    # Row and column 0 stand for "none"; the prices keep reduced costs non-negative.
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, int)
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        least = np.full(columns + 1, np.inf)
        before = np.zeros(columns + 1, int)
        done = np.zeros(columns + 1, bool)
        while row_of[column]:
            done[column] = True
            current = row_of[column]
            reduced = costs[current - 1] - row_price[current] - column_price[1:]
            better = ~done[1:] & (reduced < least[1:])
            least[1:][better], before[1:][better] = reduced[better], column
            following = int(np.where(done, np.inf, least)[1:].argmin()) + 1
            step = least[following]
            row_price[row_of[done]] += step
            column_price[done] -= step
            least[~done] -= step
            column = following
        while column:
            row_of[column] = row_of[before[column]]
            column = before[column]
    return sorted((int(row_of[column]) - 1, column - 1) for column in range(1, columns + 1) if row_of[column])
