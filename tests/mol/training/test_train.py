"""The training loop: modes, selection, resuming, stopping, and settings that cannot work."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from places import environment
from rich.console import Console
from safetensors.torch import load_file
from tiny_cache import write_tiny_cache
from tiny_model import TinyMOL, instead_of_mol, with_small_flow

import mol.network.checkpoint
import mol.training.train
from mol.arguments import read_config
from mol.common.errors import CacheError, CheckpointError, InUseError, SettingsError, StorageError
from mol.common.locks import lock
from mol.common.signals import STOP_SIGNALS
from mol.data.cache import Cache
from mol.data.clips import ResidentClips
from mol.data.split import person
from mol.network.checkpoint import read_state
from mol.network.losses import LossTerms, MOLLoss, landmark_loss
from mol.networks.registry import find_network
from mol.networks.trained import load_model
from mol.scoring.evaluate import EvaluateConfig
from mol.training.resume import StopSignal, TrainingInterrupted
from mol.training.runlog import RunLog
from mol.training.settings import LossConfig, ModelConfig, RateConfig, TrainConfig, save_config
from mol.training.train import learning_rate, train


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_tiny_cache(tmp_path_factory.mktemp("train") / "cache", people=4, videos=3, windows=2)


@pytest.fixture
def real_config(cache: Cache, tmp_path: Path) -> TrainConfig:
    """Four steps on three people."""
    return TrainConfig(
        cache=str(cache.path),
        run=str(tmp_path / "run"),
        held_out=["s4"],
        steps=4,
        batch_size=2,
        schedule="constant",
        warmup_steps=0,
        log_every=1,
        validate_every=0,
        device="cpu",
    )


@pytest.fixture
def config(real_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """The same with the tiny network in MOL's place."""
    instead_of_mol(monkeypatch)
    return real_config


