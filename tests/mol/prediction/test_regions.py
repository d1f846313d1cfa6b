"""Mean flow in regions of the face."""

from __future__ import annotations

import numpy as np
import pytest

from mol.prediction.regions import REGIONS, flow_by_region, region_boxes
from mol.prediction.trace import Trace


@pytest.fixture
def points() -> np.ndarray:
    """Landmarks at random, with eyes that are 40 pixels apart, in a picture of 128 × 128."""
    points = np.random.default_rng(0).uniform(40, 90, (68, 2))
    points[36:42] = (44, 50)
    points[42:48] = (84, 50)
    return points


def test_mean_flow_of_a_region_is_that_of_its_pixels(points: np.ndarray) -> None:
    flow = np.random.default_rng(1).normal(size=(1, 2, 128, 128)).astype(np.float32)
    rows, columns = np.mgrid[:128, :128]
    left, top, right, bottom = region_boxes(points)[REGIONS.index("right_eye")]
    inside = (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
    found = flow_by_region(flow, points[None])[0, REGIONS.index("right_eye")]
    assert inside.sum() > 50
    np.testing.assert_allclose(found, flow[0][:, inside].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_a_region_outside_the_picture_has_no_flow(points: np.ndarray) -> None:
    points[17:22] = (-60, -60)
    found = flow_by_region(np.ones((1, 2, 128, 128)), points[None])[0]
    assert np.isnan(found[REGIONS.index("right_brow")]).all()
    assert np.isfinite(found[REGIONS.index("left_eye")]).all()


def test_a_region_moves_and_grows_with_the_face(points: np.ndarray) -> None:
    np.testing.assert_allclose(region_boxes(2 * points + 5), 2 * region_boxes(points) + 5)


def test_a_moving_head_is_no_flow_of_its_parts() -> None:
    rng = np.random.default_rng(2)
    flow = rng.normal(size=(3, 7, len(REGIONS), 2))
    frames = np.arange(24).reshape(3, 8)
    made = [
        Trace(("a", "b"), 25.0, 1.0, 24, frames, frames / 25, np.full((3, 2), 0.5), flow + head)
        for head in (np.zeros(2), rng.normal(size=(3, 7, 1, 2)))
    ]
    np.testing.assert_allclose(made[0].flow_without_head(), made[1].flow_without_head(), atol=1e-12)
    np.testing.assert_allclose(made[0].centres, [3.5 / 25, 11.5 / 25, 19.5 / 25])
