"""``python -m torture``: the units side by side, a table of counts, and the repetition of a single failure."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from torture import materials, reproducers
from torture.full_disk import namespace
from torture.unit import PARTS, REPORT, Part, Session, Unit
from torture.units import all_units

ROOT = Path(__file__).resolve().parents[1]
FULL_MINUTES = 30.0
# What is left of the time is for the last examples to end in.
_LAST = 0.95
# Seconds after its share in which a unit may end its last example; then it hangs, and is killed.
_GRACE: dict[Part, float] = {"readers": 60.0, "operators": 120.0, "kills": 400.0, "disk": 400.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign, or repeat a failure.

    Returns:
        0; 1 if something failed.
    """
    options = _parser().parse_args(arguments)
    if options.repeat:
        return _repeat(options.repeat, options.work, options.materials)
    if options.unit:
        return _run_unit(json.loads(options.unit))
    units = _chosen(options.only)
    if options.list:
        print("\n".join(f"{unit.title:<28}{unit.target:>6}" for unit in units))
        return 0
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.minutes:g} minutes on {options.jobs} cores, failures in {options.out}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-", dir=options.work) as work:
        made = options.materials or Path(work) / "materials"
        if not made.is_dir() and any(unit.part != "operators" for unit in units):
            materials.make(made)
            print(f"materials made in {time.monotonic() - started:.0f} s", flush=True)
        ends = started + options.minutes * 60 * _LAST
        reports = _run_all(units, made, Path(work), options.out, seed, options.minutes, options.jobs, ends)
    print(table(reports))
    print(f"{sum(report['done'] for report in reports)} examples in {(time.monotonic() - started) / 60:.1f} minutes")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "counts.json").write_text(json.dumps({"seed": seed, "units": reports}, indent=1) + "\n")
    return int(any(report["faults"] or report.get("error") for report in reports))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES, help="how long; the counts shrink with it")
    parser.add_argument("--seed", type=int, help="of everything that is drawn; a new one when empty")
    parser.add_argument("--only", nargs="+", metavar="PART", help=f"{', '.join(PARTS)}, or units such as readers/cache")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="units at a time; one per core when empty"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/torture"), help="folder for reproducers and counts.json"
    )
    parser.add_argument("--work", type=Path, help="folder for temporary files; the system's when empty")
    parser.add_argument("--materials", type=Path, help="folder of valid files that an earlier campaign may have made")
    parser.add_argument(
        "--repeat", type=Path, metavar="FILE", help="a reproducer: try it again and say what becomes of it"
    )
    parser.add_argument("--list", action="store_true", help="list the units and how many examples each tries")
    parser.add_argument("--unit", help=argparse.SUPPRESS)
    return parser


def _chosen(only: Sequence[str] | None) -> list[Unit]:
    units = list(all_units().values())
    wanted = [unit for unit in units if not only or unit.part in only or unit.title in only]
    if unknown := set(only or ()) - {name for unit in units for name in (unit.part, unit.title)}:
        raise SystemExit(f"no part or unit {', '.join(sorted(unknown))}; --list lists them")
    return wanted


class _Time:
    """What is left of a campaign's time, shared among the units that have not ended, by their weights.

    A unit that takes longer than its share, in a last example or its preparation, leaves all others a little less; one
    that needs less leaves them more.
    """

    def __init__(self, units: Sequence[Unit], jobs: int, ends: float) -> None:
        self._weights = {unit.title: unit.seconds for unit in units}
        self._jobs, self._ends = jobs, ends

    def share(self, unit: Unit) -> float:
        """Seconds for a unit that begins now."""
        left = max(self._ends - time.monotonic(), 0.0)
        return min(left, left * self._jobs * unit.seconds / sum(self._weights.values()))

    def ended(self, unit: Unit) -> None:
        """A unit needs no more time."""
        del self._weights[unit.title]


