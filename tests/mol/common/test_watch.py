"""What is said of tasks that run elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from mol.common import watch as module
from mol.common.terminal import console
from mol.common.watch import Watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def busy_watch(clock: list[float]) -> Watch:
    watch = Watch("folds", 10, 2)
    for task in ("s1", "s2", "s3", "s4", "s5", "s6"):
        watch.started(task, "a")
    watch.started("s7", "b")
    watch.retried("s7", "b", "the node was lost")
    watch.started("s7", "a")
    watch.ended("s1", "a")
    watch.ended("s2", "a")
    watch.failed()
    clock[0] = 100
    return watch


def test_a_line_a_minute_where_there_is_no_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with busy_watch(clock) as watch:
        watch.tick()
        watch.tick()
    assert capsys.readouterr().out == (
        "s7: run again, because on b the node was lost\n"
        "4 of 10 folds done, 1 run again, 1 failed, 72 an hour, 5 min left; a: s3, s4, s5, s6 and 1 more\n"
    )


def test_nothing_is_promised_before_the_first_is_done(clock: list[float]) -> None:
    watch = Watch("clips", 3)
    clock[0] = 10
    assert watch._lines() == "0 of 3 clips done"
    assert watch.left == ""


def test_a_display_on_a_terminal(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    terminal = console(file=output, force_terminal=True, width=100)
    monkeypatch.setattr(module, "console", lambda: terminal)
    with busy_watch(clock):
        pass
    assert "4 of 10 folds done" in output.getvalue()
    assert "a: s3, s4, s5, s6 and 1 more" in output.getvalue()
