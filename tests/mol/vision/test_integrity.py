"""Whether a picture file is whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from check_sets import encoded

from mol.vision.integrity import truncation

SUFFIXES = (".jpg", ".png", ".bmp")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("seed", range(3))
def test_whole_pictures_are_whole_whatever_follows_them(suffix, seed):
    data = encoded(np.random.default_rng(seed), suffix, (17, 23))
    assert truncation(data) is None
    assert truncation(data + bytes(100)) is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_cut_anywhere_is_not_whole(suffix):
    rng = np.random.default_rng(1)
    data = encoded(rng, suffix, (31, 20))
    for end in [*rng.integers(8, len(data) - 1, 60), len(data) - 1]:
        assert truncation(data[:end]) is not None, end


def test_a_progressive_jpeg_with_restarts_is_walked_through():
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1]
    data = encoded(np.random.default_rng(2), ".jpg", (40, 56), flags)
    assert truncation(data) is None
    assert truncation(data[: len(data) // 2]) is not None


def test_the_end_of_a_thumbnail_inside_a_jpeg_is_not_its_own():
    rng = np.random.default_rng(4)
    thumbnail, data = encoded(rng, ".jpg", (8, 8)), encoded(rng, ".jpg", (40, 40))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    assert truncation(whole) is None
    assert truncation(whole[: len(segment) + 200]) is not None


def test_a_tail_of_zeros_does_not_make_a_jpeg_whole():
    data = encoded(np.random.default_rng(5), ".jpg", (40, 40))
    assert truncation(data[: len(data) // 2] + bytes(len(data))) is not None


def test_a_changed_byte_in_a_png_is_found_by_its_checksum():
    data = bytearray(encoded(np.random.default_rng(6), ".png", (20, 20)))
    data[len(data) // 2] ^= 0x10
    assert "checksum" in truncation(bytes(data))
