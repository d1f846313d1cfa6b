"""Tasks on a Ray cluster: where they fit, what is tried again, what is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from ray_nodes import nodes_here
from worker_tasks import die_of, die_once, double, refuse, refuse_here

from mol.common import cluster as module
from mol.common.cluster import Cluster, Need, Node, connected, on_cluster, require_room, require_versions
from mol.common.errors import NodeError, SettingsError, StorageError
from mol.common.signals import STOP_SIGNALS
from mol.common.watch import Watch


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A connection to two nodes of one core each."""
    with nodes_here(1, 1) as nodes:
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        with connected(nodes.address) as connection:
            assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before  # Ray sets its own
            yield connection


def results_of(cluster: Cluster, work: Any, tasks: list[tuple[Any, ...]], **options: Any) -> dict[int, Any]:
    usual: dict[str, Any] = {"given_up": lambda index, reason: reason, "name": str, "admit": (double, 1)}
    with Watch("tasks", len(tasks)) as watch:
        return dict(on_cluster(cluster, cluster.nodes(), Need(1), work, tasks, watch=watch, **{**usual, **options}))


@pytest.mark.parametrize(
    ("need", "fits"),
    [
        (Need(1), 8),
        (Need(3), 2),
        (Need(9), 0),
        (Need(1, 1), 2),
        (Need(1, 0.5), 4),
        (Need(1, 0.6), 2),  # a share never spans two GPUs
        (Need(1, 0.1), 8),
        (Need(1, 2), 1),
        (Need(0, 3), 0),
    ],
)
def test_a_node_takes_as_many_tasks_as_its_cores_and_gpus_allow(need: Need, fits: int) -> None:
    assert need.fits(Node("key", "a", 8, 2)) == fits


def test_what_no_node_has_is_named_with_what_they_have() -> None:
    nodes = [Node("1", "a", 8, 1), Node("2", "b", 1, 0)]
    assert require_room(nodes, Need(2), "--x 2") == nodes[:1]
    with pytest.raises(
        SettingsError, match=r"^--x: no node has 1 CPU, 2 GPUs; the nodes have: a: 8 CPUs, 1 GPU; b: 1 CPU$"
    ):
        require_room(nodes, Need(1, 2), "--x")


def test_every_difference_of_versions_is_named() -> None:
    nodes, own = [Node("1", "a", 8, 1), Node("2", "b", 1, 0)], {"torch": "2.10", "molkernels": "1"}
    require_versions(nodes, [own, own], own)
    with pytest.raises(
        SettingsError, match=r"differ: a has torch 2\.9, not 2\.10; b has molkernels none, not 1\. Install"
    ):
        require_versions(nodes, [{**own, "torch": "2.9"}, {"torch": "2.10"}], own)
    with pytest.raises(NodeError, match=r"^node b: gone$"):
        require_versions(nodes, [own, NodeError("gone")], own)


@pytest.mark.parametrize("address", ["head", "head:", ":1", "ray://head:10001", "head:99999999", "head:x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="must be auto or HOST:PORT"):
        module._answering(address)


def test_the_cluster_of_this_machine_is_the_noted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(SettingsError, match="this machine is not part of a Ray cluster"):
        module._own_cluster()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert module._own_cluster() == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert module._own_cluster() == "10.0.0.2:6379"


def test_results_come_with_their_places_and_nodes(cluster: Cluster) -> None:
    found = results_of(cluster, double, [(value, 0.1) for value in range(6)])
    assert {index: done.result for index, done in found.items()} == {value: 2 * value for value in range(6)}
    assert {done.node for done in found.values()} == {node.name for node in cluster.nodes()}


def test_a_task_whose_worker_dies_is_run_again_on_another_node(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results_of(cluster, die_once, [(str(tmp_path), value) for value in range(6)])
    assert {index: done.result for index, done in found.items()} == {value: value for value in range(6)}
    assert [done.retries for _, done in sorted(found.items())] == [0, 0, 0, 0, 1, 0]
    assert f"4: run again, because on {_other(cluster, found[4].node)} {module.LOST}" in capsys.readouterr().out


def _other(cluster: Cluster, name: str) -> str:
    (found,) = [node.name for node in cluster.nodes() if node.name != name]
    return found


def test_a_task_that_always_kills_its_worker_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRIES", 1)
    found = results_of(cluster, die_of, [((1,), value) for value in range(3)])
    assert [found[0].result, found[2].result] == [0, 2]
    assert found[1].result.startswith(module.LOST)
    assert found[1].result.endswith("2 times in a row")


def test_an_error_of_the_work_passes_through_with_its_traceback(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="3 is refused") as error:
        results_of(cluster, refuse, [(value,) for value in range(5)])
    assert "on a node of the cluster" in str(error.value.__cause__)
    assert "in refuse" in str(error.value.__cause__)


def test_an_error_that_may_be_the_node_s_is_tried_on_every_node(cluster: Cluster, tmp_path: Path) -> None:
    found = results_of(cluster, refuse_here, [(str(tmp_path), 1)], elsewhere=(StorageError,))
    assert (found[0].result, found[0].retries) == ("done", 1)
    found = results_of(cluster, refuse_here, [(str(tmp_path), 9)], elsewhere=(StorageError,))
    assert (found[0].result, found[0].retries) == ("the disk is full", 1)


def test_arrays_are_shared_read_only(cluster: Cluster) -> None:
    import numpy as np
    from worker_tasks import sum_of_shared

    shared = cluster.share({"array": np.arange(1000.0)})
    assert cluster.ask(cluster.nodes(), sum_of_shared, (shared,)) == [(499500.0, False)] * 2


def test_a_process_joins_one_cluster_only(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = cluster.ray.get_runtime_context().gcs_address
    with connected(joined) as again:
        assert again.nodes() == cluster.nodes()
    assert cluster.ray.is_initialized()
    monkeypatch.setattr(module, "_answering", lambda address: address)
    with (
        pytest.raises(SettingsError, match=rf"joined the Ray cluster at {joined} and cannot use that at 10\.0\.0\.1:1"),
        connected("10.0.0.1:1"),
    ):
        pass


@pytest.mark.slow
def test_auto_takes_the_token_of_this_machines_cluster_and_an_address_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "RAY_TMPDIR": f"/tmp/mol-{os.getpid()}"}
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    options = ("--port", "0", "--num-cpus", "1", "--include-dashboard", "false", "--object-store-memory", "80000000")
    join = "import sys; from mol.common.cluster import connected\nwith connected(sys.argv[1]): print('joined')"

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)

    try:
        started = run(*ray, "start", "--head", *options)
        assert started.returncode == 0, started.stderr
        assert "joined" in run(sys.executable, "-c", join, "auto").stdout
        address = (Path(environment["RAY_TMPDIR"]) / "ray" / "ray_current_cluster").read_text().strip()
        assert "set RAY_AUTH_MODE=token here, too" in run(sys.executable, "-c", join, address).stderr
    finally:
        run(*ray, "stop", "--force")
        shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)
