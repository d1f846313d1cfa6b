"""Action units: each pulls its landmarks its way, smoothly."""

import numpy as np
import pytest
from synth_clips import aligned_points, move_points, people, unit_field

from mol.synth import faces as faces_module
from mol.synth.action_units import ACTION_UNITS, BLINK, EMOTIONS, displacement_field, eyelid_field


@pytest.mark.parametrize("units", [units for sets in EMOTIONS.values() for units in sets])
def test_largest_motion_never_folds_the_face(units):
    for face in people():
        field = displacement_field(aligned_points(face), dict.fromkeys(units, (1.25, 0.75)), 3.0)
        grid = np.stack(np.meshgrid(np.arange(144.0), np.arange(144.0)))
        slopes = np.stack([np.stack(np.gradient(channel)[::-1]) for channel in field(grid)])
        steepest = np.linalg.svd(slopes.transpose(2, 3, 0, 1), compute_uv=False).max()
        assert steepest < 0.7


def test_closed_eyelids_never_fold_the_face():
    for face in people():
        points = aligned_points(face)
        step = 0.25
        grid = np.stack(np.meshgrid(np.arange(0, 144, step), np.arange(20, 100, step)))
        slopes = np.stack([np.stack(np.gradient(channel, step)[::-1]) for channel in eyelid_field(points)(grid)])
        assert np.linalg.svd(slopes.transpose(2, 3, 0, 1), compute_uv=False).max() < 0.82


def test_no_emotion_has_a_blink_and_neutral_has_no_action_unit():
    assert EMOTIONS["neutral"] == ((),)
    assert BLINK not in {unit for sets in EMOTIONS.values() for units in sets for unit in units}


@pytest.mark.parametrize(
    ("unit", "points", "axis", "sign"),
    [
        (1, [21, 22], 1, -1),
        (2, [18, 25], 1, -1),
        (4, [19, 21, 22, 24], 1, 1),
        (5, [37, 38, 43, 44], 1, -1),
        (6, [40, 41, 46, 47], 1, -1),
        (7, [40, 41, 46, 47], 1, -1),
        (9, [31, 35], 1, -1),
        (10, [50, 51, 52], 1, -1),
        (12, [48, 54], 1, -1),
        (15, [48, 54], 1, 1),
        (17, [57], 1, -1),
        (25, [57], 1, 1),
        (26, [8, 57], 1, 1),
        (12, [54], 0, 1),
        (12, [48], 0, -1),
        (14, [54], 0, 1),
        (14, [48], 0, -1),
        (20, [48], 0, -1),
        (23, [48], 0, 1),
        (24, [50, 52], 1, 1),
        (24, [56, 58], 1, -1),
    ],
)
def test_action_unit_pulls_its_landmarks_its_way(unit, points, axis, sign):
    for face in people():
        moved = move_points(unit_field(face, (unit,), 2.0), aligned_points(face))
        assert (sign * moved[points, axis] > 0.3).all()


@pytest.mark.parametrize("unit", sorted(ACTION_UNITS))
def test_action_unit_is_symmetric_on_a_symmetric_face(unit):
    points = aligned_points(people()[0])
    mirror = list(faces_module.FLIP_PERMUTATION)
    points = (points + points[mirror] * [-1, 1] + [143, 0]) / 2
    field = displacement_field(points, {unit: (1.0, 1.0)}, 2.0)
    moved = move_points(field, points)
    np.testing.assert_allclose(moved[mirror] * [-1, 1], moved, atol=1e-6)
    uneven = move_points(displacement_field(points, {unit: (1.2, 0.8)}, 2.0), points)
    middle = all(not bump.mirrored for bump in ACTION_UNITS[unit])
    assert np.allclose(uneven[mirror] * [-1, 1], uneven, atol=1e-6) == middle


def test_field_grows_with_the_face():
    points = aligned_points(people()[0])
    small = displacement_field(points, {12: (1.0, 1.0)}, 2.0)
    large = displacement_field(2 * points, {12: (1.0, 1.0)}, 2.0, size=288)
    np.testing.assert_allclose(large.widths, 2 * small.widths)
    np.testing.assert_allclose(move_points(large, 2 * points), move_points(small, points), atol=0.02)


def test_no_set_of_action_units_belongs_to_two_emotions():
    sets = [frozenset(units) for alternatives in EMOTIONS.values() for units in alternatives]
    assert len(set(sets)) == len(sets)
    assert set().union(*sets) <= set(ACTION_UNITS)
