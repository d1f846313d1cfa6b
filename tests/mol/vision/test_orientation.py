"""All eight orientations of films and pictures."""

from __future__ import annotations

import struct
import zlib

import av
import cv2
import numpy as np
import pytest
from films import set_display_matrix, write_film

from mol.vision.orientation import oriented
from mol.vision.video import read_frames, read_picture, read_video

# a b c d of the display matrix, and the frame [[1, 2], [3, 4], [5, 6]] as it is then shown.
SHOWN = {
    (1, 0, 0, 1): [[1, 2], [3, 4], [5, 6]],
    (-1, 0, 0, 1): [[2, 1], [4, 3], [6, 5]],
    (1, 0, 0, -1): [[5, 6], [3, 4], [1, 2]],
    (-1, 0, 0, -1): [[6, 5], [4, 3], [2, 1]],
    (0, 1, 1, 0): [[1, 3, 5], [2, 4, 6]],
    (0, 1, -1, 0): [[5, 3, 1], [6, 4, 2]],
    (0, -1, 1, 0): [[2, 4, 6], [1, 3, 5]],
    (0, -1, -1, 0): [[6, 4, 2], [5, 3, 1]],
}
# EXIF orientation → what is done to the stored picture, from the standard's own table of row 0 and column 0.
EXIF = {
    1: lambda picture: picture,
    2: np.fliplr,
    3: lambda picture: np.rot90(picture, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda picture: np.rot90(picture, -1),
    7: lambda picture: np.rot90(picture.T, 2),
    8: np.rot90,
}


def matrix_of(linear: tuple[int, ...]) -> np.ndarray:
    a, b, c, d = linear
    return np.array([[a, c], [b, d]])


@pytest.mark.parametrize("linear", SHOWN, ids=str)
def test_a_matrix_moves_every_pixel_to_where_it_says(linear):
    picture = np.array(SHOWN[1, 0, 0, 1])
    np.testing.assert_array_equal(oriented(picture, matrix_of(linear)), SHOWN[linear])
    # Pixel by pixel: (x, y) goes to (ax + cy, bx + dy), shifted into view.
    ys, xs = np.indices(picture.shape)
    moved = np.stack([linear[0] * xs + linear[2] * ys, linear[1] * xs + linear[3] * ys])
    moved -= moved.min(axis=(1, 2), keepdims=True)
    shown = np.zeros(moved.max(axis=(1, 2))[::-1] + 1, int)
    shown[moved[1], moved[0]] = picture
    np.testing.assert_array_equal(shown, SHOWN[linear])


def test_a_matrix_that_is_nearly_a_quarter_turn_is_one():
    picture = np.arange(6).reshape(3, 2)
    turn = 65536 * np.array([[0.1, -0.99], [0.99, 0.1]])
    np.testing.assert_array_equal(oriented(picture, turn), oriented(picture, matrix_of((0, 1, -1, 0))))


def four_greys() -> np.ndarray:
    """(48, 64) with a different grey in each quarter."""
    return np.kron(np.array([[40, 100], [160, 220]], np.uint8), np.ones((24, 32), np.uint8))


@pytest.mark.parametrize("linear", SHOWN, ids=str)
def test_frames_of_a_film_are_shown_as_its_display_matrix_says(tmp_path, linear):
    path = write_film(tmp_path / "selfie.mp4", np.stack([four_greys()] * 3))
    set_display_matrix(path, linear)
    wanted = oriented(four_greys(), matrix_of(linear))
    for frames in (read_video(path).frames, read_frames(path, [0, 2])):
        assert frames.shape[1:] == wanted.shape
        assert np.abs(frames[-1].astype(int) - wanted).mean() < 4


def exif(orientation: int) -> bytes:
    """EXIF data that hold nothing but the orientation."""
    return b"MM\0*" + struct.pack(">I", 8) + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(data: bytes, suffix: str, orientation: int) -> bytes:
    """A JPEG or PNG with EXIF data."""
    if suffix == ".jpg":
        content = b"Exif\0\0" + exif(orientation)
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]
    chunk = b"eXIf" + exif(orientation)
    # After the signature and the header.
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", EXIF)
def test_a_picture_is_upright_by_its_exif_orientation(tmp_path, orientation, suffix):
    data = cv2.imencode(suffix, four_greys())[1].tobytes()
    (tmp_path / f"photo{suffix}").write_bytes(with_exif(data, suffix, orientation))
    picture = read_picture(tmp_path / f"photo{suffix}")
    wanted = EXIF[orientation](four_greys())
    assert picture.shape == wanted.shape
    assert np.abs(picture.astype(int) - wanted).mean() < 4


def tiff(picture: np.ndarray, orientation: int) -> bytes:
    """An uncompressed TIFF of one strip."""
    height, width = picture.shape
    bits = 8 * picture.dtype.itemsize
    pixels = picture.astype(picture.dtype.newbyteorder("<")).tobytes()
    # tag → value: width, height, bits, no compression, black is zero, strip, orientation, samples, rows, bytes
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 274: orientation, 277: 1, 278: height}
    tags[279] = len(pixels)
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, tags[tag]) for tag in sorted(tags))
    start = 8 + len(pixels)
    return b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(tags)) + directory + bytes(4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", EXIF)
def test_a_tiff_is_upright_by_its_orientation_at_any_depth(tmp_path, orientation, dtype):
    stored = four_greys().astype(dtype) << (8 * (np.dtype(dtype).itemsize - 1))
    (tmp_path / "scan.tif").write_bytes(tiff(stored, orientation))
    np.testing.assert_array_equal(read_picture(tmp_path / "scan.tif"), EXIF[orientation](four_greys()))


def test_a_film_without_a_matrix_stays_as_it_is(tmp_path):
    path = write_film(tmp_path / "plain.avi", np.stack([four_greys()] * 2))
    with av.open(str(path)) as container:
        assert not [entry for entry in next(container.decode(video=0)).side_data if entry.type.name == "DISPLAYMATRIX"]
    assert np.abs(read_video(path).frames[0].astype(int) - four_greys()).mean() < 4
