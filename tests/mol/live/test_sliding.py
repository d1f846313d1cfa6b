"""The sliding window: the network's own numbers at the cost of a frame, through movement and changes of light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from data_fixtures import smooth_texture
from live_view import CLASSES, tiny_network

from mol.live.sliding import FURTHEST, SlidingWindow
from mol.network.model import MOL, MOLOutput
from mol.networks.mol import NETWORK, MOLNetwork
from mol.prediction.windows import ALIGN, align_window, run_network
from mol.vision.align import alignment_matrix, warp_picture


def face_points(shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """(68, 2): eyes, nose and mouth where alignment looks for them, in the middle of a picture of 200×160."""
    points = np.random.default_rng(5).uniform(-40, 40, (68, 2))
    points[36:42], points[42:48] = [-25, -20], [25, -20]
    points[30], points[48], points[54] = [0, 5], [-18, 28], [18, 28]
    return (points + np.array([100, 80]) + np.array(shift)).astype(np.float32)


TEXTURE = smooth_texture(np.random.default_rng(1), 160, 240).astype(np.uint8)


def picture(number: int) -> np.ndarray:
    return np.ascontiguousarray(TEXTURE[:, number : number + 200])


@dataclass
class Counting:
    """A stream whose probabilities say which frames a window has; counts what it has read."""

    anchor: np.ndarray
    rows: list[list[int]] = field(default_factory=list)

    def read(self, samples: np.ndarray, frames: Mapping[int, np.ndarray]) -> MOLOutput:
        assert samples.shape == (1, 8)
        assert set(samples.ravel().tolist()) <= set(frames)
        self.rows.append(samples[0].tolist())
        logits = torch.tensor([[float(np.ptp(samples)), 0.0, float(samples[0, -1])]])
        return MOLOutput(logits / 10, torch.zeros(1, 7, 2, 128, 128), torch.zeros(1, 7, 68, 2))


class CountingNetwork(MOLNetwork):
    """Gives `Counting` streams and keeps them."""

    def __init__(self) -> None:
        self.streams: list[Counting] = []

    def window_stream(self, model, anchor, device):
        self.streams.append(Counting(anchor))
        return self.streams[-1]


@pytest.fixture
def network() -> CountingNetwork:
    return CountingNetwork()


@pytest.fixture
def sliding(network: CountingNetwork) -> SlidingWindow:
    return SlidingWindow(network, torch.nn.Linear(1, 1), "32")


def test_every_frame_is_read_once_and_the_window_moves_on(network, sliding):
    found = [sliding.push(number, picture(0), face_points()) for number in range(12)]
    (stream,) = network.streams
    assert [slid.window is not None for slid in found] == [False] * 7 + [True] * 5
    assert [slid.filled for slid in found] == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8]
    assert stream.rows[2] == [0, 0, 0, 0, 0, 0, 1, 2]
    assert stream.rows[-1] == list(range(4, 12))
    assert found[-1].window.frames.tolist() == list(range(4, 12))
    # At rest: the first frame repeated.
    assert np.allclose(found[-1].still, torch.softmax(torch.zeros(3), 0).numpy())


def test_a_face_that_moves_a_little_gets_another_alignment_without_a_pause(network, sliding):
    for number in range(8):
        sliding.push(number, picture(0), face_points())
    found = [sliding.push(number, picture(0), face_points((3, 0))) for number in range(8, 24)]
    assert all(slid.window is not None for slid in found)
    first, second = network.streams
    assert second.rows[0] == [9] * 8  # the median of three frames has moved with the second one
    assert first.rows[-1][-1] == 16  # until the other had all of its window
    assert second.rows[-1] == list(range(16, 24))
    # The crops of the new window lie where its own alignment has them.
    assert np.allclose(found[-1].window.matrix[:, 2] + 8, alignment_matrix(face_points((3, 0)), ALIGN)[:, 2])


def test_a_face_that_comes_back_keeps_its_alignment(network, sliding):
    for number in range(8):
        sliding.push(number, picture(0), face_points())
    for number in range(8, 12):
        sliding.push(number, picture(0), face_points((3, 0)))
    for number in range(12, 20):
        assert sliding.push(number, picture(0), face_points()).window is not None
    first, second = network.streams
    assert first.rows[-1] == list(range(12, 20))
    assert len(second.rows) < 8


def test_a_face_that_moves_far_begins_a_new_window(network, sliding):
    for number in range(8):
        sliding.push(number, picture(0), face_points())
    far = (3 * FURTHEST, 0)
    found = [sliding.push(number, picture(0), face_points(far)) for number in range(8, 20)]
    held = [slid.window is not None for slid in found]
    assert not all(held)
    assert held[-1]
    for slid in found:
        if slid.window is not None:
            own = alignment_matrix(np.median(slid.window.detected, axis=0), ALIGN)
            assert np.linalg.norm(slid.window.matrix[:, 2] + 8 - own[:, 2]) < 3 * FURTHEST


def test_other_light_gets_other_statistics(network, sliding):
    for number in range(8):
        sliding.push(number, picture(0), face_points())
    for number in range(8, 20):
        assert sliding.push(number, (0.6 * picture(0)).astype(np.uint8), face_points()).window is not None
    assert len(network.streams) == 2
    assert network.streams[1].anchor.mean() < network.streams[0].anchor.mean()


def test_a_restart_forgets_the_frames_before_it(network, sliding):
    for number in range(8):
        sliding.push(number, picture(0), face_points())
    sliding.restart()
    assert sliding.push(8, picture(0), face_points()).filled == 1


def test_a_network_without_a_stream_reads_whole_windows():
    trained = tiny_network()
    sliding = SlidingWindow(trained.network, trained.model, "32")
    found = [sliding.push(number, picture(number), face_points()) for number in range(9)]
    assert [slid.window is not None for slid in found] == [False] * 7 + [True] * 2
    aligned = align_window(np.arange(1, 9), [picture(number) for number in range(1, 9)], np.stack([face_points()] * 8))
    (expected,) = run_network(trained.network, trained.model, [aligned], "32")
    assert np.array_equal(found[-1].window.probabilities, expected.probabilities)
    assert len(found[-1].still) == len(CLASSES)


def test_mol_itself_gives_the_numbers_of_its_windows():
    """The network on the window under the stream's alignment and statistics, a few frames on."""
    torch.manual_seed(0)
    model = MOL(num_classes=3).eval()
    sliding = SlidingWindow(NETWORK, model, "32")
    for number in range(9):
        slid = sliding.push(number, picture(number), face_points())
    matrix = alignment_matrix(face_points(), ALIGN)
    crops = np.stack([warp_picture(picture(number), matrix, ALIGN.size) for number in range(9)])
    stream = NETWORK.window_stream(model, crops[:1], torch.device("cpu"))
    expected = stream.read(np.arange(1, 9)[None], dict(enumerate(crops)))
    assert np.allclose(slid.window.probabilities, torch.softmax(expected.logits, -1).detach().numpy(), atol=1e-5)
    assert np.allclose(slid.window.flow, expected.flow[0].detach().numpy(), atol=1e-2)
