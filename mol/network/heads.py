"""The convolution stack below the F5C blocks, and the heads for landmarks and emotion above them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mol.network.normal_flow import NormalFlow
from mol.vision.points import POINTS
from molkernels.batch_norm import SYNCHRONISED


def conv_stack() -> nn.Sequential:
    """A frame's features: (N, 1, 128, 128) → 8×63×63 → 32×31×31 → 64×16×16 → (N, 128, 16, 16); linear."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2), nn.Conv2d(8, 32, 3, 2), nn.Conv2d(32, 64, 2, 2, padding=1), nn.Conv2d(64, 128, 1)
    )


def keep_variance(stack: nn.Sequential) -> None:
    """Initialise linear layers so that each keeps the variance of its input; PyTorch's default leaves a third of it."""
    for name, parameter in stack.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        else:
            nn.init.zeros_(parameter)


class LandmarkHead(nn.Module):
    """68 landmarks of a frame.  (N, 128, 16, 16) → (N, 68, 2), pixels (x, y)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(128, 32, 3)
        self.fc1 = nn.Linear(32 * 14 * 14, 512)
        self.fc2 = nn.Linear(512, 2 * POINTS)

    def forward(self, x: Tensor) -> Tensor:
        """Landmarks of the maps x."""
        hidden = F.relu(self.fc1(F.relu(self.conv(x)).flatten(1)))
        return self.fc2(hidden).unflatten(1, (POINTS, 2))


class MotionHead(nn.Module):
    """Class logits of a clip from its normal flow since the first frame.

    The features G of frames 2 to T meet those of the first frame, F_1 (`NormalFlow`): motion since the first frame is
    several times as large as motion since the last one, and the noise is the same. Then, as in the paper's figure, a
    3-D convolution, pooling and two linear layers, with batch norm before each activation.

    Shapes:
        first (B, 1 or more, 128, 16, 16), of which only frame 1 is read, and second (B, T−1, 128, 16, 16)
        → (B, num_classes).
    """

    def __init__(self, num_classes: int, frames: int, dropout: float, channels: int = 64) -> None:
        super().__init__()
        self.motion = NormalFlow(128, channels)
        self.conv = nn.Conv3d(channels, 32, (2, 2, 3), (2, 2, 1))
        self.norm1 = nn.BatchNorm3d(32)
        self.fc1 = nn.Linear(32 * 4 * 4 * ((frames - 3) // 2), 256)
        self.norm2 = nn.BatchNorm1d(256)
        self.fc2 = nn.Linear(256, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
        """Logits; in training, `groups` as in `NormalFlow`."""
        return self.classify(self.pooled(first, second, groups))

    def pooled(self, first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
        """The pooled features of the motion, (B, `fc1.in_features`), that `classify` makes logits of."""
        batch, steps = second.shape[:2]
        start = first[:, :1].expand(-1, steps, -1, -1, -1).flatten(0, 1)
        motion = self.motion(start, second.flatten(0, 1), groups).unflatten(0, (batch, steps))
        hidden = F.relu(self.norm1(self.conv(motion.permute(0, 2, 3, 4, 1))))
        return F.avg_pool3d(hidden, 2).flatten(1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits of pooled features.

        A batch of one clip has no statistics between the linear layers: there the running ones are used, as in
        evaluation, and they stay as they are.
        """
        linear = self.fc1(self.dropout(pooled))
        if self.training and len(pooled) == 1 and not isinstance(self.norm2, SYNCHRONISED):
            norm = self.norm2
            mean, var = norm.running_mean, norm.running_var
            linear = F.batch_norm(linear, mean, var, norm.weight, norm.bias, eps=norm.eps)
        else:
            linear = self.norm2(linear)
        return self.fc2(self.dropout(F.relu(linear)))


class ActionUnitHead(nn.Module):
    """A logit for each action unit from the pooled features of `MotionHead`: (B, features) → (B, units)."""

    def __init__(self, features: int, units: int, dropout: float, hidden: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, units)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits of the features."""
        return self.fc2(self.dropout(F.relu(self.fc1(self.dropout(pooled)))))

    @torch.no_grad()
    def start_at(self, chances: Sequence[float]) -> None:
        """Begin with these probabilities, each between 0 and 1, whatever the clip."""
        self.fc2.weight.zero_()
        self.fc2.bias.copy_(torch.tensor(chances, dtype=torch.float64).clamp(1e-3, 1 - 1e-3).logit())


class EmotionHead(nn.Module):
    """Class logits of a clip from its F5C maps F (first frames) and G (second frames), (B, T−1, 128, 16, 16) each.

    The released code's head, and the paper's variant before `MotionHead`.
    ``variant="released"``: the sequence F_1, G_2, F_2, G_3, … with a temporal kernel of 5;
    ``variant="paper"``: F and G side by side on the channels with a temporal kernel of 3.
    """

    def __init__(self, num_classes: int, frames: int, variant: str, dropout: float) -> None:
        super().__init__()
        self.variant = variant
        channels, steps, kernel = (256, frames - 1, 3) if variant == "paper" else (128, 2 * (frames - 1), 5)
        self.conv = nn.Conv3d(channels, 32, (2, 2, kernel), (2, 2, 1))
        self.fc1 = nn.Linear(32 * 4 * 4 * ((steps - kernel + 1) // 2), 256)
        self.fc2 = nn.Linear(256, num_classes)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def initialise(self, gain: float = 10.0) -> None:
        """Start on the amplified difference of both frames' features: the emotion is in small motion."""
        first, second = self.conv.weight.chunk(2, 1)
        first.mul_(gain)
        second.copy_(-first)

    def forward(self, first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
        """Logits (B, num_classes); there is no norm, and `groups` changes nothing."""
        if self.variant == "paper":
            sequence = torch.cat([first, second], 2)
        else:
            sequence = torch.stack([first, second], 2).flatten(1, 2)
        pooled = F.max_pool3d(self.conv(sequence.permute(0, 2, 3, 4, 1)), 2)
        hidden = F.relu(self.fc1(self.dropout(pooled.flatten(1))))
        return self.fc2(self.dropout(hidden))
