"""The network on the difference of two frames: what counts in its input, its shape, and that it fits a cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_cache import write_tiny_cache

from mol.data.cache import Cache
from mol.networks.apex_difference import FORM, NETWORK, DifferenceCNN, difference_map
from mol.networks.maps import centre_inputs
from mol.scoring.evaluate import EvaluateConfig, evaluate
from mol.training.settings import TrainConfig
from mol.training.train import train


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("difference") / "cache", people=2, videos=2)


def test_neither_brightness_nor_contrast_counts() -> None:
    generator = np.random.default_rng(0)
    onset = generator.integers(20, 80, (144, 144)).astype(np.uint8)
    apex = onset.copy()
    apex[90:110, 50:90] += 10
    plain = difference_map(np.stack([onset, apex]))
    assert plain.shape == (1, 144, 144)
    assert plain[0, 100, 70] - plain[0, 10, 10] == pytest.approx(10 / onset.std(), rel=1e-4)
    np.testing.assert_allclose(difference_map(np.stack([onset, apex + 30])), plain, atol=1e-4)
    np.testing.assert_allclose(difference_map(np.stack([onset * 3, apex * 3 - 20])), plain, atol=1e-4)


def test_a_grey_picture_gives_zeros() -> None:
    assert not difference_map(np.full((2, 144, 144), 127, np.uint8)).any()


def test_the_input_is_the_centre_of_the_difference(cache: Cache) -> None:
    rows = [{**row, "onset": 2, "apex": 5} for row in cache.rows]
    found = NETWORK.hold(replace(cache, rows=rows), [3]).evaluation_batch([0]).inputs
    expected = torch.from_numpy(difference_map(np.asarray(cache.frames[3])[[2, 5]]))[None]
    assert found.shape == (1, 1, 32, 32)
    torch.testing.assert_close(found, centre_inputs(expected, FORM))


def test_a_window_of_a_video_is_fed_as_a_row_without_onset_and_apex(cache: Cache) -> None:
    frames = np.asarray(cache.frames[1])
    row = replace(cache, frames=frames[None], rows=[cache.rows[1]])
    expected = NETWORK.hold(row, [0]).evaluation_batch([0]).inputs
    torch.testing.assert_close(NETWORK.window_inputs(frames[None], torch.device("cpu")), expected)


def test_its_settings_build_it_again() -> None:
    model = DifferenceCNN(5)
    assert model(torch.zeros(2, 1, 32, 32)).logits.shape == (2, 5)
    assert DifferenceCNN(**model.config).config == model.config
    with pytest.raises(ValueError, match="at least 2"):
        DifferenceCNN(1)


def test_it_fits_the_people_it_is_trained_on(tmp_path: Path) -> None:
    cache = write_tiny_cache(tmp_path / "cache", people=6, videos=3, marked=True)
    run, people = str(tmp_path / "run"), ["s6"]
    config = TrainConfig(cache=str(cache.path), run=run, network="apex-difference", held_out=people, device="cpu")
    train(replace(config, steps=60, batch_size=15, validate_every=60))
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert rows[0] == "step,split,loss,loss_emotion,gradient_norm,learning_rate,clips_per_second,accuracy,uf1"
    first, *_, last, validation = (line.split(",") for line in rows[1:])
    assert float(last[2]) < 0.3 < float(first[2])
    assert validation[1] == "held_out"
    result = evaluate(EvaluateConfig(weights=run, device="cpu", pictures=False))
    assert result.network == "apex-difference"
