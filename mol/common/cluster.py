"""Work on the nodes of a Ray cluster: connecting, asking every node, and tasks that outlive the loss of a node.

The driver, which is the process that the user started, decides itself which node does what: a task is sent to a node
with free resources (`Need`), and a task that was lost with its worker or node is sent to another. So the driver knows
what runs where, can leave out a node that is not fit, and can count what was tried again. Plain tasks serve better
here than Ray Data: every task gives one result of a place known beforehand, there is nothing to shuffle or to batch,
and a lost result costs one task and no pipeline.

Ray is imported here and nowhere else, and only once `connected` is entered.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mol.common.environment import available_cores
from mol.common.errors import MOLError, NodeError, SettingsError
from mol.common.extras import require
from mol.common.signals import STOP_SIGNALS
from mol.common.stopping import held
from mol.common.terminal import say
from mol.common.watch import Watch
from mol.common.workers import picklable

LOST = "its worker process or its node was lost"

# Seconds in which an address must answer, and in which a node must answer the first question (it imports PyTorch).
_ANSWER, _NODE_ANSWER = 30.0, 300.0
# How often a task is sent out again after its worker or node was lost.
_RETRIES = 10
# Seconds between two looks at what has changed, and at the list of nodes.
_LOOK, _NODES = 0.5, 2.0
# Seconds to wait for a node when none is left, and for tasks that were asked to end.
_NO_NODE, _GRACE = 300.0, 300.0
# How an HTTP/2 connection begins, which gRPC runs over: the client's preface and an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class TaskStoppedError(MOLError):
    """A task was stopped by a signal and has saved what it had, to go on from there."""


class LostNodeError(NodeError):
    """A node that does not answer."""


class Need(NamedTuple):
    """What a task needs of its node.

    Attributes:
        cpus: cores.
        gpus: GPUs; below 1 a share of one, which several tasks use together.
    """

    cpus: float
    gpus: float = 0.0

    def fits(self, node: Node) -> int:
        """Number of tasks that a node can run at a time."""
        fits = math.inf
        if self.cpus:
            fits = min(fits, node.cpus // self.cpus)
        if self.gpus:
            # A share never spans two GPUs.
            share = math.floor(1 / self.gpus + 1e-9) if self.gpus < 1 else 1 / self.gpus
            fits = min(fits, math.floor(math.floor(node.gpus) * share + 1e-9))
        return int(min(fits, 10**6))

    def __str__(self) -> str:
        return _resources(self.cpus, self.gpus)


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        key: Ray's id of it.
        name: of its host; with the beginning of the id where several nodes have the same.
        cpus, gpus: what Ray may use there.
    """

    key: str
    name: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.name}: {_resources(self.cpus, self.gpus)}"


_NOTHING = Need(0)


class Done(NamedTuple):
    """A task that is over.

    Attributes:
        result: what it gave.
        node: name of the node that ran it last.
        retries: how often it had to be sent out again.
    """

    result: Any
    node: str
    retries: int


class Cluster:
    """An open connection to Ray; made by `connected`.

    Args:
        ray: the module.
        dashboard: address of the cluster's dashboard; empty if it has none.
    """

    def __init__(self, ray: Any, dashboard: str) -> None:
        self.ray, self.dashboard = ray, dashboard
        self._call = ray.remote(_safely)
        # A process that has used one GPU cannot change to the one of its next task.
        self._call_once = ray.remote(max_calls=1)(_safely_once)

    def nodes(self) -> list[Node]:
        """The nodes that are alive, by name."""
        alive = [one for one in self.ray.nodes() if one["Alive"]]
        hosts = [one["NodeManagerHostname"] for one in alive]
        return sorted(
            (
                Node(
                    one["NodeID"],
                    host if hosts.count(host) == 1 else f"{host}/{one['NodeID'][:6]}",
                    one["Resources"].get("CPU", 0.0),
                    one["Resources"].get("GPU", 0.0),
                )
                for one, host in zip(alive, hosts, strict=True)
            ),
            key=lambda node: (node.name, node.key),
        )

    def share(self, value: Any) -> Any:
        """Put a value into the object store, from where every node fetches it once; arrays are read-only there.

        Raises:
            NodeError: it does not fit.
        """
        exceptions = self.ray.exceptions
        try:
            return self.ray.put(value)
        except (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError) as error:
            raise NodeError(
                "the object store of this node is full; start Ray with a larger one (ray start --object-store-memory), "
                "or put the data where every node sees it"
            ) from error

    def send(self, node: Node, need: Need, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Start ``work(*arguments)`` on a node; returns Ray's reference of what `_safely` gives."""
        affinity = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.key, soft=False)
        options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "max_retries": 0, "name": name}
        call = self._call_once if need.gpus else self._call
        return call.options(**options, scheduling_strategy=affinity).remote(work, *arguments)

    def ask(self, nodes: Sequence[Node], work: Callable[..., Any], *arguments: Any, need: Need = _NOTHING) -> list[Any]:
        """``work(*arguments)`` on every node at the same time; unless it needs something, whatever else runs there.

        Returns:
            For each node its result, or the `MOLError` that it gave or that kept it from answering.
        Raises:
            Exception: any other error of `work`.
        """
        asked = [self.send(node, need, "look at the node", work, *arguments) for node in nodes]
        self.ray.wait(asked, num_returns=len(asked), timeout=_NODE_ANSWER)
        return [self.answer(node, reference) for node, reference in zip(nodes, asked, strict=True)]

    def answer(self, node: Node, reference: Any) -> Any:
        """What a node has answered: its result, or the `MOLError` that it gave or that kept it from answering."""
        try:
            error, result = self.ray.get(reference, timeout=0)
        except self.ray.exceptions.RayTaskError as failure:
            return _not_ours(node, failure)
        except self.ray.exceptions.RayError as failure:
            silent = isinstance(failure, self.ray.exceptions.GetTimeoutError)
            why = f"it has not answered for {_NODE_ANSWER:.0f} s" if silent else _first_line(failure)
            return LostNodeError(f"node {node.name} does not answer: {why}")
        if error is None or isinstance(error, MOLError):
            return result if error is None else error
        raise error from _Remote(result)


