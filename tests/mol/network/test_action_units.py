"""The head for action units: none of the rest changes with it, and its loss adds up over the parts of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from step_batches import random_batch
from tiny_model import with_small_flow

from mol import MOL, MOLOutput
from mol.common.errors import SettingsError
from mol.network.losses import LossTerms, LossTermsWithUnits, MOLLoss, action_unit_loss
from mol.network.model import MOLUnitsOutput
from mol.network.streaming import MOLStream
from mol.network.units import CODES, NOT_SHOWN, SHOWN, UNKNOWN, LearnedUnits
from mol.prediction.windows import Aligned, windows_of

UNITS = (1, 2, 12)
LEARNED = LearnedUnits(UNITS, (8, 8, 4), (2, 4, 1), 8)


@pytest.fixture(scope="module", autouse=True)
def small_flow() -> object:
    with pytest.MonkeyPatch.context() as patch:
        with_small_flow(patch)
        yield


def mol(units: tuple[int, ...] | None, **settings: object) -> MOL:
    torch.manual_seed(5)
    return MOL(3, action_units=units, **settings).eval()  # type: ignore[arg-type]


def test_without_it_nothing_changes_and_with_it_all_other_parts_start_alike() -> None:
    without, with_units = mol(None), mol(UNITS)
    assert "action_units" not in without.config
    assert with_units.config == {**without.config, "action_units": [1, 2, 12]}
    own, other = without.state_dict(), with_units.state_dict()
    head = ["action_units.fc1.weight", "action_units.fc1.bias", "action_units.fc2.weight", "action_units.fc2.bias"]
    assert [name for name in other if name not in own] == head
    assert all(torch.equal(value, other[name]) for name, value in own.items())


def test_the_other_outputs_stay_bit_for_bit() -> None:
    without, with_units = mol(None), mol(UNITS)
    clips, pairs = torch.randn(2, 1, 8, 128, 128), torch.tensor([[0, 1], [3, 6]])
    with torch.inference_mode():
        plain, extended = without(clips, pairs), with_units(clips, pairs)
        assert type(plain) is MOLOutput
        assert type(extended) is MOLUnitsOutput
        assert all(torch.equal(a, b) for a, b in zip(plain, extended[:3], strict=True))
        assert extended.action_units.shape == (2, 3)
        logits, units = with_units.recognise_units(clips)
        torch.testing.assert_close(units, extended.action_units)
        torch.testing.assert_close(logits, plain.logits)
        assert without.recognise_units(clips)[1] is None
        assert with_units(clips[:0]).action_units.shape == (0, 3)


def test_a_stream_of_windows_tells_the_same_units() -> None:
    model, frames = mol(UNITS), torch.randn(9, 128, 128)
    samples = np.array([range(8), range(1, 9)])
    with torch.inference_mode():
        found = MOLStream(model).read(samples, dict(enumerate(frames)))
        alone = model(frames[torch.from_numpy(samples)].unsqueeze(1))
    assert isinstance(found, MOLUnitsOutput)
    torch.testing.assert_close(found.action_units, alone.action_units, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.flow, alone.flow, atol=1e-4, rtol=1e-4)


def test_a_window_has_the_probabilities_of_the_units() -> None:
    aligned = Aligned(np.arange(8), np.zeros((8, 144, 144), np.uint8), np.eye(2, 3), np.zeros((8, 68, 2), np.float32))
    logits, odds = torch.zeros(1, 3), torch.tensor([[0.0, 2.0, -2.0]])
    flow, landmarks = torch.zeros(1, 7, 2, 128, 128), torch.zeros(1, 7, 68, 2)
    (window,) = windows_of(MOLUnitsOutput(logits, flow, landmarks, odds), [aligned])
    assert window.action_units == pytest.approx([0.5, 0.8808, 0.1192], abs=1e-4)
    (plain,) = windows_of(MOLOutput(logits, flow, landmarks), [aligned])
    assert plain.action_units is None


@pytest.mark.parametrize("settings", [{"variant": "released"}, {"meeting": "side-by-side"}])
def test_a_network_without_normal_flow_has_none(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"action_units=\[1, 2, 12\] are told from the normal flow"):
        MOL(3, action_units=UNITS, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("units", [(), (1, 1), (0,), (CODES,), ("1",), (True,)])
def test_units_must_be_different_numbers(units: tuple[object, ...]) -> None:
    with pytest.raises(SettingsError, match="different numbers from 1 to 98"):
        MOL(3, action_units=units)  # type: ignore[arg-type]


def targets(*rows: list[int]) -> torch.Tensor:
    table = torch.full((len(rows), CODES), UNKNOWN, dtype=torch.int8)
    table[:, list(UNITS)] = torch.tensor(rows, dtype=torch.int8)
    return table


def test_the_loss_is_the_weighted_cross_entropy_of_what_is_known() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -3.0]], dtype=torch.float64, requires_grad=True)
    wanted = targets([SHOWN, UNKNOWN, NOT_SHOWN], [NOT_SHOWN, SHOWN, UNKNOWN])
    loss = action_unit_loss(logits, wanted, LEARNED)
    shown, each = torch.sigmoid(logits), 0.0
    for clip, unit, seen in ((0, 0, True), (0, 2, False), (1, 0, False), (1, 1, True)):
        probability = shown[clip, unit] if seen else 1 - shown[clip, unit]
        each = each - (LEARNED.weights[unit] if seen else 1) * probability.log()
    torch.testing.assert_close(loss, each / 6 / (20 / 24), atol=1e-6, rtol=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True, False], [False, False, True]]


def test_the_loss_of_parts_adds_up_and_clips_without_annotation_cost_nothing() -> None:
    logits = torch.randn(4, 3)
    wanted = targets([1, 0, -1], [-1, -1, -1], [0, 0, 1], [1, 1, 0])
    parts = [action_unit_loss(logits[a:b], wanted[a:b], LEARNED) * (b - a) / 4 for a, b in ((0, 1), (1, 2), (2, 4))]
    torch.testing.assert_close(sum(parts), action_unit_loss(logits, wanted, LEARNED))
    assert parts[1] == 0


def test_the_term_is_there_only_with_units_and_weighs_as_asked() -> None:
    batch = random_batch(0, pairs=None)._replace(action_units=targets([1, 0, -1], [0, 1, 0]))
    output = MOLOutput(torch.randn(2, 3), torch.zeros_like(batch.flow), batch.landmarks)
    plain = MOLLoss()(output, batch)
    assert type(plain) is LossTerms
    extended = MOLUnitsOutput(*output, torch.randn(2, 3, requires_grad=True))
    found = MOLLoss(w_au=2.0, units=LEARNED)(extended, batch)
    assert isinstance(found, LossTermsWithUnits)
    torch.testing.assert_close(found.total, plain.total + 2 * found.action_units)
    watched = MOLLoss(w_au=0.0, units=LEARNED)(extended, batch)
    assert watched.total == plain.total
    assert not watched.total.requires_grad
