"""Output that can't be shown: replaced or dropped, and the program goes on."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from places import environment

from mol.common.terminal import printable

LETTERS = "χ² → ×3 – naïve 微 \udcff \U0001f600"
PRINTS = f"""
import sys
from mol.common.output import lost_output, protect_streams
protect_streams()
from mol.common.terminal import say
for _ in range(int(sys.argv[1])):
    say({LETTERS!a})
    print({LETTERS!a})
sys.stderr.write(repr(lost_output()))
sys.stderr.flush()
"""


def run(times: int = 1, after: str = "", **changes: str) -> subprocess.CompletedProcess[bytes]:
    """The program above in a shell, followed by `after`, such as a redirection."""
    variables = {name: value for name, value in environment().items() if not name.startswith(("LC_", "PYTHONIO"))}
    command = ["sh", "-c", f'exec "$@" {after}', "sh", sys.executable, "-c", PRINTS, str(times)]
    return subprocess.run(command, env={**variables, **changes}, capture_output=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("variables", "encoding"),
    [
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "ascii"),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
        ({"PYTHONIOENCODING": "utf-8"}, "utf-8"),
    ],
    ids=["C", "latin-1", "utf-8"],
)
def test_letters_that_the_terminal_lacks_are_replaced(variables, encoding):
    done = run(**variables)
    assert (done.returncode, done.stderr) == (0, b"None")
    said, printed = done.stdout.decode(encoding).splitlines()
    assert said == printable(LETTERS).encode(encoding, "replace").decode(encoding)
    assert printed == LETTERS.encode(encoding, "replace").decode(encoding)


def test_an_error_handler_that_was_chosen_is_kept():
    assert b"&#967;&#178;" in run(PYTHONIOENCODING="ascii:xmlcharrefreplace").stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_behind_the_output_is_reported_and_ends_nothing():
    done = run(2000, ">/dev/full")
    assert (done.returncode, done.stderr) == (0, b"'No space left on device'")


def test_a_reader_that_leaves_ends_nothing():
    done = run(2000, "| head -n 1")
    assert (done.returncode, done.stderr) == (0, b"None")
    assert done.stdout.decode().count("\n") == 1


def test_closed_streams_are_opened():
    done = run(1, "<&- >&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"None")


def test_a_terminal_that_is_closed_ends_nothing():
    """Every write to it fails with EIO."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", "input()\n" + PRINTS, "2000"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    os.close(ours)
    _, errors = done.communicate(b"\n", timeout=120)
    assert (done.returncode, errors) == (0, b"'Input/output error'")
