"""A generator that runs a few items ahead of the one who asks for them, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")

# Seconds after which the thread looks whether it is still wanted.
_PATIENCE = 0.1


class _Entry(NamedTuple):
    """What the thread hands over: an item, or what ended the generator (StopIteration if it was exhausted)."""

    item: object
    end: BaseException | None = None


class Ahead(Generic[Item]):
    """Iterates over a generator in a thread that stays at most `depth` items ahead.

    Errors of the generator are raised where the item would have come. `close` ends the thread and closes the
    generator, in that thread.

    Args:
        items: runs in the thread from now on.
        depth: maximum number of items that wait to be asked for; the generator holds one more.
    """

    def __init__(self, items: Generator[Item, None, None], depth: int) -> None:
        self._items = items
        self._ready: queue.Queue[_Entry] = queue.Queue(depth)
        self._unwanted = threading.Event()
        self._end: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Ahead[Item]:
        return self

    def __next__(self) -> Item:
        if self._end is None:
            entry = self._ready.get()
            if entry.end is None:
                return entry.item  # type: ignore[return-value]
            self._end = entry.end
        raise self._end

    def close(self) -> None:
        """Stop, and wait until the generator is closed; items that nobody asked for are dropped."""
        self._unwanted.set()
        self._thread.join()
        self._end = self._end or StopIteration()

    def __enter__(self) -> Ahead[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            with closing(self._items):
                for item in self._items:
                    if not self._hand_over(_Entry(item)):
                        return
            self._hand_over(_Entry(None, StopIteration()))
        except BaseException as error:
            self._hand_over(_Entry(None, error))

    def _hand_over(self, entry: _Entry) -> bool:
        """Wait for a place in the queue; false if nobody wants the rest."""
        while not self._unwanted.is_set():
            try:
                self._ready.put(entry, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False