def fetch(reference: Any) -> Any:
    """What `Cluster.share` was given; to be called on a node."""
    return require("ray", "scale").get(reference)


class _Remote(Exception):  # noqa: N818 - shown as the cause of an error, never raised
    """The traceback of an error on a node, as text."""

    def __str__(self) -> str:
        return f"on a node of the cluster:\n{self.args[0]}"


def _safely(work: Callable[..., Any], *arguments: Any) -> tuple[Exception | None, Any]:
    """What runs on a node: (None, result) or (error, its traceback), so that Ray's own errors stand apart."""
    try:
        return None, work(*arguments)
    except Exception as error:
        return picklable(error), traceback.format_exc()


def _safely_once(work: Callable[..., Any], *arguments: Any) -> tuple[Exception | None, Any]:
    """`_safely` in a process that ends afterwards; Ray tells the two apart by their names."""
    return _safely(work, *arguments)


def _not_ours(node: Node, failure: Exception) -> NodeError:
    """A task that could not even begin, most likely because the node has another mol, or none."""
    return NodeError(
        f"node {node.name} cannot run mol ({_last_line(failure)}); install the same version there as here, in the "
        "environment from which Ray was started"
    )


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Connect to a Ray cluster; without an address start one on this machine, which ends with this process.

    A script that has called ``ray.init`` itself keeps its connection.

    Args:
        address: "auto" for the cluster that this machine is part of, HOST:PORT, or nothing.
    Raises:
        MissingExtraError: Ray is not installed.
        SettingsError: the address is none, does not answer within 30 s, or is of a cluster that can't be joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    place = _answering(address) if address else None
    ray = require("ray", "scale")
    require("ray.util.scheduling_strategies", "scale")
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if place not in (None, joined):
            raise SettingsError(f"this process has joined the Ray cluster at {joined} and cannot use that at {place}")
        yield Cluster(ray, "")
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with held():
            if place is None:
                context = ray.init(address="local", num_cpus=available_cores(), include_dashboard=False, **quiet)
            else:
                # Of "auto" alone does Ray take the token that ray start has used on this machine.
                context = ray.init(address="auto" if address == "auto" else place, **quiet)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        token = "; if it is protected by a token, set RAY_AUTH_MODE=token here, too" if place else ""
        raise SettingsError(
            f"cannot use the Ray cluster at {place or 'this machine'}: {_last_line(error)}{token}"
        ) from error
    finally:
        _restore(handlers)
    try:
        yield Cluster(ray, f"http://{context.dashboard_url}" if context.dashboard_url else "")
    finally:
        with held():
            ray.shutdown()
        _restore(handlers)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """Take back the handlers of signals that Ray has set."""
    with suppress(ValueError):  # not the main thread, where Ray sets none either
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _answering(address: str) -> str:
    """HOST:PORT of a cluster, once something that speaks gRPC has answered there: Ray itself waits for minutes.

    Raises:
        SettingsError: as `connected`.
    """
    place = _own_cluster() if address == "auto" else address
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or "/" in place or not 0 < int(port) < 1 << 16:
        raise SettingsError(f"ray_address={place!r} must be auto or HOST:PORT, such as 10.0.0.1:6379")
    end = time.monotonic() + _ANSWER
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                connection.settimeout(max(0.1, end - time.monotonic()))
                connection.sendall(_PREFACE)
                answer = connection.recv(9)
                if len(answer) < 9 or answer[3] != 4:  # the type of the first frame: SETTINGS
                    raise OSError("what listens there is not Ray")
    except OSError as error:
        raise SettingsError(
            f"no Ray cluster answers at {place} ({error.strerror or error}); check the address that ray start --head "
            "has printed, and that this machine reaches it"
        ) from error
    return place


