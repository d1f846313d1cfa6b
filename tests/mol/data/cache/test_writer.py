"""Writing a cache: it is whole or absent, resumable, and never mixed from two settings."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import SMALL, small_clip, small_rows, write_small_cache
from places import environment

from mol.common.errors import CacheError, CacheSettingsError, ClipError, StorageError
from mol.data.cache import Cache, CacheWriter


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_cache_holds_no_pickle_and_nothing_temporary(tmp_path):
    path = write_small_cache(tmp_path / "set")
    names = ["checksums.npy", "flow.npy", "frames.npy", "index.json", "landmarks.npy", "settings.json"]
    assert sorted(content(path)) == names
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
    for name in names:
        if name.endswith(".npy"):
            np.load(path / name, allow_pickle=False)
        else:
            json.loads((path / name).read_text(encoding="utf-8"))


def test_unfinished_cache_is_not_in_its_place(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(4)) as writer:
        writer.write(1, *small_clip(1))
        with pytest.raises(CacheError, match="lacks 3 of 4 rows"):
            writer.finish()
    assert not (tmp_path / "set").exists()
    with pytest.raises(CacheError, match=r"set\.partial is unfinished: run the command"):
        Cache.open(tmp_path / "set")


def test_interrupted_run_goes_on_with_the_rows_that_are_missing(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(4)) as writer:
        writer.write(2, *small_clip(2))
        writer.write(0, *small_clip(0))
    with CacheWriter(tmp_path / "set", SMALL, small_rows(4)) as writer:
        assert writer.pending() == [1, 3]
        for row in writer.pending():
            writer.write(row, *small_clip(row))
        writer.finish()
    assert content(tmp_path / "set") == content(write_small_cache(tmp_path / "straight"))


def skipped(*clips: int) -> list[dict[str, str]]:
    return [{"dataset": "test", "subject": f"s{i % 2}", "clip": f"c{i}", "reason": "no face"} for i in clips]


def test_cache_is_finished_without_the_clips_that_are_skipped(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(4)) as writer:
        for row in (0, 2, 3):
            writer.write(row, *small_clip(row))
        writer.finish(skipped(1))
    cache = Cache.open(tmp_path / "set")
    cache.verify()
    assert cache.rows == [small_rows(4)[row] for row in (0, 2, 3)]
    np.testing.assert_array_equal(cache.frames, [small_clip(row)[0] for row in (0, 2, 3)])
    assert cache.skipped == skipped(1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
    assert CacheWriter(tmp_path / "set", SMALL, small_rows(4)).complete


def test_row_that_is_missing_though_not_skipped_is_no_finished_cache(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(4)) as writer:
        writer.write(0, *small_clip(0))
        with pytest.raises(CacheError, match="lacks 1 of 4 rows, the first is 2"):
            writer.finish(skipped(1, 3))


def test_skipped_clip_without_rows_is_listed(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(1)) as writer:
        writer.write(0, *small_clip(0))
        writer.finish(skipped(7))
    assert Cache.open(tmp_path / "set").skipped == skipped(7)


def test_killed_process_loses_no_written_row(tmp_path):
    script = (
        "import os, signal; from data_fixtures import *\n"
        f"writer = CacheWriter({str(tmp_path / 'set')!r}, SMALL, small_rows(4))\n"
        "writer.write(3, *small_clip(3)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], env=environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    with CacheWriter(tmp_path / "set", SMALL, small_rows(4)) as writer:
        assert writer.pending() == [0, 1, 2]


def test_row_damaged_by_a_power_cut_is_written_again(tmp_path):
    with CacheWriter(tmp_path / "set", SMALL, small_rows(2)) as writer:
        writer.write(0, *small_clip(0))
        writer.write(1, *small_clip(1))
    frames = np.load(tmp_path / "set.partial" / "frames.npy", mmap_mode="r+")
    frames[1] = 0
    frames.flush()
    with CacheWriter(tmp_path / "set", SMALL, small_rows(2)) as writer:
        assert writer.pending() == [1]


def test_run_killed_while_reserving_space_starts_afresh(tmp_path):
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "frames.npy").write_bytes(b"half a header")
    write_small_cache(tmp_path / "set")
    Cache.open(tmp_path / "set").verify()


def test_finished_cache_with_the_same_settings_has_nothing_to_do(tmp_path):
    before = content(write_small_cache(tmp_path / "set"))
    with CacheWriter(tmp_path / "set", SMALL, small_rows(4)) as writer:
        assert writer.complete
        assert writer.pending() == []
        assert writer.finish() == tmp_path / "set"
        with pytest.raises(CacheError, match="complete"):
            writer.write(0, *small_clip(0))
    assert content(tmp_path / "set") == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_with_the_difference_and_nothing_is_touched(tmp_path, finished):
    if finished:
        folder = write_small_cache(tmp_path / "set")
    else:
        CacheWriter(tmp_path / "set", SMALL, small_rows(4)).close()
        folder = tmp_path / "set.partial"
    before = content(folder)
    other = replace(SMALL, settings={"seed": 1, "noise": 1.5, "extra": True}, classes=("calm", "sad"))
    with pytest.raises(CacheSettingsError) as caught:
        CacheWriter(tmp_path / "set", other, small_rows(4))
    message = str(caught.value)
    assert str(folder) in message
    assert "settings.seed: 0 → 1" in message
    assert "settings.extra: (absent) → true" in message
    assert '["calm", "glad"] → ["calm", "sad"]' in message
    assert "noise" not in message
    assert content(folder) == before


def test_other_rows_are_refused_with_the_difference(tmp_path):
    write_small_cache(tmp_path / "set")
    rows = small_rows(4)
    rows[2]["interval"] = 5
    with pytest.raises(CacheSettingsError, match=r"row 2\.interval: 2 → 5"):
        CacheWriter(tmp_path / "set", SMALL, rows)
    with pytest.raises(CacheSettingsError, match="rows: 4 → 3"):
        CacheWriter(tmp_path / "set", SMALL, small_rows(3))


def test_folder_that_is_no_cache_is_never_written_to(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    with pytest.raises(CacheError, match=r"settings\.json is missing"):
        CacheWriter(tmp_path / "letters", SMALL, small_rows(1))
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "dear.txt").write_text("dear")
    with pytest.raises(CacheError, match=r"settings\.json is missing"):
        CacheWriter(tmp_path / "set", SMALL, small_rows(1))
    assert (tmp_path / "set.partial" / "dear.txt").read_text() == "dear"


def test_full_disk_is_found_before_the_first_row_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError, match=r"could not reserve .*/set: No space left on device.*Free some space"):
        CacheWriter(tmp_path / "set", SMALL, small_rows(4))
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit_is_a_storage_error_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            CacheWriter(tmp_path / "set", SMALL, small_rows(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_disk_error_while_writing_names_the_row_and_keeps_the_others(tmp_path, monkeypatch):
    class FullDisk:
        def seek(self, offset):
            return offset

        def write(self, view):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            pass

    with CacheWriter(tmp_path / "set", SMALL, small_rows(2)) as writer:
        writer.write(0, *small_clip(0))
        monkeypatch.setitem(writer._files, "flow", FullDisk())
        with pytest.raises(StorageError, match=r"row 1 to .*flow\.npy: No space left.*to continue"):
            writer.write(1, *small_clip(1))
    with CacheWriter(tmp_path / "set", SMALL, small_rows(2)) as writer:
        assert writer.pending() == [1]


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        (0, lambda a: a[:, :4], r"frames of row 0 \(s0/c0\): expected \(3, 8, 8\)"),
        (0, lambda a: a.astype(np.float32), "frames of row 0"),
        (0, lambda a: a.astype(np.int64), "expected uint8"),
        (1, lambda a: a * np.nan, "flow of row 0.*NaN"),
        (1, lambda a: a + 1e6, "65504"),
        (2, lambda a: a.astype(int), "landmarks of row 0"),
        (2, lambda a: a / 0.0, "landmarks of row 0.*infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_unusable_clip_is_refused_by_name(tmp_path, array, change, message):
    clip = list(small_clip(0))
    clip[array] = change(clip[array])
    with CacheWriter(tmp_path / "set", SMALL, small_rows(1)) as writer:
        with pytest.raises(ClipError, match=message):
            writer.write(0, *clip)
        assert writer.pending() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "at least one row"),
        (lambda rows: [{"subject": "s0"}], "row 0 lacks dataset, clip"),
        (lambda rows: [{**rows[0], "label": 2}], r"label 2 is outside 0 … 1"),
        (lambda rows: [{**rows[0], "label": "glad"}], "label 'glad'"),
        (lambda rows: [rows[0], dict(rows[0])], "rows 0 and 1 are the same clip"),
    ],
)
def test_unusable_index_is_refused(tmp_path, change, message):
    with pytest.raises(CacheError, match=message):
        CacheWriter(tmp_path / "set", SMALL, change(small_rows(1)))
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_would_be_too_long_at_the_end_is_refused_at_the_beginning(tmp_path):
    with pytest.raises(StorageError, match="at most 240 bytes"):
        CacheWriter(tmp_path / ("x" * 241), SMALL, small_rows(1))
    assert list(tmp_path.iterdir()) == []
