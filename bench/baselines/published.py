"""The MOL network in the form of its published code, as the slow baseline.

Source: Shao et al., "MOL: Joint Estimation of Micro-Expression, Optical Flow, and Landmark via Transformer-Graph-Style
Convolution", IEEE TPAMI 2025, arXiv 2506.14511. This is our own implementation of what that code computes, in the
same order and without any optimisation:

- FCC pads circularly by concatenation and convolves with depthwise kernels as long as the axis;
- CCC is a Python loop over the channels and their k neighbours, one small convolution per edge;
- the cost volume is a loop over the displacements, forward and backward (the published code calls the CPU operator of
  `spatial_correlation_sampler`, a C++ loop over displacements, pixels and channels, which takes longer than this one);
- pairs of frames go through the whole network one after another: stack and flow encoder run for both frames of every
  pair, so 14 times for 8 frames, and every batch norm sees one frame at a time;
- the losses are computed sample by sample.

Parameters have the names of the released checkpoint, so `load_state_dict` accepts one unchanged.
"""

import itertools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Outputs(NamedTuple):
    """What one forward pass returns, in the layout of `mol.MOLOutput`."""

    logits: Tensor  # (B, num_classes)
    flow: Tensor  # (B, T-1, 2, 128, 128), pixels
    landmarks: Tensor  # (B, T-1, 68, 2), pixels


