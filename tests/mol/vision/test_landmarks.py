"""Finding the one face of a frame and its 68 points."""

import re

import cv2
import numpy as np
import pytest
from data_fixtures import astronaut, dlib_detector

from mol.common.errors import FaceError, MissingExtraError, NoFaceError, SeveralFacesError
from mol.vision import landmarks
from mol.vision.landmarks import DlibDetector, Face, fill_gaps, landmarks_of_frames
from mol.vision.points import FLIP_PERMUTATION, LEFT_EYE, RIGHT_EYE, SKELETON, interocular_distance
from molkernels.installation import install_command


def test_points_have_the_order_of_the_68_point_scheme():
    points = astronaut().points
    left, right = points[RIGHT_EYE].mean(axis=0), points[LEFT_EYE].mean(axis=0)
    nose, mouth, chin = points[30], points[48:68].mean(axis=0), points[8]
    assert left[0] < nose[0] < right[0]
    assert left[1] < nose[1] < mouth[1] < chin[1]
    assert interocular_distance(points) == pytest.approx(np.linalg.norm(right - left))


def test_flip_permutation_names_the_points_of_the_mirrored_face():
    image = astronaut().image
    points = landmarks_of_frames(np.stack([image, image[:, ::-1]]), dlib_detector())
    mirrored = points[0] * [-1, 1] + [image.shape[1] - 1, 0]
    mirrored = mirrored[list(FLIP_PERMUTATION)]
    error = np.linalg.norm(mirrored - points[1], axis=-1).mean() / interocular_distance(points[1])
    assert error < 0.05


def test_flipping_twice_changes_nothing():
    permutation = np.array(FLIP_PERMUTATION)
    np.testing.assert_array_equal(permutation[permutation], np.arange(68))


def test_skeleton_visits_every_point():
    assert {point for chain in SKELETON for point in chain} == set(range(68))


def test_small_face_is_found_in_the_doubled_picture():
    image = cv2.resize(astronaut().image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    once, twice = DlibDetector(upsample=0), DlibDetector(upsample=1)
    assert once(image) == []
    faces = twice(image)
    assert len(faces) == 1
    expected = (astronaut().points + 0.5) * 0.5 - 0.5
    assert np.linalg.norm(faces[0].points - expected, axis=-1).mean() < 0.1 * interocular_distance(expected)


def test_frame_without_face_is_named():
    frames = np.stack([astronaut().image, np.zeros_like(astronaut().image)])
    with pytest.raises(NoFaceError, match=r"no face found in img7\.jpg"):
        landmarks_of_frames(frames, dlib_detector(), names=["img6.jpg", "img7.jpg"])


def test_frame_with_several_faces_is_named_with_their_places():
    pair = np.concatenate([astronaut().image[:256, 80:380]] * 2, axis=1)
    with pytest.raises(SeveralFacesError, match=r"2 faces found in frame 0, at .*\), \(.*largest"):
        landmarks_of_frames(pair[None], dlib_detector())


def test_largest_of_several_faces_can_be_taken():
    small = Face((0, 0, 10, 10), np.zeros((68, 2), np.float32))
    large = Face((20, 20, 60, 60), np.ones((68, 2), np.float32))
    points = landmarks_of_frames(
        np.zeros((1, 80, 80), np.uint8), lambda image: [small, large, small], several="largest"
    )
    np.testing.assert_array_equal(points[0], large.points)


def test_skipped_frames_are_marked_and_can_be_filled_in_time():
    found = iter([[], [Face((0, 0, 9, 9), np.full((68, 2), 1, np.float32))], [], []])
    after = [Face((0, 0, 9, 9), np.full((68, 2), 4, np.float32))]
    points = landmarks_of_frames(np.zeros((5, 9, 9), np.uint8), lambda image: next(found, after), on_error="skip")
    np.testing.assert_array_equal(np.isnan(points[:, 0, 0]), [True, False, True, True, False])
    np.testing.assert_allclose(fill_gaps(points)[:, 5, 1], [1, 1, 2, 3, 4])


def test_video_without_any_face_cannot_be_filled():
    with pytest.raises(NoFaceError, match="any of the 3 frames"):
        fill_gaps(np.full((3, 68, 2), np.nan))


def test_missing_predictor_names_the_extra(monkeypatch):
    monkeypatch.setattr(landmarks, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("data"))):
        DlibDetector()


def test_damaged_predictor_is_named(tmp_path):
    path = tmp_path / "predictor.dat"
    path.write_bytes(b"cut short")
    with pytest.raises(FaceError, match=r"predictor\.dat is missing or damaged"):
        DlibDetector(predictor=path)
