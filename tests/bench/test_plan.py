"""Plans of a leave-one-subject-out run: rooflines and folds by hand, sources, what is refused."""

import json

import pytest
import torch

from bench import counts, loso, network, plan
from mol import MOL

LIMITS = {"copy": {"bytes_per_second": 2e10}, "gemm": {"float32": 1e11, "bfloat16": 1e11}}
FOLDER = "a-cpu-2-threads"
MACHINE = {"device": "A CPU, 2 threads", "threads": 2, "torch": "2.13", "date": "2026-01-02T03:04:05", "commit": "abc"}


def row(contender="cpu", task="training step", batch=2, share=0.5, median=2.0, dtype="float32", threads=2):
    return {
        "subject": "mol", "task": task, "contender": contender, "dtype": dtype, "share_of_limit": share,
        "sizes": {"batch": batch, "threads": threads}, "seconds": [0.9 * median, median, 1.1 * median],
    }  # fmt: skip


def save(folder, name="2026-01-02-abc.json", device="A CPU, 2 threads", date="2026-01-02", **content):
    result = {"format": 2, "machine": MACHINE | {"device": device, "date": date}, "limits": LIMITS, **content}
    path = folder / plan.machine.slug(device) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def save_loso(folder, draft=False, **durations):
    by_key = {key.replace("_", "-"): value for key, value in durations.items()}
    content = {"protocol": loso.PROTOCOL, "draft": draft, "planned": {}, "durations": by_key}
    return save(folder, "2026-01-02-abc-loso.json", loso=content)


def printed(capsys, folder, *arguments):
    status = plan.main(["--results", str(folder), *arguments])
    text = capsys.readouterr()
    return status, text.out + text.err


# The plan


@pytest.mark.parametrize(("devices", "waves"), [(1, 24), (5, 5), (8, 3), (24, 1), (100, 1)])
def test_the_busiest_device_runs_the_folds_that_do_not_divide(devices, waves):
    assert plan.fold_waves(24, devices) == waves


def test_a_measured_device_is_planned_from_its_own_steps(tmp_path, capsys):
    """24 folds × 1000 steps of 36 s are 240 hours on one device, 3 × 10 hours on eight."""
    save_loso(tmp_path, published_loop_float32={"32": [99.0]}, cpu_float32={"2": [2.0], "32": [36.0]})
    save(tmp_path, rows=[row(task="forward", median=0.4)])
    status, text = printed(capsys, tmp_path, "--device", FOLDER)
    assert status == 0
    assert "| training step | 36 s; 0.0278 steps/s | [1] |" in text
    assert "| 1 | 24 | 240 hours |" in text
    assert "| 8 | 3 | 30 hours |" in text
    assert f"measured: cpu-float32, steps at batch 32, 2 steps; {FOLDER}/2026-01-02-abc-loso.json, commit abc" in text
    assert (
        "| in all folds together, every held-out clip once | 0.483 to 5.8 minutes |" in text
    )  # 145 and 1740 × 0.4 s / 2


def test_a_datasheet_device_is_planned_from_its_roofline_and_an_assumed_share(tmp_path):
    save(tmp_path, rows=[row(share=0.1, batch=2), row(share=0.5, batch=8), row("published-loop", share=0.01, batch=8)])
    sources = plan.Sources()
    device = plan.DATASHEETS["h100-sxm"]
    results = plan.load_results(sorted(tmp_path.glob("*/*.json")))
    (fast, slow), _ = plan.training_step(device, 32, "bf16", 44_000_000, results, sources)
    work = counts.mol_released(32, 8, 44_000_000, training=True)
    assert fast == pytest.approx(work.flops / 989.4e12 / 0.5)
    assert slow == pytest.approx(2 * fast)
    kinds = [line.split(":")[0] for line in sources.lines]
    assert kinds == ["counted", "datasheet, not measured", "measured", "assumed"]


def test_a_device_without_a_loso_file_is_planned_from_its_own_limits_and_share(tmp_path):
    save(tmp_path, rows=[row(share=0.5, batch=32), row(share=0.9, batch=64, threads=1)])
    save(tmp_path, device="B", date="2027-01-01", rows=[row(share=0.1)])  # newer, but another device
    results = plan.load_results(sorted(tmp_path.glob("*/*.json")))
    device = plan.find_device(FOLDER, results)
    (fast, slow), _ = plan.training_step(device, 32, "32", 44_000_000, results, plan.Sources())
    assert fast == slow == pytest.approx(counts.mol_released(32, 8, 44_000_000, True).flops / 1e11 / 0.5)


def test_peak_memory_is_a_line_through_the_measured_batches(tmp_path):
    """1 GiB at batch 2 and 2 GiB at batch 8 are 6 GiB at batch 32."""
    memory = [
        {"contender": "cpu", "dtype": "float32", "batch": batch, "peak_bytes": peak * 2**30, "imports_bytes": 0}
        for batch, peak in ((8, 2), (2, 1))
    ]
    save(tmp_path, rows=[row()], memory=memory)
    results = plan.load_results(sorted(tmp_path.glob("*/*.json")))
    device = plan.find_device(FOLDER, results)
    (low, high), _ = plan.peak_memory(device, 32, "32", "released", results, plan.Sources())
    assert low == high == pytest.approx(6 * 2**30)