def _own_cluster() -> str:
    """The address of the cluster that this machine is part of: from RAY_ADDRESS, or as ray start has noted it."""
    if place := os.environ.get("RAY_ADDRESS", ""):
        return place
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        return noted.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            "this machine is not part of a Ray cluster; start one with ray start, give its address with --ray-address "
            "HOST:PORT, or leave the option out for a cluster of this machine alone"
        ) from error


def require_room(nodes: Sequence[Node], need: Need, option: str) -> list[Node]:
    """The nodes that can run a task.

    Args:
        nodes: of the cluster.
        need: of one task.
        option: the setting to blame.
    Raises:
        SettingsError: there is none; the message lists what the nodes have.
    """
    if able := [node for node in nodes if need.fits(node)]:
        return able
    raise SettingsError(f"{option}: no node has {need}; the nodes have: {'; '.join(map(str, nodes)) or 'nothing'}")


def answering(nodes: Sequence[Node], answers: Sequence[Any]) -> tuple[list[Node], list[Any]]:
    """The nodes that have answered, with their answers; of the others it is said that they are not used.

    Raises:
        LostNodeError: none has.
    """
    pairs = list(zip(nodes, answers, strict=True))
    for _, answer in pairs:
        if isinstance(answer, LostNodeError):
            say(f"{answer}; it is not used")
    found = [pair for pair in pairs if not isinstance(pair[1], LostNodeError)]
    if not found:
        raise LostNodeError("no node of the cluster answers; look at them with ray status")
    return [node for node, _ in found], [answer for _, answer in found]


def require_versions(nodes: Sequence[Node], answers: Sequence[Any], own: Mapping[str, str]) -> None:
    """Refuse nodes on which something has another version than here.

    Args:
        nodes: that were asked.
        answers: their versions by name, or errors, as `Cluster.ask` gives them.
        own: the versions here.
    Raises:
        SettingsError: naming every difference.
        MOLError: as answered.
    """
    differences = []
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, MOLError):
            raise type(answer)(f"node {node.name}: {answer}") from answer
        differences += [f"{node.name} {difference}" for difference in version_differences(answer, own)]
    if differences:
        raise SettingsError(f"versions differ: {'; '.join(differences)}. Install the same on all nodes as here")


def version_differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """For each name whose version there is not that of here, a sentence without its subject."""
    return [f"has {name} {there.get(name, 'none')}, not {here[name]}" for name in here if there.get(name) != here[name]]


@dataclass
class _Task:
    """A task that is not over.

    Attributes:
        index: its place.
        arguments: of the work.
        retries: how often it was sent out again.
        shunned: keys of nodes where it was lost or could not be done.
        reason: why it was sent out again.
    """

    index: int
    arguments: tuple[Any, ...]
    retries: int = 0
    shunned: set[str] = field(default_factory=set)
    reason: str = ""


class _Sent(NamedTuple):
    """What a reference stands for: a task on a node, or with None the question whether a new node is fit."""

    task: _Task | None
    node: Node


