"""A step on several devices, by hand and beside what PyTorch does."""

import pytest
import torch
from bench_results import FOLDER, network_row, save_result, save_steps

from bench.network import random_batch
from bench.plan.cost import Settings
from bench.plan.counted import held_bytes
from bench.plan.devices import DATASHEETS, find_device
from bench.plan.links import STARTED, Interconnect, Link
from bench.plan.measured import load_measured
from bench.plan.parallel import (
    BUCKET,
    FIRST_BUCKET,
    GRADIENT_BYTES,
    fixed_part,
    gradient_buckets,
    norm_layers,
    parallel_step,
)
from bench.plan.sources import Sources
from mol import MOL

INSTANT = Link("instant", 1e30, 0.0, "made up")


def joined(bandwidth, latency=0.0):
    return Interconnect(Link("link", bandwidth, latency, "made up"), INSTANT, per_node=8)


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_buckets_are_those_that_pytorch_makes(variant):
    parameters = list(MOL(num_classes=5, variant=variant).parameters())[::-1]
    buckets, _ = torch._C._distributed_c10d._compute_bucket_assignment_by_size(parameters, [FIRST_BUCKET, BUCKET])
    sizes = tuple(sum(GRADIENT_BYTES * parameters[index].numel() for index in bucket) for bucket in buckets)
    assert gradient_buckets(variant) == sizes
    assert sum(sizes) == GRADIENT_BYTES * held_bytes(variant, 1)[0]


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_the_norms_are_those_whose_statistics_a_training_pass_moves(variant):
    model = MOL(num_classes=5, variant=variant)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model(random_batch(2).clips)
    means = (name for name in before if name.endswith("running_mean"))
    moved = sum(not torch.equal(model.get_buffer(name), before[name]) for name in means)
    assert norm_layers(variant) == moved > 10


def test_one_device_takes_its_own_step():
    alone = parallel_step((1.0, 2.0), (0.1, 0.1), Settings(), 1, joined(1e9))
    assert alone.seconds == pytest.approx((1.0, 2.0))


def test_clips_divide_and_the_fixed_part_does_not():
    """Of 32 clips on 5 devices the busiest has 7; the links cost next to nothing."""
    step = parallel_step((1.0, 1.0), (0.2, 0.2), Settings(batch=32), 5, joined(1e30))
    assert step.compute == pytest.approx((0.2 + 0.8 * 7 / 32,) * 2)
    assert step.norms == pytest.approx(26 * STARTED)  # 13 norms
    assert step.exposed == pytest.approx((STARTED, STARTED))  # of the last bucket
    assert step.seconds[0] == pytest.approx(step.compute[0] + 27 * STARTED)


def test_gradients_hide_behind_the_backward_pass_as_far_as_it_lasts():
    """At 1 GB/s two devices exchange all bytes once: 0.176 s, of which the last bucket never hides."""
    *others, last = (size / 1e9 + STARTED for size in gradient_buckets("released"))
    for compute in (10.0, 0.1):
        step = parallel_step((2 * compute, 2 * compute), (0.0, 0.0), Settings(), 2, joined(1e9))
        hidden = 0.8 * 2 / 3 * compute
        assert step.exposed[0] == pytest.approx(max(0.0, sum(others) - hidden) + last)
    assert step.exposed[0] > 0.1  # the short step hides little


def test_a_batch_with_fewer_clips_than_devices_is_no_step():
    assert parallel_step((1.0, 1.0), (0.0, 0.0), Settings(batch=32), 64, joined(1e9)) is None


def test_the_fixed_part_is_what_the_measured_line_leaves(tmp_path):
    save_steps(tmp_path, cpu_float32={"2": [2.0], "8": [5.0]})  # 1 s and 0.5 s per clip
    results = load_measured(sorted(tmp_path.glob("*/*.json")))
    sources = Sources()
    found, _ = fixed_part(Settings(), find_device(FOLDER, results), (17.0, 17.0), results, sources)
    assert found == pytest.approx((1.0, 1.0))
    assert sources.lines[0].startswith("measured: cpu-float32, the line")


def test_without_measured_steps_the_fixed_part_is_the_traffic_of_the_weights(tmp_path):
    save_result(tmp_path, rows=[network_row()])
    results = load_measured(sorted(tmp_path.glob("*/*.json")))
    sources = Sources()
    found, _ = fixed_part(Settings(), DATASHEETS["h100-sxm"], (1.0, 2.0), results, sources)
    assert found == pytest.approx((44_103_583 * 40 / 3350e9,) * 2)
    assert sources.lines[0].startswith("counted: ")
