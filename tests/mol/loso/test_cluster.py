"""Folds as tasks on a Ray cluster: the same table as one process gives, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import environment
from ray_nodes import (
    add_node,
    family,
    live,
    nodes_here,
    raylet_of,
    runs,
    strange_node,
    until,
    why_no_namespaces,
    working,
)
from tiny_cache import write_tiny_cache

import mol.cli
import mol.common.cluster
from mol.common.cluster import connected
from mol.common.devices import cpu_threads
from mol.common.errors import CacheError, InUseError, MissingExtraError, SettingsError
from mol.loso.cluster import sole_driver
from mol.loso.plan import read_plan, read_records
from mol.loso.run import loso
from mol.loso.settings import LosoConfig, resume_command

TABLES = ("predictions.csv", "subjects.csv", "confusion-seed0.csv", "scores.csv", "scores.tex", "scores.json")
WEIGHTS = "checkpoints/last/weights.safetensors"
PEOPLE = 4

needs_namespaces = pytest.mark.skipif(bool(why_no_namespaces()), reason=f"no mount namespaces: {why_no_namespaces()}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each; this process stays connected, so that workers import PyTorch once for all tests."""
    with nodes_here(1, 1) as nodes, connected(nodes.address):
        yield nodes


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_cache(tmp_path_factory.mktemp("cache") / "tiny", PEOPLE, marked=True).path)


def local_config(cache: str, run: Path, **changes: Any) -> LosoConfig:
    usual = {"network": "apex-difference", "steps": 12, "batch_size": 4, "checkpoint_every": 5, "device": "cpu"}
    return LosoConfig(caches=[cache], protocol="as-labelled", run=str(run), **{**usual, **changes})


def on(cluster: Any, config: LosoConfig, **changes: Any) -> LosoConfig:
    return replace(config, engine="ray", ray_address=cluster.address, cpus_per_fold=1, **changes)


def alone(config: LosoConfig) -> Path:
    """A run in this process with one thread, as the folds on the nodes have."""
    with cpu_threads(1):
        return loso(config).run