def weights(run: str, checkpoint: str = "last", file: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "checkpoints" / checkpoint / f"{file}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log_rows(run: str, split: str = "train") -> list[dict[str, str]]:
    with open(Path(run) / "log.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


class Modes:
    """Records in which mode the network runs, and on which rows of the cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.training: list[bool] = []
        real = TinyMOL.forward

        def forward(model: TinyMOL, clips: torch.Tensor, pairs: torch.Tensor | None = None):
            self.training.append(model.training and model.norm.training and model.dropout.training)
            return real(model, clips, pairs)

        monkeypatch.setattr(TinyMOL, "forward", forward)


# What the published training got wrong


def test_training_mode_is_back_after_every_validation(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published error 1: after the first evaluation training went on without dropout and with frozen BatchNorm."""
    modes = Modes(monkeypatch)
    train(replace(config, validate_every=1, batch_size=5, validation_clips=3, steps=3))
    assert modes.training == [True, False] * 3
    counted = weights(config.run)["norm.num_batches_tracked"]
    assert int(counted) == 3


def test_watching_people_changes_no_weight(config: TrainConfig) -> None:
    train(config)
    train(replace(config, run=config.run + "-watched", validate_every=2, validation_clips=2))
    for file in ("weights", "optimizer"):
        assert same(weights(config.run, file=file), weights(config.run + "-watched", file=file))


def test_validation_sees_centre_crops_only(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published error 2: the test fold was built with the training crops."""
    drawn: dict[str, list[list[str]]] = {"training_batch": [], "evaluation_batch": []}
    for name in drawn:
        real = getattr(ResidentClips, name)

        def recording(self: ResidentClips, *arguments: object, name: str = name, real=real):
            drawn[name].append([person(row) for row in self.rows])
            return real(self, *arguments)

        monkeypatch.setattr(ResidentClips, name, recording)
    train(replace(config, validate_every=2))
    assert drawn["evaluation_batch"]
    assert {name for people in drawn["evaluation_batch"] for name in people} == {"tiny/s4"}
    assert {name for people in drawn["training_batch"] for name in people} == {"tiny/s1", "tiny/s2", "tiny/s3"}


def test_last_checkpoint_is_kept_whatever_the_held_out_people_say(config: TrainConfig) -> None:
    """Published error 4: the checkpoint was chosen on the test fold."""
    result = train(replace(config, validate_every=1))
    assert result.checkpoint == Path(config.run) / "checkpoints" / "last"
    assert [path.name for path in result.checkpoint.parent.iterdir()] == ["last"]
    state = read_state(result.checkpoint)
    assert (state["selection"], state["step"], state["best"]) == ("last", 4, None)


def test_inner_validation_chooses_by_people_of_the_training_fold(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published error 4: who chooses must be neither tested nor trained on."""
    looks: list[set[str]] = []
    losses = iter([3.0, 1.0, 2.0, 5.0])

    def scores(model: object, clips: ResidentClips, *rest: object) -> dict[str, float]:
        looks.append({person(row) for row in clips.rows})
        names = ("epe", "zero_flow_epe", "nme", "mean_shape_nme", "accuracy", "uf1")
        return {"loss": next(losses), **dict.fromkeys(names, 0.5)}

    monkeypatch.setattr(mol.training.train, "validation_scores", scores)
    config = replace(config, inner_validation=0.3, selection="inner-val", validate_every=1)
    result = train(config)
    best, last = read_state(result.checkpoint), read_state(Path(config.run) / "checkpoints" / "last")
    assert result.checkpoint.name == "best"
    assert (best["step"], last["step"], last["best"]) == (2, 4, {"step": 2, "loss": 1.0})
    people = [set(best[f"{part}_people"]) for part in ("train", "inner_validation", "held_out")]
    assert [len(part) for part in people] == [2, 1, 1]
    assert len(set.union(*people)) == 4
    assert looks == [people[1]] * 4
    assert load_model(config.run).state["step"] == 2


def test_a_run_folder_is_not_overwritten_by_another_run(config: TrainConfig) -> None:
    """Published error 5."""
    train(replace(config, steps=1))
    before = weights(config.run)
    with pytest.raises(SettingsError, match="already holds a run, at step 1; resume it with --resume"):
        train(replace(config, held_out=["s1"]))
    with pytest.raises(SettingsError, match=r'different settings \(held_out: \["s4"\] → \["s1"\]\)'):
        train(replace(config, held_out=["s1"], resume=True))
    assert same(weights(config.run), before)


# Resuming and stopping


def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(config: TrainConfig) -> None:
    config = replace(config, steps=6, warmup_steps=2, schedule="cosine", checkpoint_every=5)
    train(config)
    other = replace(config, run=config.run + "-resumed")
    with pytest.MonkeyPatch.context() as patch:
        signal_in_step(2, signal.SIGTERM, patch)
        with pytest.raises(TrainingInterrupted) as stopped:
            train(other)
    assert (stopped.value.code, stopped.value.step) == (130, 3)
    assert read_state(Path(other.run) / "checkpoints" / "last")["step"] == 3
    torch.manual_seed(99)  # whatever ran in between
    train(replace(other, resume=True))
    for file in ("weights", "optimizer"):
        assert same(weights(config.run, file=file), weights(other.run, file=file))
    assert [row["step"] for row in log_rows(other.run)] == [str(step) for step in range(1, 7)]
    columns = ("step", "loss", "loss_flow", "gradient_norm", "learning_rate")
    pairs = zip(log_rows(config.run), log_rows(other.run), strict=True)
    assert all(a[name] == b[name] for a, b in pairs for name in columns)


@pytest.mark.parametrize("at", [1, 2], ids=["in the middle", "in the last step"])
def test_a_signal_while_the_log_is_written_is_not_taken_for_saved(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Whoever is told that everything is saved finds a checkpoint of that very step."""
    write = mol.training.train.RunLog.write_training

    def interrupted(log: mol.training.train.RunLog, step: int, *values: float | None) -> None:
        if step == at:
            signal.raise_signal(signal.SIGINT)
        write(log, step, *values)

    monkeypatch.setattr(mol.training.train.RunLog, "write_training", interrupted)
    with pytest.raises(TrainingInterrupted) as stopped:
        train(replace(config, steps=2, log_every=1, checkpoint_every=100))
    assert read_state(Path(config.run) / "checkpoints" / "last")["step"] == stopped.value.step == 2


def signal_in_step(step: int, number: signal.Signals, patch: pytest.MonkeyPatch) -> None:
    """Send this process a signal while `step` (from 0) is trained."""

    def rate(config: TrainConfig, at: int) -> float:
        if at == step:
            os.kill(os.getpid(), number)
        return learning_rate(config, at)

    patch.setattr(mol.training.train, "learning_rate", rate)


def test_the_real_network_trains_in_channels_last_order(real_config: TrainConfig) -> None:
    config = replace(real_config, steps=1)
    train(config)
    train(replace(config, run=config.run + "-last", channels_last=True))
    (plain,), (last,) = (log_rows(run) for run in (config.run, config.run + "-last"))
    assert float(last["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-4)


@pytest.mark.slow
def test_the_real_network_resumes_bit_for_bit(real_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(real_config, steps=2, checkpoint_every=1)
    other = replace(config, run=config.run + "-resumed", resume=True)
    save = mol.training.train.save_checkpoint

    def save_and_keep_the_first(folder: Path, *arguments: object) -> None:
        save(folder, *arguments)
        if arguments[-1]["step"] == 1 and not Path(other.run).exists():
            shutil.copytree(folder, Path(other.run) / "checkpoints" / "last")

    monkeypatch.setattr(mol.training.train, "save_checkpoint", save_and_keep_the_first)
    train(config)
    train(other)
    assert read_state(Path(other.run) / "checkpoints" / "last")["step"] == 2
    for file in ("weights", "optimizer"):
        assert same(weights(config.run, file=file), weights(other.run, file=file))
    for run in (config.run, other.run):
        shutil.rmtree(run)  # half a gigabyte each, which pytest would keep


def test_the_callers_random_numbers_go_on_as_if_nothing_happened(config: TrainConfig) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(replace(config, steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_resuming_what_is_finished_does_nothing_and_nothing_to_resume_starts(config: TrainConfig) -> None:
    train(replace(config, resume=True))
    before = weights(config.run)
    assert train(replace(config, resume=True)).step == 4
    assert same(weights(config.run), before)
    assert len(log_rows(config.run)) == 4


def test_a_run_folder_is_for_one_process(config: TrainConfig) -> None:
    """Refused at once: the cache is not looked for."""
    second = replace(config, cache="nowhere", resume=True)
    with lock(Path(config.run) / ".lock", "mol train"):
        with pytest.raises(InUseError, match=rf"run is in use by process {os.getpid()} on .* choose another --run"):
            train(second)
        assert [path.name for path in Path(config.run).iterdir()] == [".lock"]
    with pytest.raises(CacheError):
        train(second)
    assert not Path(config.run).exists()


def test_a_run_of_all_folds_is_no_place_for_one_training(config: TrainConfig) -> None:
    Path(config.run).mkdir()
    (Path(config.run) / "loso.yaml").touch()
    with pytest.raises(SettingsError, match="holds a run of mol loso"):
        train(config)


def test_what_a_killed_process_left_is_gone_after_resuming(config: TrainConfig) -> None:
    train(config)
    last = Path(config.run) / "checkpoints" / "last"
    shutil.copytree(last, last.with_name("last.old"))
    train(replace(config, resume=True))
    assert [path.name for path in last.parent.iterdir()] == ["last"]


def test_rows_logged_after_the_checkpoint_by_a_killed_process_are_dropped(config: TrainConfig) -> None:
    train(replace(config, steps=2))
    with open(Path(config.run) / "log.csv", "a") as file:
        file.write("3,train,9,9,9,9,9,9,9,,,,,,\n4,tra")
    train(replace(config, resume=True))
    assert [row["step"] for row in log_rows(config.run)] == ["1", "2", "3", "4"]


def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(config: TrainConfig, tmp_path: Path) -> None:
    save_config(replace(config, steps=100_000, log_every=50), tmp_path / "settings.yaml")
    program = f"""
        import mol.networks.mol
        from mol.arguments import read_config
        from mol.training import train
        from mol.training.settings import TrainConfig
        from tiny_model import TinyMOL
        mol.networks.mol.MOL = TinyMOL
        train.train(read_config(TrainConfig, ["--config", {str(tmp_path / "settings.yaml")!r}], "mol train"))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    log = Path(config.run) / "log.csv"
    deadline = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) > 1) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    step = read_state(Path(config.run) / "checkpoints" / "last")["step"]
    assert f"SIGINT: stopped after step {step}, everything is saved" in output
    command = output.splitlines()[-1].strip()
    assert command == f"mol train --config {config.run}/config.yaml --resume"
    resumed = read_config(TrainConfig, command.split()[2:], "mol train")
    assert resumed.resume
    result = train(replace(resumed, steps=step + 1))
    assert result.step == step + 1


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_stop_signal_is_noted_as_often_as_it_comes(number: signal.Signals) -> None:
    """A closed terminal sends SIGHUP twice, and Slurm SIGTERM after the warning that it was asked for."""
    before = {other: signal.signal(other, signal.default_int_handler) for other in STOP_SIGNALS}
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), number)
            for other in STOP_SIGNALS:
                if other != signal.SIGINT:
                    os.kill(os.getpid(), other)
            assert stop.requested == number.name
        assert all(signal.getsignal(other) is signal.default_int_handler for other in STOP_SIGNALS)
    finally:
        for other, handler in before.items():
            signal.signal(other, handler)


