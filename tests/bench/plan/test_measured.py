"""Which saved results the cost model goes by."""

import pytest
from bench_results import network_row, save_result, save_steps

from bench import counts
from bench.plan.counted import held_bytes
from bench.plan.devices import DATASHEETS
from bench.plan.measured import BACKENDS, load_measured, nearest_share
from mol.common.errors import SettingsError


def test_drafts_plan_nothing_and_other_formats_are_refused(tmp_path):
    draft = save_steps(tmp_path, draft=True, cpu_float32={"32": [1.0]})
    assert load_measured([draft]) == []
    old = tmp_path / "old.json"
    old.write_text('{"format": 1}')
    with pytest.raises(SettingsError, match=r"old\.json has format 1"):
        load_measured([draft, old])


def test_the_share_of_the_nearest_batch_is_taken(tmp_path):
    save_result(tmp_path, date="2027-01-01", rows=[network_row(share=0.1, batch=2)])
    save_steps(tmp_path, cpu_float32={"2": [2.0], "8": [5.0]})
    results = load_measured(sorted(tmp_path.glob("*/*.json")))
    reached = nearest_share(DATASHEETS["h100-sxm"].folder, 32, "bfloat16", results)
    work = counts.mol_released(8, 8, held_bytes("released", 1)[0], training=True)
    assert (reached.batch, reached.dtype) == (8, "float32")
    assert reached.share == pytest.approx(work.flops / 1e11 / 5.0)


def test_the_reference_is_the_last_choice():
    assert BACKENDS == ("cuda", "triton", "cpu", "reference")
