"""Which frames are compared: nearest to onset and apex, and what takes their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_cache import write_tiny_cache

from mol.data.cache import Cache
from mol.networks.onset_apex import greatest_motion, pair_notes, row_pair, window_pair


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("pairs") / "cache", people=1, videos=3)


def with_row(cache: Cache, **entries: Any) -> Cache:
    """The cache with these entries in its first row."""
    return replace(cache, rows=[{**cache.rows[0], **entries}, *cache.rows[1:]])


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"start": 0, "interval": 3, "onset": 2, "apex": 11}, (1, 4)),
        # The numbers of the frames, where the index has them, are those of onset and apex.
        (
            {"start": 0, "interval": 3, "frames": [100, 103, 106, 109, 112, 115, 118, 121], "onset": 100, "apex": 110},
            (0, 3),
        ),
        ({"start": 0, "interval": 1, "onset": 3, "apex": 3}, (2, 3)),
        ({"start": 5, "interval": 1, "onset": 0, "apex": 0}, (0, 1)),
        ({"start": 0, "interval": 1, "onset": 0, "apex": 99}, (0, 7)),
        ({"start": 0, "interval": 1, "apex": 4}, (0, 4)),
    ],
)
def test_the_sampled_frames_nearest_to_onset_and_apex(
    cache: Cache, entries: dict[str, Any], expected: tuple[int, int]
) -> None:
    np.testing.assert_array_equal(row_pair(with_row(cache, **entries), 0), cache.frames[0][list(expected)])


def mouth(shift: float) -> np.ndarray:
    """A picture whose lower middle has moved to the right."""
    y, x = np.mgrid[:144, :144]
    moved = np.where(np.hypot(x - 72, y - 100) < 30, shift, 0.0)
    return (127 + 60 * np.sin((x - moved) / 5) + 50 * np.cos(y / 6)).round().astype(np.uint8)


WINDOW = np.stack([mouth(shift) for shift in (0, 0.5, 1, 1.5, 2, 1.4, 0.8, 0.2)])


def test_without_an_apex_the_frame_of_greatest_motion(cache: Cache) -> None:
    changed = replace(cache, frames=np.concatenate([WINDOW[None], np.asarray(cache.frames)[1:]]))
    np.testing.assert_array_equal(row_pair(changed, 0), WINDOW[[0, 4]])
    # From the onset on: 2 pixels to the right are 1.8 back.
    np.testing.assert_array_equal(row_pair(with_row(changed, start=0, interval=1, onset=4), 0), WINDOW[[4, 7]])
    np.testing.assert_array_equal(row_pair(with_row(changed, start=0, interval=1, onset=7), 0), WINDOW[[6, 7]])


def test_a_window_is_read_from_its_first_frame_to_that_of_greatest_motion() -> None:
    np.testing.assert_array_equal(window_pair(WINDOW), WINDOW[[0, 4]])


def test_what_a_head_does_is_no_greatest_motion() -> None:
    """The head moves, turns and comes nearer on and on; the mouth moves most in the third of four."""
    y, x = np.mgrid[:64, :64].astype(np.float32)
    head = np.stack([3 + 0.02 * x - 0.03 * y, 1 + 0.03 * x + 0.02 * y])
    lips = np.stack([np.zeros_like(x), np.where(np.hypot(x - 32, y - 45) < 8, 1.0, 0.0)])
    motion = np.stack([t * head + a * lips for t, a in zip((1, 2, 3, 4), (0.3, 0.6, 1.0, 0.5), strict=True)])
    assert greatest_motion(motion.astype(np.float32)) == 2
    assert np.hypot(*np.moveaxis(motion, 1, 0)).mean((-1, -2)).argmax() == 3


def test_what_is_missing_is_said_once_with_its_sets(cache: Cache) -> None:
    changed = with_row(cache, onset=0, apex=3)
    assert pair_notes(changed, "net") == [
        "2 of 3 clips have no onset (2 of tiny): net takes the first sampled frame",
        "2 of 3 clips have no apex (2 of tiny): net takes the sampled frame of greatest motion",
    ]
    complete = replace(cache, rows=[{**row, "onset": 0, "apex": 3} for row in cache.rows])
    assert pair_notes(complete, "net") == []
