"""Folds on a local Ray cluster whose nodes are killed, beside their simulation: `python -m bench.cluster_trial`.

Two nodes of one core each run the folds of `mol loso --engine ray`, one for each person of a synthetic set. The first
run is left alone. In the second the nodes are killed (SIGKILL) at moments drawn from an exponential distribution, and
new ones join in their place. `bench.plan.cluster` is given how long each fold took in that run, when nodes died and
when new ones took part, and its time and retries are compared with the run's. What was measured is saved as
<folder>/<device>/<date>-<commit>-cluster.json; `python -m bench.cluster_trial --report FILE` prints a saved file again.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import machine
from bench.plan.cluster import Life, Node, Outcome, Recovery, lives, simulate
from bench.record import FORMAT, RESULTS, read, save
from bench.tables import duration, markdown_table
from mol.common.errors import MOLError, SettingsError
from mol.common.extras import require
from mol.common.terminal import counting, say
from mol.loso.plan import read_plan, read_records
from mol.loso.results import FACTS
from mol.synth.clip_plan import SynthSettings
from mol.synth.synthetic_set import synthesize

NODES, BATCH = 2, 8
_RAY = r"\(raylet\)|\[state-dump\]|logging\.cc|accessor\.cc"  # Ray's own words about a node that was killed
REPETITIONS = 1000
# What `mol loso --engine ray` says (mol.loso.run, mol.common.cluster).
_BEGUN, _JOINED, _LOST = (
    r"folds of \d+ steps to run",
    r"the new node \S*?(\w{6}): .* takes part",
    r"run again, because on",
)


class Machine(NamedTuple):
    """A node of the cluster, in seconds since the run began.

    Attributes:
        key: the beginning of Ray's id, by which mol names it.
        place: of the cluster's places, 0 or 1.
        added: when it was started; 0 if it was there before.
        killed: when it was killed; infinite if it was not.
    """

    key: str
    place: int
    added: float
    killed: float = math.inf


class Observed(NamedTuple):
    """A run, in seconds since it began.

    Attributes:
        machines: in the order in which they joined.
        folds: of every fold, in the order of the plan: its last node's key, when it was done, how long it took there.
        retries: of all folds.
        accepted: when mol took a new node, by key.
        noticed: seconds from a kill until mol sent the node's fold out again.
        table: predictions.csv.
    """

    machines: list[Machine]
    folds: list[tuple[str, float, float]]
    retries: int
    accepted: Mapping[str, float]
    noticed: list[float]
    table: str

    @property
    def makespan(self) -> float:
        """When the last fold was done."""
        return max(done for _, done, _ in self.folds)


class Times(NamedTuple):
    """What a run says about the time of folds, in seconds.

    Attributes:
        folds: from the end of a node's fold to the end of its next, in the order of the plan.
        first: until the first fold begins.
        start: that a node's first fold takes longer than the others: process, imports, data.
    """

    folds: list[float]
    first: float
    start: float


# Measuring


def observe(options: argparse.Namespace, cache: Path, run: Path, plans: Sequence[Iterable[Life]]) -> Observed:
    """Run all folds on a new cluster, and kill and replace its nodes as planned.

    Args:
        options: of the command line.
        cache: of the clips.
        run: folder of the run; an earlier one is removed.
        plans: for each place when its machines join and die, in seconds since the run began.
    Raises:
        SettingsError: mol has failed; the message ends with its last words.
    """
    shutil.rmtree(run, ignore_errors=True)
    os.environ.update(
        RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0"
    )  # else whatever runs beside them comes first
    cluster = require("ray.cluster_utils", "scale").Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in plans]
        process = subprocess.Popen(
            _command(options, cache, run, cluster.address),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # so that a line is heard when it is said
        )
        lines: list[tuple[float, str]] = []
        listener = threading.Thread(target=_listen, args=(process.stdout, lines))
        listener.start()
        try:
            while process.poll() is None and not _moments(lines, _BEGUN):
                time.sleep(0.05)
            began = next(iter(_moments(lines, _BEGUN)), time.time())
            machines = _disturb(cluster, nodes, process, began, plans)
        finally:
            process.terminate()
            process.wait()
            listener.join()
    finally:
        cluster.shutdown()
    if process.returncode:
        last = "\n".join(line for _, line in lines[-20:])
        raise SettingsError(f"mol loso ended with status {process.returncode}:\n{last}")
    return _read(run, machines, began, lines)


def _command(options: argparse.Namespace, cache: Path, run: Path, address: str) -> list[str]:
    given = {
        "caches": json.dumps([str(cache)]), "protocol": "as-labelled", "run": run, "network": options.network,
        "batch-size": BATCH, "steps": options.steps, "checkpoint-every": options.steps,
        "device": "cpu", "engine": "ray", "ray-address": address, "cpus-per-fold": 1,
    }  # fmt: skip
    words = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in given.items())
    return [sys.executable, "-m", "mol", "loso", *words]


def _listen(stream: Any, lines: list[tuple[float, str]]) -> None:
    for line in stream:
        lines.append((time.time(), line.rstrip()))
        if not re.search(_RAY, line):
            print(f"  {line}", end="", flush=True)


def _moments(lines: Sequence[tuple[float, str]], pattern: str) -> list[float]:
    return [when for when, line in list(lines) if re.search(pattern, line)]


def _disturb(
    cluster: Any, nodes: list[Any], process: subprocess.Popen[str], began: float, plans: Sequence[Iterable[Life]]
) -> list[Machine]:
    """Kill and add nodes until the run is over; what really happened, and when."""
    machines = [Machine(node.node_id[:6], place, 0.0) for place, node in enumerate(nodes)]
    newest = dict(enumerate(range(len(nodes))))  # of each place, where it stands in `machines`
    coming = [_events(place, plan) for place, plan in enumerate(plans)]
    for when, place, joins in heapq.merge(*coming):
        while process.poll() is None and time.time() - began < when:
            time.sleep(min(0.1, max(0.0, began + when - time.time())))
        if process.poll() is not None:
            break
        now = time.time() - began
        if joins:
            nodes[place] = cluster.add_node(num_cpus=1)
            newest[place] = len(machines)
            machines.append(Machine(nodes[place].node_id[:6], place, now))
        else:
            say(f"{now:.1f} s: killing node {nodes[place].node_id[:6]}")
            cluster.remove_node(nodes[place], allow_graceful=False)
            machines[newest[place]] = machines[newest[place]]._replace(killed=now)
    process.wait()
    return machines


def _events(place: int, plan: Iterable[Life]) -> Iterator[tuple[float, int, bool]]:
    """Deaths and joins of a place, (seconds, place, whether one joins); the first machine is there already."""
    for index, (joins, dies) in enumerate(plan):
        if index:
            yield joins, place, True
        yield dies, place, False


def _read(run: Path, machines: list[Machine], began: float, lines: Sequence[tuple[float, str]]) -> Observed:
    records, folds = read_records(run), []
    for fold in read_plan(run).folds:
        record = records[fold.folder]
        folds.append((record.node[-6:], (run / fold.folder / FACTS).stat().st_mtime - began, record.seconds))
    accepted, noticed = {}, []
    for when, line in lines:
        if joined := re.search(_JOINED, line):
            accepted[joined[1]] = when - began
        if re.search(_LOST, line):
            killed = [one.killed for one in machines if one.killed < when - began and one.key in line]
            noticed += [when - began - moment for moment in killed]
    retries = sum(record.retries for record in records.values())
    table = (run / "predictions.csv").read_text(encoding="utf-8")
    return Observed(machines, folds, retries, accepted, noticed, table)


# Simulating


def fold_times(run: Observed) -> Times:
    """How long each fold occupies a node; the first one on a node counts as long as the median of the others.

    Raises:
        SettingsError: no node has done two folds.
    """
    ends = defaultdict(list)
    for index, (node, done, seconds) in enumerate(run.folds):
        ends[node].append((done, index, seconds))
    lengths: dict[int, float] = {}
    for done in ends.values():
        done.sort()
        lengths |= {after[1]: after[0] - before[0] for before, after in itertools.pairwise(done)}
    if not lengths:
        raise SettingsError("no node has done two folds; give more --folds, or nodes a longer life (--mtbf)")
    inside = [seconds for index, (_, _, seconds) in enumerate(run.folds) if index in lengths]
    first = [done[0] for done in ends.values()]
    typical = statistics.median(lengths.values())
    return Times(
        [lengths.get(index, typical) for index in range(len(run.folds))],
        min(done - seconds for done, _, seconds in first),
        max(0.0, statistics.mean(seconds for _, _, seconds in first) - statistics.median(inside)),
    )


def simulated(times: Times, disturbed: Observed) -> Outcome:
    """The disturbed run, from the folds' times and what happened to the nodes."""
    places: dict[int, list[Life]] = defaultdict(list)
    for one in disturbed.machines:
        joins = times.first if one.added == 0 else disturbed.accepted.get(one.key, math.inf)
        if joins < one.killed:  # otherwise it died before it took part
            places[one.place].append((joins, one.killed))
    recovery = Recovery(statistics.mean(disturbed.noticed or [0.0]), times.start)
    return simulate(times.folds, [Node(1, place) for place in places.values()], recovery)


