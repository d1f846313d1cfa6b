"""Flow labels of real clips: TV-L1 of opencv-contrib between consecutive sampled frames."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from mol.common.checks import require_at_most, require_not_negative, require_positive
from mol.common.errors import ClipError, MissingExtraError, SettingsError
from mol.common.extras import install_command, require

_OPENCV_DISTRIBUTIONS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@dataclass(frozen=True)
class TVL1Settings:
    """Parameters of OpenCV's DualTVL1OpticalFlow, in the order of its constructor; the values are its defaults.

    Attributes:
        tau: time step of the numerical scheme.
        lambda_: weight of the data term; the smaller, the smoother the flow.
        theta: coupling of the data term and the smoothness term; the smaller, the tighter.
        scales: number of levels of the image pyramid.
        warps: warpings per level.
        epsilon: threshold of convergence: iterations stop when the flow changes by less.
        inner_iterations: iterations after each filtering of outliers.
        outer_iterations: maximum number of filterings of outliers per warping.
        scale_step: size of a pyramid level relative to the next finer one, below 1.
        gamma: weight of a term that allows for changes of illumination; 0 turns it off.
        median_filtering: side of the median filter that removes outliers, in pixels: 1 (no filter), 3 or 5.

    Source: Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007.
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    scales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    inner_iterations: int = 30
    outer_iterations: int = 10
    scale_step: float = 0.8
    gamma: float = 0.0
    median_filtering: int = 5

    def __post_init__(self) -> None:
        counts = ("scales", "warps", "inner_iterations", "outer_iterations")
        require_positive(self, "tau", "lambda_", "theta", "epsilon", *counts)
        require_not_negative(self, "gamma")
        require_at_most(self, **dict.fromkeys(counts, 1000), tau=100, lambda_=100, theta=100, gamma=100, epsilon=100)
        if not 0 < self.scale_step < 1:
            raise SettingsError(f"scale_step={self.scale_step} must be greater than 0 and less than 1")
        if self.median_filtering not in (1, 3, 5):
            raise SettingsError(f"median_filtering={self.median_filtering} must be 1, 3 or 5")


def tvl1_flow(frames: np.ndarray, settings: TVL1Settings | None = None) -> np.ndarray:
    """Flow from each frame to the next.

    Args:
        frames: (T, H, W) uint8, T ≥ 1.
        settings: parameters of TV-L1.
    Returns:
        (T − 1, 2, H, W) float32, (dx, dy) in pixels.
    Raises:
        ClipError: frames of another shape or dtype.
        MissingExtraError: no OpenCV, or one without TV-L1.
    """
    if frames.ndim != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ClipError(f"TV-L1 needs frames (T, H, W) uint8 with T ≥ 1, got {frames.shape} {frames.dtype}.")
    cv2 = require_tvl1()
    solver = cv2.optflow.DualTVL1OpticalFlow_create(*astuple(settings or TVL1Settings()))
    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    for index in range(len(frames) - 1):
        flow[index] = solver.calc(frames[index], frames[index + 1], None).transpose(2, 0, 1)
    return flow


def require_tvl1() -> Any:
    """The `cv2` module, checked for TV-L1 itself: several OpenCV distributions overwrite each other's files.

    Raises:
        MissingExtraError: OpenCV is missing, lacks TV-L1, or is 5.0 or later, whose flow differs.
    """
    cv2 = require("cv2", extra="data")
    if hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create") and int(cv2.__version__.split(".")[0]) < 5:
        return cv2
    installed = [name for name in _OPENCV_DISTRIBUTIONS if _is_installed(name)]
    raise MissingExtraError(
        f"OpenCV {cv2.__version__} has no usable TV-L1 (installed: {', '.join(installed) or 'unknown'}). "
        f"Keep exactly one OpenCV distribution: pip uninstall -y {' '.join(installed)} && " + install_command("data")
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
