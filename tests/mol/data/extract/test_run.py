"""Extraction: a manifest becomes a cache, whatever is wrong with some clips and whenever the run is stopped."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from extract_sets import (
    FAULTS,
    QUICK,
    config_of,
    content,
    make_set,
    remove,
    second_folder,
    without_face,
)
from places import environment

from mol.common.errors import CacheSettingsError, DataError, InUseError, MOLError, StorageError
from mol.common.locks import beside, lock
from mol.data.cache import Cache
from mol.data.extract import run as run_module
from mol.data.extract.report import describe_result
from mol.data.extract.run import extract, run_extract
from mol.data.manifest import read_manifest, write_manifest


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, bytes]:
    """The cache of `make_set` by an undisturbed run in one process."""
    return content(extract(config_of(make_set(tmp_path_factory.mktemp("straight")))).path)


# What comes out


def test_synthetic_clips_in_a_set_s_folders_stay_marked_as_such(tmp_path):
    manifest = read_manifest(make_set(tmp_path, (8,)))
    assert not Cache.open(extract(config_of(tmp_path / "manifest")).path).settings.synthetic_clips
    write_manifest(tmp_path / "manifest", replace(manifest, made={"synthetic": True}))
    made = extract(config_of(tmp_path / "manifest", "synthetic"))
    assert Cache.open(made.path).settings.synthetic_clips


def test_index_tells_where_every_row_comes_from(tmp_path):
    cache = Cache.open(extract(config_of(make_set(tmp_path))).path)
    assert cache.settings.kind == "extracted"
    assert cache.classes == ("disgust", "happiness", "surprise")
    assert [(row["subject"], row["start"], row["interval"], row["length"]) for row in cache.rows] == [
        ("sub01", 0, 2, 17),
        ("sub01", 1, 2, 17),
        ("sub02", 0, 1, 8),
        ("sub03", 0, 1, 9),
    ]
    row = cache.rows[1]
    assert row["frames"] == [47, 49, 51, 53, 55, 57, 59, 61]
    assert (row["dataset"], row["clip"], row["onset"], row["apex"], row["offset"]) == ("casme2", "EP01", 46, 50, 62)
    assert (row["emotion"], cache.classes[row["label"]], row["action_units"]) == ("happiness", "happiness", "6+12")


def test_pictures_of_12_bits_give_the_same_rows_as_8_bits_and_a_note(tmp_path):
    plain = Cache.open(extract(config_of(make_set(tmp_path / "plain", (8, 8)))).path)
    manifest = make_set(tmp_path / "deep", (8, 8))
    for path in (tmp_path / "deep" / "pictures" / "sub02").rglob("*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) << 4)
    result = extract(config_of(manifest))
    deep = Cache.open(result.path)
    for name in ("frames", "flow", "landmarks"):
        np.testing.assert_array_equal(np.asarray(getattr(deep, name)), np.asarray(getattr(plain, name)))
    (warning,) = result.warnings
    assert warning.startswith("1 of 2 clips, the first casme2/sub02/EP01: the pictures have 16-bit pixels")
    assert warning in describe_result(result, config_of(manifest))


# Clips that cannot be used


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_clip_that_cannot_be_used_costs_no_other_clip(tmp_path, damage, message):
    manifest = make_set(tmp_path, (8, 8, 8))
    damage(second_folder(manifest))
    with pytest.raises(DataError, match=rf"1 of 3 clips(.|\n)*--on-error skip(.|\n)*sub02/EP01: .*{message}"):
        extract(config_of(manifest))
    assert not (tmp_path / "cache").exists()
    result = extract(config_of(manifest, on_error="skip"))
    assert (result.clips, result.rows, result.extracted) == (2, 2, 0)  # the others were kept
    cache = Cache.open(result.path)
    cache.verify()
    assert [row["subject"] for row in cache.rows] == ["sub01", "sub03"]
    assert [(clip["dataset"], clip["subject"], clip["clip"]) for clip in cache.skipped] == [("casme2", "sub02", "EP01")]
    assert "sub02/EP01" in describe_result(result, config_of(manifest))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest", "pictures", "cache"}


def test_repaired_clip_is_all_that_the_next_run_does(tmp_path):
    manifest = make_set(tmp_path, (8, 8, 8))
    folder = second_folder(manifest)
    remove(folder)
    with pytest.raises(DataError, match="does not exist"):
        extract(config_of(manifest))
    folder.with_name("elsewhere").rename(folder)
    assert extract(config_of(manifest)).extracted == 1
    assert content(tmp_path / "cache") == content(extract(config_of(manifest, "straight")).path)


def test_clip_that_is_too_short_is_told_with_the_remedy_and_can_be_skipped(tmp_path):
    manifest = make_set(tmp_path, (8, 7))
    with pytest.raises(DataError, match=r"sub02/EP01: 7 frames in .*a clip needs 8; --short interpolate"):
        extract(config_of(manifest))
    result = extract(config_of(manifest, on_error="skip"))
    assert (result.clips, len(result.skipped)) == (1, 1)
    assert Cache.open(result.path).skipped == result.skipped


def test_finished_cache_without_its_bad_clips_is_kept_as_it_is(tmp_path):
    manifest = make_set(tmp_path, (8, 8))
    without_face(second_folder(manifest))
    before = content(extract(config_of(manifest, on_error="skip")).path)
    result = extract(config_of(manifest))
    assert (result.extracted, len(result.skipped)) == (0, 1)
    assert content(result.path) == before
    assert "nothing was done" in describe_result(result, config_of(manifest))


def test_without_any_usable_clip_there_is_no_cache(tmp_path):
    manifest = make_set(tmp_path, (8,))
    without_face(tmp_path / "pictures/sub01/EP01")
    with pytest.raises(DataError, match=r"none of the 1 clips can be extracted(.|\n)*no face found"):
        extract(config_of(manifest, on_error="skip"))
    with pytest.raises(DataError, match=r"no clip of .*manifest can be extracted(.|\n)*a clip needs 8"):
        extract(config_of(make_set(tmp_path / "short", (5,)), on_error="skip"))


def test_manifest_edited_by_hand_is_refused(tmp_path):
    manifest = make_set(tmp_path, (8,))
    table = manifest / "clips.csv"
    table.write_text(table.read_text().replace("happiness", "surprise"))
    with pytest.raises(DataError, match=r"clips\.csv is not what mol prepare wrote"):
        extract(config_of(manifest))


# Stopped, killed, changed


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path, straight):
    counts: list[tuple[int, int]] = []
    result = extract(config_of(make_set(tmp_path), workers=2), lambda done, total: counts.append((done, total)))
    assert content(result.path) == straight
    assert counts == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert (result.warnings, result.extracted) == ([], 3)
    assert all(result.seconds[stage] > 0 for stage in result.seconds)


def start_extraction(manifest: Path, out: str) -> subprocess.Popen:
    """A process of its own that says how many clips are done."""
    script = (
        "from pathlib import Path; from extract_sets import config_of; from mol.data.extract import extract\n"
        "def tell(done, total): print(done, flush=True)\n"
        f"extract(config_of(Path({str(manifest)!r}), {out!r}, workers=2), tell)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes through /proc")
def test_killed_run_goes_on_to_the_same_bytes_and_leaves_no_process(tmp_path, straight):
    manifest = make_set(tmp_path)
    with start_extraction(manifest, "killed") as process:  # parent and workers at once, after the first clip
        while process.stdout.readline().strip() != "1":
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed").exists()
    with start_extraction(manifest, "killed") as process:  # the parent alone, before its next clip
        assert process.stdout.readline().strip() in ("1", "2")
        workers = set()
        while len(workers) < 3 and process.poll() is None:  # two workers and multiprocessing's resource tracker
            workers = children_of(process.pid)
        process.kill()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in workers)
    result = extract(config_of(manifest, "killed"))
    assert result.extracted < 3
    assert content(result.path) == straight


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_run_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path, straight, delay):
    manifest = make_set(tmp_path)
    with start_extraction(manifest, "killed") as process:
        process.stdout.readline()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
    assert content(extract(config_of(manifest, "killed")).path) == straight


@pytest.mark.slow
def test_killed_worker_is_told_and_its_clip_done_again(tmp_path, straight):
    manifest = make_set(tmp_path)

    def kill_one(done: int, total: int) -> None:
        if done == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    result = extract(config_of(manifest, workers=2), kill_one)
    assert "a worker process died, probably out of memory" in result.warnings[0]
    assert "extracted again: casme2/" in result.warnings[0]
    assert content(result.path) == straight


def test_processes_that_always_die_end_the_run_with_the_reason(tmp_path):
    manifest = make_set(tmp_path)
    ended = threading.Event()

    def kill_all() -> None:
        while not ended.wait(0.02):
            for process in multiprocessing.active_children():
                process.kill()

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(MOLError, match=r"a worker process died, .*The extracted clips are kept"):
            extract(config_of(manifest, workers=2))
    finally:
        ended.set()
        killer.join()


def test_interrupt_leaves_the_command_to_go_on(tmp_path, monkeypatch, capsys):
    manifest = make_set(tmp_path)

    @contextmanager
    def interrupted(description):
        def count(done, total):
            if done == 1:
                signal.raise_signal(signal.SIGINT)

        yield count

    monkeypatch.setattr(run_module, "counting", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_extract(config_of(manifest, workers=2))
    said = capsys.readouterr().out
    assert "the extracted clips are kept. To continue: mol extract" in said
    assert multiprocessing.active_children() == []
    assert extract(config_of(manifest)).extracted == 2


def test_a_cache_is_for_one_process_until_it_is_finished(tmp_path):
    """Refused at once: the manifest is not looked for."""
    config = config_of(make_set(tmp_path))
    with lock(beside(config.out), "mol extract"):
        with pytest.raises(InUseError, match=rf"is in use by process {os.getpid()} on .* choose another --out"):
            extract(replace(config, manifest="nowhere"))
        assert not Path(config.out + ".partial").exists()
    extract(config)
    with lock(beside(config.out), "mol extract"):
        assert extract(config).extracted == 0


def test_other_settings_are_refused_with_the_difference(tmp_path):
    manifest = make_set(tmp_path, (8,))
    before = content(extract(config_of(manifest)).path)
    with pytest.raises(CacheSettingsError, match=r"settings\.enlarge: 2\.5 → 3\.0"):
        extract(config_of(manifest, enlarge=3.0))
    with pytest.raises(CacheSettingsError, match=r"settings\.tvl1\.warps: 1 → 2"):
        extract(config_of(manifest, tvl1=replace(QUICK, warps=2)))
    assert content(tmp_path / "cache") == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_manifest_is_refused_with_the_difference(tmp_path, finished):
    manifest = make_set(tmp_path, (8, 8))
    if not finished:
        without_face(second_folder(manifest))
        with pytest.raises(DataError):
            extract(config_of(manifest))
    else:
        extract(config_of(manifest))
    made = read_manifest(manifest)
    clips = [replace(made.clips[0], path="pictures/sub02/EP01", apex=None), made.clips[1]]
    write_manifest(manifest, replace(made, clips=clips))
    difference = r'row 0\.path: "pictures/sub01/EP01" → "pictures/sub02/EP01"(.|\n)*row 0\.apex: 50 → null'
    with pytest.raises(CacheSettingsError, match=difference):
        extract(config_of(manifest))


def test_data_set_that_moved_goes_on(tmp_path):
    manifest = make_set(tmp_path / "here", (8,))
    path = extract(config_of(manifest)).path
    (tmp_path / "here" / "pictures").rename(tmp_path / "pictures")
    write_manifest(manifest, replace(read_manifest(manifest), root=tmp_path))
    assert extract(config_of(manifest)).path == path


def test_full_disk_keeps_what_is_extracted(tmp_path, straight, monkeypatch):
    manifest = make_set(tmp_path)

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def seek(self, place):
            self.full = place > 3 * 165888  # the last row of four
            return self.file.seek(place)

        def write(self, view):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(view)

        def close(self):
            self.file.close()

    def fill_disk(done: int, total: int) -> None:
        if done == 0:
            writers[-1]._files["frames"] = FullDisk(writers[-1]._files["frames"])

    writers = []

    class Writer(run_module.CacheWriter):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            writers.append(self)

    monkeypatch.setattr(run_module, "CacheWriter", Writer)
    with pytest.raises(
        StorageError, match=r"could not write row 3 .*No space left on device.*run the same command again"
    ):
        extract(config_of(manifest), fill_disk)
    monkeypatch.undo()
    assert extract(config_of(manifest)).extracted == 1
    assert content(tmp_path / "cache") == straight


@pytest.mark.parametrize("leftover", ["cache.kept.partial", "cache.partial"])
def test_run_killed_while_it_left_clips_out_goes_on(tmp_path, leftover):
    manifest = make_set(tmp_path, (8, 8))
    without_face(second_folder(manifest))
    if leftover == "cache.partial":  # killed after the copy was in its place and before the original was removed
        with pytest.raises(DataError):
            extract(config_of(manifest))
        copy = content(tmp_path / "cache.partial")
        extract(config_of(manifest, on_error="skip"))
        (tmp_path / leftover).mkdir()
        for name, data in copy.items():
            (tmp_path / leftover / name).write_bytes(data)
    else:
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "settings.json").write_text("{")
    extract(config_of(manifest, on_error="skip"))
    Cache.open(tmp_path / "cache").verify()
    assert {path.name for path in tmp_path.iterdir()} == {"manifest", "pictures", "cache"}


def test_list_of_skipped_clips_that_is_damaged_is_refused(tmp_path):
    manifest = make_set(tmp_path, (8, 7))
    path = extract(config_of(manifest, on_error="skip")).path / "skipped.json"
    assert json.loads(path.read_text())[0]["subject"] == "sub02"
    path.write_text('[{"subject": "sub02"}]')
    with pytest.raises(MOLError, match=r"skipped\.json: \[0\]\.dataset is missing"):
        extract(config_of(manifest))


def test_damaged_cache_that_is_made_unfinished_again_costs_only_its_damaged_clips(tmp_path, straight):
    """The repair that mol check-data suggests."""
    manifest = make_set(tmp_path)
    path = extract(config_of(manifest)).path
    frames = np.load(path / "frames.npy", mmap_mode="r+")
    frames[1] ^= 1
    frames.flush()
    path.rename(path.with_name("cache.partial"))
    assert extract(config_of(manifest)).extracted == 1
    assert content(path) == straight
