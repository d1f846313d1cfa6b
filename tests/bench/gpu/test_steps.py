"""Which steps run, in which order."""

import re

import pytest
from places import ROOT

from bench.gpu import steps


def names(found):
    return [step.name for step in found]


def test_the_most_valuable_step_comes_first_and_slow_ones_only_on_request():
    order = names(steps.chosen(steps.steps(pretend=False, build=True), []))
    assert order == [
        "facts", "library", "smoke", "cuda-tests", "compile-triton", "timings", "compile", "compiled-timings",
        "memcheck", "triton-tests", "training",
    ]  # fmt: skip


def test_chosen_steps_come_with_what_their_results_need():
    everything = steps.steps(pretend=False, build=True)
    assert names(steps.chosen(everything, ["autotuned-timings"])) == ["facts", "library", "autotuned-timings"]


def test_an_unknown_step_is_refused_with_the_names_of_all():
    with pytest.raises(ValueError, match=r"no step is named 'speed'; there are facts, library, smoke"):
        steps.chosen(steps.steps(pretend=False, build=True), ["speed"])


def test_the_first_steps_fit_into_nine_minutes():
    """Where no library fits and one is built: up to the timings of every backend."""
    limits = [step.limit for step in steps.chosen(steps.steps(pretend=False, build=True), [])[:6]]
    assert sum(limits) <= 9 * 60


def test_without_the_sanitizer_its_step_says_so(monkeypatch):
    monkeypatch.setattr(steps.shutil, "which", lambda name: None)
    step = next(step for step in steps.steps(pretend=False, build=True) if step.name == "memcheck")
    assert step.needs is not None
    assert "compute-sanitizer was not found" in step.needs


def test_a_gpu_runs_every_file_that_has_tests_for_it():
    tests = ROOT / "tests"
    marked = re.compile(r"^from targets import .*\bTARGETS\b|^pytestmark = pytest\.mark\.gpu$", re.MULTILINE)
    found = {path for path in tests.rglob("test_*.py") if marked.search(path.read_text(encoding="utf-8"))}
    assert {ROOT / name for name in steps.FILES} == found
