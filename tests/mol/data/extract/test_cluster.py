"""Clips as tasks on a Ray cluster: the bytes of one process, whatever is lost on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from extract_sets import config_of, content, make_set, remove, second_folder
from ray_nodes import live, nodes_here, raylet_of, strange_node, until, why_no_namespaces, working

from mol.common.errors import DataError, NodeError, SettingsError
from mol.data.extract.cluster import extract_there
from mol.data.extract.run import extract, run_extract
from mol.data.extract.settings import ExtractConfig
from mol.data.extract.work import plan_work


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each."""
    with nodes_here(1, 1) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def straight(manifest: Path) -> dict[str, bytes]:
    """The cache by one process."""
    return content(extract(config_of(manifest, "straight")).path)


def on(cluster: Any, config: ExtractConfig, out: Path, **changes: Any) -> ExtractConfig:
    return replace(config, engine="ray", ray_address=cluster.address, workers=0, out=str(out), **changes)


def test_the_bytes_are_those_of_one_process(
    cluster: Any, manifest: Path, straight: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_extract(on(cluster, config_of(manifest), tmp_path / "cache"))
    assert content(tmp_path / "cache") == straight
    said = capsys.readouterr().out
    assert "3 clips in" in said
    assert "with 2 processes" in said


@pytest.mark.slow
def test_a_clip_that_cannot_be_used_is_listed_as_by_one_process(cluster: Any, tmp_path: Path) -> None:
    manifest = make_set(tmp_path, (8, 8, 8))
    remove(second_folder(manifest))
    config = on(cluster, config_of(manifest), tmp_path / "cache")
    with pytest.raises(DataError, match=r"1 of 3 clips cannot be extracted(.|\n)*sub02/EP01: .*does not exist"):
        extract(config)
    assert extract(replace(config, on_error="skip")).clips == 2
    assert content(tmp_path / "cache") == content(extract(config_of(manifest, "straight", on_error="skip")).path)


def test_a_killed_worker_costs_its_clip_under_way_only(
    cluster: Any, manifest: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    raylets = [raylet_of(node) for node in cluster.list_all_nodes()]
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done == 1 and not killed:
            killed.append(until(lambda: [pid for raylet in raylets for pid in working(raylet)])[0])
            os.kill(killed[0], signal.SIGKILL)

    result = extract(on(cluster, config_of(manifest), tmp_path / "cache"), kill)
    assert killed
    assert content(result.path) == straight
    assert [warning for warning in result.warnings if "was lost; extracted again: casme2/sub0" in warning]


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_namespaces()), reason=f"no mount namespaces: {why_no_namespaces()}")
def test_a_node_that_does_not_see_the_pictures_is_named_and_not_used(
    manifest: Path, straight: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = manifest.parent / "pictures"
    with nodes_here(1) as nodes:
        with strange_node(nodes.address, f"mount -t tmpfs none {pictures}"):
            config = on(nodes, config_of(manifest), tmp_path / "cache")
            until(lambda: len(live(nodes)) == 2)
            result = extract(config)
        assert result.workers == 1
        assert content(result.path) == straight
        assert f"is not used: it does not see {pictures}/sub01/EP01 (3 of 3 clips)" in capsys.readouterr().out
    with nodes_here(0) as nodes, strange_node(nodes.address, f"mount -t tmpfs none {pictures}"):
        until(lambda: len(live(nodes)) == 2)
        with pytest.raises(NodeError, match="no node of the cluster can extract"):
            extract(on(nodes, config_of(manifest), tmp_path / "none"))
    assert not (tmp_path / "none.partial").exists()


def test_pictures_that_a_node_no_longer_sees_are_the_node_s_fault_not_the_clip_s(tmp_path: Path) -> None:
    manifest = make_set(tmp_path, (8,))
    job = plan_work(config_of(manifest)).jobs[0]
    remove(job.source)
    with pytest.raises(NodeError, match=r"it does not see .*sub01/EP01"):
        extract_there(job, config_of(manifest).settings(), None)


def test_an_address_without_the_engine_is_refused() -> None:
    with pytest.raises(SettingsError, match="ray_address is a setting of the engine ray"):
        ExtractConfig(manifest="m", ray_address="auto")
    with pytest.raises(SettingsError, match="engine='slurm' must be 'local' or 'ray'"):
        ExtractConfig(manifest="m", engine="slurm")  # type: ignore[arg-type]
