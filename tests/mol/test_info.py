"""`mol info`: the rows about the kernels."""

from __future__ import annotations

import molkernels
from mol import info
from molkernels.trials import Verdict


def test_the_known_answer_tests_are_counted_and_failures_named(monkeypatch):
    verdicts = [
        Verdict("fcc", "cuda", "H100", "float32", 1e-6, 1e-4),
        Verdict("knn", "cuda", "H100", "float32", float("inf"), 1e-4),
        Verdict("fcc", "cpu", "EPYC", "float32", 0.0, 1e-4),
    ]
    monkeypatch.setattr(molkernels, "verdicts", lambda: verdicts)
    name, shown = info._kernels()[-1]
    assert name == "kernels: known-answer tests"
    assert shown.startswith("cuda on H100: 1 of 2 passed; cpu on EPYC: 1 of 1 passed; knn on backend 'cuda', float32")
    assert "FAILED" in shown


def test_without_a_known_answer_test_the_command_is_named(monkeypatch):
    monkeypatch.setattr(molkernels, "verdicts", list)
    assert info._kernels()[-1][1] == "none yet: python -m molkernels --self-test"