def test_what_is_counted_on_the_meta_device_is_what_autograd_holds_on_a_cpu():
    parameters, counted = plan.held_bytes("released", 1)
    model, batch = MOL(num_classes=5, variant="released", dropout=0.0), network.random_batch(1)
    assert parameters == sum(p.numel() for p in model.parameters())
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: held.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        network.MOLLoss(*network.LOSS_WEIGHTS)(model(batch.clips), batch)
    really = sum(t.untyped_storage().nbytes() for pointer, t in held.items() if pointer not in own)
    assert counted == pytest.approx(really, rel=0.1)


def test_a_cached_clip_takes_three_quarters_of_a_megabyte():
    assert plan.CLIP_BYTES == 8 * 144 * 144 + 7 * 2 * 144 * 144 * 2 + 8 * 68 * 2 * 4 == 750_848


def test_memory_that_does_not_fit_is_said(tmp_path, capsys):
    save(tmp_path, rows=[row()])
    _, text = printed(capsys, tmp_path, "--device", "rtx-3090", "--batch", "512", "--variant", "paper")
    assert "does not fit" in text
    _, text = printed(capsys, tmp_path, "--device", "rtx-3090")
    assert "with the data set fits" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "casme"], "choose from casme2, samm, smic"),
        (["--dataset", "casme2-5"], "246 clips"),
        (["--dataset", "samm-5"], "give it with --folds"),
        (["--device", "tpu"], "h100-sxm"),
        (["--device", "h100"], "pytest bench/ --save-results"),
        (["--check"], "nothing to check"),
        (["--check", "missing.json"], "cannot read missing.json"),
    ],
)
def test_plan_refuses_and_says_what_is_known(tmp_path, capsys, arguments, message):
    status, text = printed(capsys, tmp_path, "--device", "h100", *arguments)
    assert status == 2
    assert message in text


def test_folds_may_be_given_where_people_are_not_known(tmp_path, capsys):
    save(tmp_path, rows=[row()])
    status, text = printed(capsys, tmp_path, "--dataset", "samm-5", "--folds", "9", "--device", "l40s")
    assert status == 0
    assert "9 folds" in text


def test_drafts_and_older_formats_plan_nothing(tmp_path):
    draft = save_loso(tmp_path, draft=True, cpu_float32={"32": [1.0]})
    old = tmp_path / "old.json"
    old.write_text('{"format": 1}')
    assert plan.load_results([draft, old]) == []


# The check


def test_the_check_predicts_the_largest_batch_from_the_smaller_ones(tmp_path, capsys):
    path = save_loso(tmp_path, cpu_float32={"2": [2.0], "8": [5.0], "32": [18.0]})
    status, text = printed(capsys, tmp_path, "--check", str(path))
    assert status == 0
    assert "s at batch 32 from 2, 8 | 17 | 18 | -5.6 % |" in text


def test_the_check_fails_where_a_prediction_is_off_by_more_than_a_fifth(tmp_path, capsys):
    save_loso(tmp_path, cpu_float32={"2": [2.0], "8": [5.0], "32": [22.0]})
    assert printed(capsys, tmp_path, "--check")[0] == 1


def test_the_check_holds_the_roofline_times_the_share_against_the_step(tmp_path):
    """Four times the clips at the same share take four times as long, where arithmetic binds."""
    save_loso(tmp_path, cpu_float32={"8": [5.0], "32": [18.0]})
    ((what, predicted, measured),) = plan.check(plan.load_results(sorted(tmp_path.glob("*/*.json"))))
    assert "roofline × share at batch 8" in what
    assert (predicted, measured) == (pytest.approx(20.0), 18.0)


def test_the_share_of_the_nearest_batch_of_a_loso_file_is_taken(tmp_path):
    save(tmp_path, date="2027-01-01", rows=[row(share=0.1, batch=2)])
    save_loso(tmp_path, cpu_float32={"2": [2.0], "8": [5.0]})
    results = plan.load_results(sorted(tmp_path.glob("*/*.json")))
    reached = plan.nearest_share(plan.DATASHEETS["h100-sxm"], 32, "bfloat16", results)
    work = counts.mol_released(8, 8, plan.held_bytes("released", 1)[0], training=True)
    assert (reached.batch, reached.dtype) == (8, "float32")
    assert reached.share == pytest.approx(work.flops / 1e11 / 5.0)


def test_the_check_predicts_peaks(tmp_path):
    memory = [
        {"contender": "published-loop", "dtype": "float32", "batch": batch, "peak_bytes": peak * 2**20}
        for batch, peak in ((2, 100), (4, 200), (8, 410))
    ]
    save(tmp_path, memory=memory)
    ((_, predicted, measured),) = plan.check(plan.load_results(sorted(tmp_path.glob("*/*.json"))))
    assert (predicted, measured) == (pytest.approx(400.0), 410.0)
