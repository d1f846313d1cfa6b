"""The cost volume of the package `spatial-correlation-sampler` (C. Pinard), which the published MOL code uses.

Nothing depends on it: it is measured if it is installed; otherwise `why_not` gives the reason. It is distributed as
source, and its CPU operator compiles only with a torch that was built for CUDA.
"""

from __future__ import annotations

from torch import Tensor


def why_not() -> str | None:
    """Why it cannot be measured; None if it can."""
    try:
        import spatial_correlation_sampler  # noqa: F401
    except ImportError as error:
        return f"not installed (pip install --no-build-isolation spatial-correlation-sampler; needs nvcc): {error}"
    return None


def cost_volume(a: Tensor, b: Tensor, radius: int, stride: int) -> Tensor:
    """Correlation, the mean over channels: 2 × (N, C, H, W) → (N, (2 radius + 1)², H, W)."""
    from spatial_correlation_sampler import spatial_correlation_sample

    patch = 2 * radius + 1
    return spatial_correlation_sample(a, b, patch_size=patch, dilation_patch=stride).flatten(1, 2) / a.shape[1]
