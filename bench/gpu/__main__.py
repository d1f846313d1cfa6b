"""The command line: run the steps, or read what they wrote."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from bench.gpu import libraries, read, worker
from bench.gpu.journal import Journal
from bench.gpu.run import STOPPED, run_step
from bench.gpu.steps import chosen, steps
from bench.machine import ROOT

RESERVE = 8  # seconds at the end, for the summary


def run(out: Path, minutes: float, build: bool, only: list[str], pretend: bool) -> int:
    """Run the steps; returns the exit status: 0, 1 if anything failed or is left, 2 if there is no GPU."""
    deadline = time.monotonic() + 60 * minutes - RESERVE
    todo = chosen(steps(pretend, build), only)
    out = out.resolve()
    journal = Journal(out)
    journal.line("run", minutes=minutes, only=only, build=build, pretended=pretend, steps=[step.name for step in todo])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        libraries.FOLDER: str(out),
        worker.PRETEND: "1" if pretend else "0",
    }
    for step in todo:
        for line in run_step(step, journal, deadline, environment):
            if line["kind"] == "facts" and line["device"] is None:
                print("bench.gpu: PyTorch finds no CUDA device on this machine", file=sys.stderr)
                return 2
            if line["kind"] == "library":
                environment["MOLKERNELS_LIBRARIES"] = line["folder"]
    return max(_summary(out), int(journal.lost > 0))


def _summary(out: Path) -> int:
    """Write the tests as JUnit XML and print what to mend first; returns whether there is anything."""
    try:
        found = read.Found([out])
        (out / read.JUNIT).write_bytes(found.junit())
    except (OSError, ValueError) as error:
        print(f"bench.gpu: no summary: {error}", file=sys.stderr)
        return 1
    print(found.mend_list())
    print(f"python -m bench.gpu --read {out}   # the tables")
    return int(bool(found.mend()))


def _stop(number: int, _frame: object) -> None:
    STOPPED.set()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("out", type=Path, nargs="*", metavar="OUT", help="the folder of the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all steps together (default: 9)")
    parser.add_argument("--no-build", action="store_true", help="an error where no carried _cuda.so fits")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps, facts and library")
    parser.add_argument("--pretend", action="store_true", help="every step on the CPU, with small shapes")
    parser.add_argument("--read", action="store_true", help="read the results of one or more folders, which are parts")
    given = parser.parse_args(arguments)
    if given.read:
        if not given.out:
            parser.error("--read needs a folder")
        return read.main(given.out)
    if len(given.out) != 1:
        parser.error("one folder OUT is needed")
    if given.minutes <= 0:
        parser.error(f"--minutes is {given.minutes}, but must be positive")
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return run(given.out[0], given.minutes, not given.no_build, given.only, given.pretend)
    except ValueError as error:
        parser.error(str(error))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