class ConvStack(nn.Module):
    """Features of one frame: (N, 1, 128, 128) -> (N, 128, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stack = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=2),
            nn.Conv2d(8, 32, 3, stride=2),
            nn.Conv2d(32, 64, 2, stride=2, padding=1),
            nn.Conv2d(64, 128, 1),
        )

    def forward(self, frame: Tensor) -> Tensor:
        return self.conv_stack(frame)


class FCC(nn.Module):
    """Fully-connected convolution with circular padding by concatenation: (N, C, H, W) -> (N, C, H, W).

    Kernels and position embeddings are stored with length 32 and cropped to the axis; `ffn` is in the checkpoint and
    never called.
    """

    def __init__(self, channels: int = 128, stored: int = 32) -> None:
        super().__init__()
        half = channels // 2
        for stage in "12":
            for axis, shape in (("H", (stored, 1)), ("W", (1, stored))):
                bound = stored**-0.5  # Conv2d's default for a fan-in of `stored`
                kernel = torch.empty(half, 1, *shape).uniform_(-bound, bound)
                self.register_parameter(f"meta_kernel_{stage}_{axis}", nn.Parameter(kernel))
                self.register_parameter(f"meta_{stage}_{axis}_bias", nn.Parameter(torch.randn(half)))
                self.register_parameter(f"meta_pe_{stage}_{axis}", nn.Parameter(torch.randn(1, half, *shape)))
        self.pre_Norm_1 = nn.BatchNorm2d(half)
        self.pre_Norm_2 = nn.BatchNorm2d(half)
        self.ffn = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Identity(), nn.Conv2d(2, channels, 1)
        )

    def _along_height(self, x: Tensor, stage: int) -> Tensor:
        height, channels = x.shape[2], x.shape[1]
        kernel = getattr(self, f"meta_kernel_{stage}_H")[:, :, :height]
        padded = torch.cat((x, x[:, :, :-1]), dim=2)
        return F.conv2d(padded, kernel, getattr(self, f"meta_{stage}_H_bias"), groups=channels)

    def _along_width(self, x: Tensor, stage: int) -> Tensor:
        width, channels = x.shape[3], x.shape[1]
        kernel = getattr(self, f"meta_kernel_{stage}_W")[..., :width]
        padded = torch.cat((x, x[..., :-1]), dim=3)
        return F.conv2d(padded, kernel, getattr(self, f"meta_{stage}_W_bias"), groups=channels)

    def _position(self, x: Tensor, stage: int, axis: str) -> Tensor:
        embedding = getattr(self, f"meta_pe_{stage}_{axis}")
        return x + (embedding[:, :, : x.shape[2]] if axis == "H" else embedding[..., : x.shape[3]])

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        u = self.pre_Norm_1(self._position(a, 1, "H"))
        u = self._along_width(self._position(self._along_height(u, 1), 2, "W"), 2)
        v = self.pre_Norm_2(self._position(b, 1, "W"))
        v = self._along_height(self._position(self._along_width(v, 1), 2, "H"), 2)
        return torch.cat((a + u, b + v), dim=1)


class CCC(nn.Module):
    """Channel correspondence convolution on the position graph, edge by edge: (N, C, H, W) -> (N, C, H, W).

    For every channel c and neighbour j:  ReLU(W1 x_c + b1 + W2 (x_c[idx[:, j]] - 2 x_c) + b2), then the maximum over j.
    The difference to the node is taken twice, as in the released code.
    """

    def __init__(self, positions: int = 256, k: int = 4) -> None:
        super().__init__()
        self.k = k
        self.conv1 = nn.Conv1d(1, positions, positions)
        self.conv2 = nn.Conv1d(1, positions, positions)

    def neighbours(self, x: Tensor) -> Tensor:
        """The k positions most similar to each position under cosine similarity: (N, C, P) -> (N, P, k) int64."""
        unit = F.normalize(x, dim=1)
        return (unit.transpose(1, 2) @ unit).topk(self.k, dim=-1).indices

    def forward(self, x: Tensor) -> Tensor:
        maps = x.flatten(2)
        index = self.neighbours(maps)
        nodes = []
        for channel in range(maps.shape[1]):
            node = maps[:, channel]
            edges = []
            for j in range(self.k):
                difference = node.gather(1, index[:, :, j]) - node
                edge = self.conv1(node[:, None]) + self.conv2((difference - node)[:, None])
                edges.append(F.relu(edge))
            nodes.append(torch.stack(edges).max(dim=0).values)
        return torch.stack(nodes, dim=1).view_as(x)


class ChannelCCC(CCC):
    """The paper's graph over the channels in the same loop form: node c and neighbour j give one small convolution.

    ReLU(W1 x_c + b1 + W2 (x_j - x_c) + b2), then the maximum over j. The published code has the position graph only.
    """

    def forward(self, x: Tensor) -> Tensor:
        maps = x.flatten(2)
        index = self.neighbours(maps.transpose(1, 2))
        samples = torch.arange(maps.shape[0], device=maps.device)
        nodes = []
        for channel in range(maps.shape[1]):
            node = maps[:, channel]
            edges = []
            for j in range(self.k):
                difference = maps[samples, index[:, channel, j]] - node
                edges.append(F.relu(self.conv1(node[:, None]) + self.conv2(difference[:, None])))
            nodes.append(torch.stack(edges).max(dim=0).values)
        return torch.stack(nodes, dim=1).view_as(x)


def _overlap(length: int, shift: int) -> tuple[slice, slice]:
    """Where a pixel and its displaced partner both lie on an axis: the pixels, and their partners."""
    begin, end = max(0, -shift), min(length, length - shift)
    return slice(begin, max(begin, end)), slice(begin + shift, max(begin, end) + shift)


class _CostVolume(torch.autograd.Function):
    """Forward and backward as loops over the displacements; pixels whose partner is outside are left out."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, radius: int, stride: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.shifts = [stride * step for step in range(-radius, radius + 1)]
        n, channels, height, width = a.shape
        out = a.new_zeros(n, len(ctx.shifts) ** 2, height, width)
        for plane, (dy, dx) in enumerate(itertools.product(ctx.shifts, repeat=2)):
            (rows, other_rows), (columns, other_columns) = _overlap(height, dy), _overlap(width, dx)
            products = a[:, :, rows, columns] * b[:, :, other_rows, other_columns]
            out[:, plane, rows, columns] = products.sum(dim=1) / channels
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, b = ctx.saved_tensors
        height, width = a.shape[2:]
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        for plane, (dy, dx) in enumerate(itertools.product(ctx.shifts, repeat=2)):
            (rows, other_rows), (columns, other_columns) = _overlap(height, dy), _overlap(width, dx)
            grad = grads[0][:, plane : plane + 1, rows, columns] / a.shape[1]
            grad_a[:, :, rows, columns] += grad * b[:, :, other_rows, other_columns]
            grad_b[:, :, other_rows, other_columns] += grad * a[:, :, rows, columns]
        return grad_a, grad_b, None, None


