"""Alignment: where the face comes to lie, and that pictures and points move together."""

import numpy as np
import pytest
from data_fixtures import astronaut, smooth_texture
from hypothesis import given, settings
from hypothesis import strategies as st

from mol.common.errors import ClipError, FaceError
from mol.vision.align import AlignSettings, align_clip, alignment_matrix, transform_points, warp_picture
from mol.vision.points import LEFT_EYE, RIGHT_EYE


def face_points(rng: np.random.Generator) -> np.ndarray:
    return astronaut().points.astype(np.float64) + rng.normal(size=(68, 2))


def similarity(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


def test_aligned_eyes_are_level_and_the_box_fills_the_frame():
    points = astronaut().points.astype(np.float64)
    aligned = transform_points(alignment_matrix(points), points)
    left, right = aligned[RIGHT_EYE].mean(axis=0), aligned[LEFT_EYE].mean(axis=0)
    assert left[1] == pytest.approx(right[1])
    anchors = np.stack([left, right, *aligned[[30, 48, 54]]])
    low, high = anchors.min(axis=0), anchors.max(axis=0)
    np.testing.assert_allclose((low + high) / 2, 71.5)
    assert (high - low).max() * 2.5 == pytest.approx(144)


@given(st.floats(0.3, 4), st.floats(-1, 1), st.floats(-200, 200), st.floats(-200, 200))
@settings(max_examples=50, deadline=None)
def test_aligned_face_does_not_depend_on_its_place_size_and_turn(scale, angle, x, y):
    points = astronaut().points.astype(np.float64)
    moved = transform_points(similarity(scale, angle, (x, y)), points)
    expected = transform_points(alignment_matrix(points), points)
    np.testing.assert_allclose(transform_points(alignment_matrix(moved), moved), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [0.7, 1.0, 3.3, 5.0])
def test_picture_and_points_move_together(scale):
    """A bright spot at a landmark is found again at the aligned landmark, also in pictures that are first averaged."""
    points = astronaut().points.astype(np.float64) * scale
    matrix = alignment_matrix(points)
    rows, columns = np.indices((int(400 * scale), int(400 * scale)))
    spot = points[30]
    distance = (columns - spot[0]) ** 2 + (rows - spot[1]) ** 2
    image = np.rint(255 * np.exp(-distance / (2 * (4 * scale) ** 2))).astype(np.uint8)
    aligned = warp_picture(image, matrix, 144).astype(np.float64)
    found = [(np.indices(aligned.shape)[axis] * aligned).sum() / aligned.sum() for axis in (1, 0)]
    np.testing.assert_allclose(found, transform_points(matrix, spot), atol=0.05)


def test_large_pictures_are_averaged_and_not_skipped_through():
    rows, columns = np.indices((1200, 1200))
    board = (255 * ((rows + columns) % 2)).astype(np.uint8)
    aligned = warp_picture(board, similarity(0.12, 0.1, (3.2, 1.7)), 144)
    assert np.abs(aligned.astype(int) - 127).max() <= 1


def test_outside_of_the_picture_repeats_its_edge():
    aligned = warp_picture(np.full((50, 50), 90, np.uint8), similarity(1, 0.2, (40, 40)), 144)
    assert (aligned == 90).all()


def test_jitter_of_the_detector_does_not_become_motion():
    """Published error 8: with one detection per frame a still face trembles."""
    rng = np.random.default_rng(0)
    frames = np.repeat(astronaut().image[None], 8, axis=0)
    points = np.stack([face_points(rng) for _ in range(8)])
    per_clip, _, matrices = align_clip(frames, points)
    assert (per_clip == per_clip[0]).all()
    assert (matrices == matrices[0]).all()
    per_frame, _, matrices = align_clip(frames, points, AlignSettings(per="frame"))
    assert not (per_frame == per_frame[0]).all()
    np.testing.assert_array_equal(matrices[3], alignment_matrix(points[3]))


def test_clip_is_aligned_by_the_median_and_not_thrown_off_by_one_bad_frame():
    points = np.repeat(astronaut().points[None].astype(np.float64), 8, axis=0)
    points[5] += 60
    frames = np.zeros((8, 300, 300), np.uint8)
    _, aligned, matrices = align_clip(frames, points)
    np.testing.assert_allclose(matrices[0], alignment_matrix(points[0]))
    np.testing.assert_allclose(aligned[0], transform_points(matrices[0], points[0]), atol=1e-3)
    assert np.linalg.norm(aligned[5] - aligned[0], axis=-1).min() > 30


def test_aligned_clip_has_the_size_that_was_set():
    frames = smooth_texture(np.random.default_rng(1), 200, 260).astype(np.uint8)[None]
    aligned, points, matrices = align_clip(frames, astronaut().points[None], AlignSettings(size=96))
    assert (aligned.shape, points.shape, matrices.shape) == ((1, 96, 96), (1, 68, 2), (1, 2, 3))
    assert (aligned.dtype, points.dtype) == (np.uint8, np.float32)


def test_unusable_landmarks_are_refused():
    with pytest.raises(FaceError, match="finite"):
        alignment_matrix(np.full((68, 2), np.nan))
    with pytest.raises(FaceError, match="both eyes have the same landmarks"):
        alignment_matrix(np.ones((68, 2)))


def test_frames_and_landmarks_that_do_not_belong_together_are_refused():
    with pytest.raises(ClipError, match=r"\(T, H, W\) uint8"):
        align_clip(np.zeros((8, 50, 50), np.float32), np.zeros((8, 68, 2)))
    with pytest.raises(ClipError, match="8 frames need landmarks"):
        align_clip(np.zeros((8, 50, 50), np.uint8), np.zeros((7, 68, 2)))
