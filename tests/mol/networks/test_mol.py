"""MOL as a network to train: whose flow a step trains, what of the network it runs, and at which rates."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_cache import write_tiny_cache
from tiny_model import TinyMOL

from mol import MOL
from mol.data.clips import Batch, ResidentClips
from mol.network.losses import MOLLoss
from mol.network.model import MOLOutput
from mol.networks.interface import Emotion
from mol.networks.mol import NETWORK, OWN

SIZE, PAIRS = 6, 7


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ResidentClips:
    cache = write_tiny_cache(tmp_path_factory.mktemp("mol") / "cache", people=3, videos=3)
    return ResidentClips(cache, range(len(cache.rows)))


def batch_of(clips: ResidentClips, flow_pairs: int | str, step: int = 0, seed: int = 0) -> Batch:
    return NETWORK.training_batch(clips, step, seed, SIZE, flow_pairs)


def pairs_of(clips: ResidentClips, flow_pairs: int, step: int = 0, seed: int = 0) -> torch.Tensor:
    found = batch_of(clips, flow_pairs, step, seed).pairs
    assert found is not None
    return found


# Pairs


@pytest.mark.parametrize("flow_pairs", [0, 1, 4, SIZE, 16, SIZE * PAIRS - 1, SIZE * PAIRS])
def test_pairs_are_different_and_spread_evenly_over_the_clips(clips: ResidentClips, flow_pairs: int) -> None:
    for step in range(20):
        pairs = pairs_of(clips, flow_pairs, step)
        assert (pairs.shape, pairs.dtype) == ((2, flow_pairs), torch.int64)
        drawn = list(zip(*pairs.tolist(), strict=True))
        assert len(set(drawn)) == flow_pairs
        assert set(drawn) <= {(clip, start) for clip in range(SIZE) for start in range(PAIRS)}
        per_clip = [Counter(clip for clip, _ in drawn)[clip] for clip in range(SIZE)]
        assert max(per_clip) - min(per_clip) <= 1


def test_every_pair_is_drawn_equally_often(clips: ResidentClips, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 600
    batch = clips.training_batch(0, 0, SIZE)
    monkeypatch.setattr(clips, "training_batch", lambda *_: batch)  # new crops each time would take the most time
    counts = np.zeros((SIZE, PAIRS))
    for step in range(steps):
        np.add.at(counts, tuple(pairs_of(clips, 8, step).numpy()), 1)
    expected = 8 * steps / counts.size
    # Five standard deviations of a count.
    assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_more_pairs_than_there_are_means_each_once(clips: ResidentClips) -> None:
    pairs = pairs_of(clips, 1000)
    assert sorted(zip(*pairs.tolist(), strict=True)) == [(c, s) for c in range(SIZE) for s in range(PAIRS)]
    assert batch_of(clips, "all").pairs is None


def test_pairs_follow_from_seed_and_step_alone(clips: ResidentClips) -> None:
    first = pairs_of(clips, 16, step=3, seed=5)
    for step, seed in ((4, 5), (3, 6), (0, 0)):
        assert not torch.equal(pairs_of(clips, 16, step, seed), first)
    torch.manual_seed(9)
    assert torch.equal(pairs_of(clips, 16, step=3, seed=5), first)
    # Fewer pairs are some of the same.
    assert torch.equal(pairs_of(clips, 5, step=3, seed=5), first[:, :5])


def test_the_clips_of_a_step_are_the_same_whatever_flow_is_trained(clips: ResidentClips) -> None:
    plain = clips.training_batch(2, 1, SIZE)
    for flow_pairs in ("all", 16, 0):
        found = batch_of(clips, flow_pairs, step=2, seed=1)
        shared = [name for name in plain._fields if name != "pairs"]
        assert all(torch.equal(getattr(found, name), getattr(plain, name)) for name in shared)


# What a step runs


class Calls(TinyMOL):
    """Records how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def forward(self, clips: torch.Tensor, pairs: torch.Tensor | None = None) -> MOLOutput:
        self.calls.append("all pairs" if pairs is None else f"{pairs.shape[1]} pairs")
        return super().forward(clips, pairs)

    def recognise(self, clips: torch.Tensor) -> torch.Tensor:
        self.calls.append("emotion")
        return TinyMOL.forward(self, clips).logits


@pytest.mark.parametrize(
    ("flow_pairs", "w_ldm", "call"),
    [("all", 1.0, "all pairs"), (5, 1.0, "5 pairs"), (5, 0.0, "5 pairs"), (0, 1.0, "0 pairs"), (0, 0.0, "emotion")],
)
def test_a_step_runs_what_its_losses_need(clips: ResidentClips, flow_pairs: int | str, w_ldm: float, call: str) -> None:
    model, loss = Calls(), MOLLoss(w_ldm=w_ldm)
    batch = batch_of(clips, flow_pairs)
    output = NETWORK.run(model, batch, loss)
    assert model.calls == [call]
    assert isinstance(output, Emotion) == (call == "emotion")
    terms = loss(output, batch)
    assert (terms.flow is None, terms.landmarks is None) == (flow_pairs == 0, call == "emotion")
    assert torch.isfinite(terms.total)


# Rates


def rates_of(model: MOL, rates: dict[str, float | None]) -> dict[str, float]:
    """Name of every parameter → its relative rate; each is in one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = NETWORK.parameter_groups(model, rates)
    found = [(names[id(parameter)], group["rate"]) for group in groups for parameter in group["params"]]
    assert len(found) == len(names) == len(dict(found))
    return dict(found)


@pytest.fixture(scope="module")
def shapes() -> MOL:
    with torch.device("meta"):
        return MOL(3)


def test_the_predictors_of_flow_have_a_rate_of_their_own(shapes: MOL) -> None:
    rates = rates_of(shapes, dict(OWN.rates))
    predictors = {f"flow.predict{level}.weight" for level in range(7)}
    assert {name for name, rate in rates.items() if rate == OWN.rates["predictors"]} == predictors
    flow = {name for name in rates if name.startswith("flow.")}
    assert {rates[name] for name in flow - predictors} == {OWN.rates["flow"]}
    assert {rate for name, rate in rates.items() if name not in flow} == {1.0}


def test_without_a_rate_of_their_own_predictors_have_that_of_the_flow_network(shapes: MOL) -> None:
    for rates in ({"flow": 0.5, "emotion": 2.0}, {"flow": 0.5, "predictors": None, "emotion": 2.0}):
        found = rates_of(shapes, rates)
        assert {rate for name, rate in found.items() if name.startswith("flow.")} == {0.5}
        assert {rate for name, rate in found.items() if name.startswith("emotion.")} == {2.0}
        assert {rate for name, rate in found.items() if name.startswith(("stack.", "motion.", "landmarks."))} == {1.0}


def test_a_checkpoint_without_a_meeting_is_of_the_form_of_version_0_2() -> None:
    with torch.device("meta"):
        model = NETWORK.rebuild(num_classes=3, k=4, variant="paper", dropout=0.5)
    assert isinstance(model, MOL)
    assert model.config["meeting"] == "side-by-side"
    assert not [name for name, _ in model.named_parameters() if name.startswith(("motion.", "emotion.motion."))]
