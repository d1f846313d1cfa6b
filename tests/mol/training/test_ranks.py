"""Several processes train one network: they learn what one process does, stop together, and none is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import ROOT
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache
from torch import nn

from mol.common.errors import SettingsError
from mol.networks.interface import Part
from mol.training.ranks import ALONE, Ranks, require_divisible

PROGRAM = ROOT / "tests" / "helpers" / "many_devices.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}"}
for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
    ENVIRONMENT.pop(name, None)


def trained(folder: Path, devices: int, *options: str) -> dict[str, torch.Tensor]:
    out = folder / f"weights-{devices}.safetensors"
    command = [sys.executable, str(PROGRAM), str(out), "--devices", str(devices), *options]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=800, capture_output=True)
    return load_file(out)


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all weights and running statistics, relative to all of them."""
    flat = [torch.cat([x.double().flatten() for _, x in sorted(weights.items())]) for weights in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


def without_noise(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the biases in front of batch norms, which change nothing, and the running means that follow them.

    Their gradient is zero but for rounding, and Adam makes steps of it.
    """
    return {name: x for name, x in weights.items() if not re.fullmatch(r"streams.*(0\.bias|running_mean)", name)}


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_learn_what_one_does(tmp_path, devices):
    options = ("--network", "flow-cnn", "--steps", "20", "--batch", "5")
    one, many = trained(tmp_path, 1, *options), trained(tmp_path, devices, *options)
    assert len(without_noise(one)) == len(one) - 6
    assert difference(without_noise(one), without_noise(many)) < 1e-12
    assert difference(one, many) < 1e-5


CASES = {
    "paper": ("--steps", "20", "--variant", "paper", "--batch", "5", "--pairs", "3"),
    "released": ("--steps", "20", "--variant", "released", "--batch", "4", "--pairs", "all"),
    "accumulated": ("--steps", "3", "--variant", "paper", "--batch", "6", "--pairs", "5", "--accumulate", "2"),
    "emotion alone": ("--steps", "3", "--variant", "paper", "--batch", "4", "--pairs", "0", "--w-ldm", "0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_the_network_learns_the_same_on_several_devices(tmp_path, options):
    one = trained(tmp_path, 1, *options)
    for devices in (2, 3):
        assert difference(one, trained(tmp_path, devices, *options)) < 1e-10, devices


@pytest.mark.slow
@pytest.mark.parametrize("options", [CASES["paper"], CASES["released"]], ids=["paper", "released"])
def test_in_float32_more_devices_change_no_more_than_the_last_digit_of_the_first_weights_does(tmp_path, options):
    """Training in float32 amplifies rounding: by graphs whose neighbours nearly tie, and by Adam's division."""
    one = trained(tmp_path, 1, "--dtype", "float32", *options)
    rounding = difference(one, trained(tmp_path, 1, "--dtype", "float32", "--nudge", "1.2e-7", *options))
    for devices in (2, 3):
        assert difference(one, trained(tmp_path, devices, "--dtype", "float32", *options)) < 3 * rounding, devices


def test_parts_cover_the_batch_once_whatever_the_number_of_processes():
    for batch_size, accumulate, world in ((5, 1, 3), (7, 2, 3), (8, 4, 2), (3, 3, 1)):
        seen = []
        for rank in range(world):
            ranks = Ranks()
            ranks.rank, ranks.world = rank, world
            parts = ranks.parts(batch_size, accumulate)
            assert len(parts) == accumulate
            seen += [clip for part in parts for clip in range(part.first, part.last)]
            assert all(part.whole[0] <= part.first < part.last <= part.whole[1] for part in parts)
        assert sorted(seen) == list(range(batch_size))


def test_shares_of_dropout_are_those_of_one_process():
    layer = nn.Sequential(nn.Dropout(0.4))
    x = torch.ones(5, 3)
    torch.manual_seed(3)
    whole = layer(x)
    shares = []
    for rank in range(2):
        ranks = Ranks()
        ranks.rank, ranks.world = rank, 2
        shared = ranks._share_dropout(nn.Sequential(nn.Dropout(0.4)))
        (ranks.part,) = ranks.parts(5, 1)
        torch.manual_seed(3)
        shares.append(shared(x[ranks.part.first : ranks.part.last]))
    assert torch.equal(torch.cat(shares), whole)
    assert 0 < int((whole == 0).sum()) < 15


def test_dropout_that_can_not_be_shared_is_refused():
    ranks = Ranks()
    ranks.world = 2
    with pytest.raises(SettingsError, match=r"Dropout2d.*--devices 1"):
        ranks.synchronise(nn.Sequential(nn.Dropout2d(0.1)))


def test_a_batch_smaller_than_the_processes_is_refused():
    require_divisible(6, 2, 3)
    with pytest.raises(SettingsError, match=r"batch_size=5 in 2 parts is too small for 3 devices.*--batch-size 6"):
        require_divisible(5, 2, 3)


def test_one_process_needs_nobody():
    assert ALONE.first(lambda: 3) == ALONE.together(lambda: 3) == 3
    assert ALONE.stopped_by(None) is None
    assert ALONE.stopped_by("SIGTERM") == "SIGTERM"
    values = torch.tensor([1.0, 2.0])
    assert ALONE.summed(values) is ALONE.least(values) is values
    module = nn.BatchNorm2d(2)
    assert ALONE.synchronise(module) is module
    assert ALONE.parts(4, 1) == [Part(0, 4, ((0, 4),), 0)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_tiny_cache(tmp_path_factory.mktemp("ranks") / "cache", marked=True).path


def start(cache: Path, run: Path, *options: str) -> subprocess.Popen[str]:
    """A training on two devices, up to its twentieth step."""
    shown = (run.parent / f"{run.name}.txt").open("w+")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mol", "train", "--cache", str(cache), "--network", "flow-cnn", "--device", "cpu"),
            *("--batch-size", "5", "--steps", "100000", "--schedule", "constant", "--validate-every", "0"),
            *("--devices", "2", "--checkpoint-every", "10", "--run", str(run), *options),
        ],
        env=ENVIRONMENT,
        stdout=shown,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while "step 20/" not in shown_by(run):
        assert process.poll() is None, shown_by(run)
        assert time.monotonic() < until, shown_by(run)
        time.sleep(0.1)
    return process


def shown_by(run: Path) -> str:
    return (run.parent / f"{run.name}.txt").read_text()


def children(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to look at other processes")


@needs_proc
@pytest.mark.slow
def test_a_signal_to_any_process_stops_all_after_one_step_and_the_run_goes_on_elsewhere(tmp_path, cache):
    run = tmp_path / "run"
    process = start(cache, run)
    (other,) = children(process)
    os.kill(other, signal.SIGUSR1)
    assert process.wait(60) == 130
    assert not alive(other)
    assert "SIGUSR1: stopped after step" in shown_by(run)
    assert shown_by(run).count("stopped after") == 1
    # On one device.
    command = [sys.executable, "-m", "mol", "train", "--config", str(run / "config.yaml"), "--resume"]
    more = subprocess.run(
        [*command, "--devices", "1", "--steps", "40"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert more.returncode == 0, more.stderr
    assert "continuing after step" in more.stdout


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_is_named(tmp_path, cache, victim):
    run = tmp_path / "run"
    process = start(cache, run)
    (other,) = children(process)
    started = time.monotonic()
    os.kill([process.pid, other][victim], signal.SIGKILL)
    assert process.wait(60) == (2 if victim else -signal.SIGKILL)
    while alive(other) and time.monotonic() - started < 60:
        time.sleep(0.1)
    assert not alive(other)
    text = shown_by(run)
    named = f"rank 1 (process {other}) was ended by SIGKILL" if victim else "rank 0 has ended"
    assert named in text
    assert f"mol train --config {run / 'config.yaml'} --resume" in text
    assert (run / "checkpoints" / "last" / "state.json").is_file()


@pytest.mark.slow
def test_an_error_in_one_process_is_told_once_and_ends_all(tmp_path, cache):
    command = [sys.executable, "-m", "mol", "train", "--cache", str(tmp_path / "none"), "--device", "cpu"]
    failed = subprocess.run(
        [*command, "--devices", "2", "--run", str(tmp_path / "run")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert failed.returncode == 2
    assert failed.stderr.count("error: ") == 1
    assert str(tmp_path / "none") in failed.stderr


def test_pairs_are_spread_over_the_parts_of_a_step(tmp_path, cache):
    from mol.data.cache import Cache
    from mol.networks.mol import NETWORK

    opened = Cache.open(cache)
    clips = NETWORK.hold(opened, range(len(opened)))
    whole = NETWORK.training_batch(clips, 3, 0, 6, 7)
    ranks = Ranks()
    for world, accumulate in ((2, 1), (3, 1), (2, 2), (1, 3)):
        found, frames = [], []
        for rank in range(world):
            ranks.rank, ranks.world = rank, world
            for part in ranks.parts(6, accumulate):
                batch = NETWORK.training_batch(clips, 3, 0, 6, 7, part)
                assert batch.pairs is not None
                assert batch.pairs_of_step == 7
                assert part.place < accumulate - 1 or batch.pairs_at_once == -(-7 // accumulate)
                found += (batch.pairs + torch.tensor([[part.first], [0]])).T.tolist()
                frames.append((part.first, batch.clips))
        joined = torch.cat([clip for _, clip in sorted(frames, key=lambda entry: entry[0])])
        assert torch.equal(joined, whole.clips)
        assert len({tuple(pair) for pair in found}) == 7
        if accumulate == 1:
            assert sorted(found) == sorted(whole.pairs.T.tolist())
