"""Plans and the measured leave-one-subject-out run: lines, rooflines and folds by hand, sources, what is refused."""

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


# The line and the headline


def test_a_straight_line_is_found_again_whatever_the_numbers_of_steps():
    assert loso.fit_line({"2": [2.0] * 50, "8": [5.0] * 6, "32": [17.0]}) == pytest.approx((1.0, 0.5))


def test_the_line_weighs_relative_errors():
    """Weights 1, 1/4, 1/4 for 1, 2, 2 seconds at batches 1, 2, 3: slope 0.5 / 0.875, through (1.5, 4/3)."""
    assert loso.fit_line({"1": [1.0], "2": [2.0], "3": [2.0]}) == pytest.approx((10 / 21, 4 / 7))


def test_the_check_of_the_fit_does_not_know_the_batch_that_it_predicts():
    durations = {"2": [2.0], "8": [5.0], "32": [100.0]}
    assert loso.step_seconds(32, durations) == (100.0, True)
    assert loso.fitted_step(32, durations) == pytest.approx(17.0)


def test_one_other_batch_gives_no_line():
    assert loso.step_seconds(32, {"2": [2.0], "8": []}) is None


def test_the_headline_is_the_protocol_times_the_measured_step():
    """28 × 1000 steps of 9 s are 70 hours; the loop's 36 s are 280; the rounds' ratios are 4, 4 and 5."""
    result = {
        "machine": MACHINE,
        "limits": LIMITS,
        "loso": {
            "protocol": loso.PROTOCOL,
            "draft": False,
            "durations": {
                "published-loop-float32": {"2": [4.0] * 50, "32": [36.0, 32.0, 45.0]},
                "cpu-float32": {"2": [1.0] * 50, "32": [9.0, 8.0, 9.0]},
            },
        },
    }
    text = loso.markdown(result)
    assert "published-loop-float32 280 hours = 11.7 days (step measured)" in text
    assert "cpu-float32 70 hours = 2.9 days (step measured)" in text
    assert "published-loop-float32 takes 4.00 (4.00 to 4.60, paired rounds) times as long as cpu-float32" in text


@pytest.mark.parametrize(("draft", "found"), [(False, "Unfinished: 2 steps"), (True, "DRAFT")])
def test_too_few_steps_make_a_headline_only_as_a_draft(tmp_path, capsys, draft, found):
    path = save_loso(tmp_path, draft=draft, cpu_float32={"2": [2.0], "8": [5.0]})
    assert loso.main(["--report", str(path)]) == 0
    text = capsys.readouterr().out
    assert found in text
    assert ("hours" in text) == draft


# The measurement


class Steps:
    """Networks that note their steps, and stop the process at one of them."""

    def __init__(self, interrupt_at=None):
        self.done, self.interrupt_at = [], interrupt_at

    def __call__(self, key, state, device):
        owner = self

        class Network:
            def step(self, batch):
                owner.done.append((key, len(batch.label)))
                if len(owner.done) == owner.interrupt_at:
                    raise KeyboardInterrupt

        return Network()


@pytest.fixture
def fake(monkeypatch):
    def install(steps):
        monkeypatch.setattr(network, "Network", steps)
        monkeypatch.setattr(network, "random_state", dict)
        monkeypatch.setattr(network, "contender_keys", lambda device: ["a-float32", "b-float32"])
        monkeypatch.setattr(loso.machine, "measure_limits", lambda device: LIMITS)
        monkeypatch.setattr(loso.machine, "describe", lambda device: MACHINE)
        monkeypatch.setattr(loso, "seconds_of", lambda run: run() or 1.0)  # the real one collects garbage first
        return steps

    return install


ARGUMENTS = ["--contenders", "a-float32", "b-float32", "--measure", "1:2", "2:1"]


def test_rounds_take_turns_after_a_warm_up_at_every_batch(tmp_path, fake):
    steps = fake(Steps())
    assert loso.main([*ARGUMENTS, "--draft", "--folder", str(tmp_path)]) == 0
    order = "".join(f"{key[0]}{size}" for key, size in steps.done)
    assert order == "a1b1" + "a1b1" + "b1a1" + "a2b2" + "a2b2"


def test_an_interrupted_measurement_leaves_its_whole_rounds_readable(tmp_path, fake, capsys):
    fake(Steps(interrupt_at=6))  # the second contender of the second round
    assert loso.main([*ARGUMENTS, "--draft", "--folder", str(tmp_path)]) == 130
    (path,) = tmp_path.glob("*/*")
    assert path.name == "2026-01-02-abc-loso-draft.json"
    durations = json.loads(path.read_text())["loso"]["durations"]
    assert [len(durations[key]["1"]) for key in ("a-float32", "b-float32")] == [1, 1]
    assert loso.main(["--report", str(path)]) == 0
    assert "| a-float32 | 1 | 1 |" in capsys.readouterr().out


def test_a_measurement_is_never_overwritten(tmp_path, fake, capsys):
    fake(Steps())
    arguments = ["--contenders", "a-float32", "--measure", "1:50", "--folder", str(tmp_path)]
    assert loso.main(arguments) == 0
    assert loso.main(arguments) == 2
    assert "holds a measurement already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measure", "2:10"], "10 steps of each contender are fewer than 50"),
        (["--measure", "2"], "must be BATCH:STEPS"),
        (["--measure", "2:50", "2:9"], "a batch size is given twice"),
        (["--contenders", "c-float32"], "choose from a-float32, b-float32"),
    ],
)
def test_loso_refuses_and_says_what_to_do(fake, capsys, arguments, message):
    fake(Steps())
    with pytest.raises(SystemExit):
        loso.main(["--contenders", "a-float32", *arguments])
    assert message in capsys.readouterr().err


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
