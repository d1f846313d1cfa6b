"""Grey levels of deep pictures and films."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from films import write_film
from hypothesis import given
from hypothesis import strategies as st

from mol.common.errors import MediaError
from mol.vision.levels import Grey
from mol.vision.video import read_frames, read_picture, read_video


def ramp(bits: int) -> np.ndarray:
    """(64, 64) uint16 with every 8-bit level, in the upper bits of the given depth."""
    return np.sort(np.resize(np.arange(256), 64 * 64)).reshape(64, 64).astype(np.uint16) << (bits - 8)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_picture_with_16_bit_pixels_keeps_all_levels_of_its_depth(tmp_path, suffix, bits):
    cv2.imwrite(str(tmp_path / f"deep{suffix}"), ramp(bits))
    # A picture of 8 bits in a PGM of 16 is a very dark one: its header says that white is 65535.
    if suffix == ".pgm":
        path = tmp_path / "deep.pgm"
        path.write_bytes(path.read_bytes().replace(b"65535", str(2**bits - 1).encode(), 1))
        if bits == 8:
            return
    np.testing.assert_array_equal(read_picture(tmp_path / f"deep{suffix}"), ramp(8))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_film_with_16_bit_pixels_keeps_all_levels_of_its_depth(tmp_path, bits):
    path = write_film(tmp_path / "deep.mkv", np.stack([ramp(bits)] * 4), codec="ffv1", pixels="gray16le")
    video = read_video(path)
    np.testing.assert_array_equal(video.frames, np.stack([ramp(8)] * 4))
    np.testing.assert_array_equal(read_frames(path, [1, 3]), np.stack([ramp(8)] * 2))
    assert len(video.notes) == (bits < 16)
    if bits < 16:
        assert f"they are read as {bits}-bit pictures" in video.notes[0]


@pytest.mark.parametrize("bits", [10, 12])
def test_a_film_whose_format_states_its_depth_is_read_by_that(tmp_path, bits):
    # Half of the range only: not brightened, since the format is known.
    frames = np.stack([ramp(16) // 2] * 3)
    video = read_video(write_film(tmp_path / "deep.mkv", frames, codec="ffv1", pixels=f"gray{bits}le"))
    assert np.abs(video.frames[0].astype(int) - ramp(8) // 2).max() <= 1
    assert video.notes == ()


def test_the_pictures_of_a_folder_have_one_scale_whichever_comes_first(tmp_path):
    dark, bright = ramp(12) // 8, ramp(12)
    for number, picture in enumerate([dark, bright, dark], 1):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), picture)
    video = read_video(tmp_path, folder_fps=100)
    for frame, picture in zip(video.frames, (dark, bright, dark), strict=True):
        np.testing.assert_array_equal(frame, picture >> 4)
    assert "their levels need no more than 12 bits" in video.notes[0]


def test_pictures_of_8_bits_beside_deep_ones_stay_as_they_are(tmp_path):
    cv2.imwrite(str(tmp_path / "img1.png"), ramp(8).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "img2.png"), ramp(10))
    cv2.imwrite(str(tmp_path / "img3.png"), ramp(14))
    frames = read_video(tmp_path).frames
    np.testing.assert_array_equal(frames[0], ramp(8))
    np.testing.assert_array_equal(frames[1], ramp(8) >> 4)
    np.testing.assert_array_equal(frames[2], ramp(8))


def test_the_largest_value_that_a_pgm_states_is_its_white(tmp_path):
    dark = ramp(12) // 8
    height, width = dark.shape
    head = f"P5\n# a camera of 12 bits\n{width} {height}\n4095\n".encode()
    (tmp_path / "dark.pgm").write_bytes(head + dark.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_picture(tmp_path / "dark.pgm"), dark >> 4)


def test_levels_whose_white_is_unknown_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "float.tiff"), ramp(8).astype(np.float32) / 255)
    with pytest.raises(MediaError, match=r"float\.tiff has levels of type float32; save it with 8 or 16 bits"):
        read_picture(tmp_path / "float.tiff")


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=8))
def test_every_frame_is_scaled_as_if_the_brightest_had_been_known_from_the_start(largest):
    frames = [np.array([[value, value // 3]], np.uint16) for value in largest]
    grey = Grey(np.empty((len(frames), 1, 2), np.uint8))
    for frame in frames:
        grey.add(frame)
    depth = next(depth for depth in (8, 10, 12, 14, 16) if max(largest) < 2**depth)
    np.testing.assert_array_equal(grey.frames, np.stack(frames) >> (depth - 8))