def on_cluster(
    cluster: Cluster,
    nodes: Iterable[Node],
    need: Need,
    work: Callable[..., Any],
    tasks: Iterable[tuple[Any, ...]],
    *,
    watch: Watch,
    name: Callable[[int], str],
    given_up: Callable[[int, str], Any],
    admit: tuple[Any, ...],
    elsewhere: tuple[type[MOLError], ...] = (),
    most: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, Done], None, None]:
    """Call ``work(*task)`` for every task on the nodes of a cluster and yield the results as they arrive.

    A task whose worker or node is lost is sent out again, if possible to another node. Nodes that join later take part
    once they are admitted. No more tasks are under way than the nodes have room for.

    Args:
        cluster: the connection.
        nodes: that take part from the beginning.
        need: of one task.
        work: a function at the top level of a module.
        tasks: its arguments, which must be picklable; consumed as nodes become free.
        watch: is told what happens.
        name: of a task, for people.
        given_up: gives the result of a task that was lost too often or that no node could do, from its index and why.
        admit: (function, arguments …), called on a node that joins later; a `MOLError` means that it is not fit.
        elsewhere: errors of `work` after which other nodes are tried; `NodeError` rules the node out for all tasks.
        most: number of tasks under way at most; 0 for as many as there is room for.
        stopped: whether to stop: nothing more is sent out, what runs is interrupted (as by Ctrl-C, to which `work` may
            answer with `TaskStoppedError`), and what it still gives within 5 minutes is yielded.
    Yields:
        (index of the task, what became of it), in order of completion.
    Raises:
        NodeError: no node has been left for 5 minutes.
        MOLError, Exception: of `work`, with the node's traceback as the cause.
    """
    run = _Run(cluster, nodes, need, work, tasks, watch, name, given_up, admit, (*elsewhere, NodeError), most)
    try:
        while run.busy():
            if stopped():
                yield from run.wind_down()
                return
            run.look_at_nodes()
            run.fill()
            yield from run.collect()
    finally:
        run.cancel(force=True)


