"""Opening a cache: every row as it was written, and damage is noticed."""

from pathlib import Path

import numpy as np
import pytest
from data_fixtures import SMALL, small_clip, small_rows, write_small_cache

from mol.common.errors import CacheError
from mol.data.cache import Cache, CacheWriter


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
    assert isinstance(cache.frames, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cache.frames[0] = 0


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


def test_missing_cache_says_how_to_make_one(tmp_path):
    with pytest.raises(CacheError, match="mol synth"):
        Cache.open(tmp_path / "nothing")
