"""Released checkpoints come out as they went in, and damaged ones are refused by name."""

import parity_case
import pytest
import torch

from mol import MOL
from mol.common.errors import CheckpointError, SettingsError


@pytest.fixture(scope="module")
def state():
    return parity_case.released_state("round-trip", 3)


def test_all_entries_come_back_bit_for_bit(state):
    back = MOL.from_released(state, k=2).released_state_dict()
    assert set(back) == set(state)
    for name in state:
        assert back[name].shape == state[name].shape, name
        assert back[name].dtype == state[name].dtype, name
        assert torch.equal(back[name], state[name]), name


def test_the_prefix_of_data_parallel_is_taken_off(state):
    back = MOL.from_released({f"module.{name}": value for name, value in state.items()}).released_state_dict()
    assert torch.equal(back["FCC_2.meta_kernel_2_W"], state["FCC_2.meta_kernel_2_W"])


def test_classes_are_those_of_the_checkpoint(state):
    assert MOL.from_released(state).config["num_classes"] == 3


def test_a_fresh_released_model_has_the_whole_layout(state):
    fresh = MOL(num_classes=3, variant="released").released_state_dict()
    assert {n: v.shape for n, v in fresh.items()} == {n: v.shape for n, v in state.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("FCC_1.ffn.4.bias"), "missing entries: FCC_1.ffn.4.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown entries: extra"),
        (
            lambda s: s.update({"flownet.conv4.0.weight": torch.zeros(2, 2)}),
            "wrong shapes: flownet.conv4.0.weight (2, 2) instead of (512, 256, 3, 3)",
        ),
        (lambda s: s.pop("mer_3dcnn.fc2.weight"), "this is not a released MOL checkpoint"),
        (
            lambda s: s.update({"FCC_1.pre_Norm_1.num_batches_tracked": torch.tensor(5)}),
            "FCC_1.pre_Norm_1.num_batches_tracked and pre_Norm_2.num_batches_tracked differ (5, 0)",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_entry(state, change, words):
    damaged = dict(state)
    change(damaged)
    with pytest.raises(CheckpointError) as caught:
        MOL.from_released(damaged)
    assert words in str(caught.value)


def test_only_the_released_variant_has_the_released_layout():
    with torch.device("meta"), pytest.raises(SettingsError, match="only variant='released'"):
        MOL(variant="paper").released_state_dict()