def test_a_training_leaves_ignored_signals_alone() -> None:
    """``nohup`` starts a program with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_acts_at_once() -> None:
    # A shell starts its background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested == "SIGINT"
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# What a run leaves, and that it learns


def test_a_run_folder_explains_itself(config: TrainConfig) -> None:
    train(replace(config, validate_every=2))
    run = Path(config.run)
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["k"] == 4
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["hardware"]["cores"] >= 1
    assert list((run / "tensorboard").glob("events*"))
    assert [row["step"] for row in log_rows(config.run, "held_out")] == ["2", "4"]
    state = read_state(run / "checkpoints" / "last")
    assert state["classes"] == ["happiness", "surprise", "disgust"]
    assert np.shape(state["mean_shape"]) == (68, 2)
    # Nine videos of three people; windows of a video count once.
    assert state["training_videos"] == [3, 3, 3]


def test_a_terminal_gets_a_bar_with_losses_speed_and_time_left(tmp_path: Path) -> None:
    text = io.StringIO()
    value = torch.tensor(0.25)
    with RunLog(tmp_path, find_network("mol"), 4, 0, 2, Console(file=text, force_terminal=True, width=160)) as log:
        log.add(LossTerms(*[value] * len(LossTerms._fields)), value)
        log.write_training(1, 1e-4)
    for part in ("training", "1/4", "loss 0.250 (emotion 0.250", "clips/s", "left"):
        assert part in text.getvalue()


def test_training_starts_at_the_baselines_and_learns(config: TrainConfig, cache: Cache) -> None:
    config = replace(config, steps=15, batch_size=6, learning_rate=5e-3, validate_every=15, flow_pairs="all")
    train(replace(config, loss=LossConfig(w_of=MOLLoss.w_of), rates=RateConfig(flow=1.0)))
    rows = log_rows(config.run)
    clips = ResidentClips(cache, [i for i, row in enumerate(cache.rows) if row["subject"] != "s4"])
    batch = clips.training_batch(step=0, seed=0, batch_size=6)
    assert float(rows[0]["loss_flow"]) == pytest.approx(float(batch.flow.square().mean()), rel=1e-4)
    mean_shape = landmark_loss(clips.mean_shape().expand_as(batch.landmarks), batch.landmarks)
    assert float(rows[0]["loss_landmarks"]) == pytest.approx(float(mean_shape), rel=1e-4)
    first, last = (np.mean([float(row["loss"]) for row in part]) for part in (rows[:4], rows[-4:]))
    assert last < 0.9 * first
    (row,) = log_rows(config.run, "held_out")
    assert float(row["epe"]) < float(row["zero_flow_epe"])


def test_bf16_mixed_trains_and_keeps_float32_weights(config: TrainConfig) -> None:
    train(replace(config, precision="bf16-mixed", validate_every=4))
    assert all(value.dtype != torch.bfloat16 for value in weights(config.run).values())
    assert math.isfinite(float(log_rows(config.run)[-1]["loss"]))


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_training_the_emotion_alone_runs_and_logs_nothing_else(
    config: TrainConfig, precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[bool, bool]] = []
    real = TinyMOL.recognise

    def recognise(model: TinyMOL, clips: torch.Tensor) -> torch.Tensor:
        called.append((model.training, torch.is_autocast_enabled("cpu")))
        return real(model, clips)

    monkeypatch.setattr(TinyMOL, "recognise", recognise)
    alone = LossConfig(w_of=0.0, w_ldm=0.0)
    train(replace(config, precision=precision, flow_pairs=0, loss=alone, weight_decay=1.0, validate_every=4))
    assert called == [(True, precision != "32")] * 4
    for row in log_rows(config.run):
        assert row["loss"] == row["loss_emotion"]
        assert row["loss_flow"] == row["loss_landmarks"] == ""
    assert "flow –, landmarks –" in capsys.readouterr().out
    # Their heads stay as they began, at the baselines, and are scored as such.
    saved = weights(config.run)
    assert not saved["flow.weight"].any()
    assert not saved["landmarks.weight"].any()
    (row,) = log_rows(config.run, "held_out")
    assert row["epe"] == row["zero_flow_epe"]


@pytest.mark.parametrize("flow_pairs", [5, 0])
def test_training_on_some_pairs_resumes_bit_for_bit(config: TrainConfig, flow_pairs: int) -> None:
    config = replace(config, flow_pairs=flow_pairs, batch_size=3)
    train(config)
    other = replace(config, run=config.run + "-resumed")
    train(replace(other, steps=2))
    train(replace(other, resume=True))
    for file in ("weights", "optimizer"):
        assert same(weights(config.run, file=file), weights(other.run, file=file))
    with pytest.raises(SettingsError, match=rf"flow_pairs: {flow_pairs} → 4"):
        train(replace(other, flow_pairs=4, resume=True))


@pytest.mark.parametrize(("rate", "moves"), [(0.0, False), (1.0, True)])
def test_the_predictors_of_flow_move_at_their_own_rate(
    real_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, rate: float, moves: bool
) -> None:
    with_small_flow(monkeypatch)
    runs = [real_config.run, real_config.run + "-longer"]
    for run, steps in zip(runs, (1, 2), strict=True):
        train(replace(real_config, run=run, steps=steps, rates=RateConfig(flow=0.0, predictors=rate)))
    before, after = map(weights, runs)
    assert torch.equal(before["flow.predict0.weight"], after["flow.predict0.weight"]) != moves
    assert not torch.equal(before["stack.0.weight"], after["stack.0.weight"])


def test_gradients_are_clipped(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: object) -> object:
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat(gradients).norm()))
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(replace(config, clip_norm=0.01))
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)
    norms.clear()
    train(replace(config, clip_norm=0.0, run=config.run + "-free"))
    assert min(norms) > 0.01
    assert float(log_rows(config.run)[0]["gradient_norm"]) > 0.01  # logged before clipping


def test_schedules(config: TrainConfig) -> None:
    constant = replace(config, steps=100, learning_rate=1.0)
    assert {learning_rate(constant, step) for step in range(100)} == {1.0}
    cosine = replace(constant, schedule="cosine", warmup_steps=9)
    rates = [learning_rate(cosine, step) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 1e-3


# Settings, data and disks that fail


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "16"}, "precision='16' must be one of 32, bf16-mixed"),
        ({"device": "tpu"}, "device='tpu' must be"),
        ({"device": "cuda:99"}, "'cuda:99' is not available"),
        ({"batch_size": 99}, "batch_size=99 is larger than the data set: 15 training clips"),
        ({"held_out": ["nobody"]}, "no person 'nobody'"),
        ({"held_out": ["s1", "s2", "s3", "s4"]}, "training part of the split is empty"),
        ({"normalisation": "none"}, "must be one of clip, released-subject"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    config: TrainConfig, changes: dict, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        train(replace(config, **changes))
    assert not Path(config.run).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0 must be greater than 0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be greater"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"clip_norm": -1.0}, "must not be negative"),
        ({"inner_validation": 1.0}, r"a share in \[0, 1\)"),
        ({"selection": "inner-val"}, "needs inner_validation > 0"),
        ({"selection": "test"}, "must be 'last', 'inner-val' or 'test-peek'"),
        ({"selection": "test-peek"}, "needs validate_every > 0"),
        ({"selection": "test-peek", "validate_every": 1, "inner_validation": 0.3}, "inner_validation = 0"),
        ({"counts": "ignore"}, "must be 'require' or 'warn'"),
        ({"schedule": "step"}, "must be 'constant' or 'cosine'"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(config: TrainConfig, changes: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(config, **changes)


def test_a_missing_cache_is_named(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="nowhere"):
        train(replace(config, cache=str(tmp_path / "nowhere")))


def test_a_diverged_training_stops_and_keeps_the_last_checkpoint(config: TrainConfig) -> None:
    config = replace(config, steps=2, learning_rate=1e-4)
    train(config)
    before = weights(config.run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mol.training.train, "learning_rate", lambda *_: 1e30)
        with pytest.raises(SettingsError, match=r"training diverged in step \d+: .*lower learning_rate"):
            train(replace(config, steps=9, resume=True))
    assert same(weights(config.run), before)


@pytest.mark.parametrize(("part", "name"), [("logits", "emotion"), ("flow", "flow"), ("landmarks", "landmarks")])
def test_a_part_that_is_no_number_stops_the_training_by_its_name(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    """In the third of the steps between two lines of the log; by the fourth all of the network is NaN."""
    steps = iter(range(1, 100))
    real = TinyMOL.forward

    def forward(model: TinyMOL, clips: torch.Tensor, pairs: torch.Tensor | None = None):
        output = real(model, clips, pairs)
        return output._replace(**{part: getattr(output, part) * torch.nan}) if next(steps) == 3 else output

    monkeypatch.setattr(TinyMOL, "forward", forward)
    with pytest.raises(
        SettingsError, match=f"training diverged in step 3: the {name} loss is not finite; .*Try a lower"
    ):
        train(replace(config, log_every=4))
    assert not (Path(config.run) / "checkpoints").exists()


def test_a_full_disk_while_saving_keeps_the_checkpoint_before_it(config: TrainConfig) -> None:
    train(replace(config, steps=2))
    before = weights(config.run)
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="checkpoints/last"):
            train(replace(config, resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert same(weights(config.run), before)
    assert train(replace(config, resume=True)).step == 4


def test_resuming_from_a_damaged_checkpoint_names_the_file(config: TrainConfig) -> None:
    train(replace(config, steps=1))
    path = Path(config.run) / "checkpoints" / "last" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors has 1000 bytes"):
        train(replace(config, resume=True))


# Configuration


def test_a_configuration_comes_back_from_its_file_with_overrides(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, held_out=["a/1", "2"], model=ModelConfig(k=3), loss=LossConfig(w_me=0.5))
    save_config(config, tmp_path / "c.yaml")
    assert read_config(TrainConfig, ["--config", str(tmp_path / "c.yaml")], "mol train") == config
    arguments = ["--config", str(tmp_path / "c.yaml"), "--resume", "--model.k", "2", "--augment.flip", "false"]
    changed = read_config(TrainConfig, arguments, "mol train")
    assert (changed.resume, changed.model.k, changed.augment.flip, changed.loss.w_me) == (True, 2, False, 0.5)
    shared = read_config(
        EvaluateConfig, ["--weights", "r", "--people", "[s1, s2]", "--precision", "32"], "mol evaluate"
    )
    assert (shared.people, shared.precision) == (["s1", "s2"], "32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "cache"),
        (["--cache", "c", "--stepz", "3"], "stepz"),
        (["--cache", "c", "--steps", "many"], "steps"),
        (["--cache", "c", "--schedule", "linear"], "schedule"),
        (["--cache", "c", "--steps", "-3"], "steps=-3 must be greater than 0"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_command_lines_are_settings_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_config(TrainConfig, arguments, "mol train")