def _run_all(
    units: Sequence[Unit], made: Path, work: Path, out: Path, seed: int, minutes: float, jobs: int, ends: float
) -> list[dict[str, Any]]:
    """Every unit in a process of its own, as many at a time as there are jobs.

    Units of short examples come first: they end with their share, so that all come to theirs.
    """
    ratio = min(1.0, minutes / FULL_MINUTES)
    shared, running = _Time(units, jobs, ends), _Running()

    def run(unit: Unit) -> dict[str, Any]:
        # Fewer units have more time each, but never more examples than a whole campaign's.
        order: dict[str, Any] = {
            "title": unit.title,
            "materials": str(made.resolve()),
            "work": str(work / unit.title.replace("/", "-")),
            "failures": str(out.resolve() / "failures"),
            "seed": seed,
            "target": max(1, math.ceil(unit.target * ratio)),
            "budget": shared.share(unit),
        }
        report = _in_process(unit, order, running)
        shared.ended(unit)
        print(_line(report), flush=True)
        return report

    with ThreadPoolExecutor(jobs) as pool:
        by_length = sorted(units, key=lambda unit: (unit.part in ("kills", "disk"), -unit.seconds))
        try:
            found = dict(zip((unit.title for unit in by_length), pool.map(run, by_length), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise
    return [found[unit.title] for unit in units]


class _Running:
    """The processes of units, each the first of a group that ends as a whole."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], seconds: float, **options: Any) -> tuple[int | None, str]:
        """Run a command; its status, None if it had to be killed after some seconds, and what it wrote as errors."""
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True, **options,
        )  # fmt: skip
        with self._lock:
            self._processes.add(process)
        try:
            words = process.communicate(timeout=seconds)[1]
            return process.returncode, words
        except subprocess.TimeoutExpired:
            _kill_group(process)
            return None, process.communicate()[1]
        finally:
            with self._lock:
                self._processes.discard(process)

    def end(self) -> None:
        """Kill all of them."""
        with self._lock:
            for process in self._processes:
                _kill_group(process)


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _in_process(unit: Unit, order: dict[str, Any], running: _Running) -> dict[str, Any]:
    work = Path(order["work"])
    work.mkdir(parents=True)
    prefix = namespace() if unit.part == "disk" else []
    # With one thread each, two units on two cores do not fight over them; and a fork finds no other threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    environment["HYPOTHESIS_STORAGE_DIRECTORY"] = str(work.parent / "hypothesis")
    command = [*prefix, sys.executable, "-m", "torture", "--unit", json.dumps(order)]
    seconds = order["budget"] + _GRACE[unit.part]
    status, words = running.run(command, seconds, cwd=work, env=environment)
    file = work / REPORT
    nothing: dict[str, Any] = {"done": 0, "kinds": {}, "seconds": 0.0, "processor": 0.0, "notes": [], "faults": []}
    report = json.loads(file.read_text()) if file.is_file() else nothing
    if status is None:
        subprocess.run(["umount", "--lazy", work / "disk"], capture_output=True, check=False)
        report["error"] = f"the unit hung in an edit or an example: killed after {seconds:.0f} s"
    elif status or not report["done"]:
        report["error"] = f"the unit itself ended with status {status}:\n{words[-1500:]}"
    return {"unit": unit.title, "target": order["target"], **report}


def _run_unit(order: Mapping[str, Any]) -> int:
    """In the process of a unit."""
    unit, work = all_units()[order["title"]], Path(order["work"])
    session = Session(
        unit,
        Path(order["materials"]),
        work,
        Path(order["failures"]),
        order["seed"],
        order["target"],
        order["budget"],
    )
    unit.run(session)
    session.save()
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    return 0


def _repeat(file: Path, work: Path | None, made: Path | None) -> int:
    """Try the example of a reproducer again."""
    with tempfile.TemporaryDirectory(prefix="torture-", dir=work) as name:
        folder = Path(name)
        case, files = reproducers.load(file, folder / "case")
        unit = all_units()[case["unit"]]
        os.environ.update({"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)})
        made = (made or folder / "materials").resolve()
        if unit.part != "operators" and not made.is_dir():
            materials.make(made)
        (folder / "work").mkdir()
        session = Session(unit, made, folder / "work", folder / "failures", case["seed"], 1, math.inf)
        print(case["unit"])
        for name in sorted(case.keys() - {"unit", "outcome", "key"}):
            values = case[name] if isinstance(case[name], list) else [case[name]]
            print("\n".join(f"  {name}: {json.dumps(value)}" for value in values))
        outcome = unit.repeat(session, case, files)
    print(f"then: {case['outcome']}\nnow:  {outcome}")
    return int(outcome.is_fault)


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Counts of all units, and every kind of failure with its reproducer."""
    lines = [_HEADER, *map(_line, reports)]
    for part in PARTS:
        own = [report for report in reports if report["unit"].startswith(f"{part}/")]
        if own:
            lines.append(_line(_sum(part, own)))
    lines += [f"note: {report['unit']}: {note}" for report in reports for note in report["notes"]]
    lines += [f"broken: {report['unit']}: {report['error']}" for report in reports if report.get("error")]
    for report in reports:
        for fault in report["faults"]:
            lines.append(f"{report['unit']}: {fault['count']} × {fault['outcome']}\n    {fault['reproducer']}")
    return "\n".join(lines)


_COLUMNS = {"tried": 8, "of": 8, "result": 8, "refused": 9, "failed": 8, "kinds": 7, "seconds": 9, "processor": 11}
_HEADER = f"{'unit':<28}" + "".join(f"{title:>{width}}" for title, width in _COLUMNS.items())


def _line(report: Mapping[str, Any]) -> str:
    kinds = report["kinds"]
    good = kinds.get("result", 0), kinds.get("refused", 0)
    failed, faults = sum(kinds.values()) - sum(good), len(report["faults"])
    numbers = [report["done"], report["target"], *good, failed, faults, report["seconds"], report["processor"]]
    cells = [f"{number:>{width}.0f}" for number, width in zip(numbers, _COLUMNS.values(), strict=True)]
    return f"{report['unit']:<28}{''.join(cells)}{'  BROKEN' if report.get('error') else ''}"


def _sum(name: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = {kind for report in reports for kind in report["kinds"]}
    return {
        "unit": f"{name}, all",
        "target": sum(report["target"] for report in reports),
        "done": sum(report["done"] for report in reports),
        "kinds": {kind: sum(report["kinds"].get(kind, 0) for report in reports) for kind in names},
        "seconds": sum(report["seconds"] for report in reports),
        "processor": sum(report["processor"] for report in reports),
        "faults": [fault for report in reports for fault in report["faults"]],
        "notes": [],
    }
