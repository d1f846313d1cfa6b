"""From the released checkpoint's parameter names to the tensors of `molkernels.functional`.

The functions accept any mapping with the released names, so they convert values as well as gradients.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from molkernels.functional import EdgeParameters, FCCParameters


def fcc_parameters(named: Mapping[str, Tensor], size: int = 32) -> FCCParameters:
    """The entries of an FCC, cropped to `size`: branch A has stage 1 along H, branch B has stage 1 along W."""

    def along_height(kind: str) -> Tensor:
        return torch.cat([named[f"meta_{kind}_{stage}_H"].reshape(-1, 32)[:, :size] for stage in "12"])

    def along_width(kind: str) -> Tensor:
        return torch.cat([named[f"meta_{kind}_{stage}_W"].reshape(-1, 32)[:, :size] for stage in "21"])

    return FCCParameters(
        gamma=_both_norms(named, "weight"),
        beta=_both_norms(named, "bias"),
        pe_h=along_height("pe"),
        pe_w=along_width("pe"),
        weight_h=along_height("kernel"),
        weight_w=along_width("kernel"),
        bias_h=torch.cat([named["meta_1_H_bias"], named["meta_2_H_bias"]]),
        bias_w=torch.cat([named["meta_2_W_bias"], named["meta_1_W_bias"]]),
    )


def fcc_statistics(named: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The running mean and variance of an FCC, (C,) each."""
    return _both_norms(named, "running_mean"), _both_norms(named, "running_var")


def edge_parameters(named: Mapping[str, Tensor]) -> EdgeParameters:
    """The entries of a CCC."""
    return EdgeParameters(
        named["conv1.weight"].flatten(1), named["conv1.bias"], named["conv2.weight"].flatten(1), named["conv2.bias"]
    )


def _both_norms(named: Mapping[str, Tensor], entry: str) -> Tensor:
    return torch.cat([named[f"pre_Norm_1.{entry}"], named[f"pre_Norm_2.{entry}"]])
