"""From lines to a result in the format of the other benchmarks, tables, and what to mend first."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench import report
from bench.gpu.journal import read_lines
from bench.record import AUTOTUNED, BASELINES, FORMAT, LOCALCORR, SAMPLER, Row, case, named, save
from bench.tables import digits, markdown_table
from mol.common.errors import MOLError

JUNIT = "tests.xml"
SHARE = 0.5  # of the machine's limit; a kernel below is listed
HOST = 1e-3  # seconds of Python in one call that are listed
_GONE_WRONG = {"died": 0, "hung": 1, "failed": 3}  # the order of what to mend


@dataclass(frozen=True)
class Task:
    """How a task of a step ended; "unfinished" if it started and time was up."""

    step: str
    name: str
    outcome: str
    seconds: float
    text: str


@dataclass(frozen=True)
class Defect:
    """Something to mend; the smaller `order` comes first."""

    order: int
    what: str
    text: str


class Found:
    """The lines of one or more folders, as parts of one run on the same device.

    Attributes:
        machine: the facts of the last part.
        pretended: whether a GPU was only pretended.
        tasks: by step and name; of parts that did the same, the last.
        rows: as `bench.groups.Row`, likewise.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Read the folders.

        Raises:
            OSError: a folder has no results.
            ValueError: the parts are of different devices, or some are pretended.
        """
        self.lines: list[Mapping[str, Any]] = []
        self.torn = 0
        for folder in folders:
            lines, torn = read_lines(folder)
            self.lines += lines
            self.torn += torn
        facts = self._of_kind("facts")
        runs = self._of_kind("run")
        devices = list(dict.fromkeys(str(line["device"]) for line in facts))
        if len(devices) > 1 or len({bool(line["pretended"]) for line in (*facts, *runs)}) > 1:
            raise ValueError(f"these are no parts of one run: {', '.join(devices)}")
        self.pretended = any(line["pretended"] for line in (*facts, *runs))
        self.machine = dict(facts[-1]) if facts else {}
        self.tasks = self._read_tasks()
        self.rows = self._read_rows()

    def _of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind]

    def _read_tasks(self) -> dict[tuple[str, str], Task]:
        tasks: dict[tuple[str, str], Task] = {}
        for line in self.lines:
            if line["kind"] not in ("started", "task"):
                continue
            key = line["step"], line["task"]
            outcome = line.get("outcome", "unfinished")
            # Another process, or a later part, that ran out of time says less than one that came to an end.
            if outcome != "unfinished" or key not in tasks:
                tasks[key] = Task(*key, outcome, float(line.get("seconds", 0.0)), line.get("text", ""))
        return tasks

    def _read_rows(self) -> list[Row]:
        rows = {}
        for line in self._of_kind("row"):
            row = line["row"]
            rows[row["group"], case(row), row["contender"], row["dtype"]] = row
        return list(rows.values())

    def result(self) -> dict[str, Any]:
        """The JSON of the other benchmarks (see `bench.record.assemble`), with what only a GPU's run has."""
        limits = self._of_kind("limits")
        packages = self.machine.get("packages", {})
        absent = [name for name in (SAMPLER, LOCALCORR) if packages.get(name) is None]
        return {
            "format": FORMAT,
            "pretended": self.pretended,
            "machine": {key: value for key, value in self.machine.items() if key not in ("kind", "step", "time")},
            "limits": limits[-1]["limits"] if limits else {},
            "rows": self.rows,
            "memory": [],
            "left_out": [
                {"contender": name, "subject": "cost-volume", "reason": "not installed there"} for name in absent
            ],
            "steps": self._of_kind("step"),
            "tasks": [vars(task) for task in self.tasks.values()],
            "smoke": self._of_kind("smoke"),
            "sanitizer": self._of_kind("sanitizer"),
        }

    def mend(self) -> list[Defect]:
        """Defects first, then what is unproven, then what is slow."""
        found = [
            Defect(_GONE_WRONG[task.outcome], f"{task.step}: {task.outcome}: {task.name}", task.text)
            for task in self.tasks.values()
            if task.outcome in _GONE_WRONG
        ]
        for line in self._of_kind("sanitizer"):
            if line["errors"] or (line["errors"] is None and "Invalid" in line["text"]):
                found.append(Defect(2, f"{line['step']}: {line['errors']} errors of the sanitizer", line["text"]))
        last = {line["step"]: line for line in self._of_kind("step")}
        for name, line in last.items():
            if line["status"] != "done" and (line.get("unfinished") or line["text"] or "counts" not in line):
                what = f"{name}: {line['status']}, {len(line.get('unfinished', ()))} tasks unfinished"
                found.append(Defect(4, what, line["text"] or ", ".join(line.get("unfinished", ())[:20])))
        asked = {name for line in self._of_kind("run") for name in line["steps"]}
        found += [Defect(4, f"{name}: not run", "") for name in sorted(asked - last.keys())]
        if self.torn:
            found.append(Defect(4, f"{self.torn} lines of results are cut off", ""))
        return sorted([*found, *self._slow()], key=lambda defect: defect.order)

    def _slow(self) -> list[Defect]:
        """Backends that a baseline beats, that hide host work, or that are far from the machine's limit."""
        defects: list[Defect] = []
        if self.pretended:  # times of a processor say nothing here
            return defects
        for row in self.rows:
            if not row["seconds"] or row["contender"] in BASELINES:
                continue
            what = f"{row['group']}, {row['shape']}, {named(row)}: {digits(1e3 * row['seconds'][1])} ms"
            beaten = [
                f"{other['contender']} takes {digits(1e3 * other['seconds'][1])} ms"
                for other in self.rows
                if (other["group"], case(other), other["dtype"]) == (row["group"], case(row), row["dtype"])
                and other["contender"] in BASELINES and other["contender"] != AUTOTUNED
                and other["seconds"] and other["seconds"][1] < row["seconds"][1]
            ]  # fmt: skip
            if beaten:
                defects.append(Defect(5, f"slower than a baseline: {what}", "; ".join(beaten)))
            if row.get("host_seconds") and row["host_seconds"] > max(HOST, row["seconds"][1]):
                defects.append(Defect(6, f"the host takes {digits(1e3 * row['host_seconds'])} ms a call: {what}", ""))
            if row["share_of_limit"] < SHARE:
                share = f"{100 * row['share_of_limit']:.0f} % of the limit by {row['bound']}"
                defects.append(Defect(7, f"{share}: {what}", ""))
        return defects

    def mend_list(self) -> str:
        """What to mend first, as text; each with the last lines of what was reported."""
        defects = self.mend()
        title = self._marked(f"{len(defects)} things to mend" if defects else "Nothing to mend")
        lines = [title]
        for number, defect in enumerate(defects, 1):
            lines.append(f"{number}. {defect.what}")
            lines += [f"       {line}" for line in defect.text.strip().splitlines()[-3:]]
        return "\n".join(lines)

    def markdown(self) -> str:
        """The tables: machine, steps, tasks by outcome, rows, and what to mend."""
        parts = [self._marked(f"# {self.machine.get('device', 'an unknown device')}")]
        facts = [[key, str(value)] for key, value in self.result()["machine"].items()]
        parts.append(markdown_table(["fact", "value"], facts))
        steps = self._of_kind("step")
        by_step: dict[str, Counter[str]] = {line["step"]: Counter() for line in steps}
        for task in self.tasks.values():
            by_step.setdefault(task.step, Counter())[task.outcome] += 1
        cells = [
            [line["step"], line["status"], f"{line['seconds']:.0f}",
             ", ".join(f"{count} {outcome}" for outcome, count in sorted(by_step[line["step"]].items()))]
            for line in steps
        ]  # fmt: skip
        parts.append(markdown_table(["step", "status", "s", "tasks"], cells))
        if self.rows and self._of_kind("limits"):
            parts.append(self._marked(report.markdown(self.result())))
        parts.append(self.mend_list())
        return "\n\n".join(parts)

    def _marked(self, text: str) -> str:
        """The text, under a warning if the GPU was only pretended."""
        warning = "PRETENDED on a processor: no figure here is of a GPU."
        return f"{warning}\n\n{text}" if self.pretended else text

    def junit(self) -> bytes:
        """All tasks as JUnit XML, a suite for each step."""
        root = ElementTree.Element("testsuites")
        suites: dict[str, ElementTree.Element] = {}
        for task in self.tasks.values():
            if task.step not in suites:
                suites[task.step] = ElementTree.SubElement(root, "testsuite", name=task.step)
            about = {"classname": task.step, "name": task.name, "time": f"{task.seconds:.3f}"}
            element = ElementTree.SubElement(suites[task.step], "testcase", about)
            if task.outcome in ("skipped", "xfailed", "unfinished"):
                ElementTree.SubElement(element, "skipped", message=f"{task.outcome} {_printable(task.text)}")
            elif task.outcome in _GONE_WRONG:
                kind = "failure" if task.outcome == "failed" else "error"
                ElementTree.SubElement(element, kind, message=task.outcome).text = _printable(task.text)
        for suite in suites.values():
            suite.set("tests", str(len(suite)))
            suite.set("failures", str(len(suite.findall("testcase/failure"))))
            suite.set("errors", str(len(suite.findall("testcase/error"))))
            suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
        return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _printable(text: str) -> str:
    """Without the characters that XML cannot hold, such as those of a terminal's colours."""
    return "".join(c for c in text if c >= " " or c in "\t\n")


def main(folders: Sequence[Path]) -> int:
    """Write the result and the JUnit XML into the first folder, print the tables; returns the exit status."""
    try:
        found = Found(folders)
        if found.machine.get("device") is None:
            raise ValueError("no line tells of the machine: the step `facts` did not come to an end on a GPU")
        (folders[0] / JUNIT).write_bytes(found.junit())
        path = save(found.result(), folders[0], "-pretended" if found.pretended else "-gpu")
    except (OSError, ValueError, MOLError) as error:
        print(f"bench.gpu --read: {error}", file=sys.stderr)
        return 2
    print(found.markdown())
    print(f"\nsaved to {path}")
    return 0
