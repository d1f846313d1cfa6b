"""The estimates of the CUDA kernels, and the table of them in the documentation."""

import pytest
from places import ROOT

from bench import counts, kernel_estimates


def test_the_documentation_has_the_table_of_the_program():
    text = (ROOT / "docs" / "gpu-estimates.md").read_text()
    assert text.partition("<!-- kernel-estimates -->\n")[2].partition("\n<!-- /kernel-estimates -->")[0] == (
        kernel_estimates.table()
    )


def test_no_estimate_is_below_its_floor_and_the_worst_is_not_the_best():
    for estimate in kernel_estimates.estimates():
        device = kernel_estimates.DEVICE
        floor = max(estimate.least.seconds_at(kernel_estimates.RATE, device.bandwidth, kernel_estimates.BYTES))
        best, worst = (sum(kernel.seconds(at) for kernel in estimate.kernels) for at in (0, 1))
        assert floor < best < worst, estimate.name


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("FCC, given statistics", counts.fcc(224, 128, 16, 16, training=False)),
        ("F5C released, inference", counts.f5c(224, 128, 16, 16, 4, "position", training=False)),
        ("cost volume, forward", counts.cost_volume(224, 256, 16, 16, 10, 2, training=False)),
    ],
)
def test_the_least_work_is_that_of_the_benchmarks(name, work):
    (estimate,) = [e for e in kernel_estimates.estimates() if e.name == name]
    assert estimate.least.flops == pytest.approx(work.flops)
    assert estimate.least.elements == pytest.approx(work.elements, rel=0.02)  # the weights
