"""What stop signals do to a program: once, echoes not counted, never in the midst of an import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from places import environment

from mol.common.signals import STOP_SIGNALS, handle_stop_signals
from mol.common.stopping import RaiseStopped, Stopped, held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Default handlers during the test, whatever this process was started with; its own ones afterwards."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_becomes_an_exception_that_handlers_of_ctrl_c_catch(number):
    handle_stop_signals(RaiseStopped())
    with pytest.raises(KeyboardInterrupt) as caught:
        send(number)
    assert isinstance(caught.value, Stopped)
    assert caught.value.number == number


def test_echoes_of_a_signal_do_not_disturb_what_ends_but_ctrl_c_does():
    handle_stop_signals(RaiseStopped())
    with pytest.raises(Stopped):
        send(signal.SIGHUP)
    send(signal.SIGHUP)
    send(signal.SIGTERM)
    with pytest.raises(Stopped, match="Ctrl-C"):
        send(signal.SIGINT)


def test_a_later_signal_is_no_echo(monkeypatch):
    monkeypatch.setattr("mol.common.stopping._REPEATED_WITHIN", 0.0)
    handle_stop_signals(RaiseStopped())
    for _ in range(2):
        with pytest.raises(Stopped, match="SIGTERM"):
            send(signal.SIGTERM)


def test_a_signal_waits_while_it_is_held_and_comes_even_if_the_work_fails():
    handle_stop_signals(RaiseStopped())
    done = []

    def load(number: int, error: Exception | None) -> None:
        with held():
            send(number)
            done.append(number)
            if error is not None:
                raise error

    with pytest.raises(Stopped, match="SIGUSR1"):
        load(signal.SIGUSR1, None)
    with pytest.raises(Stopped, match="Ctrl-C"):
        load(signal.SIGINT, ImportError())
    assert done == [signal.SIGUSR1, signal.SIGINT]


def test_ignored_signals_stay_ignored():
    """``nohup`` starts a program with SIGHUP ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = handle_stop_signals(RaiseStopped())
    assert set(before) == set(STOP_SIGNALS) - {signal.SIGHUP}
    send(signal.SIGHUP)


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_during_an_import_ends_the_program_in_one_line(number, said):
    """numpy and others turn an exception in their import into one of their own."""
    program = f"""
import os, signal, sys, types
import mol.__main__
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mol.cli":
            try:
                os.kill(os.getpid(), {int(number)})
                exec("pass")
            except BaseException as error:
                raise ImportError("something else") from error
signal.signal({int(number)}, signal.SIG_DFL if {int(number)} != signal.SIGINT else signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.exit(mol.__main__.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (128 + number, f"error: stopped by {said}\n")