def drawn(times: Times, disturbed: Observed, mtbf: float) -> list[Outcome]:
    """Runs whose nodes die at other moments of the same distribution."""
    gone: dict[int, float] = {}
    absent = []
    for one in disturbed.machines:
        if one.added and one.key in disturbed.accepted:
            absent.append(disturbed.accepted[one.key] - gone[one.place])
        gone[one.place] = one.killed
    repair = statistics.mean(absent or [0.0])
    recovery = Recovery(statistics.mean(disturbed.noticed or [0.0]), times.start)
    found = []
    for seed in range(REPETITIONS):
        nodes = [Node(1, lives(np.random.default_rng((seed, place)), mtbf, repair)) for place in range(NODES)]
        outcome = simulate(times.folds, nodes, recovery)
        found.append(outcome._replace(makespan=times.first + outcome.makespan))
    return found


# The whole trial


def measure(options: argparse.Namespace) -> Path:
    """Both runs and the simulations, saved; returns the file.

    Raises:
        SettingsError: mol has failed.
        MissingExtraError: Ray or what synthetic clips need is not installed.
    """
    with counting("rendering clips") as count:
        cache = options.work / "cache"
        synthesize(cache, SynthSettings(people=options.folds, pictures=1, clips=3), progress=count)
    alone = observe(options, cache, options.work / "undisturbed", [[(0.0, math.inf)]] * NODES)
    plans = [
        lives(np.random.default_rng((options.seed, place)), options.mtbf, options.repair) for place in range(NODES)
    ]
    killed = observe(options, cache, options.work / "killed", plans)
    result = {
        "format": FORMAT,
        "machine": {**machine.describe(), "ray": require("ray", "scale").__version__},
        "cluster": summary(options, alone, killed),
    }
    return save(result, options.folder, "-cluster")


