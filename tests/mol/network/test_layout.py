"""Layouts of memory change speed, never values: channels-last, padded channels."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mol import MOL
from mol.network.flownet import FlowNetC
from mol.network.layout import consecutive, fitted, is_channels_last, joined, lay_out_channels_last


def random(*shape, layout=torch.contiguous_format):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).contiguous(memory_format=layout)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("last", [True, False])
def test_joined_maps_are_side_by_side_with_zeros_behind_them(multiple, last):
    parts = [random(2, 5, 4, 6), random(2, 7, 4, 6), random(2, 1, 4, 6)]
    if last:
        parts[1] = parts[1].contiguous(memory_format=torch.channels_last)
    together = joined(parts, multiple)
    assert torch.equal(together[:, :13], torch.cat(parts, 1))
    assert together.shape[1] == (16 if multiple == 8 else 13)
    assert not together[:, 13:].any()
    assert is_channels_last(together) == last


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 13, 2, 2)), (0, (13, 3, 2, 2))])
def test_a_fitted_weight_has_zeros_for_the_added_channels(axis, shape):
    weight = random(*shape)
    padded = fitted(weight, axis, 16)
    assert padded.shape[axis] == 16
    assert torch.equal(padded.narrow(axis, 0, 13), weight)
    assert not padded.narrow(axis, 13, 3).any()
    assert fitted(weight, axis, 13) is weight
    assert fitted(weight, axis, 64) is weight  # the convolution then refuses it


def test_consecutive_frames_stay_in_their_layout():
    for layout, last in ((torch.contiguous_format, False), (torch.channels_last, True)):
        x = random(8, 3, 2, 2, layout=layout)
        first, second = consecutive(x, 4)
        assert torch.equal(first, x[[0, 1, 2, 4, 5, 6]])
        assert torch.equal(second, x[[1, 2, 3, 5, 6, 7]])
        assert is_channels_last(first) == is_channels_last(second) == last


def test_all_2d_convolutions_are_laid_out_channels_last_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 5, 4), nn.Conv3d(5, 6, 2), nn.Linear(6, 7))
    lay_out_channels_last(model)
    assert [is_channels_last(model[0].weight), is_channels_last(model[1].weight)] == [True, True]
    assert model[2].weight.is_contiguous()


@pytest.fixture(scope="module")
def flownet():
    torch.manual_seed(3)
    network = FlowNetC().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "predict" in name:
                parameter.normal_(std=0.05)
    return network


def flow_and_gradients(network, per_frame):
    network = copy.deepcopy(network).train()
    features = random(3, 256, 16, 16).requires_grad_()
    flow = network(random(4, 1, 128, 128), features, 4, per_frame)
    (flow * random(*flow.shape)).sum().backward()
    return network, flow, {"features": features.grad, **{name: p.grad for name, p in network.named_parameters()}}


@pytest.mark.parametrize("per_frame", [True, False])
@pytest.mark.parametrize(("pad", "last"), [(True, False), (False, True), (True, True)])
def test_padding_and_layout_change_neither_flow_nor_gradients_nor_checkpoints(flownet, per_frame, pad, last):
    _, flow, gradients = flow_and_gradients(flownet, per_frame)
    other = copy.deepcopy(flownet)
    other.pad = pad
    if last:
        lay_out_channels_last(other)
    other, found, theirs = flow_and_gradients(other, per_frame)
    scale = flow.abs().max()
    torch.testing.assert_close(found / scale, flow / scale, rtol=0, atol=2e-5)
    for name, gradient in gradients.items():
        error = (theirs[name] - gradient).norm() / gradient.norm().clamp(min=1e-6 * flow.numel() ** 0.5)
        assert error < 1e-3, name
    shapes = {name: value.shape for name, value in flownet.state_dict().items()}
    assert {name: value.shape for name, value in other.state_dict().items()} == shapes


class Convolutions(TorchDispatchMode):
    """Records the input channels and the layout of every convolution."""

    def __init__(self):
        super().__init__()
        self.channels, self.last = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() == "aten::convolution" and args[0].dim() == 4:
            self.channels.append(args[0].shape[1])
            self.last.append(args[0].is_contiguous(memory_format=torch.channels_last))
        return func(*args, **(kwargs or {}))


def test_no_convolution_of_a_padded_flow_network_has_odd_channels(flownet, monkeypatch):
    monkeypatch.setattr("mol.network.convolution.BY_PRODUCT", ())  # PyTorch's convolutions, as on a GPU
    seen = {}
    for pad in (False, True):
        network = copy.deepcopy(flownet)
        network.pad = pad
        lay_out_channels_last(network)
        with Convolutions() as found, torch.no_grad():
            network(random(4, 1, 128, 128), random(3, 256, 16, 16), 4, False)
        seen[pad] = found
    odd = {channels for channels in seen[True].channels if channels % 8}
    assert odd == {1, 2}  # grey frames and flow
    assert {1026, 770, 386, 258, 130, 35, 513} <= set(seen[False].channels)
    assert all(seen[True].last)


def test_a_network_in_channels_last_order_gives_the_same_emotions():
    torch.manual_seed(0)
    model = MOL(num_classes=3, variant="released", dropout=0.0).eval()
    clips = random(2, 1, 8, 128, 128)
    with torch.no_grad():
        before = model(clips)
        lay_out_channels_last(model)
        model.flow.pad = True
        after = model(clips)
    for mine, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
