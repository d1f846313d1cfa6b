"""Folds over the devices of a cluster whose nodes fail: a simulation of discrete events.

Every fold runs on one device. Folds wait in one queue, and a free device takes the first: list scheduling (Graham,
"Bounds on multiprocessing timing anomalies", 1969). A node that dies takes its folds with it. Once the loss is noticed
they come before the folds that have not begun, as under `mol loso --engine ray`, and start anew or from their last
checkpoint. The node, or one in its place, comes back empty.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

Life = tuple[float, float]
"""When a node joins and when it dies, in seconds; `math.inf` if it never does."""


class Node(NamedTuple):
    """A place in the cluster.

    Attributes:
        devices: folds that it runs at once.
        lives: of the machines that stand there one after another.
    """

    devices: int
    lives: Iterable[Life]


class Recovery(NamedTuple):
    """What a failure costs, in seconds.

    Attributes:
        detect: until the folds of a dead node are back in the queue.
        start: of every attempt before it trains: process, imports, data.
        checkpoint: of training between two checkpoints; infinite where folds start anew.
    """

    detect: float = 0.0
    start: float = 0.0
    checkpoint: float = math.inf


NO_COST = Recovery()


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        makespan: seconds until the last fold is done.
        retries: attempts beyond the first of each fold, all folds together.
        lost: device-seconds of work that was done and not kept.
    """

    makespan: float
    retries: int
    lost: float


def makespan(folds: Sequence[float], devices: int) -> float:
    """Seconds until the last fold is done where nothing fails: list scheduling in the given order."""
    free = [0.0] * devices
    for length in folds:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def lives(rng: np.random.Generator, mtbf: float, repair: float) -> Iterator[Life]:
    """Endless lives of one place: exponential with mean `mtbf`, each `repair` after the last one's death; seconds."""
    joins = 0.0
    while True:
        dies = joins + float(rng.exponential(mtbf))
        yield joins, dies
        joins = dies + repair


def simulate(folds: Sequence[float], nodes: Iterable[Node], recovery: Recovery = NO_COST) -> Outcome:
    """One run of folds of these lengths in seconds.

    Raises:
        ValueError: no machine is left, and folds still are.
    """
    return _Run(folds, nodes, recovery).outcome()


class _Place:
    def __init__(self, node: Node) -> None:
        self.devices, self.lives = node.devices, iter(node.lives)
        self.free = 0
        self.running: dict[int, float] = {}  # when the attempt at a fold began


class _Run:
    def __init__(self, folds: Sequence[float], nodes: Iterable[Node], recovery: Recovery) -> None:
        self.recovery, self.places = recovery, [_Place(node) for node in nodes]
        self.left, self.done = list(folds), 0
        self.waiting, self.again = deque(range(len(folds))), deque[int]()
        self.now, self.retries, self.lost = 0.0, 0, 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.planned = itertools.count()  # events of one moment come in this order
        for place in self.places:
            self._plan_life(place)

    def outcome(self) -> Outcome:
        while self.done < len(self.left):
            if not self.events:
                raise ValueError(f"no machine is left, and {len(self.left) - self.done} folds still are")
            self.now, _, happen = heapq.heappop(self.events)
            happen()
            self._hand_out()
        return Outcome(self.now, self.retries, self.lost)

    def _plan(self, when: float, happen: Callable[[], None]) -> None:
        if when < math.inf:
            heapq.heappush(self.events, (when, next(self.planned), happen))

    def _plan_life(self, place: _Place) -> None:
        life = next(place.lives, None)
        if life is not None:
            self._plan(life[0], partial(self._join, place, life[1]))

    def _join(self, place: _Place, dies: float) -> None:
        place.free = place.devices
        self._plan(dies, partial(self._die, place))

    def _hand_out(self) -> None:
        while (queue := self.again or self.waiting) and any(place.free for place in self.places):
            place, fold = max(self.places, key=lambda place: place.free), queue.popleft()
            place.free -= 1
            place.running[fold] = self.now
            self._plan(self.now + self.recovery.start + self.left[fold], partial(self._end, place, fold, self.now))

    def _end(self, place: _Place, fold: int, began: float) -> None:
        if place.running.get(fold) == began:  # otherwise the node has died in between
            del place.running[fold]
            place.free += 1
            self.done += 1

    def _die(self, place: _Place) -> None:
        for fold, began in place.running.items():
            kept = self._kept(self.now - began)
            self.left[fold] -= kept
            self.retries += 1
            self.lost += self.now - began - kept
            self._plan(self.now + self.recovery.detect, partial(self.again.append, fold))
        place.free, place.running = 0, {}
        self._plan_life(place)

    def _kept(self, spent: float) -> float:
        """Seconds of training in the checkpoints of an attempt that lasted `spent` seconds."""
        every = self.recovery.checkpoint
        return 0.0 if every == math.inf else max(0.0, spent - self.recovery.start) // every * every
