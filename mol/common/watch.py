"""What runs where, for people who wait: a display that is redrawn on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Any

from mol.common.extras import require
from mol.common.terminal import console, duration, say

# Seconds between two lines where there is no terminal.
_EVERY = 60.0
# Tasks of a node that are named in a line.
_NAMED = 4


class Watch:
    """Counts tasks that are done, running, tried again and failed, and shows them.

    Args:
        what: the tasks, in the plural.
        total: number of them.
        done: number of those that were done before.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._before, self._done = what, total, done, done
        self._running: dict[str, list[str]] = {}
        self._retries: Counter[str] = Counter()
        self._failed = 0
        self._started = self._said = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> Watch:
        output = console()
        if output.is_terminal:
            live = require("rich.live", "train").Live
            self._live = live(console=output, get_renderable=self._lines, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def left(self) -> str:
        """The time that the rest takes at this pace, as the end of a sentence; empty if nothing is left or known."""
        here = self._done - self._before
        rest = self._total - self._done
        return f", {duration((time.monotonic() - self._started) / here * rest)} left" if here and rest else ""

    def say(self, text: str) -> None:
        """Print a line, above the display if there is one."""
        say(text)

    def started(self, task: str, node: str) -> None:
        """A task was sent to a node."""
        self._running.setdefault(node, []).append(task)

    def retried(self, task: str, node: str, reason: str) -> None:
        """A task was lost on a node and is run again."""
        self._forget(task, node)
        self._retries[task] += 1
        say(f"{task}: run again, because on {node} {reason}")

    def dropped(self, task: str, node: str) -> None:
        """A task is no longer wanted."""
        self._forget(task, node)

    def ended(self, task: str, node: str) -> None:
        """A task is over."""
        self._forget(task, node)
        self._done += 1

    def failed(self) -> None:
        """One of the tasks that are over has failed."""
        self._failed += 1

    def tick(self) -> None:
        """Say where it stands, if that was not said for a minute and there is no display."""
        if self._live is None and time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            say("; ".join(self._lines().splitlines()))

    def _forget(self, task: str, node: str) -> None:
        self._running[node].remove(task)
        if not self._running[node]:
            del self._running[node]

    def _lines(self) -> str:
        counts = f"{self._done} of {self._total} {self._what} done"
        if self._retries:
            counts += f", {self._retries.total()} run again"
        if self._failed:
            counts += f", {self._failed} failed"
        here, spent = self._done - self._before, time.monotonic() - self._started
        rate = here / spent if here and spent else 0.0
        if rate:
            counts += f", {rate:.3g} a second" if rate >= 1 else f", {rate * 3600:.3g} an hour"
        lines = [counts + self.left]
        for node, tasks in sorted(self._running.items()):
            more = f" and {len(tasks) - _NAMED} more" if len(tasks) > _NAMED else ""
            lines.append(f"{node}: {', '.join(tasks[:_NAMED])}{more}")
        return "\n".join(lines)
