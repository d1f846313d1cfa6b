"""Tests as tasks: their outcomes, one at a time, and the tests after one that kills the process."""

import time

from places import environment

from bench.gpu.journal import Journal, read_lines
from bench.gpu.run import Step, run_step

TESTS = """
import os, signal
import pytest
from hypothesis import given, strategies

def test_passes(): pass
def test_fails(): assert 1 == 2
def test_skips(): pytest.skip("needs two devices")
@pytest.mark.xfail(reason="known", strict=True)
def test_known(): assert False
def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
@pytest.fixture
def broken(): raise OSError("no fixture")
def test_setup(broken): pass
drawn = []
@given(strategies.integers())
def test_property(number): drawn.append(number)
def test_few_examples(): assert 0 < len(drawn) <= 10
"""


def test_each_test_is_a_task_and_the_rest_goes_on_after_a_death(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_missing.py").write_text("import no_such_module\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    journal = Journal(tmp_path / "out")
    command = ["-m", "pytest", "-p", "bench.gpu.plugin", "-p", "no:cacheprovider", "-q", "--rootdir", str(tmp_path),
               "-c", str(tmp_path / "pytest.ini"), "--continue-on-collection-errors", str(tmp_path)]  # fmt: skip
    lines = run_step(Step("tests", 60, command), journal, time.monotonic() + 60, environment())
    outcomes = {line["task"].rpartition("::")[2]: line["outcome"] for line in lines if line["kind"] == "task"}
    assert outcomes == {
        "test_missing.py": "failed",
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_known": "xfailed",
        "test_dies": "died",
        "test_setup": "failed",
        "test_property": "passed",
        "test_few_examples": "passed",
    }
    text = {line["task"].rpartition("::")[2]: line["text"] for line in lines if line["kind"] == "task"}
    assert "assert 1 == 2" in text["test_fails"]
    assert "needs two devices" in text["test_skips"]
    assert "no fixture" in text["test_setup"]
    assert "No module named 'no_such_module'" in text["test_missing.py"]
    assert len(read_lines(journal.folder)[0]) > len(outcomes)
