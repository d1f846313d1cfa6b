"""Windows that share frames give the numbers of the network on each of them, and nothing is computed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mol.data.clips import grey_statistics, normalise_clips
from mol.network.model import MOL
from mol.network.streaming import MOLStream
from mol.networks.mol import NETWORK

START, INTERVAL = 3, 2


@pytest.fixture(scope="module", params=["paper", "released"])
def model(request: pytest.FixtureRequest) -> MOL:
    """A network without the zeros that it starts with, and with statistics of its own, which would hide errors."""
    torch.manual_seed(0)
    network = MOL(num_classes=3, variant=request.param).eval()
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if ".mix." in name or ".predict" in name:
                value.normal_(std=0.02)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                value.normal_(std=0.1)
    return network


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """(30, 144, 144) uint8, smooth, moving."""
    y, x = np.indices((144, 144)) / 20
    waves = [np.sin(x + 0.05 * t) * np.cos(y - 0.03 * t) + 0.2 * np.sin(3 * x - 0.1 * t) for t in range(30)]
    return (120 + 60 * np.stack(waves)).astype(np.uint8)


def samples(count: int, stride: int) -> np.ndarray:
    return START + stride * np.arange(count)[:, None] + INTERVAL * np.arange(8)


def alone(model: MOL, crops: np.ndarray, sample: np.ndarray, anchor: np.ndarray):
    """The network on a window, normalised as the anchor."""
    mean, deviation = grey_statistics(torch.from_numpy(crops[anchor, 8:136, 8:136]))
    clip = (torch.from_numpy(crops[sample, 8:136, 8:136]) - mean) / deviation
    return model(clip[None, None])


def furthest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def test_a_stream_gives_the_numbers_of_the_network_window_by_window(model, crops):
    windows = samples(3, 2 * INTERVAL)
    stream = NETWORK.window_stream(model, crops[windows[0]], torch.device("cpu"))
    assert stream is not None
    for batch in (windows[:1], windows[1:]):
        output = stream.read(batch, dict(enumerate(crops)))
        for index, sample in enumerate(batch):
            expected = alone(model, crops, sample, windows[0])
            assert expected.flow.abs().max() > 0.01
            assert furthest(output.logits[index], expected.logits[0]) < 1e-5
            assert furthest(output.flow[index], expected.flow[0]) < 1e-5
            assert furthest(output.landmarks[index], expected.landmarks[0]) < 1e-5


@torch.inference_mode()
def test_every_frame_and_every_pair_is_computed_once(model, crops, monkeypatch):
    frames, pairs = [], []
    encode, decode = model.flow.encode, model.flow.decode
    monkeypatch.setattr(model.flow, "encode", lambda x, *rest: frames.append(len(x)) or encode(x, *rest))
    monkeypatch.setattr(model.flow, "decode", lambda first, *rest: pairs.append(len(first)) or decode(first, *rest))
    stream = MOLStream(model)
    normalised = dict(enumerate(normalise_clips(torch.from_numpy(crops[:, 8:136, 8:136]))))
    for window in samples(3, INTERVAL):
        stream.read(window[None], normalised)
    assert (frames, pairs) == ([8, 1, 1], [7, 1, 1])
    # A window off the grid shares nothing.
    stream.read(samples(3, INTERVAL)[-1:] + 1, normalised)
    assert (frames[-1], pairs[-1]) == (8, 7)


def test_another_network_has_no_stream(crops):
    assert NETWORK.window_stream(torch.nn.Linear(1, 1), crops[:8], torch.device("cpu")) is None
