"""The count of a call's microseconds: every operator is in it, and the printed table has its figures."""

from __future__ import annotations

import re

import torch

from bench import dispatch_cost


def test_every_operator_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr(dispatch_cost, "CALLS", 2)
    threads = torch.get_num_threads()
    dispatch_cost.main(["--backend", "reference", "--rounds", "1"])
    torch.set_num_threads(threads)
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", capsys.readouterr().out, re.MULTILINE))
    assert list(rows) == [
        "fcc",
        "fcc_train",
        "knn",
        "edge_max",
        "ccc",
        "cost_volume",
        "F5C, evaluation",
        "F5C, training",
    ]
    assert all(float(figure) > 0 for figure in rows.values())


def test_the_time_is_that_of_one_call_in_the_fastest_round(monkeypatch):
    ticks = iter([0.0, 3.0, 10.0, 12.0])
    monkeypatch.setattr(dispatch_cost, "CALLS", 4)
    monkeypatch.setattr(dispatch_cost.time, "perf_counter", lambda: next(ticks))
    calls = []
    assert dispatch_cost.microseconds(lambda: calls.append(1), rounds=2) == 2.0 / 4 * 1e6
    assert len(calls) == 1 + 2 * 4
