"""A network with MOL's interface whose flow needs no training, so that expressions can be spotted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tiny_model import TinyMOL
from torch import Tensor

from mol.network.model import MOLOutput


class LucasKanadeMOL(TinyMOL):
    """Flow by least squares over 15×15 pixels (Lucas and Kanade 1981); emotion and landmarks as `TinyMOL`."""

    def forward(self, clips: Tensor, pairs: Tensor | None = None) -> MOLOutput:
        """Clips (B, 1, 8, 128, 128) → MOLOutput."""
        output = super().forward(clips, pairs)
        if pairs is not None:
            return output
        frames = _smooth(clips[:, 0], 5)
        middle, change = (frames[:, 1:] + frames[:, :-1]) / 2, frames[:, 1:] - frames[:, :-1]
        across, down = (torch.gradient(middle, dim=axis)[0] for axis in (-1, -2))
        xx, xy, yy = (_smooth(product, 15) for product in (across * across, across * down, down * down))
        xt, yt = (_smooth(slope * change, 15) for slope in (across, down))
        # A little more on the diagonal where there is no texture.
        xx, yy = xx + 1e-4 * (xx + yy).mean(), yy + 1e-4 * (xx + yy).mean()
        determinant = xx * yy - xy * xy
        flow = torch.stack([(xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant], dim=2)
        return MOLOutput(output.logits, flow, output.landmarks)


def _smooth(maps: Tensor, side: int) -> Tensor:
    """Mean over squares, one side after the other."""
    for kernel in ((side, 1), (1, side)):
        padding = tuple(length // 2 for length in kernel)
        maps = F.avg_pool2d(maps, kernel, stride=1, padding=padding, count_include_pad=False)
    return maps
