"""The losses against their formulas, sample by sample, their gradients, and outputs that are missing."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mol.network.losses import MOLLoss, flow_loss, landmark_loss
from mol.network.model import MOLOutput
from mol.vision.points import interocular_distance


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(8)
    output = MOLOutput(
        torch.randn(3, 4, generator=g),
        torch.randn(3, 7, 2, 16, 16, generator=g),
        100 * torch.rand(3, 7, 68, 2, generator=g),
    )
    targets = SimpleNamespace(
        flow=torch.randn(3, 7, 2, 16, 16, generator=g).half(),
        landmarks=100 * torch.rand(3, 7, 68, 2, generator=g),
        label=torch.tensor([2, 0, 3]),
    )
    return output, targets


def test_landmark_loss_is_the_mean_over_samples_pairs_and_points(case):
    output, targets = case
    terms = []
    for b in range(3):
        for t in range(7):
            target = targets.landmarks[b, t]
            d = torch.linalg.vector_norm(target[36:42].mean(0) - target[42:48].mean(0))
            terms += [((output.landmarks[b, t, p] - target[p]).abs().sum() / d) for p in range(68)]
    torch.testing.assert_close(landmark_loss(output.landmarks, targets.landmarks), torch.stack(terms).mean())


def test_flow_loss_is_the_mean_square_over_everything(case):
    output, targets = case
    expected = (output.flow - targets.flow.float()).pow(2).sum() / (3 * 7 * 2 * 16 * 16)
    torch.testing.assert_close(flow_loss(output.flow, targets.flow), expected)


def test_total_is_the_weighted_sum(case):
    output, targets = case
    terms = MOLLoss(w_me=2.0, w_of=3.0, w_ldm=5.0)(output, targets)
    torch.testing.assert_close(terms.emotion, F.cross_entropy(output.logits, targets.label))
    torch.testing.assert_close(terms.total, 2 * terms.emotion + 3 * terms.flow + 5 * terms.landmarks)


def test_flow_of_some_pairs_is_compared_with_the_targets_of_those_pairs(case):
    output, targets = case
    pairs = torch.tensor([[2, 0, 2, 2], [6, 3, 0, 6]])
    flow = output.flow[pairs[0], pairs[1]]
    terms = MOLLoss()(output._replace(flow=flow), SimpleNamespace(**vars(targets), pairs=pairs))
    wanted = torch.stack([targets.flow[2, 6], targets.flow[0, 3], targets.flow[2, 0], targets.flow[2, 6]])
    expected = flow - wanted.float()
    torch.testing.assert_close(terms.flow, expected.pow(2).mean())
    whole = MOLLoss()(output, targets)
    assert (terms.emotion, terms.landmarks) == (whole.emotion, whole.landmarks)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(7)).T
    terms = MOLLoss()(output._replace(flow=output.flow.flatten(0, 1)), SimpleNamespace(**vars(targets), pairs=every))
    torch.testing.assert_close(terms, whole)


@pytest.mark.parametrize("missing", [("flow",), ("landmarks",), ("flow", "landmarks")])
def test_what_was_not_estimated_has_no_loss_and_no_part_in_the_total(case, missing):
    output, targets = case
    weights = {"emotion": 2.0, "flow": 3.0, "landmarks": 5.0}
    loss = MOLLoss(*weights.values())
    whole = loss(output, targets)
    terms = loss(output._replace(**dict.fromkeys(missing)), targets)
    for name in weights:
        if name in missing:
            assert getattr(terms, name) is None
        else:
            assert getattr(terms, name) == getattr(whole, name)
    expected = sum(weight * getattr(whole, name) for name, weight in weights.items() if name not in missing)
    torch.testing.assert_close(terms.total, expected)


def test_flow_of_no_pairs_has_no_loss(case):
    output, targets = case
    none = SimpleNamespace(**vars(targets), pairs=torch.zeros(2, 0, dtype=torch.int64))
    terms = MOLLoss()(output._replace(flow=output.flow.new_empty(0, 2, 16, 16)), none)
    assert terms.flow is None
    torch.testing.assert_close(terms.total, terms.emotion + 3.5 * terms.landmarks)


@pytest.mark.parametrize("part", ["logits", "flow", "landmarks"])
def test_a_part_that_is_not_a_number_spoils_the_total_only_if_it_weighs_something(case, part):
    output, targets = case
    spoilt = output._replace(**{part: torch.full_like(getattr(output, part), torch.nan)})
    weight = {"logits": "w_me", "flow": "w_of", "landmarks": "w_ldm"}[part]
    name = "emotion" if part == "logits" else part
    for terms, spoils in ((MOLLoss()(spoilt, targets), True), (MOLLoss(**{weight: 0.0})(spoilt, targets), False)):
        assert [term for term in terms._fields[1:] if getattr(terms, term).isnan()] == [name]
        assert bool(terms.total.isnan()) == spoils


def test_default_weights_are_the_released_ones():
    loss = MOLLoss()
    assert (loss.w_me, loss.w_of, loss.w_ldm) == (1.0, pytest.approx(10 / 7), pytest.approx(7 * 0.5))


def test_losses_of_low_precision_outputs_are_float32(case):
    output, targets = case
    low = MOLOutput(*(o.bfloat16() for o in output))
    assert all(term.dtype == torch.float32 for term in MOLLoss()(low, targets))


def test_interocular_distance_is_between_eye_centres():
    landmarks = torch.zeros(68, 2)
    landmarks[36:42] = torch.tensor([10.0, 20.0])
    landmarks[42:48] = torch.tensor([13.0, 24.0])
    assert interocular_distance(landmarks) == 5.0
