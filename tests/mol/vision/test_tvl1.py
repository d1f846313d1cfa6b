"""TV-L1: units, direction, and an OpenCV that can do it."""

import re
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from data_fixtures import smooth_texture

from mol.common.errors import ClipError, MissingExtraError
from mol.vision import tvl1 as flow_module
from mol.vision.tvl1 import TVL1Settings, require_tvl1, tvl1_flow
from molkernels.installation import install_command


def shifted_frames(shift: tuple[float, float]) -> np.ndarray:
    """Two frames of one texture, the second moved by (dx, dy) pixels."""
    import cv2

    texture = smooth_texture(np.random.default_rng(5), 112, 128)
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
    moved = cv2.warpAffine(texture, matrix, (128, 112), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.stack([texture, moved]).astype(np.uint8)


@pytest.mark.parametrize("shift", [(1.5, -0.75), (-2.0, 1.0)])
def test_flow_is_the_shift_from_each_frame_to_the_next_in_pixels(shift):
    flow = tvl1_flow(shifted_frames(shift))
    assert (flow.shape, flow.dtype) == ((1, 2, 112, 128), np.float32)
    np.testing.assert_allclose(flow[0, :, 16:-16, 16:-16].mean(axis=(1, 2)), shift, atol=0.1)


def test_one_frame_has_no_flow():
    assert tvl1_flow(np.zeros((1, 40, 50), np.uint8)).shape == (0, 2, 40, 50)


def test_settings_reach_the_solver():
    frames = shifted_frames((1.5, -0.75))
    coarse = tvl1_flow(frames, TVL1Settings(warps=1, scales=1, outer_iterations=1, inner_iterations=1))
    assert np.abs(coarse - tvl1_flow(frames)).mean() > 0.1


def test_default_settings_are_those_of_opencv():
    solver = require_tvl1().optflow.DualTVL1OpticalFlow_create()
    found = {
        "tau": solver.getTau(),
        "lambda_": solver.getLambda(),
        "theta": solver.getTheta(),
        "scales": solver.getScalesNumber(),
        "warps": solver.getWarpingsNumber(),
        "epsilon": solver.getEpsilon(),
        "inner_iterations": solver.getInnerIterations(),
        "outer_iterations": solver.getOuterIterations(),
        "scale_step": solver.getScaleStep(),
        "gamma": solver.getGamma(),
        "median_filtering": solver.getMedianFiltering(),
    }
    assert found == asdict(TVL1Settings())


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8), np.float32), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 8), np.uint8)]
)
def test_frames_of_another_kind_are_refused(frames):
    with pytest.raises(ClipError, match="uint8"):
        tvl1_flow(frames)


@pytest.mark.parametrize(
    "cv2",
    [
        SimpleNamespace(__version__="4.12.0"),
        SimpleNamespace(__version__="4.12.0", optflow=SimpleNamespace()),
        SimpleNamespace(__version__="5.0.0", optflow=SimpleNamespace(DualTVL1OpticalFlow_create=None)),
    ],
)
def test_opencv_without_usable_tvl1_is_refused_with_the_remedy(monkeypatch, cv2):
    monkeypatch.setattr(flow_module, "require", lambda module, extra: cv2)
    monkeypatch.setattr(flow_module, "_is_installed", lambda name: name in ("opencv-python", "opencv-contrib-python"))
    expected = f"pip uninstall -y opencv-python opencv-contrib-python && {install_command('data')}"
    with pytest.raises(MissingExtraError, match=re.escape(expected)):
        require_tvl1()
