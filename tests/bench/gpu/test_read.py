"""From lines to tables and what to mend: parts are joined, and what was only pretended says so."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from bench_results import LIMITS, timed_row

from bench import record
from bench.gpu import read
from bench.gpu.journal import RESULTS, Journal

FACTS = {
    "device": "NVIDIA Test", "threads": 2, "platform": "Linux", "python": "3.12.3", "torch": "2.11.0+cu130",
    "date": "2026-01-02T03:04:05+00:00", "commit": "abc", "pretended": False, "packages": {"localcorr": None},
}  # fmt: skip
SIZES = {"maps": 224, "channels": 128, "side": 16, "threads": 2}
MARK = "PRETENDED on a processor"


def part(folder, *lines, steps=("facts",), **facts):
    """A folder with results: the run, its facts, and `lines` of (kind, fields)."""
    about = FACTS | facts
    journal = Journal(folder)
    journal.line("run", steps=list(steps), only=[], minutes=9, build=True, pretended=about["pretended"])
    journal.line("facts", step="facts", **about)
    for kind, fields in lines:
        journal.line(kind, **fields)
    journal.line("step", step="facts", status="done", seconds=1.0, counts={"passed": 1}, unfinished=[], text="")
    return folder


def ended(step, name, outcome, text=""):
    return "task", {"step": step, "task": name, "outcome": outcome, "seconds": 0.5, "text": text}


def row(contender="cuda", factor=1.0, **changes):
    made = timed_row(np.random.default_rng(0), "f5c", "forward", SIZES, "cpu", factor=factor)
    return "row", {"step": "timings", "row": {**made, "contender": contender, "host_seconds": 1e-5, **changes}}


LIMITS_LINE = ("limits", {"step": "timings", "limits": LIMITS})


def test_a_run_becomes_a_result_that_the_other_tools_read(tmp_path, capsys):
    folder = part(tmp_path, LIMITS_LINE, row(), row("reference", 2.0))
    assert read.main([folder]) == 0
    path = tmp_path / "nvidia-test" / "2026-01-02-abc-gpu.json"
    assert [one["contender"] for one in record.load(path)["rows"]] == ["cuda", "reference"]
    printed = capsys.readouterr().out
    assert "**f5c of a test, forward**" in printed
    assert "| cuda | float32 |" in printed
    assert "not installed there" in printed
    assert MARK not in printed


def test_parts_are_joined_and_the_later_one_counts(tmp_path):
    ends = ended("smoke", "fcc", "failed", "wrong"), ended("smoke", "knn", "passed")
    first = part(tmp_path / "a", LIMITS_LINE, row(factor=3.0), row("reference"), *ends)
    second = part(tmp_path / "b", row(factor=1.0), ended("smoke", "fcc", "passed"))
    found = read.Found([first, second])
    assert len(found.rows) == 2
    assert found.rows[0]["seconds"][1] == pytest.approx(0.01, rel=0.1)
    assert {task.name: task.outcome for task in found.tasks.values()} == {"fcc": "passed", "knn": "passed"}


def test_a_later_start_without_an_end_does_not_undo_an_outcome(tmp_path):
    started = ("started", {"step": "smoke", "task": "fcc"})
    found = read.Found([part(tmp_path / "a", started, ended("smoke", "fcc", "passed")), part(tmp_path / "b", started)])
    assert found.tasks["smoke", "fcc"].outcome == "passed"
    alone = read.Found([tmp_path / "b"])
    assert alone.tasks["smoke", "fcc"].outcome == "unfinished"


def test_parts_of_other_devices_or_pretended_ones_are_not_joined(tmp_path):
    real = part(tmp_path / "a")
    for other in (part(tmp_path / "b", device="Another"), part(tmp_path / "c", pretended=True)):
        with pytest.raises(ValueError, match="no parts of one run"):
            read.Found([real, other])
        assert read.main([real, other]) == 2


def test_what_was_pretended_says_so_everywhere(tmp_path, capsys):
    folder = part(tmp_path, LIMITS_LINE, row(), pretended=True, device="pretended GPU on a processor")
    assert read.main([folder]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(MARK)
    table = printed.index("**f5c of a test")
    assert MARK in printed[printed.index("| step |") : table]
    (path,) = tmp_path.rglob("*.json")
    assert path.name.endswith("-pretended.json")
    assert json.loads(path.read_text())["pretended"] is True
    assert read.Found([folder]).mend_list().startswith(MARK)


def test_what_to_mend_begins_with_deaths_and_ends_with_what_is_slow(tmp_path):
    step = {"seconds": 1.0, "counts": {}, "text": ""}
    folder = part(
        tmp_path,
        LIMITS_LINE,
        row(factor=2.0, share_of_limit=0.3),
        row("reference", 1.0),
        row("triton", 0.5, host_seconds=0.02),
        ("step", {"step": "timings", "status": "out of time", "unfinished": ["fcc"], **step}),
        ("step", {"step": "memcheck", "status": "left out", "seconds": 0.0, "text": "compute-sanitizer was not found"}),
        ended("cuda-tests", "test_a", "failed", "Traceback\nAssertionError: 1e-2"),
        ("sanitizer", {"step": "memcheck", "shard": 0, "errors": 2, "text": "========= Invalid __global__ write"}),
        ended("cuda-tests", "test_b", "hung"),
        ended("smoke", "fcc", "died", "died by SIGSEGV"),
        steps=("facts", "timings", "memcheck", "training"),
    )
    kinds = [defect.what for defect in read.Found([folder]).mend()]
    expected = [
        "smoke: died: fcc", "cuda-tests: hung: test_b", "memcheck: 2 errors", "cuda-tests: failed: test_a",
        "timings: out of time, 1", "memcheck: left out", "training: not run", "slower than a baseline: f5c",
        "the host takes 20.0 ms", "30 % of the limit by arithmetic",
    ]  # fmt: skip
    assert len(kinds) == len(expected)
    assert all(kind.startswith(start) for kind, start in zip(kinds, expected, strict=True)), kinds


def test_nothing_to_mend_where_all_went_well(tmp_path):
    folder = part(
        tmp_path, LIMITS_LINE, row(share_of_limit=0.9), row("reference", 2.0), ended("smoke", "fcc", "passed")
    )
    assert read.Found([folder]).mend_list() == "Nothing to mend"


def test_cut_off_lines_are_counted(tmp_path):
    with (part(tmp_path) / RESULTS).open("a") as file:
        file.write('{"kind": "task", "st')
    assert [defect.what for defect in read.Found([tmp_path]).mend()] == ["1 lines of results are cut off"]


def test_junit_has_every_task_with_its_text(tmp_path):
    folder = part(
        tmp_path,
        ended("smoke", "fcc", "failed", "\x1b[31mwrong <1e-2>"),
        ended("smoke", "knn", "passed"),
        ended("cuda-tests", "test_a", "died", "SIGSEGV"),
        ended("cuda-tests", "test_b", "skipped", "one GPU"),
    )
    root = ElementTree.fromstring(read.Found([folder]).junit())
    smoke, tests = root.findall("testsuite")
    assert (smoke.get("name"), smoke.get("tests"), smoke.get("failures")) == ("smoke", "2", "1")
    assert smoke.findtext("testcase/failure") == "[31mwrong <1e-2>"
    assert (tests.get("errors"), tests.get("skipped")) == ("1", "1")
    assert tests.find("testcase/skipped").get("message") == "skipped one GPU"


@pytest.mark.parametrize("content", [None, "", '{"kind": "run", "steps": [], "pretended": false}\n'])
def test_a_folder_that_tells_of_no_machine_is_refused(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / RESULTS).write_text(content)
    assert read.main([tmp_path]) == 2
    assert "bench.gpu --read:" in capsys.readouterr().err
