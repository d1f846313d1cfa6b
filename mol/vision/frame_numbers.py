"""Which of several numbers in the names of pictures is that of the frame."""

from __future__ import annotations

import re
from collections.abc import Sequence


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The frame number of every picture of a folder.

    Names with one number have that one. Where all names have equally many numbers, the frame's is the one that differs
    from picture to picture: the last if several do, unless it gives another order than the others, as a time stamp does
    whose seconds start again (``t0.98, t1.02``); then it is the one with the fewest gaps. Otherwise it is the last.

    Args:
        names: without suffix.

    Returns:
        One number per name, the same for several if no number differs for all; None if a name has no number.
    """
    numbers = [[int(digits) for digits in re.findall(r"\d+", name)] for name in names]
    if not all(numbers):
        return None
    last = [of_name[-1] for of_name in numbers]
    if len({len(of_name) for of_name in numbers}) != 1:
        return last
    columns = list(zip(*numbers, strict=True))
    different = [column for column in columns if len(set(column)) == len(names)]
    if not different:
        return list(max(reversed(columns), key=lambda column: len(set(column))))
    if len({_order(column) for column in different}) == 1:
        return list(different[-1])
    return list(min(reversed(different), key=lambda column: max(column) - min(column)))


def _order(column: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(column)), key=column.__getitem__))
