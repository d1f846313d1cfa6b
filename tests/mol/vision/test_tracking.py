"""Following one face through a video, and filling the frames in which it is not found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mol.common.errors import NoFaceError, SeveralFacesError
from mol.vision.landmarks import Face
from mol.vision.tracking import FaceFollower, fill_short_gaps, follow_face

Box = tuple[int, int, int, int]


class GradedDetector:
    """Stands in for dlib's: one face a frame, with a score, found where it reaches the threshold."""

    def __init__(self, faces: dict[int, tuple[float, Box]]) -> None:
        self.threshold = 0.1
        self.asked: list[int] = []
        self._faces = faces

    def __call__(self, image: np.ndarray) -> list[Face]:
        self.asked.append(int(image[0, 0]))
        score, box = self._faces[int(image[0, 0])]
        return [Face(box, np.zeros((68, 2), np.float32))] if score >= self.threshold else []

    def face_in(self, image: np.ndarray, box: Box) -> Face:
        return Face(box, np.full((68, 2), 7, np.float32))


def pictures(count: int) -> list[np.ndarray]:
    return [np.full((4, 4), index, np.uint8) for index in range(count)]


def followed(*faces: tuple[float, Box]) -> list[bool]:
    """Whether the face of each frame was found."""
    follower = FaceFollower(GradedDetector(dict(enumerate(faces))))
    return [bool(follower(picture)) for picture in pictures(len(faces))]


HERE, NEAR, AWAY = (10, 10, 50, 50), (14, 8, 54, 48), (70, 10, 110, 50)


def test_a_fainter_face_in_the_same_place_is_followed():
    assert followed((1.0, HERE), (-0.2, NEAR), (-0.2, HERE), (0.5, HERE)) == [True, True, True, True]


def test_a_faint_face_elsewhere_or_at_the_start_or_too_faint_is_none():
    assert followed((1.0, HERE), (-0.2, AWAY)) == [True, False]
    assert followed((-0.2, HERE), (1.0, HERE)) == [False, True]
    assert followed((1.0, HERE), (-0.5, HERE)) == [True, False]
    assert followed((1.0, HERE), (-0.2, (0, 0, 100, 100))) == [True, False]


def test_a_face_is_remembered_over_a_short_gap_and_then_forgotten():
    assert followed((1.0, HERE), *[(-1.0, HERE)] * 4, (-0.2, HERE))[-1] is True
    assert followed((1.0, HERE), *[(-1.0, HERE)] * 5, (-0.2, HERE))[-1] is False


def test_between_detections_the_points_are_those_in_the_last_box():
    detector = GradedDetector(dict.fromkeys(range(6), (1.0, HERE)))
    follower = FaceFollower(detector, every=3)
    points = [follower(picture)[0].points[0, 0] for picture in pictures(6)]
    assert detector.asked == [0, 3]
    assert points == [0, 7, 7, 0, 7, 7]


def test_a_face_that_is_lost_at_a_detection_is_looked_for_in_every_frame():
    faces = {index: (-1.0 if index in (3, 4) else 1.0, HERE) for index in range(9)}
    detector = GradedDetector(faces)
    follower = FaceFollower(detector, every=3)
    assert [bool(follower(picture)) for picture in pictures(9)] == [True] * 3 + [False] * 2 + [True] * 4
    assert sorted(set(detector.asked)) == [0, 3, 4, 5, 6]


def detector_of(count: Callable[[int], int]) -> Callable[[np.ndarray], list[Face]]:
    """Finds so many faces in each frame, whose points are all at (n, n) in frame n."""

    def detect(image: np.ndarray) -> list[Face]:
        number = int(image[0, 0])
        return [Face((0, 0, 9, 9), np.full((68, 2), number, np.float32))] * count(number)

    return detect


def names(count: int) -> list[str]:
    return [f"frame {index}" for index in range(count)]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ([4], 4.0),
        ([4, 5, 6, 7], 4.0),
        ([0, 1], 2.0),  # at the start the nearest frame is repeated
        ([10, 11], 9.0),
    ],
)
def test_short_gaps_are_filled_in_time(lost, expected):
    found = follow_face(pictures(12), detector_of(lambda index: index not in lost), names(12))
    assert found.filled == tuple(lost)
    assert found.lost == {}
    assert found.points[lost[0], 5, 1] == expected
    kept = [index for index in range(12) if index not in lost]
    np.testing.assert_array_equal(found.points[kept, 0, 0], kept)


def test_a_longer_gap_is_named_by_its_first_frame_and_left_open_on_request():
    detect = detector_of(lambda index: index not in (2, 5, 6, 7, 8, 9))
    with pytest.raises(NoFaceError, match=r"no face found in frame 5;.*up to 4 frames in a row.*--max-gap"):
        follow_face(pictures(20), detect, names(20))
    found = follow_face(pictures(20), detect, names(20), on_error="skip")
    assert found.filled == (2,)
    assert list(found.lost) == [5, 6, 7, 8, 9]
    assert np.isnan(found.points[5:10]).all()
    assert follow_face(pictures(20), detect, names(20), max_gap=5).filled == (2, 5, 6, 7, 8, 9)


def test_a_gap_of_no_frame_is_filled_if_none_may_be():
    with pytest.raises(NoFaceError, match=r"frame 3;.*of no frame"):
        follow_face(pictures(8), detector_of(lambda index: index != 3), names(8), max_gap=0)


def test_nothing_is_filled_where_most_frames_have_no_face():
    detect = detector_of(lambda index: index % 3 == 0)
    with pytest.raises(NoFaceError, match="frame 1;"):
        follow_face(pictures(9), detect, names(9))


def test_a_frame_with_several_faces_is_never_interpolated():
    detect = detector_of(lambda index: {3: 2, 4: 0}.get(index, 1))
    with pytest.raises(SeveralFacesError, match="2 faces found in frame 3"):
        follow_face(pictures(9), detect, names(9))
    found = follow_face(pictures(9), detect, names(9), on_error="skip")
    assert list(found.lost) == [3, 4]
    assert follow_face(pictures(9), detect, names(9), several="largest").filled == (4,)


def test_whole_landmarks_are_returned_as_they_are():
    points = np.random.default_rng(0).random((5, 68, 2)).astype(np.float32)
    whole, filled = fill_short_gaps(points, 4)
    assert filled == ()
    np.testing.assert_array_equal(whole, points)
    assert fill_short_gaps(points[:0], 4)[1] == ()