def summary(options: argparse.Namespace, alone: Observed, killed: Observed) -> dict[str, Any]:
    """What was measured and simulated, as JSON."""
    calm, times = fold_times(alone), fold_times(killed)
    others = drawn(times, killed, options.mtbf)
    makespans, retries = [one.makespan for one in others], [one.retries for one in others]
    return {
        "settings": {name: getattr(options, name) for name in ("network", "folds", "steps", "mtbf", "repair", "seed")},
        "times": times._asdict(),
        "undisturbed": {"measured": alone.makespan, "simulated": simulated(calm, alone).makespan, "folds": calm.folds},
        "killed": {
            "machines": [
                {**one._asdict(), "killed": None if one.killed == math.inf else one.killed} for one in killed.machines
            ],
            "accepted": killed.accepted,
            "noticed": killed.noticed,
            "measured": {"makespan": killed.makespan, "retries": killed.retries},
            "simulated": simulated(times, killed)._asdict(),
            "same_table": killed.table == alone.table,
        },
        "drawn": {
            "repetitions": REPETITIONS,
            "makespan": [statistics.mean(makespans), *np.quantile(makespans, (0.1, 0.9)).tolist()],
            "retries": [statistics.mean(retries), *np.quantile(retries, (0.1, 0.9)).tolist()],
        },
    }


def markdown(result: Mapping[str, Any]) -> str:
    """A saved trial: where, how, and the measured beside the simulated figures."""
    about, found = result["machine"], result["cluster"]
    settings, alone, killed, others = (found[name] for name in ("settings", "undisturbed", "killed", "drawn"))
    end = killed["measured"]["makespan"]
    kills = sum(one["killed"] is not None and one["killed"] < end for one in killed["machines"])
    measured, same = killed["measured"], killed["simulated"]
    span, tries = others["makespan"], others["retries"]
    rows = [
        ["nothing fails: all folds", duration(alone["measured"]), duration(alone["simulated"]), ""],
        [
            f"{kills} nodes killed: all folds",
            duration(measured["makespan"]),
            duration(same["makespan"]),
            f"{duration(span[0])} ({duration(span[1])} to {duration(span[2])})",
        ],
        [
            "retries",
            str(measured["retries"]),
            str(same["retries"]),
            f"{tries[0]:.1f} ({tries[1]:.0f} to {tries[2]:.0f})",
        ],
    ]
    titles = ["", "measured", "simulated, same kills", f"kills drawn {others['repetitions']} times: mean (0.1 to 0.9)"]
    return "\n\n".join(
        [
            f"{about['device']}, torch {about['torch']}, Ray {about['ray']}, {about['date'][:10]}, commit "
            f"{about['commit']}: {settings['folds']} folds of {settings['network']}, {settings['steps']} steps each, "
            f"on {NODES} local nodes of one core; a fold takes {duration(statistics.median(found['times']['folds']))} "
            f"and starts anew after a kill. Nodes die after {duration(settings['mtbf'])} on average, and another is "
            f"started {duration(settings['repair'])} later.",
            markdown_table(titles, rows),
            "Both runs have the same table of predictions, byte for byte."
            if killed["same_table"]
            else "**The two runs have different predictions.**",
        ]
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.cluster_trial", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folds", type=int, default=40, help="2 to 40, one for each person of the ORL set")
    parser.add_argument("--network", default="apex-difference", help="as for mol loso")
    parser.add_argument("--steps", type=int, default=150, help="of every fold")
    parser.add_argument("--mtbf", type=float, default=40.0, help="seconds that a node lives on average")
    parser.add_argument("--repair", type=float, default=5.0, help="seconds from a node's death to the start of another")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--work", type=Path, default=Path("cluster-trial"), help="folder of clips and runs")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are saved")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print a saved trial and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Try and report, or report a saved file."""
    options = _arguments(argv)
    try:
        path = options.report or measure(options)
        result = read(path)
        if "cluster" not in result:
            raise SettingsError(f"{path} is not a file of bench.cluster_trial")
        print(markdown(result))
    except MOLError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.report:
        say(f"saved to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
