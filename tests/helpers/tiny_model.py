"""Networks with MOL's interface that train in milliseconds, and MOL with a small flow network."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mol.network.flownet import Encoded
from mol.network.heads import ActionUnitHead
from mol.network.model import MOLOutput, MOLUnitsOutput


class TinyMOL(nn.Module):
    """Convolution, BatchNorm and dropout on frames averaged to 16×16, one linear head per output."""

    def __init__(self, num_classes: int = 3, k: int = 4, variant: str = "paper", **settings: object) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}")
        self.config = {"num_classes": num_classes, "k": k, "variant": variant, **settings}
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.5)
        self.emotion = nn.Linear(16 * 16, num_classes)
        self.landmarks = nn.Linear(16 * 16, 7 * 68 * 2)
        self.flow = nn.Conv2d(16, 14, 1)

    def initialise_outputs(self, mean_shape: Tensor) -> None:
        """Start at the baselines, as MOL does."""
        with torch.no_grad():
            self.landmarks.weight.zero_()
            self.landmarks.bias.copy_(mean_shape.repeat(7, 1).flatten())
            self.flow.weight.zero_()
            self.flow.bias.zero_()

    def forward(self, clips: Tensor, pairs: Tensor | None = None) -> MOLOutput:
        """Clips (B, 1, 8, 128, 128) → MOLOutput; flow of chosen pairs only, as MOL does."""
        maps = F.relu(self.norm(self.conv(F.avg_pool2d(clips[:, 0], 8))))
        features = self.dropout(F.avg_pool2d(maps, 4).flatten(1))
        flow = F.interpolate(self.flow(maps), size=128, mode="nearest").unflatten(1, (7, 2))
        chosen = flow if pairs is None else flow[pairs[0], pairs[1]]
        return MOLOutput(self.emotion(features), chosen, self.landmarks(features).unflatten(1, (7, 68, 2)))

    def recognise(self, clips: Tensor) -> Tensor:
        """Clips (B, 1, 8, 128, 128) → logits."""
        return self(clips).logits


class TinyMOLWithUnits(TinyMOL):
    """TinyMOL with a head for action units, if it is to tell any."""

    def __init__(self, num_classes: int = 3, action_units: Sequence[int] | None = None, **settings: object) -> None:
        super().__init__(num_classes, **settings)  # type: ignore[arg-type]
        if action_units is not None:
            self.config["action_units"] = list(action_units)
            self.action_units = ActionUnitHead(8 * 16, len(action_units), 0.5)

    def forward(self, clips: Tensor, pairs: Tensor | None = None) -> MOLOutput | MOLUnitsOutput:  # type: ignore[override]
        output = super().forward(clips, pairs)
        if "action_units" not in self.config:
            return output
        return MOLUnitsOutput(*output, self.action_units(F.avg_pool2d(clips[:, 0], 32).flatten(1)))

    def recognise_units(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self(clips)
        return output.logits, getattr(output, "action_units", None)


class SmallestMOL(TinyMOL):
    """Batch norm and one linear layer per output: checkpoints of 125 KB, as in tests/data/version-0.1."""

    def __init__(self, num_classes: int = 2, k: int = 4, variant: str = "paper", **settings: object) -> None:
        nn.Module.__init__(self)
        self.config = {"num_classes": num_classes, "k": k, "variant": variant, **settings}
        self.norm = nn.BatchNorm2d(8)
        self.emotion = nn.Linear(32, num_classes)
        self.landmarks = nn.Linear(32, 7 * 68 * 2)
        self.flow = nn.Conv2d(8, 14, 1)

    def forward(self, clips: Tensor, pairs: Tensor | None = None) -> MOLOutput:
        """Clips (B, 1, 8, 128, 128) → MOLOutput; flow of chosen pairs only, as MOL does."""
        maps = self.norm(F.avg_pool2d(clips[:, 0], 32))
        features = F.avg_pool2d(maps, 2).flatten(1)
        flow = F.interpolate(self.flow(maps), size=128, mode="nearest").unflatten(1, (7, 2))
        chosen = flow if pairs is None else flow[pairs[0], pairs[1]]
        return MOLOutput(self.emotion(features), chosen, self.landmarks(features).unflatten(1, (7, 68, 2)))


def instead_of_mol(patch: pytest.MonkeyPatch, network: type[nn.Module] = TinyMOL) -> None:
    """Train, save and load this network wherever MOL would be used."""
    patch.setattr("mol.networks.mol.MOL", network)


class SmallFlow(nn.Module):
    """FlowNetC's interface without its 40 million parameters, where what is tested is the blocks below it."""

    def __init__(self) -> None:
        super().__init__()
        self.predict0 = nn.Conv2d(256, 2, 1)

    def initialise(self, differences: bool) -> None:
        nn.init.zeros_(self.predict0.weight)

    def forward(self, frames: Tensor, features: Tensor, count: int, per_frame: bool) -> Tensor:
        return nn.functional.interpolate(self.predict0(features), scale_factor=8)

    def encode(self, frames: Tensor) -> Encoded:
        return Encoded(frames, frames, frames, frames)

    def decode(self, first: Tensor, second: Tensor, features: Tensor, encoded: Encoded, first_of: object) -> Tensor:
        return self(encoded.frames, features, 2, False)


def with_small_flow(patch: pytest.MonkeyPatch) -> None:
    """Make every MOL with `SmallFlow`."""
    patch.setattr("mol.network.model.FlowNetC", SmallFlow)
