"""The roofline of a training step: operations counted by hand, and the step that a GPU would run."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import molkernels as mk
from bench import roofline
from bench.plan.devices import DATASHEETS, Device
from bench.roofline import GAP, SHARES, Operation, by_class, estimate, optimizer_step, recorded, training_step

DEVICE = Device({"32": (1e9, 2e9), "bf16": (4e9, 4e9)}, 1e9, None, "made up", "made-up")


def one(work, name):
    (found,) = [operation for operation in recorded(work) if operation.name == name]
    return found


def test_a_convolution_is_counted_as_by_hand():
    x, weight = torch.zeros(2, 3, 8, 8), torch.zeros(5, 3, 3, 3)
    found = one(lambda: F.conv2d(x, weight, stride=2, padding=1), "aten::convolution")
    assert found.flops == 2 * (2 * 4 * 4) * 5 * 3 * 9
    assert found.bytes == 4 * (2 * 3 * 64 + 5 * 3 * 9 + 2 * 5 * 16)
    assert (found.kind, found.kernels) == ("convolutions", 1)


def test_a_transposed_convolution_has_its_taps_at_the_inputs_pixels():
    x, weight = torch.zeros(2, 3, 8, 8), torch.zeros(3, 5, 4, 4)
    found = one(lambda: F.conv_transpose2d(x, weight, stride=2, padding=1), "aten::convolution")
    assert found.flops == 2 * (2 * 64) * 3 * 5 * 16


def test_a_backward_convolution_costs_one_forward_for_each_gradient():
    x, conv = torch.zeros(2, 3, 8, 8), nn.Conv2d(3, 5, 3, padding=1)
    forward = 2 * 2 * 64 * 3 * 5 * 9
    of_weights = one(lambda: conv(x).sum().backward(), "aten::convolution_backward")
    of_both = one(lambda: conv(x.clone().requires_grad_()).sum().backward(), "aten::convolution_backward")
    assert (of_weights.flops, of_both.flops) == (forward, 2 * forward)


def test_products_and_maps_and_views_are_counted_as_by_hand():
    a, b = torch.zeros(4, 6), torch.zeros(6, 10, dtype=torch.float32)
    found = recorded(lambda: (a @ b).relu().view(2, 20).t())
    assert [(each.name, each.flops, each.bytes) for each in found] == [
        ("aten::mm", 2 * 4 * 10 * 6, 4 * (24 + 60 + 40)),
        ("aten::relu", 0, 4 * (40 + 40)),
    ]


def test_a_batch_norm_reads_its_input_twice():
    x, norm = torch.zeros(4, 8, 5, 5), nn.BatchNorm2d(8)
    found = one(lambda: norm(x), "aten::native_batch_norm")
    # The input twice and the output; weight, bias, two running and two saved statistics.
    assert found.bytes == 4 * (3 * 4 * 8 * 25 + 6 * 8)


@pytest.mark.parametrize(("graph", "products"), [("channel", 2), ("position", 5)])
def test_operators_of_molkernels_are_counted_as_by_hand(graph, products):
    ccc = mk.CCC(8, 4, 4, graph)
    x = torch.randn(2, 8, 4, 4)
    found = {each.name: each.flops for each in recorded(lambda: ccc(x).sum().backward())}
    nodes, length = (8, 16) if graph == "channel" else (16, 8)
    assert found["molkernels::knn"] == 2 * 2 * nodes * nodes * length
    assert found["molkernels::edge_max"] == products * 2 * 2 * 8 * 16 * 16
    assert found["molkernels::edge_max_backward"] == 2 * found["molkernels::edge_max"]


def test_the_roof_is_the_longer_of_arithmetic_and_traffic():
    busy = Operation("a", "products", 8e9, 1e9, torch.bfloat16)
    assert busy.seconds_on(DEVICE) == 2
    assert replace(busy, dtype=torch.float32).seconds_on(DEVICE) == 8
    assert replace(busy, flops=0).seconds_on(DEVICE) == 1


def test_an_estimate_adds_shares_of_roofs_and_gaps():
    operations = [
        Operation("a", "products", 4e9, 0, torch.bfloat16, 3),
        Operation("b", "other maps", 0, 2e9, torch.bfloat16, 2),
    ]
    found = estimate(operations, DEVICE)
    assert found.floor == 3
    assert found.best == pytest.approx(1 / SHARES["products"][0] + 2 / SHARES["other maps"][0] + 5 * GAP[0])
    assert found.worst == pytest.approx(1 / SHARES["products"][1] + 2 / SHARES["other maps"][1] + 5 * GAP[1])
    assert (found.flops, found.bytes, found.kernels) == (4e9, 2e9, 5)
    assert list(by_class(operations, DEVICE)) == ["products", "other maps"]


def test_the_optimizer_passes_ten_times_over_the_parameters():
    assert optimizer_step(1000).bytes == 40_000


def test_the_step_has_the_products_that_are_counted_by_hand_and_those_of_the_padding():
    released = training_step("released", 2, None)
    convolutions = sum(each.flops for each in released if each.kind in ("convolutions", "products"))
    operators = sum(each.flops for each in released if each.kind == "molkernels")
    by_hand = roofline.counts.mol_released(2, 8, 0, training=True).flops
    assert convolutions + operators == pytest.approx(by_hand, rel=0.03)
    assert all(each.dtype == torch.bfloat16 for each in released if each.kind == "convolutions")
    assert estimate(released, DATASHEETS["h100-sxm"]).floor < 0.01


def test_the_step_on_a_few_pairs_is_a_fraction_of_that_on_all():
    few, every = (sum(each.flops for each in training_step("paper", 2, pairs)) for pairs in (1, None))
    assert few < every / 4


def test_the_table_says_that_nothing_was_measured(capsys):
    roofline.main(["--batch", "1", "--pairs", "1", "--device", "a100"])
    said = capsys.readouterr().out
    assert "estimate, not measured" in said
    assert "A100" in said
