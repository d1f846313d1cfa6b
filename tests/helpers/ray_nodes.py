"""Clusters of several Ray nodes on this machine, nodes that see other files than it, and workers to kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from places import environment

STORE = 80_000_000
"""Bytes of a node's object store."""


@contextmanager
def nodes_here(*cpus: int, gpus: float = 0) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with a node for each number of CPUs, the head first; nothing of it is left behind.

    Args:
        cpus: of each node.
        gpus: that each node claims to have.
    """
    os.environ.update(
        PYTHONPATH=environment()["PYTHONPATH"],
        RAY_USAGE_STATS_ENABLED="0",
        RAY_worker_niceness="0",  # workers are to get on although others test on this machine too
        OMP_NUM_THREADS="1",
    )
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for count in cpus:
            add_node(cluster, count, gpus)
        yield cluster
    finally:
        raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
        cluster.shutdown()
        until(lambda: not any(runs(pid) for pid in raylets), 30)


def add_node(cluster: Any, cpus: int = 1, gpus: float = 0) -> Any:
    """One more node."""
    head = {} if cluster.head_node else {"include_dashboard": False}
    return cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=STORE, **head)


def raylet_of(node: Any) -> int:
    """Process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


@contextmanager
def strange_node(address: str, *setup: str, cpus: int = 1, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node that is started as users start theirs; one with mounts is in a mount namespace of its own.

    Args:
        address: of the cluster.
        setup: shell commands for its mounts, such as ``mount --bind A B``.
        cpus: of the node.
        variables: changes of its environment.
    Yields:
        Its process.
    """
    start = [
        *(str(Path(sys.executable).with_name("ray")), "start", f"--address={address}", f"--num-cpus={cpus}"),
        *(f"--object-store-memory={STORE}", "--disable-usage-stats", "--block"),
    ]
    script = "; ".join(["set -e", *setup, "exec " + " ".join(start)])
    process = subprocess.Popen(
        [*(["unshare", *_PRIVATE] if setup else []), "sh", "-c", script],
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


_PRIVATE = ["--mount"] if os.geteuid() == 0 else ["--map-root-user", "--mount"]


def why_no_namespaces() -> str:
    """Why this machine has no mount namespaces for tests; empty if it has."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    tried = subprocess.run(
        ["unshare", *_PRIVATE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip() or ("" if tried.returncode == 0 else "unshare does not work here")


def children() -> Mapping[int, int]:
    """The parent of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    return found


def live(nodes: Any) -> list[Any]:
    """The nodes of a cluster that are alive, asked without a connection."""
    from ray._private.state import GlobalState
    from ray._raylet import GcsClientOptions

    state = GlobalState()
    state._initialize_global_state(
        GcsClientOptions.create(nodes.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    return [node for node in state.node_table() if node["Alive"]]


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents, found = children(), [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


# The agents belong to the raylet, which ends without them.
_NOT_AT_A_TASK = tuple(f"ray::{name}" for name in ("IDLE", "DashboardAgent", "RuntimeEnvAgent", "look at the node"))


def working(raylet: int) -> list[int]:
    """Worker processes of a raylet that are at a task."""
    found = []
    for pid, parent in children().items():
        if parent == raylet:
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if title.startswith("ray::") and not title.startswith(_NOT_AT_A_TASK):
                found.append(pid)
    return found


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(met: Callable[[], Any], seconds: float = 240) -> Any:
    """Wait until a condition is met, and give what it gave."""
    end = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < end, f"not met within {seconds} s"
        time.sleep(0.02)
    return found
