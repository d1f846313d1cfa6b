"""The cost volume of the package `localcorr`, whose Triton kernels need no build.

Nothing depends on it: it is measured on a GPU if it is installed; otherwise `why_not` gives the reason.
"""

from __future__ import annotations

from torch import Tensor


def why_not() -> str | None:
    """Why it cannot be measured; None if it can."""
    try:
        import localcorr  # noqa: F401
    except Exception as error:  # it also imports what it finds of CUDA and TensorRT
        return f"not installed (pip install localcorr): {error!r}"
    return None


def cost_volume(a: Tensor, b: Tensor, radius: int, stride: int) -> Tensor:
    """Correlation, the mean over channels: 2 × (N, C, H, W) → (N, (2 radius + 1)², H, W)."""
    from localcorr import get_localcorr_sampler

    sampler = get_localcorr_sampler(patch_size=2 * radius + 1, dilation_patch=stride, corr_mode="localcorr_triton")
    return sampler(a, b).flatten(1, 2) / a.shape[1]
