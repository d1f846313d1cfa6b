"""The plan as it is printed, and what is refused."""

import pytest
from bench_results import FOLDER, network_row, save_result, save_steps

from bench.plan.__main__ import main


@pytest.fixture
def printed(tmp_path, capsys):
    """Run the command line on the results in `tmp_path`; exit status, and standard output and error together."""

    def run(*arguments):
        status = main(["--results", str(tmp_path), *arguments])
        text = capsys.readouterr()
        return status, text.out + text.err

    return run


def test_a_measured_device_is_planned_from_its_own_steps(tmp_path, printed):
    """24 folds × 1000 steps of 36 s are 240 hours on one device, 3 × 10 hours on eight."""
    save_steps(tmp_path, published_loop_float32={"32": [99.0]}, cpu_float32={"2": [2.0], "32": [36.0]})
    save_result(tmp_path, rows=[network_row(task="forward", median=0.4)])
    status, text = printed("--device", FOLDER)
    assert status == 0
    assert "| training step | 36.0 s; 0.0278 steps/s | [1] |" in text
    assert "| 1 | 1 | 24 | 240 hours | 36.0 s |  | 240 hours |" in text
    assert "| 8 | 1 | 3 | 30.0 hours | 4.50 s | 1.33 ms | 30.0 to 30.1 hours |" in text
    assert "| 64 | 8 | 1 | 10.0 hours | no: fewer clips in a batch, 32 |" in text
    assert f"measured: cpu-float32, steps at batch 32, 2 steps; {FOLDER}/2026-01-02-abc-loso.json, commit abc" in text
    evaluation = "evaluation of every held-out clip, all folds together"
    assert f"| {evaluation} | 0.483 to 5.80 minutes |" in text  # 145 and 1740 × 0.4 s / 2


def test_links_and_nodes_are_chosen(tmp_path, printed):
    """At 1 MB/s, 176.4 MB of gradients take 176.4 s, of which 0.8 × 2/3 × 16 s hide."""
    save_steps(tmp_path, cpu_float32={"2": [2.0], "32": [32.0]})  # all of it divides
    given = ("--device", FOLDER, "--devices", "1", "2", "--devices-per-node", "1", "--network")
    status, text = printed(*given, "0.001:0")
    assert status == 0
    assert "between nodes, 0.001:0: 0.001 GB/s in each direction, 0 µs per hop (given)" in text
    assert "| 2 | 2 | 12 | 107 hours | 3.06 minutes | 2.80 minutes | 1226 hours |" in text
    assert "pcie4" not in text  # joins nothing where a node has one device
    status, text = printed(*given, "slow")
    assert status == 2
    assert "link 'slow' is not known; choose from nvlink3" in text


def test_a_cluster_that_fails_is_simulated(tmp_path, printed):
    """Folds of 10 hours on nodes that fail every 20: anew, each needs e^(10/20) − 1 = 0.65 retries."""
    save_steps(tmp_path, cpu_float32={"32": [36.0]})
    given = ("--device", FOLDER, "--devices", "8", "--devices-per-node", "1", "--start", "1e-9")
    assert "Simulated" not in printed(*given)[1]
    few = ("--repetitions", "200")
    status, text = printed(*given, *few, "--mtbf", "20", "--checkpoint-every", "10")
    assert status == 0
    assert "every node fails at random after 20.0 hours on average, and is replaced after 10.0 minutes" in text
    assert "a checkpoint is saved every 6.00 minutes of training" in text
    anew, resumed = (line.split(" | ") for line in text.splitlines() if line.startswith("| 8 | 8 | 30.0 hours |"))
    assert (anew[3], resumed[3]) == ("anew", "from a checkpoint")
    assert float(anew[5].split()[0]) == pytest.approx(24 * 0.649, rel=0.08)
    assert float(anew[4].split()[0]) > float(resumed[4].split()[0]) > 30
    assert "not simulated: over 100 attempts before anything is kept" in printed(*given, "--mtbf", "2")[1]


def test_memory_that_does_not_fit_is_said(tmp_path, printed):
    save_result(tmp_path, rows=[network_row()])
    assert "does not fit" in printed("--device", "rtx-3090", "--batch", "512", "--variant", "paper")[1]
    assert "with the data set it fits" in printed("--device", "rtx-3090")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "casme"], "choose from casme2, samm, smic"),
        (["--dataset", "casme2-5"], "246 clips; give it with --folds"),
        (["--dataset", "casme3-7"], "give the number with --clips"),
        (["--device", "tpu"], "h100-sxm"),
        (["--device", "h100"], "pytest bench/ --save-results"),
        (["--check"], "nothing to check"),
        (["--check", "missing.json"], "missing.json cannot be read"),
    ],
)
def test_plan_refuses_and_says_what_is_known(printed, arguments, message):
    status, text = printed("--device", "h100", *arguments)
    assert status == 2
    assert message in text


def test_numbers_that_a_protocol_does_not_publish_may_be_given(tmp_path, printed):
    save_result(tmp_path, rows=[network_row()])
    status, text = printed("--dataset", "samm-5", "--folds", "9", "--device", "l40s")
    assert status == 0
    assert "9 folds" in text


def test_the_check_predicts_the_largest_batch_from_the_smaller_ones(tmp_path, printed):
    path = save_steps(tmp_path, cpu_float32={"2": [2.0], "8": [5.0], "32": [18.0]})
    status, text = printed("--check", str(path))
    assert status == 0
    assert "s at batch 32 from 2, 8 | 17 | 18 | -5.6 % |" in text


def test_the_check_fails_where_a_prediction_is_off_by_more_than_a_fifth(tmp_path, printed):
    save_steps(tmp_path, cpu_float32={"2": [2.0], "8": [5.0], "32": [22.0]})
    assert printed("--check")[0] == 1
