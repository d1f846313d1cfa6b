"""The size of a row, against the files themselves."""

import os

import pytest
from data_fixtures import SMALL, write_small_cache

from mol.common.errors import CacheError
from mol.data.cache import Cache, row_bytes


def test_row_takes_the_bytes_that_are_announced(tmp_path):
    path = write_small_cache(tmp_path / "set", count=5)
    arrays = sum(file.stat().st_size for file in path.glob("*.npy"))
    assert arrays == 5 * row_bytes(SMALL.frames, SMALL.size) + 4 * 128  # headers


def test_row_of_the_network_s_clips_takes_three_quarters_of_a_megabyte():
    assert row_bytes() == 8 * 144**2 + 7 * 2 * 144**2 * 2 + 8 * 68 * 2 * 4 + 8 == 750_856


def test_a_pipe_in_place_of_an_array_is_refused(tmp_path):
    path = write_small_cache(tmp_path / "set", count=5)
    (path / "flow.npy").unlink()
    os.mkfifo(path / "flow.npy")
    with pytest.raises(CacheError, match=r"flow\.npy is a pipe; give an ordinary file"):
        Cache.open(path)
