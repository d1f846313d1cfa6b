"""Clips rendered while training: a function of (seed, step), never twice the same, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from places import environment
from synth_clips import people

from mol.common.errors import SettingsError
from mol.data.clips import Augmentation, Batch
from mol.network.units import SHOWN, UNKNOWN
from mol.networks.mol import MOLNetwork
from mol.networks.registry import NETWORKS
from mol.synth.action_units import EMOTIONS
from mol.synth.clip_plan import SynthSettings
from mol.synth.rendered_clips import RenderedClips

SETTINGS = SynthSettings(emotions=("happiness", "surprise"), amplitude=(1.0, 3.0))
PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")


def rendered(network: str = "mol", **changes) -> RenderedClips:
    return RenderedClips(NETWORKS[network], people(), SETTINGS, **{"workers": 1, "ahead": 1, **changes})


def equal(one: Batch, other: Batch) -> bool:
    parts = zip(one, other, strict=True)
    return all(a is b is None or torch.equal(a, b) for a, b in parts)  # pairs are None


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """The first steps of seed 0, 3 clips each."""
    with rendered(steps=3) as clips:
        return [clips.training_batch(step, 0, 3) for step in range(3)]


def test_batches_do_not_depend_on_workers_or_on_how_far_ahead_they_are(batches):
    with rendered(workers=2, ahead=4) as clips:
        assert all(equal(clips.training_batch(step, 0, 3), batches[step]) for step in range(3))


def test_a_run_that_goes_on_at_a_later_step_draws_what_the_uninterrupted_one_did(batches):
    with rendered(steps=3) as clips:
        assert equal(clips.training_batch(2, 0, 3), batches[2])
        # Back, and beyond the last step: the rendering starts anew.
        assert equal(clips.training_batch(1, 0, 3), batches[1])
        assert equal(clips.training_batch(2, 0, 3), batches[2])
        assert not equal(clips.training_batch(3, 0, 3), batches[2])
        assert len(clips.training_batch(4, 0, 3).label) == 3


def test_another_seed_or_step_gives_other_clips(batches):
    with rendered() as clips:
        assert not equal(clips.training_batch(0, 1, 3), batches[0])
    assert not equal(batches[0], batches[1])


def test_a_batch_has_the_form_that_the_network_trains_on(batches):
    batch = batches[0]
    assert batch.clips.shape == (3, 1, 8, 128, 128)
    assert batch.flow.shape == (3, 7, 2, 128, 128)
    assert batch.landmarks.shape == (3, 7, 68, 2)
    assert all(part.dtype == torch.float32 for part in batch[:3])
    assert 0.1 < batch.flow.abs().max() < 4
    assert -16 < batch.landmarks.min() < batch.landmarks.max() < 144  # jaws may reach beyond a crop


def test_the_action_units_of_a_batch_are_known_and_their_frequencies_without_rendering(batches):
    known = {emotion: [set(units) for units in EMOTIONS[name]] for emotion, name in enumerate(SETTINGS.emotions)}
    for label, targets in zip(batches[0].label.tolist(), batches[0].action_units.tolist(), strict=True):
        assert {unit for unit, target in enumerate(targets) if target == SHOWN} in known[label]
        assert UNKNOWN not in targets
    rows = rendered().sampled_rows(400, seed=0)
    assert len(rows) >= 400
    # 12 is in all sets of happiness, which half of the clips show; 25 in one of three.
    shares = [np.mean([unit in row["action_units"] for row in rows]) for unit in (12, 25)]
    assert shares == pytest.approx([1 / 2, 1 / 6], abs=0.07)


@pytest.mark.parametrize("network", sorted(set(NETWORKS) - {"mol"}))
def test_networks_on_onset_and_apex_are_fed_too(network: str):
    with rendered(network) as clips:
        first, again = clips.training_batch(0, 0, 4), None
    with rendered(network, workers=2) as clips:
        again = clips.training_batch(0, 0, 4)
    assert torch.equal(first.inputs, again.inputs)
    assert len(first.label) == 4
    assert first.inputs.std() > 0


def test_no_clip_comes_twice_and_every_picture_shows_every_emotion_equally_often():
    clips = rendered()
    plans = [plan for step in range(40) for plan in clips.plans(step, 0, 3)]
    assert len({plan.noise_seed for plan in plans}) == len({plan.amplitude for plan in plans}) == 120
    assert set(Counter((plan.face, plan.emotion) for plan in plans).values()) == {20}
    assert {plan.emotion for plan in clips.plans(0, 0, 6)} == {*SETTINGS.emotions}
    assert len(clips.plans(0, 0, 50)) == 50  # more than there are kinds of clips


def test_plans_of_a_step_follow_from_seed_and_step_alone():
    one, other = rendered(), rendered(workers=2, ahead=5)
    one.plans(0, 0, 4)
    for a, b in zip(one.plans(7, 3, 4), other.plans(7, 3, 4), strict=True):
        assert replace(a, head_waves=None, light_waves=None) == replace(b, head_waves=None, light_waves=None)
        assert np.array_equal(a.head_waves, b.head_waves)


def test_labels_are_those_of_the_plans(batches):
    clips = rendered()
    for step, batch in enumerate(batches):
        wanted = Counter(SETTINGS.emotions.index(plan.emotion) for plan in clips.plans(step, 0, 3))
        assert Counter(batch.label.tolist()) == wanted
    assert Counter(clips.labels.tolist()) == {0: 3, 1: 3}
    assert [row["label"] for row in clips.rows] == clips.labels.tolist()
    assert len(clips) == 6


def test_blinks_and_clips_without_an_expression_can_be_asked_for():
    settings = replace(SETTINGS, emotions=("happiness", "neutral"), blinks=1.0)
    plans = RenderedClips(NETWORKS["mol"], people(), settings).plans(0, 0, 60)
    assert all(plan.blink is not None for plan in plans if plan.emotion == "happiness")
    assert 5 < sum(plan.blink is not None for plan in plans if plan.emotion == "neutral") < 25
    assert {plan.amplitude for plan in plans if plan.emotion == "neutral"} == {0.0}


def test_the_augmentation_is_that_of_the_run(batches):
    with rendered(augmentation=Augmentation(flip=False, drift=0.4)) as clips:
        batch = clips.training_batch(0, 0, 3)
    assert torch.equal(batch.label, batches[0].label)
    assert not torch.equal(batch.clips, batches[0].clips)


def test_the_mean_shape_is_that_of_the_clips(batches):
    landmarks = torch.cat([batch.landmarks for batch in batches]).mean((0, 1))
    # Crops shift by up to 8 pixels either way, faces and expressions differ.
    assert (rendered().mean_shape() - landmarks).abs().max() < 12
    assert rendered().mean_shape().shape == (68, 2)


def test_it_renders_ahead_and_no_further(monkeypatch: pytest.MonkeyPatch):
    held: list[int] = []
    real = MOLNetwork.hold

    def count(*arguments, **named):
        held.append(1)
        return real(*arguments, **named)

    monkeypatch.setattr(MOLNetwork, "hold", count)
    with rendered(ahead=2) as clips:
        clips.training_batch(0, 0, 2)
        deadline = time.monotonic() + 60
        while len(held) < 4:  # the batch that was asked for, two that wait, and one in the hand of the thread
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.0)
        assert len(held) == 4


# Errors, signals, and what is left behind


def test_an_error_in_a_worker_reaches_the_user_with_its_cause():
    faces = [replace(people()[0], points=people()[0].points * np.nan)]
    clips = RenderedClips(NETWORKS["mol"], faces, SETTINGS, workers=1)
    with clips, pytest.raises(ValueError, match="NaN") as caught:
        clips.training_batch(0, 0, 2)
    assert "render_stored" in str(caught.value.__cause__)
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_costs_no_clip(batches):
    with rendered(steps=3) as clips:
        assert equal(clips.training_batch(0, 0, 3), batches[0])
        for process in multiprocessing.active_children():
            process.kill()
        assert all(equal(clips.training_batch(step, 0, 3), batches[step]) for step in (1, 2))


def test_closing_leaves_no_process_and_no_thread():
    before = threading.active_count()
    clips = rendered(workers=2)
    clips.training_batch(0, 0, 2)
    assert len(multiprocessing.active_children()) == 2
    clips.close()
    clips.close()
    assert multiprocessing.active_children() == []
    assert threading.active_count() == before


def test_settings_that_cannot_work_are_refused():
    for changes in ({"workers": -1}, {"ahead": 0}):
        with pytest.raises(SettingsError, match="at least one picture and one batch ahead"):
            rendered(**changes)
    with pytest.raises(SettingsError, match="0 pictures"):
        RenderedClips(NETWORKS["mol"], [], SETTINGS)


SCRIPT = """
import multiprocessing, signal, sys
from synth_clips import people
from mol.networks.registry import NETWORKS
from mol.synth.clip_plan import SynthSettings
from mol.synth.rendered_clips import RenderedClips
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background of a shell
    try:
        with RenderedClips(NETWORKS["mol"], people(), SynthSettings(), workers=2) as clips:
            clips.training_batch(0, 0, 2)
            print(*(process.pid for process in multiprocessing.active_children()), flush=True)
            for step in range(1, 10000):
                clips.training_batch(step, 0, 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@PROC
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals):
    """A terminal's Ctrl-C goes to the whole group; a parent that is killed can't tell anyone."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert len(workers) == 2, errors
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert errors == ""
    deadline = time.monotonic() + 30
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
