"""What kills and full disks rest on: comparisons of results, processes of a session, a disk that fills up."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torture import full_disk, kills
from torture.commands import Command, commands, differences, lay_out, remove, said, start
from torture.full_disk import SmallDisk, namespace


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "checkpoints" / "last").mkdir(parents=True)
        (folder / "checkpoints" / "last" / "weights.safetensors").write_bytes(b"weights")
        (folder / "fold.json").write_text(json.dumps({"uf1": 0.5, "seconds": 3 if name == "one" else 4}))
        (folder / "picture.png").write_bytes(name.encode())
    return tmp_path / "one", tmp_path / "two"


def test_results_that_differ_in_times_and_pictures_are_equal(results: tuple[Path, Path]):
    (results[1] / "environment-resumed.json").write_text("{}")
    assert differences(*results) == []


def test_weights_with_metadata_in_another_order_are_equal(results: tuple[Path, Path]):
    for folder, names in zip(results, ("ab", "ba"), strict=True):
        header = json.dumps({"__metadata__": dict.fromkeys(names, "1")}).encode()
        (folder / "start.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"values")
    assert differences(*results) == []
    with open(results[1] / "start.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"S")
    assert differences(*results) == ["start.safetensors differs"]


def test_leftovers_gaps_and_other_numbers_are_differences(results: tuple[Path, Path]):
    one, two = results
    (two / "checkpoints" / "last.old").mkdir()
    (two / "fold.json").write_text(json.dumps({"uf1": 0.25, "seconds": 3}))
    (two / "picture.png").unlink()
    assert differences(one, two) == [
        "picture.png is missing",
        "checkpoints/last.old is left over",
        "fold.json differs",
    ]


def test_every_command_that_is_killed_has_its_numbers():
    assert {command.name for command in commands()} <= set(kills._TARGETS)
    assert sum(unit.target for unit in kills.units()) >= 100
    assert {unit.name for unit in full_disk.units()} >= {
        "prepare",
        "extract",
        "synth",
        "train",
        "loso",
        "predict",
        "report",
    }


def test_processes_of_a_session_are_counted_and_ended(tmp_path: Path):
    sleep = "import time; time.sleep(60)"
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{sleep}']); sum(range(10**7))"
    process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    process.wait()
    assert len(kills._session(process.pid)) == 1
    assert kills._processor_time(process.pid) >= 0
    kills._end(process.pid)
    assert kills._others(process.pid) == []


def test_a_command_that_ends_is_waited_for_and_what_it_says_is_kept(tmp_path: Path):
    folder = tmp_path / "work" / "here"
    lay_out(folder, tmp_path)
    process = start("no-such-command", folder)
    assert kills._wait(process) is None
    assert process.returncode == 2
    assert said(folder).startswith("error: ")
    remove(folder)
    assert not folder.exists()


def test_a_signal_before_anything_is_written_is_no_fault(tmp_path: Path):
    folder = tmp_path / "work" / "here"
    lay_out(folder, tmp_path)
    outcome = kills._kill(Command("info", "info"), folder, "SIGKILL", 0.0)
    assert outcome.kind == "result"


@pytest.fixture
def disk(tmp_path: Path):
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.close()


def test_a_small_disk_fills_up_and_grows_again(disk: SmallDisk):
    if not disk.mounted:
        pytest.skip("neither root nor a user namespace: no tmpfs can be mounted here")
    (disk.folder / "before").write_bytes(bytes(1 << 16))
    disk.shrink(1 << 16)
    with pytest.raises(OSError, match="No space left") as full, open(disk.folder / "more", "wb") as file:
        file.write(bytes(1 << 20))
    assert full.value.errno == errno.ENOSPC
    assert (disk.folder / "before").stat().st_size == 1 << 16
    disk.grow()
    (disk.folder / "more").write_bytes(bytes(1 << 20))


def test_a_namespace_is_found_or_nothing_stands_before_the_command():
    assert namespace() in ([], ["unshare", "-Urm"])


def test_files_from_before_that_are_gone_are_lost(tmp_path: Path):
    from types import SimpleNamespace

    for name in ("before", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.csv").write_text("1\n")
    session = SimpleNamespace(work=tmp_path)
    assert full_disk._lost(session, tmp_path / "out") == []  # type: ignore[arg-type]
    os.truncate(tmp_path / "out" / "evaluation.csv", 0)
    (tmp_path / "before" / "predictions.csv").write_text("1\n")
    assert full_disk._lost(session, tmp_path / "out") == [  # type: ignore[arg-type]
        "evaluation.csv is empty",
        "predictions.csv is gone",
    ]
