"""A generator run ahead in a thread: items in order, bounded, errors where they belong, nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mol.common.ahead import Ahead


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Numbers:
    """Counts what was made and notes in which thread, and whether the generator was closed."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.count, self.fails_at = count, fails_at
        self.made = 0
        self.threads: set[int] = set()
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                if number == self.fails_at:
                    raise KeyError(f"no {number}")
                self.made += 1
                self.threads.add(threading.get_ident())
                yield number
        finally:
            self.closed = True


def test_items_come_in_order_and_from_another_thread():
    numbers = Numbers(20)
    with Ahead(iter(numbers), 3) as ahead:
        assert list(ahead) == list(range(20))
        with pytest.raises(StopIteration):
            next(ahead)
    assert numbers.threads.isdisjoint({threading.get_ident()})


def test_it_works_ahead_before_anyone_asks_and_no_further_than_its_depth():
    numbers = Numbers(100)
    with Ahead(iter(numbers), 3) as ahead:
        wait_for(lambda: numbers.made == 4)
        time.sleep(0.3)
        assert numbers.made == 4
        assert next(ahead) == 0
        wait_for(lambda: numbers.made == 5)


def test_an_error_is_raised_where_the_item_would_have_come_and_again_afterwards():
    with Ahead(iter(Numbers(9, fails_at=2)), 5) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        for _ in range(2):
            with pytest.raises(KeyError, match="no 2"):
                next(ahead)


@pytest.mark.parametrize("asked", [0, 1])
def test_closing_ends_the_thread_and_closes_the_generator(asked):
    before = threading.active_count()
    numbers = Numbers(100)
    ahead = Ahead(iter(numbers), 2)
    for _ in range(asked):
        next(ahead)
    ahead.close()
    assert numbers.closed
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(ahead)
