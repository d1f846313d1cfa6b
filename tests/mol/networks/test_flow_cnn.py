"""The flow network: exact strain, true mirrors, its shape, and that it learns emotions for people it never saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_cache import write_tiny_cache

from mol.data.cache import Cache
from mol.networks.flow_cnn import FORM, NETWORK, FlowCNN, motion_maps
from mol.networks.onset_apex import SMOOTH
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.synth.clip_plan import SynthSettings
from mol.synth.synthetic_set import synthesize
from mol.training.settings import TrainConfig
from mol.training.train import train
from mol.vision.tvl1 import tvl1_flow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("flow") / "cache", people=2, videos=2)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """36 clips of 6 people."""
    settings = SynthSettings(people=6, pictures=1, clips=6, amplitude=(2.0, 3.0))
    return synthesize(tmp_path_factory.mktemp("flow") / "faces", settings, workers=2)


def test_the_strain_of_an_affine_flow_is_exact() -> None:
    y, x = np.mgrid[:20, :20].astype(np.float32)
    flow = np.stack([3 + 0.02 * x + 0.05 * y, -1 + 0.01 * x - 0.04 * y]).astype(np.float32)
    u, v, strain = motion_maps(flow)
    expected = np.sqrt(0.02**2 + 0.04**2 + 2 * ((0.05 + 0.01) / 2) ** 2)
    np.testing.assert_allclose(strain, expected, rtol=1e-4)
    np.testing.assert_allclose(u, flow[0] - flow[0].mean(), atol=1e-5)
    np.testing.assert_allclose(v, flow[1] - flow[1].mean(), atol=1e-5)


def test_translation_and_rotation_have_no_strain() -> None:
    y, x = np.mgrid[:20, :20].astype(np.float32)
    assert motion_maps(np.stack([2 - 0.03 * y, 5 + 0.03 * x]).astype(np.float32))[2].max() < 1e-5


def test_the_mirror_of_the_maps_is_the_maps_of_the_mirror(cache: Cache) -> None:
    flow = tvl1_flow(np.asarray(cache.frames[0])[[0, 1]], SMOOTH)[0]
    mirrored = flow[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    signs = np.array(FORM.signs, np.float32)[:, None, None]
    np.testing.assert_allclose(motion_maps(mirrored), motion_maps(flow)[..., ::-1] * signs, atol=1e-5)


def test_the_flow_is_that_between_onset_and_apex(cache: Cache) -> None:
    """Textures move by a whole pixel a frame; the mean is off, so a clip half of which stands still shows it."""
    frames = np.array(cache.frames)
    frames[:, :, :72] = frames[:, :1, :72]
    still = replace(cache, frames=frames, rows=[{**row, "onset": 1, "apex": 3} for row in cache.rows])
    inputs = NETWORK.hold(still, range(len(still))).evaluation_batch(range(len(still))).inputs
    assert inputs.shape == (4, 3, 28, 28)
    for row, maps in zip(still.rows, inputs, strict=True):
        shift = 2 * np.array([(1, 0), (0, 1), (-1, 1)][row["label"]])
        found = maps[:2, 18:26, 6:22].mean((1, 2)) - maps[:2, 2:10, 6:22].mean((1, 2))
        np.testing.assert_allclose(found, shift, atol=0.25)


def test_a_window_of_a_video_is_fed_as_a_row_without_onset_and_apex(cache: Cache) -> None:
    frames = np.asarray(cache.frames[1])
    row = replace(cache, frames=frames[None], rows=[cache.rows[1]])
    expected = NETWORK.hold(row, [0]).evaluation_batch([0]).inputs
    torch.testing.assert_close(NETWORK.window_inputs(frames[None], torch.device("cpu")), expected)


def test_the_form_is_that_of_the_paper() -> None:
    model = FlowCNN(5)
    assert [stream[0].weight.shape for stream in model.streams] == [(n, 3, 3, 3) for n in (3, 5, 8)]
    assert model.classes.weight.shape == (5, 400)
    assert model(torch.zeros(2, 3, 28, 28)).logits.shape == (2, 5)
    assert FlowCNN(**model.config).config == model.config
    with pytest.raises(ValueError, match="at least 2"):
        FlowCNN(1)


def test_it_learns_the_emotions_of_people_it_never_saw(faces: Cache, tmp_path: Path) -> None:
    """Six emotions, two people held out: chance is 0.17."""
    run = str(tmp_path / "run")
    config = TrainConfig(
        cache=str(faces.path), run=run, network="flow-cnn", held_out=0.34, steps=100, batch_size=16, device="cpu"
    )
    train(replace(config, validate_every=0))
    result = evaluate(EvaluateConfig(weights=run, device="cpu", pictures=False))
    assert (result.videos, result.flow, result.landmarks) == (12, None, None)
    assert result.recognition.accuracy >= 0.6
