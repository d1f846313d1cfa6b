"""The comparison of searches: what it times, and the printed table."""

import functools
import re
from dataclasses import replace

import torch

from bench import graph_cost, ops


def test_every_search_has_a_row_for_either_graph_and_ours_is_exact(monkeypatch, capsys):
    monkeypatch.setattr(graph_cost, "time_interleaved", functools.partial(graph_cost.time_interleaved, least_rounds=1))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(ops, "STANDARD", replace(ops.STANDARD, maps=1, side=8))
    threads = torch.get_num_threads()
    graph_cost.main(["--threads", "1", "--budget", "0"])
    torch.set_num_threads(threads)
    rows = dict(re.findall(r"^\| (\w+ graph: [^|]+) \| ([^|]+ \| [^|]+ \| [^|]*) \|", capsys.readouterr().out, re.M))
    for graph in graph_cost.GRAPHS:
        ms, ratio, differs = (cell.strip() for cell in rows[f"{graph} graph: {graph_cost.EXACT}"].split("|"))
        assert float(ms) > 0
        assert ratio.endswith("×")
        assert differs == "0 %"
        assert rows[f"{graph} graph: its products alone"].endswith("| ")
        ours = rows[f"{graph} graph: {graph_cost.IDIOMATIC}"].split("|")
        assert ours[1].strip() == "1.00×"
