"""Clips as tasks on a Ray cluster: ``mol extract --engine ray``.

The nodes read the pictures and send back the rows of a clip; the driver alone writes the cache, so it is the same as
from one process. A lost node costs the clips that were under way there, which another node extracts again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mol.common.cluster import (
    Cluster,
    Need,
    Node,
    connected,
    on_cluster,
    require_room,
    require_versions,
    version_differences,
)
from mol.common.environment import versions_of
from mol.common.errors import NodeError
from mol.common.terminal import say
from mol.common.watch import Watch
from mol.common.workers import one_thread
from mol.data.extract.clip import Extracted, Failed, attempt_clip, detector_of
from mol.data.extract.frames import Job
from mol.data.extract.settings import ExtractConfig, ExtractionSettings
from mol.data.extract.work import Work
from mol.data.manifest import key
from mol.vision.tvl1 import require_tvl1

_NEED = Need(1)


class _Look(NamedTuple):
    """What a node must have and see.

    Attributes:
        settings: of the extraction.
        detector: whether faces are found by dlib.
        versions: of the packages that shape the rows, here.
        sources: folders and films of the clips, absolute.
        first: content of the first of them, as `_content` gives it.
    """

    settings: ExtractionSettings
    detector: bool
    versions: Mapping[str, str]
    sources: Sequence[Path]
    first: list[tuple[str, int]]


class Crew(NamedTuple):
    """The nodes that extract.

    Attributes:
        cluster: the connection.
        nodes: that can extract.
        look: what they were asked.
        workers: number of clips under way at a time.
    """

    cluster: Cluster
    nodes: list[Node]
    look: _Look
    workers: int


@contextmanager
def crew_for(config: ExtractConfig, work: Work) -> Iterator[Crew]:
    """Connect to the cluster, and find the nodes that see the pictures and have the same versions, before any work.

    Raises:
        SettingsError: no cluster answers at the address, or versions differ.
        NodeError: no node sees the pictures, or a node can't run mol.
        MissingExtraError: Ray is not installed.
    """
    good = [job.source for job in work.jobs if not job.problem]
    versions = {**work.cache_settings.versions, **versions_of(["molkernels"])}
    look = _Look(config.settings(), work.table is None, versions, good, _content(good[0]) if good else [])
    with connected(config.ray_address) as cluster:
        if cluster.dashboard:
            say(f"dashboard: {cluster.dashboard}")
        nodes = require_room(cluster.nodes(), _NEED, "--engine ray")
        seeing, answers = [], []
        for node, answer in zip(nodes, cluster.ask(nodes, look_at_node, look), strict=True):
            if isinstance(answer, NodeError):
                say(f"node {node.name} is not used: {answer}")
                continue
            seeing.append(node)
            answers.append(answer)
        if not seeing:
            raise NodeError(
                f"no node of the cluster can extract; the pictures of {config.manifest} must be where every node sees "
                "them under the same path"
            )
        require_versions(seeing, answers, versions)
        room = sum(_NEED.fits(node) for node in seeing)
        yield Crew(cluster, seeing, look, min(config.workers or room, room))


def extract_on(
    crew: Crew, config: ExtractConfig, work: Work, todo: Sequence[int], warn: Callable[[str], object]
) -> Generator[tuple[int, Extracted | Failed], None, None]:
    """`attempt_clip` for some clips on the nodes of a cluster; the results as `in_processes` yields them.

    Args:
        crew: the nodes.
        config: of the extraction.
        work: its clips.
        todo: those to extract.
        warn: is told which clips were extracted again.
    Yields:
        (place in `todo`, what came of the clip), in order of completion.
    Raises:
        NodeError: no node is left.
    """
    jobs = [work.jobs[index] for index in todo]
    with Watch("clips", len(work.jobs), len(work.jobs) - len(todo)) as watch:
        outcomes = on_cluster(
            crew.cluster,
            crew.nodes,
            _NEED,
            extract_there,
            ((job, config.settings(), work.given(index)) for job, index in zip(jobs, todo, strict=True)),
            watch=watch,
            name=lambda place: key(jobs[place].clip),
            given_up=lambda place, reason: Failed(f"{reason}."),
            admit=(_admit, crew.look),
            elsewhere=(NodeError,),
            most=config.workers,
        )
        with closing(outcomes):
            for place, done in outcomes:
                if done.retries:
                    warn(f"a worker process or a node was lost; extracted again: {key(jobs[place].clip)}")
                if isinstance(done.result, Failed):
                    watch.failed()
                yield place, done.result


def look_at_node(look: _Look) -> dict[str, str]:
    """On a node: the versions of what shapes the rows.

    Raises:
        NodeError: it does not see the pictures, or sees others.
        MissingExtraError: it lacks OpenCV or dlib.
    """
    if absent := [source for source in look.sources if not source.exists()]:
        raise NodeError(f"it does not see {absent[0]} ({len(absent)} of {len(look.sources)} clips)")
    if look.sources and _content(look.sources[0]) != look.first:
        raise NodeError(f"{look.sources[0]} holds something else there")
    require_tvl1()
    if look.detector:
        detector_of(look.settings)
    return versions_of(look.versions)


def _admit(look: _Look) -> None:
    """On a node that joined later: whether it can extract.

    Raises:
        MOLError: why not.
    """
    if differences := version_differences(look_at_node(look), look.versions):
        raise NodeError("; ".join(differences))


def extract_there(job: Job, settings: ExtractionSettings, given: Mapping[int, np.ndarray] | None) -> Extracted | Failed:
    """On a node: `attempt_clip`.

    Raises:
        NodeError: the node does not see the pictures any more.
        MissingExtraError: as `attempt_clip`.
    """
    if not job.source.exists():
        raise NodeError(f"it does not see {job.source}")
    with one_thread():
        return attempt_clip(job, settings, given)


def _content(source: Path) -> list[tuple[str, int]]:
    """Names and sizes of the files of a folder, or of one file."""
    try:
        files = [source] if source.is_file() else [Path(entry.path) for entry in os.scandir(source)]
        return sorted((file.name, file.stat().st_size) for file in files)
    except OSError as error:
        raise NodeError(f"it cannot read {source} ({error.strerror})") from error
