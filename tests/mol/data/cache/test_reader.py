"""Opening a cache: every row as it was written, and damage is noticed."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import SMALL, small_clip, small_rows, write_small_cache

from mol.common.errors import CacheError
from mol.data.cache import Cache, CacheWriter, reader


def test_cache_gives_back_what_was_written(tmp_path):
    cache = Cache.open(write_small_cache(tmp_path / "set"))
    assert len(cache) == 4
    assert cache.rows == small_rows(4)
    assert cache.settings == SMALL
    assert (cache.classes, cache.subjects, cache.labels.tolist()) == (("calm", "glad"), ["s0", "s1"], [0, 1, 0, 1])
    for row in range(4):
        frames, flow, landmarks = small_clip(row)
        np.testing.assert_array_equal(cache.frames[row], frames)
        np.testing.assert_array_equal(cache.flow[row], flow.astype(np.float16))
        np.testing.assert_array_equal(cache.landmarks[row], landmarks)
    cache.verify()


def test_cache_is_mapped_and_cannot_be_written(tmp_path):
    cache = Cache.open(write_small_cache(tmp_path / "set"))
    for array in (cache.frames, cache.flow, cache.landmarks):
        assert isinstance(array[:], np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0][0] = 0
        with pytest.raises(TypeError):
            array[0] = 0


def test_row_without_label_is_minus_one(tmp_path):
    rows = [{**small_rows(1)[0], "label": None}]
    with CacheWriter(tmp_path / "set", SMALL, rows) as writer:
        writer.write(0, *small_clip(0))
        writer.finish()
    assert Cache.open(tmp_path / "set").labels.tolist() == [-1]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


def _other_format(path: Path) -> None:
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("frames.npy", _cut),
        ("flow.npy", Path.unlink),
        ("landmarks.npy", _pickle),
        ("landmarks.npy", lambda path: np.save(path, np.full((4, 3, 68, 2), np.nan, np.float32))),
        ("frames.npy", lambda path: np.save(path, np.zeros((5, 3, 8, 8), np.uint8))),
        ("flow.npy", lambda path: np.save(path, np.zeros((4, 2, 2, 8, 8), np.float32))),
        ("checksums.npy", lambda path: np.save(path, np.zeros(4, np.uint64))),
        ("frames.npy", lambda path: path.write_bytes(b"")),
        ("settings.json", _cut),
        ("settings.json", Path.unlink),
        ("settings.json", _other_format),
        ("settings.json", lambda path: path.write_text('{"format": 1, "classes": []}')),
        ("settings.json", lambda path: path.write_text("[]")),
        ("index.json", lambda path: path.write_text("{}")),
        ("index.json", _cut),
        ("index.json", Path.unlink),
    ],
)
def test_damaged_or_foreign_cache_is_refused_with_the_file(tmp_path, name, damage):
    path = write_small_cache(tmp_path / "set")
    damage(path / name)
    with pytest.raises(CacheError, match=name):
        Cache.open(path)


def test_changed_byte_is_found_by_verification(tmp_path):
    path = write_small_cache(tmp_path / "set")
    frames = np.load(path / "frames.npy", mmap_mode="r+")
    frames[2, 0, 0, 0] ^= 1
    frames.flush()
    with pytest.raises(CacheError, match=r"row 2 .* is damaged"):
        Cache.open(path).verify()


def invert(path: Path, row: int, count: int = 1) -> None:
    """Damage an array file in the middle of a row."""
    array = np.load(path, mmap_mode="r+")
    flat = array[row].reshape(-1).view(np.uint8)
    flat[len(flat) // 2 : len(flat) // 2 + count] ^= 1
    array.flush()


@pytest.mark.parametrize("name", ["frames", "flow", "landmarks"])
def test_a_damaged_row_is_not_handed_out_whichever_of_its_arrays_is_damaged(tmp_path, name):
    path = write_small_cache(tmp_path / "set")
    invert(path / f"{name}.npy", row=2)
    cache = Cache.open(path)
    for array in (cache.frames, cache.flow, cache.landmarks):
        np.testing.assert_array_equal(array[[0, 3]], np.asarray(array.unchecked)[[0, 3]])
        for index in (2, -2, [0, 2], np.array([2]), slice(1, 3), (2, 0), (slice(None), 0), ..., np.arange(4) == 2):
            with pytest.raises(CacheError, match=r"row 2 of .*set \(test/s0/c2\) is damaged.*`mol check-data .*set`"):
                array[index]
        with pytest.raises(CacheError, match="row 2"):
            np.asarray(array)
    assert list(cache.damaged_rows()) == [2]


def test_a_row_is_compared_once_however_often_and_from_whichever_array_it_is_taken(tmp_path, monkeypatch):
    compared = []
    original = reader.row_checksum

    def counted(arrays, row):
        compared.append(row)
        return original(arrays, row)

    monkeypatch.setattr(reader, "row_checksum", counted)
    cache = Cache.open(write_small_cache(tmp_path / "set"))
    assert compared == []
    cache.flow[1], cache.frames[[3, 1]], cache.landmarks[1, 0], cache.frames[-1]
    assert compared == [1, 3]
    np.array(cache.frames), np.array(cache.landmarks)
    assert compared == [1, 3, 0, 2]


def test_verification_reads_the_rows_again(tmp_path):
    cache = Cache.open(write_small_cache(tmp_path / "set"))
    cache.frames[0]
    invert(cache.path / "frames.npy", row=0)
    assert list(cache.damaged_rows()) == [0]


def test_missing_cache_says_how_to_make_one(tmp_path):
    with pytest.raises(CacheError, match="mol synth"):
        Cache.open(tmp_path / "nothing")


def test_a_cache_that_was_sent_is_the_same_and_still_checked(tmp_path):
    path = write_small_cache(tmp_path / "set")
    invert(path / "flow.npy", row=2)
    cache = Cache.open(path)
    sent = Cache.unpacked(pickle.loads(pickle.dumps(cache.packed(), protocol=5)))
    assert (sent.path, sent.settings, sent.rows, sent.skipped) == (path, cache.settings, cache.rows, cache.skipped)
    np.testing.assert_array_equal(sent.frames[[0, 3]], cache.frames[[0, 3]])
    assert not isinstance(sent.frames.unchecked, np.memmap)
    with pytest.raises(CacheError, match=r"row 2 of .*set"):
        sent.landmarks[2]