class _Run:
    """The state of `on_cluster`, with the same arguments."""

    def __init__(
        self,
        cluster: Cluster,
        nodes: Iterable[Node],
        need: Need,
        work: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        watch: Watch,
        name: Callable[[int], str],
        given_up: Callable[[int, str], Any],
        admit: tuple[Any, ...],
        elsewhere: tuple[type[MOLError], ...],
        most: int,
    ) -> None:
        self._cluster, self._ray, self._need, self._work = cluster, cluster.ray, need, work
        self._watch, self._name, self._given_up = watch, name, given_up
        self._admit, self._elsewhere, self._most = admit, elsewhere, most or 10**6
        self._tasks = enumerate(tasks)
        self._again: list[_Task] = []
        self._more = True
        self._fit = {node.key: node for node in nodes}
        self._known = {node.key for node in cluster.nodes()}
        self._sent: dict[Any, _Sent] = {}
        self._looked = time.monotonic()
        self._alone_since: float | None = None
        self._stopping = False

    def busy(self) -> bool:
        """Whether there is anything left to do, as far as is known before the tasks are asked for."""
        return bool(self._more or self._again or self._under_way())

    def _under_way(self) -> int:
        return sum(sent.task is not None for sent in self._sent.values())

    def look_at_nodes(self) -> None:
        """Forget nodes that are gone, and ask those that are new."""
        if time.monotonic() - self._looked < _NODES:
            return
        self._looked = time.monotonic()
        alive = {node.key: node for node in self._cluster.nodes()}
        for key in set(self._fit) - set(alive):
            self._watch.say(f"node {self._fit.pop(key).name} is gone; what ran there is run again")
        for key in set(alive) - self._known:
            self._known.add(key)
            if self._need.fits(alive[key]):
                sent = self._cluster.send(alive[key], _NOTHING, "look at the node", *self._admit)
                self._sent[sent] = _Sent(None, alive[key])
        self._watch_for_nobody()

    def _watch_for_nobody(self) -> None:
        if self._fit:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
            self._watch.say(f"no node is left; waiting {_NO_NODE:.0f} s for one to join")
        elif time.monotonic() - self._alone_since > _NO_NODE:
            raise NodeError(
                "no node of the cluster is left that can do the work; what is done is kept. Start nodes and run the "
                "same command again"
            )

    def fill(self) -> None:
        """Send out tasks as long as there is room for them."""
        load = dict.fromkeys(self._fit, 0)
        for sent in self._sent.values():
            if sent.task is not None and sent.node.key in load:
                load[sent.node.key] += 1
        while self._under_way() < self._most:
            room = {key: self._need.fits(node) - load[key] for key, node in self._fit.items()}
            free = {key for key in room if room[key] > 0}
            if not free or (task := self._next(free)) is None:
                return
            key = max(free, key=lambda one: (one not in task.shunned, room[one]))
            load[key] += 1
            node, label = self._fit[key], self._name(task.index)
            sent = self._cluster.send(node, self._need, label, self._work, *task.arguments)
            self._sent[sent] = _Sent(task, node)
            self._watch.started(label, node.name)

    def _next(self, free: set[str]) -> _Task | None:
        """The next task for one of the free nodes; one that was lost waits for a node where it was not, if any is."""
        for place, task in enumerate(self._again):
            if free - task.shunned or task.shunned.issuperset(self._fit):
                return self._again.pop(place)
        index, arguments = next(self._tasks, (-1, ()))
        self._more = index >= 0
        return _Task(index, arguments) if self._more else None

    def collect(self) -> Generator[tuple[int, Done], None, None]:
        """Wait a little for something to end; yield the tasks that are over."""
        self._watch.tick()
        if not self._sent:
            time.sleep(_LOOK)
            return
        ready, _ = self._ray.wait(list(self._sent), num_returns=1, timeout=_LOOK)
        for reference in ready:
            sent = self._sent.pop(reference)
            if sent.task is None:
                self._welcome(sent.node, reference)
            elif (over := self._over(sent.task, sent.node, reference)) is not None:
                yield sent.task.index, over

    def _doubt(self, node: Node, failure: Exception) -> None:
        """Leave out a node that is gone, which the cluster may notice only later, until it answers again."""
        exceptions = self._ray.exceptions
        gone = (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.TaskUnschedulableError)
        if isinstance(failure, gone):
            self._known.discard(node.key)
            if self._fit.pop(node.key, None):
                self._watch.say(f"node {node.name} is gone; what ran there is run again")

    def _welcome(self, node: Node, reference: Any) -> None:
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            pass  # named below
        except self._ray.exceptions.RayError:
            self._known.discard(node.key)  # it is asked again as long as the cluster lists it
            return
        answer = self._cluster.answer(node, reference)
        if isinstance(answer, MOLError):
            self._watch.say(f"the new node {node.name} is not used: {answer}")
        else:
            self._fit[node.key] = node
            self._watch.say(f"the new node {node} takes part")

    def _over(self, task: _Task, node: Node, reference: Any) -> Done | None:
        """What became of a task; None if it is run again."""
        label = self._name(task.index)
        try:
            error, result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as failure:
            error, result = _not_ours(node, failure), ""
        except self._ray.exceptions.RayError as failure:
            self._doubt(node, failure)
            return self._lost(task, node, failure)
        if isinstance(error, TaskStoppedError):
            return self._lost(task, node, error)
        if error is None:
            self._watch.ended(label, node.name)
            return Done(result, node.name, task.retries)
        if not isinstance(error, self._elsewhere):
            raise error from _Remote(result)
        if self._stopping:
            return self._lost(task, node, error)
        task.shunned.add(node.key)
        task.reason = str(error)
        if isinstance(error, NodeError) and node.key in self._fit:
            del self._fit[node.key]
            self._watch.say(f"node {node.name} is not used any more: {error}")
        if task.shunned.issuperset(self._fit) and (self._fit or task.retries >= _RETRIES):
            return self._give_up(task, node, task.reason)
        self._retry(task, node)
        return None

    def _lost(self, task: _Task, node: Node, failure: Exception) -> Done | None:
        """Run a task again that has not ended by itself."""
        label, stopped = self._name(task.index), isinstance(failure, TaskStoppedError)
        if self._stopping:
            self._watch.dropped(label, node.name)
            if isinstance(failure, MOLError):
                self._watch.say(f"{label}: {failure}")
            return None
        if isinstance(failure, self._ray.exceptions.TaskUnschedulableError):  # it never began
            self._watch.dropped(label, node.name)
            self._again.append(task)
            return None
        task.shunned.add(node.key)
        task.reason = str(failure) if stopped else f"{LOST} ({type(failure).__name__})"
        if task.retries >= _RETRIES:
            return self._give_up(task, node, f"{task.reason}, {task.retries + 1} times in a row")
        self._retry(task, node)
        return None

    def _retry(self, task: _Task, node: Node) -> None:
        task.retries += 1
        self._watch.retried(self._name(task.index), node.name, task.reason)
        self._again.append(task)

    def _give_up(self, task: _Task, node: Node, reason: str) -> Done:
        self._watch.ended(self._name(task.index), node.name)
        return Done(self._given_up(task.index, reason), node.name, task.retries)

    def wind_down(self) -> Generator[tuple[int, Done], None, None]:
        """Interrupt what runs, and yield what it gives."""
        self._stopping = True
        self.cancel(force=False)
        end = time.monotonic() + _GRACE
        while self._under_way() and time.monotonic() < end:
            yield from self.collect()

    def cancel(self, force: bool) -> None:
        """Interrupt all tasks, or kill their workers."""
        for reference in self._sent:
            with suppress(Exception):  # it may be over, or the connection may be lost
                self._ray.cancel(reference, force=force)


def _resources(cpus: float, gpus: float) -> str:
    return (
        ", ".join(
            f"{count:g} {what}{'' if count == 1 else 's'}" for count, what in ((cpus, "CPU"), (gpus, "GPU")) if count
        )
        or "no CPUs"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(error: BaseException) -> str:
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