@pytest.fixture(scope="module")
def straight(cache: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run in one process."""
    return alone(local_config(cache, tmp_path_factory.mktemp("straight") / "run"))


LONG = {"steps": 200, "checkpoint_every": 10}
"""Folds of some seconds, long enough to be killed."""


@pytest.fixture(scope="module")
def long(cache: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of longer folds."""
    return alone(local_config(cache, tmp_path_factory.mktemp("long") / "run", **LONG))


def assert_same(run: Path | str, expected: Path) -> None:
    """The same tables, votes and weights, byte for byte, and nothing left behind."""
    run = Path(run)
    for name in TABLES:
        assert (run / name).read_bytes() == (expected / name).read_bytes(), name
    for fold in read_plan(expected).folds:
        for name in ("predictions.csv", WEIGHTS):
            assert (run / fold.folder / name).read_bytes() == (expected / fold.folder / name).read_bytes()
    hidden = [path for path in run.rglob(".*") if path.is_file()]
    assert hidden == []


class InThread(threading.Thread):
    """A disturbance beside the run; its own failure is raised at the end."""

    def __init__(self, work: Any) -> None:
        super().__init__(daemon=True)
        self._work, self._error = work, None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        self.join(300)
        if self._error is not None:
            raise self._error


def under_way(run: str) -> list[Path]:
    """Checkpoints of folds that are not done."""
    return [path for path in Path(run).glob("folds/*/*/checkpoints/last/state.json") if not _done(path.parents[2])]


def _done(folder: Path) -> bool:
    return (folder / "fold.json").exists()


# What comes out


def test_the_same_table_bit_for_bit_as_in_one_process(
    cluster: Any, cache: str, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = loso(on(cluster, local_config(cache, tmp_path / "run")))
    assert (result.done, result.total, result.failed) == (PEOPLE, PEOPLE, ())
    assert_same(result.run, straight)
    records = read_records(result.run)
    assert sorted(records) == sorted(fold.folder for fold in read_plan(result.run).folds)
    assert all(record.seconds > 0 and record.retries == 0 and not record.error for record in records.values())
    names = {record.node for record in records.values()}
    assert len(names) == 2  # both took part
    assert all(name.startswith(f"{socket.gethostname()}/") for name in names)
    said = capsys.readouterr().out
    assert "cpu of 2 nodes, 1 CPU a fold" in said
    assert len(re.findall(r"\d/4  tiny/s\d: \d of 3 videos right; so far .* on \S+/\w{6}", said)) == PEOPLE


def test_one_process_notes_the_same_of_its_folds(straight: Path) -> None:
    records = read_records(straight)
    assert {record.node for record in records.values()} == {socket.gethostname()}
    assert len(records) == PEOPLE
    assert all(record.seconds > 0 and not record.error for record in records.values())


@pytest.mark.slow
def test_a_run_begun_in_one_process_goes_on_here_and_the_other_way(
    cluster: Any, cache: str, straight: Path, tmp_path: Path
) -> None:
    config = local_config(cache, tmp_path / "run")
    alone(replace(config, folds="1"))
    loso(on(cluster, replace(config, folds="2,3", resume=True)))
    saved = yaml.safe_load((tmp_path / "run" / "loso.yaml").read_text())
    assert saved["engine"] == "local"
    alone(replace(config, resume=True))
    assert_same(config.run, straight)


def test_the_command_to_resume_names_the_engine(cache: str) -> None:
    config = local_config(cache, Path("a run"), engine="ray", ray_address="auto", gpus_per_fold=0.5)
    assert resume_command(config) == (
        "mol loso --config 'a run/loso.yaml' --resume --engine ray --ray-address auto --gpus-per-fold 0.5"
    )


# What is lost on the way


@pytest.mark.slow
def test_a_worker_killed_in_a_fold_costs_nothing(
    cluster: Any, cache: str, long: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = on(cluster, local_config(cache, tmp_path / "run", **LONG))

    def kill() -> None:
        until(lambda: under_way(config.run))
        raylets = [raylet_of(node) for node in cluster.list_all_nodes()]
        os.kill(until(lambda: [pid for raylet in raylets for pid in working(raylet)])[0], signal.SIGKILL)

    disturbance = InThread(kill)
    result = loso(config)
    disturbance.finish()
    assert result.failed == ()
    assert_same(result.run, long)
    assert sorted(record.retries for record in read_records(result.run).values()) == [0, 0, 0, 1]
    assert "run again, because on" in capsys.readouterr().out


@pytest.mark.slow
def test_twenty_workers_killed_at_random_moments_cost_nothing(
    cluster: Any, cache: str, long: Path, tmp_path: Path
) -> None:
    config = on(cluster, local_config(cache, tmp_path / "run", **LONG))
    moments, killed = random.Random(16), list[int]()
    over = threading.Event()

    def kill() -> None:
        raylets = [raylet_of(node) for node in cluster.list_all_nodes()]
        while len(killed) < 20 and not over.wait(moments.uniform(0.2, 4)):
            if found := [pid for raylet in raylets for pid in working(raylet)]:
                killed.append(moments.choice(found))
                os.kill(killed[-1], signal.SIGKILL)

    disturbance = InThread(kill)
    result = loso(config)
    over.set()
    disturbance.finish()
    assert len(killed) == 20
    assert result.failed == ()
    assert_same(result.run, long)
    assert sum(record.retries for record in read_records(result.run).values()) >= 10


@pytest.mark.slow
def test_a_lost_node_costs_nothing(cluster: Any, cache: str, long: Path, tmp_path: Path) -> None:
    config = on(cluster, local_config(cache, tmp_path / "run", **LONG))
    extra = add_node(cluster, 2)

    def remove() -> None:
        until(lambda: under_way(config.run) and working(raylet_of(extra)))
        cluster.remove_node(extra, allow_graceful=False)

    disturbance = InThread(remove)
    result = loso(config)
    disturbance.finish()
    assert result.failed == ()
    assert_same(result.run, long)
    assert any(record.retries for record in read_records(result.run).values())


@pytest.mark.slow
def test_a_node_that_joins_during_the_run_takes_part(
    cluster: Any, cache: str, long: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = on(cluster, local_config(cache, tmp_path / "run", **{**LONG, "steps": 600}))
    over = threading.Event()

    def add() -> None:
        until(lambda: under_way(config.run))
        with strange_node(cluster.address, cpus=4):
            over.wait(300)

    disturbance = InThread(add)
    result = loso(config)
    over.set()
    disturbance.finish()
    assert "takes part" in capsys.readouterr().out
    assert len({record.node for record in read_records(result.run).values()}) == 3


def arguments(config: LosoConfig) -> list[str]:
    """The command line with these settings."""
    options = [
        *("--protocol", config.protocol, "--run", config.run, "--network", config.network, "--steps", config.steps),
        *("--batch_size", config.batch_size, "--checkpoint_every", config.checkpoint_every, "--device", "cpu"),
        *("--engine", "ray", "--cpus-per-fold", 1),
        *(("--ray-address", config.ray_address) if config.ray_address else ()),
    ]
    return ["loso", *config.caches, *map(str, options)]


started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_driver_is_left() -> Iterator[None]:
    """A driver whose test has failed would keep the nodes from the next."""
    yield
    for process in started:
        process.kill()
        process.wait()
    started.clear()


def driver(config: LosoConfig, *more: str) -> subprocess.Popen[str]:
    """The command line with these settings, as a process of its own."""
    command = [sys.executable, "-m", "mol", *arguments(config), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    started.append(subprocess.Popen(command, env=environment(), text=True, **pipes))  # type: ignore[call-overload]
    return started[-1]


def assert_succeeds(process: subprocess.Popen[str]) -> str:
    """What it said."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_a_killed_driver_started_again_goes_on(cluster: Any, cache: str, long: Path, tmp_path: Path) -> None:
    config = on(cluster, local_config(cache, tmp_path / "run", **LONG))
    first = driver(config)
    until(lambda: list(Path(config.run).glob("folds/*/*/fold.json")) and under_way(config.run))
    first.kill()
    first.communicate()
    done = {path: path.stat().st_mtime_ns for path in Path(config.run).glob("folds/*/*/fold.json")}
    assert done
    assert len(done) < PEOPLE
    assert_succeeds(driver(config, "--resume"))
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())  # was not done again
    assert_same(config.run, long)


@pytest.mark.slow
def test_a_driver_that_lost_the_whole_cluster_goes_on_with_the_next(cache: str, long: Path, tmp_path: Path) -> None:
    with nodes_here(1, 1) as first:
        config = on(first, local_config(cache, tmp_path / "run", **LONG))
        process = driver(config)
        until(lambda: list(Path(config.run).glob("folds/*/*/fold.json")) and under_way(config.run))
    said, _ = process.communicate(timeout=300)
    assert process.returncode not in (None, 0), said
    with nodes_here(1) as second:
        assert_succeeds(driver(on(second, local_config(cache, tmp_path / "run", **LONG)), "--resume"))
    assert_same(config.run, long)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_driver_lets_the_folds_save_and_says_how_to_go_on(
    cluster: Any, cache: str, long: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = on(cluster, local_config(cache, tmp_path / "run", **{**LONG, "checkpoint_every": 10**6}))
    process = driver(config)
    until(lambda: list(Path(config.run).glob("folds/*/*/log.csv")))
    time.sleep(1)
    process.send_signal(number)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, said
    # No checkpoint was due: these are of folds that have finished their step and saved.
    saved = [json.loads(path.read_text())["step"] for path in under_way(config.run)]
    assert saved
    assert all(0 < step < LONG["steps"] for step in saved)
    assert len(re.findall(r"tiny/s\d: it was stopped after step \d+ and has saved\n", said)) == len(saved)
    assert "everything is saved. Resume with:\n  mol loso --config" in said
    assert f"--engine ray --ray-address {cluster.address}" in said
    assert loso(replace(config, resume=True)).failed == ()
    assert_same(config.run, long)


@pytest.mark.slow
def test_a_full_disk_on_one_node_is_left_to_the_other(cache: str, straight: Path, tmp_path: Path) -> None:
    with nodes_here(1) as nodes, strange_node(nodes.address) as strange:
        until(lambda: len(live(nodes)) == 2)
        for pid in family(strange.pid):  # files of its later workers can't grow beyond what their logs take
            subprocess.run(["prlimit", "--pid", str(pid), "--fsize=40000:40000"], check=True)
        assert_succeeds(driver(on(nodes, local_config(cache, tmp_path / "run"))))
    assert_same(tmp_path / "run", straight)
    records = read_records(tmp_path / "run").values()
    assert any(record.retries for record in records)
    assert len({record.node for record in records}) == 1


# What nodes see


@pytest.mark.slow
@needs_namespaces
def test_a_node_that_sees_neither_run_nor_cache_is_sent_them(tmp_path: Path, straight: Path) -> None:
    (tmp_path / "here").mkdir()
    cache = str(write_tiny_cache(tmp_path / "here" / "tiny", PEOPLE, marked=True).path)
    with nodes_here(0) as nodes, strange_node(nodes.address, f"mount -t tmpfs none {tmp_path / 'here'}", cpus=2):
        until(lambda: len(live(nodes)) == 2)
        said = assert_succeeds(driver(on(nodes, local_config(cache, tmp_path / "here" / "run"))))
    assert_same(tmp_path / "here" / "run", straight)
    assert f"does not see {cache}, which is sent there" in said
    assert not list(Path("/tmp").glob("mol-*/folds"))


@pytest.mark.slow
@needs_namespaces
def test_a_cache_that_differs_between_nodes_is_refused(cluster: Any, cache: str, tmp_path: Path) -> None:
    other = write_tiny_cache(tmp_path / "other", PEOPLE, seed=1, marked=True).path
    with strange_node(cluster.address, f"mount --bind {other} {cache}"):
        until(lambda: len(live(cluster)) == 3)
        config = on(cluster, local_config(cache, tmp_path / "run"))
        with pytest.raises(CacheError, match=rf"node \S+/\w{{6}}: the cache {cache} holds something else"):
            loso(config)
    until(lambda: len(live(cluster)) == 2)
    assert not list((tmp_path / "run").glob("folds/*"))


@pytest.mark.slow
def test_a_node_with_another_version_is_refused(cluster: Any, cache: str, tmp_path: Path) -> None:
    made_up = tmp_path / "site" / "molkernels-0.0.1.dist-info"
    made_up.mkdir(parents=True)
    (made_up / "METADATA").write_text("Metadata-Version: 2.1\nName: molkernels\nVersion: 0.0.1\n")
    path = os.pathsep.join([str(made_up.parent), environment()["PYTHONPATH"]])
    with strange_node(cluster.address, PYTHONPATH=path):
        until(lambda: len(live(cluster)) == 3)
        config = on(cluster, local_config(cache, tmp_path / "run"))
        with pytest.raises(SettingsError, match=r"versions differ: \S+/\w{6} has molkernels 0.0.1, not \d"):
            loso(config)
    until(lambda: len(live(cluster)) == 2)
    assert not (tmp_path / "run").exists()


# What fails


def test_a_fold_that_always_fails_is_named_and_the_others_go_on(
    cluster: Any, cache: str, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = local_config(cache, tmp_path / "run")
    fold = read_plan(straight).folds[1]
    # A checkpoint of other settings is neither gone on with nor overwritten.
    folder = tmp_path / "run" / fold.folder
    other = alone(local_config(cache, tmp_path / "other", learning_rate=0.5, folds="2"))
    shutil.copytree(other / fold.folder / "checkpoints", folder / "checkpoints")
    with pytest.raises(SystemExit) as ended:
        mol.cli.main(arguments(on(cluster, config)))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "error: 1 of 4 folds failed\n  2/4  tiny/s2: " in said
    assert "learning_rate: 0.5 → " in said
    records = read_records(Path(config.run))
    assert [bool(records[one.folder].error) for one in read_plan(straight).folds] == [False, True, False, False]
    shutil.rmtree(folder)
    assert loso(on(cluster, replace(config, resume=True))).failed == ()
    assert_same(config.run, straight)


def test_a_second_driver_is_refused_by_name(cluster: Any, cache: str, tmp_path: Path) -> None:
    config = on(cluster, local_config(cache, tmp_path / "run"))
    with sole_driver(config), pytest.raises(InUseError, match=rf"in use by process {os.getpid()} on .*--engine ray"):
        loso(config)


@pytest.mark.slow
def test_a_fold_of_another_process_is_left_to_it(
    cluster: Any, cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mol.loso.sharing import holding

    config = on(cluster, local_config(cache, tmp_path / "run"))
    with holding(tmp_path / "run" / "folds" / "seed0" / "tiny-s1"):
        result = loso(config)
    assert (result.done, result.total) == (PEOPLE - 1, PEOPLE)
    assert f"tiny/s1: process {os.getpid()} on" in capsys.readouterr().out


# Bad input


def test_gpus_that_no_node_has_are_refused_with_what_they_have(cluster: Any, cache: str, tmp_path: Path) -> None:
    config = replace(on(cluster, local_config(cache, tmp_path / "run")), gpus_per_fold=0.5)
    with pytest.raises(
        SettingsError, match=r"gpus_per_fold=0\.5: no node has 0\.5 GPUs; the nodes have: (\S+: 1 CPU(; )?){2}$"
    ):
        loso(config)
    with pytest.raises(SettingsError, match=r"cpus_per_fold=3: no node has 3 CPUs"):
        loso(replace(config, gpus_per_fold=0, cpus_per_fold=3))
    assert not (tmp_path / "run").exists()


def test_an_address_that_does_not_answer_is_refused_in_time(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mol.common.cluster._ANSWER == 30
    monkeypatch.setattr(mol.common.cluster, "_ANSWER", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert (
            mol.cli.main(["loso", cache, "--protocol", "as-labelled", "--engine", "ray", "--ray-address", address]) == 2
        )
        assert time.monotonic() - started < 10
    assert f"no Ray cluster answers at {address} (timed out)" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"answers at .* \(Connection refused\)"):
        loso(local_config(cache, tmp_path / "run", engine="ray", ray_address=address))
    with pytest.raises(SettingsError, match="must be auto or HOST:PORT"):
        loso(local_config(cache, tmp_path / "run", engine="ray", ray_address="ray://head"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "slurm"}, "engine='slurm' must be 'local' or 'ray'"),
        ({"ray_address": "auto"}, "ray_address are settings of the engine ray"),
        ({"engine": "ray", "gpus_per_fold": 1.5}, "gpus_per_fold=1.5 must be a share"),
        ({"engine": "ray", "gpus_per_fold": -1.0}, "gpus_per_fold=-1.0 must be a share"),
        ({"engine": "ray", "cpus_per_fold": 0}, "cpus_per_fold=0 must be"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray gives each fold its GPU"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        local_config("cache", Path("run"), **settings)


def test_ray_is_imported_by_its_engine_alone(cache: str, tmp_path: Path) -> None:
    script = (
        "import sys, mol.cli, mol.commands\n"
        "mol.cli.main(sys.argv[1:])\n"
        "assert 'mol.common.cluster' in sys.modules\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'ray']\n"
    )
    few = ["--steps", "1", "--batch-size", "2", "--folds", "1"]
    options = ["--protocol", "as-labelled", "--network", "apex-difference", *few]
    command = [sys.executable, "-c", script, "loso", cache, *options, "--run", str(tmp_path / "run"), "--device", "cpu"]
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)


def test_without_ray_the_extra_is_named(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray is needed .*\[scale\]"):
        loso(local_config(cache, tmp_path / "run", engine="ray"))


@pytest.mark.slow
def test_a_cluster_of_this_machine_alone_ends_with_the_run(cache: str, straight: Path, tmp_path: Path) -> None:
    process = driver(local_config(cache, tmp_path / "run"))
    raylets = until(lambda: [pid for pid in family(process.pid) if _is_raylet(pid)])
    assert_succeeds(process)
    assert_same(tmp_path / "run", straight)
    until(lambda: not any(map(runs, raylets)), 20)


def _is_raylet(pid: int) -> bool:
    try:
        return b"/raylet/raylet\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