def cost_volume(a: Tensor, b: Tensor, radius: int = 10, stride: int = 2) -> Tensor:
    """Correlation of two maps, one displacement after another: 2 × (N, C, H, W) -> (N, (2 radius + 1)², H, W)."""
    return _CostVolume.apply(a, b, radius, stride)


def _encoder_block(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)
    )


def _decoder_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.LeakyReLU(0.1))


class FlowNet(nn.Module):
    """FlowNetC on two raw frames (N, 1, 128, 128) and their joint features (N, 256, 16, 16) -> (N, 2, 128, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _encoder_block(1, 64, 6, 2, 2)
        self.conv2 = _encoder_block(64, 128, 4, 2, 1)
        self.conv3 = _encoder_block(128, 256, 2, 2)
        self.conv_redir = _encoder_block(256, 32, 1)
        self.conv3_1 = _encoder_block(32 + 441 + 256, 256, 3, 1, 1)
        self.conv4 = _encoder_block(256, 512, 3, 2, 1)
        self.conv4_1 = _encoder_block(512, 512, 3, 1, 1)
        self.conv5 = _encoder_block(512, 512, 3, 2, 1)
        self.conv5_1 = _encoder_block(512, 512, 3, 1, 1)
        self.conv6 = _encoder_block(512, 1024, 3, 2, 1)
        self.conv6_1 = _encoder_block(1024, 1024, 3, 1, 1)
        joined = {6: 1024, 5: 1026, 4: 770, 3: 386, 2: 258, 1: 130, 0: 35}
        deconvolved = {5: 512, 4: 256, 3: 128, 2: 128, 1: 64, 0: 32}
        for level, channels in deconvolved.items():
            self.add_module(f"deconv{level}", _decoder_block(joined[level + 1], channels))
            self.add_module(f"upsampled_flow{level + 1}_to_{level}", nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False))
        for level, channels in joined.items():
            self.add_module(f"predict_flow{level}", nn.Conv2d(channels, 2, 3, 1, 1, bias=False))

    def _refine(self, level: int, joined: Tensor, skip: Tensor) -> Tensor:
        """One decoder level: concatenate (skip, deconvolution, upsampled flow) at twice the size."""
        flow = self.get_submodule(f"predict_flow{level + 1}")(joined)
        upsampled = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(flow)
        return torch.cat((skip, self.get_submodule(f"deconv{level}")(joined), upsampled), dim=1)

    def forward(self, first: Tensor, second: Tensor, features: Tensor) -> Tensor:
        half = self.conv1(first)
        quarter = self.conv2(half)
        eighth = self.conv3(quarter)
        other = self.conv3(self.conv2(self.conv1(second)))
        cost = F.leaky_relu(cost_volume(eighth, other), 0.1)
        skip3 = self.conv3_1(torch.cat((self.conv_redir(eighth), cost, features), dim=1))
        skip4 = self.conv4_1(self.conv4(skip3))
        skip5 = self.conv5_1(self.conv5(skip4))
        joined = self.conv6_1(self.conv6(skip5))
        for level, skip in ((5, skip5), (4, skip4), (3, skip3), (2, quarter), (1, half), (0, first)):
            joined = self._refine(level, joined, skip)
        return self.get_submodule("predict_flow0")(joined)


class EmotionHead(nn.Module):
    """Sequence of maps (B, 128, 16, 16, 14) -> logits (B, num_classes)."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(128, 32, (2, 2, 5), (2, 2, 1))
        self.pool = nn.MaxPool3d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(2560, 256)
        self.fc2 = nn.Linear(256, num_classes)

    def forward(self, sequence: Tensor) -> Tensor:
        hidden = self.dropout(self.pool(self.conv3d(sequence)).flatten(1))
        return self.fc2(self.dropout(F.relu(self.fc1(hidden))))


