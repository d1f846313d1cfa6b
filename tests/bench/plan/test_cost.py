"""The cost model: steps, rooflines and peaks by hand."""

import pytest
from bench_results import FOLDER, network_row, save_result, save_steps

from bench import counts
from bench.plan.cost import Settings, estimate, peak_memory, training_step
from bench.plan.counted import held_bytes
from bench.plan.datasets import find_dataset
from bench.plan.devices import DATASHEETS, find_device
from bench.plan.measured import load_measured
from bench.plan.sources import Sources
from mol.data.cache import row_bytes


@pytest.fixture
def results(tmp_path):
    """What is saved in `tmp_path` when it is called."""
    return lambda: load_measured(sorted(tmp_path.glob("*/*.json")))


def test_a_datasheet_device_is_planned_from_its_roofline_and_an_assumed_share(tmp_path, results):
    rows = [
        network_row(share=0.1, batch=2),
        network_row(share=0.5, batch=8),
        network_row("published-loop", share=0.01, batch=8),
    ]
    save_result(tmp_path, rows=rows)
    sources = Sources()
    (fast, slow), _ = training_step(Settings(precision="bf16"), DATASHEETS["h100-sxm"], results(), sources)
    work = counts.mol_released(32, 8, held_bytes("released", 1)[0], training=True)
    assert fast == pytest.approx(work.flops / 989.4e12 / 0.5)
    assert slow == pytest.approx(2 * fast)
    kinds = [line.split(":")[0] for line in sources.lines]
    assert kinds == ["counted", "datasheet, not measured", "measured", "assumed"]


def test_a_device_without_measured_steps_is_planned_from_its_own_limits_and_share(tmp_path, results):
    save_result(tmp_path, rows=[network_row(share=0.5, batch=32), network_row(share=0.9, batch=64, threads=1)])
    save_result(tmp_path, device="B", date="2027-01-01", rows=[network_row(share=0.1)])  # newer, but another device
    device = find_device(FOLDER, results())
    sources = Sources()
    (fast, slow), _ = training_step(Settings(), device, results(), sources)
    assert fast == slow == pytest.approx(counts.mol_released(32, 8, 44_000_000, True).flops / 1e11 / 0.5)
    assert any(line.startswith(f"measured: limits in {FOLDER}") for line in sources.lines)


def test_peak_memory_is_a_line_through_the_measured_batches(tmp_path, results):
    """1 GiB at batch 2 and 2 GiB at batch 8 are 6 GiB at batch 32."""
    memory = [
        {"contender": "cpu", "dtype": "float32", "batch": batch, "peak_bytes": peak * 2**30, "imports_bytes": 0}
        for batch, peak in ((8, 2), (2, 1))
    ]
    save_result(tmp_path, rows=[network_row()], memory=memory)
    (low, high), _ = peak_memory(Settings(), find_device(FOLDER, results()), results(), Sources())
    assert low == high == pytest.approx(6 * 2**30)


def test_the_resident_data_set_has_the_size_of_its_caches_rows(tmp_path, results):
    save_steps(tmp_path, cpu_float32={"32": [36.0]})
    dataset = find_dataset("smic")
    cost = estimate(Settings(folds=16), dataset, find_device(FOLDER, results()), results(), Sources())
    assert cost.resident == (164 * row_bytes(), 6 * 164 * row_bytes())
    assert row_bytes() == 8 * 144 * 144 + 7 * 2 * 144 * 144 * 2 + 8 * 68 * 2 * 4 + 8
