"""The trial of folds on a cluster with kills: what it reads out of two runs, and a small one in earnest."""

import json
import math

import pytest

from bench import record, report
from bench.cluster_trial import Machine, Observed, drawn, fold_times, main, simulated

# Node a does folds 0, 2 and 4, node b does 1 and 3; the first fold of each takes 2 s longer inside mol.
ALONE = Observed(
    [Machine("aaaaaa", 0, 0.0), Machine("bbbbbb", 1, 0.0)],
    [("aaaaaa", 15, 11), ("bbbbbb", 17, 11), ("aaaaaa", 25, 9), ("bbbbbb", 28, 9), ("aaaaaa", 36, 9)],
    0, {}, [], "table",
)  # fmt: skip


def test_the_times_of_folds_are_from_end_to_end_on_their_node():
    times = fold_times(ALONE)
    assert times.folds == [11, 11, 10, 11, 11]  # the first ones as long as the median of the others
    assert times.first == 4  # 15 less 11
    assert times.start == 2


def test_the_simulation_gets_the_times_at_which_nodes_really_died_and_took_part():
    killed = ALONE._replace(
        machines=[
            Machine("aaaaaa", 0, 0.0, 20.0),
            Machine("bbbbbb", 1, 0.0),
            Machine("cccccc", 0, 24.0, 26.0),  # dies before it takes part
            Machine("dddddd", 0, 30.0),
        ],
        accepted={"dddddd": 33.0},
        noticed=[2.0, 4.0],
    )
    found = simulated(fold_times(ALONE), killed)
    # a: fold 0 from 4 to 17, fold 2 lost at 20. b: 1 to 17, 3 to 28, 2 to 38. d from 33: 4 to 46, 2 s of it to start.
    assert found == (46.0, 1, 3.0)


def test_kills_are_drawn_anew_with_the_absence_that_was_measured():
    killed = ALONE._replace(
        machines=[Machine("aaaaaa", 0, 0.0, 20.0), Machine("bbbbbb", 1, 0.0), Machine("cccccc", 0, 24.0)],
        accepted={"cccccc": 28.0},
    )
    times = fold_times(ALONE)
    calm = drawn(times, killed, 1e9)
    assert {outcome.makespan for outcome in calm} == {
        38.0
    }  # 4 s, 2 s to start, then folds of 11, 10 and 11 s on one node
    rough = drawn(times, killed, 20.0)
    assert len({outcome.makespan for outcome in rough}) > 800
    # A fold takes 10 to 11 s, and on a new node 2 s more.
    assert math.exp(10 / 20) - 1 < sum(outcome.retries for outcome in rough) / len(rough) / 5 < math.exp(13 / 20) - 1


@pytest.mark.slow
def test_a_small_trial_finds_the_same_table_with_nodes_killed(tmp_path, capsys):
    """Six folds of some seconds; the nodes live 30 s on average."""
    given = ["--folds", "6", "--steps", "100", "--mtbf", "30", "--work", str(tmp_path / "work")]
    assert main([*given, "--folder", str(tmp_path / "results")]) == 0
    (path,) = tmp_path.glob("results/*/*-cluster.json")
    printed = capsys.readouterr().out
    assert "Both runs have the same table of predictions, byte for byte." in printed
    found = json.loads(path.read_text())["cluster"]["killed"]
    kills = sum(one["killed"] is not None for one in found["machines"])
    assert found["measured"]["retries"] <= kills  # a node has one fold at a time
    assert main(["--report", str(path)]) == 0
    assert capsys.readouterr().out in printed


def test_the_report_of_all_results_prints_the_same_table(capsys):
    path = next(record.RESULTS.glob("*/*-cluster.json"))
    assert main(["--report", str(path)]) == 0
    table = capsys.readouterr().out
    assert "| nothing fails: all folds | 40.5 s |" in table
    assert report.main([str(path)]) == 0
    assert capsys.readouterr().out == table


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text('{"format": 2, "rows": []}')
    assert main(["--report", str(path)]) == 2
    assert "is not a file of bench.cluster_trial" in capsys.readouterr().err