class LandmarkHead(nn.Module):
    """Features of one frame (N, 128, 16, 16) -> (N, 136), the (x, y) pairs of 68 points in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.convldm = nn.Conv2d(128, 32, 3)
        self.fc1 = nn.Linear(6272, 512)
        self.fc2 = nn.Linear(512, 136)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(F.relu(self.convldm(features)).flatten(1))))


class PublishedMOL(nn.Module):
    """The released network, pair of frames by pair of frames: clips (B, 1, T, 128, 128) -> Outputs."""

    def __init__(self, num_classes: int = 5, k: int = 4, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv_stack = ConvStack()
        self.FCC_1 = FCC()
        self.FCC_2 = FCC()
        self.CCC_1 = CCC(k=k)
        self.CCC_2 = CCC(k=k)
        self.flownet = FlowNet()
        self.mer_3dcnn = EmotionHead(num_classes, dropout)
        self.ldm_predictor = LandmarkHead()

    def f5c_1(self, x: Tensor) -> Tensor:
        """The block of the earlier frame of a pair: (N, 128, 16, 16) -> the same."""
        z = self.FCC_1(x)
        return z + self.CCC_1(z)

    def f5c_2(self, x: Tensor) -> Tensor:
        """The block of the later frame of a pair: (N, 128, 16, 16) -> the same."""
        z = self.FCC_2(x)
        return z + self.CCC_2(z)

    def forward(self, clips: Tensor) -> Outputs:
        sequence, flows, landmarks = [], [], []
        for t in range(clips.shape[2] - 1):
            first, second = clips[:, :, t], clips[:, :, t + 1]
            earlier = self.f5c_1(self.conv_stack(first))
            later = self.f5c_2(self.conv_stack(second))
            sequence += [earlier, later]
            landmarks.append(self.ldm_predictor(later))
            flows.append(self.flownet(first, second, torch.cat((earlier, later), dim=1)))
        logits = self.mer_3dcnn(torch.stack(sequence, dim=-1))
        return Outputs(logits, torch.stack(flows, dim=1), torch.stack(landmarks, dim=1).unflatten(-1, (68, 2)))


def eye_distance(points: Tensor) -> Tensor:
    """Distance in pixels between the two eye centres of one face's points (68, 2)."""
    return (points[36:42].mean(dim=0) - points[42:48].mean(dim=0)).norm()


def training_loss(
    outputs: Outputs,
    flow: Tensor,
    landmarks: Tensor,
    label: Tensor,
    weights: tuple[float, float, float] = (1.0, 10 / 7, 3.5),
) -> Tensor:
    """The released loss, sample by sample and pair by pair.

    Args:
        outputs: what `PublishedMOL` returned for B clips.
        flow: target (B, T-1, 2, 128, 128), pixels.
        landmarks: target (B, T-1, 68, 2), pixels.
        label: (B,) int64.
        weights: of emotion, flow and landmarks; the default is what the released code's settings come to.

    Returns:
        The scalar sum of the three weighted terms, each a mean over samples (and pairs).
    """
    batch, pairs = flow.shape[:2]
    emotion = flow.new_zeros(())
    motion = flow.new_zeros(())
    shape = flow.new_zeros(())
    for b in range(batch):
        emotion = emotion + F.cross_entropy(outputs.logits[b : b + 1], label[b : b + 1])
        for t in range(pairs):
            motion = motion + F.mse_loss(outputs.flow[b, t], flow[b, t])
            error = (outputs.landmarks[b, t] - landmarks[b, t]).abs().sum(dim=-1).mean()
            shape = shape + error / eye_distance(landmarks[b, t])
    return (weights[0] * emotion + (weights[1] * motion + weights[2] * shape) / pairs) / batch
