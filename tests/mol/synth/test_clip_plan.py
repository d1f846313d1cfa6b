"""What is drawn for each clip."""

from dataclasses import replace

import pytest
from synth_clips import people

from mol.common.errors import SettingsError
from mol.synth.action_units import EMOTIONS
from mol.synth.clip_plan import NEUTRAL_BLINKS, SynthSettings, plan_clips
from mol.synth.render import sampled_times


def test_plans_take_turns_through_the_emotions_and_their_alternatives():
    settings = SynthSettings(people=3, clips=60)
    plans = plan_clips(people(), settings)
    assert len(plans) == 180
    for emotion in settings.emotions:
        mine = [plan for plan in plans if plan.emotion == emotion]
        assert len(mine) == 30
        assert {tuple(sorted(plan.intensities)) for plan in mine} == {tuple(sorted(u)) for u in EMOTIONS[emotion]}
    for plan in plans:
        assert 0 <= plan.onset < plan.apex < plan.offset < plan.length
        times = sampled_times(plan, plan.starts[0], 8)
        assert times[0] >= 0
        assert times[0] < plan.apex < times[-1] < plan.length
        assert 0.3 <= plan.amplitude <= 3.0


def test_clips_of_a_person_do_not_depend_on_the_other_people():
    settings = SynthSettings(people=3)
    alone = plan_clips(people()[:1], settings)
    among = plan_clips(people(), settings)[: len(alone)]
    assert [plan.noise_seed for plan in alone] == [plan.noise_seed for plan in among]
    other_seed = plan_clips(people()[:1], replace(settings, seed=1))
    assert not {plan.noise_seed for plan in alone} & {plan.noise_seed for plan in other_seed}


def test_blinks_change_nothing_else_about_a_clip():
    settings = SynthSettings(people=2, clips=12)
    without, half, every = (plan_clips(people()[:2], replace(settings, blinks=share)) for share in (0.0, 0.5, 1.0))
    assert all(plan.blink is None for plan in without)
    assert all(plan.blink is not None for plan in every)
    assert 6 <= sum(plan.blink is not None for plan in half) <= 18
    for plain, blinking in zip(without, every, strict=True):
        assert plain.noise_seed == blinking.noise_seed
        assert plain.intensities == blinking.intensities
        assert blinking.action_units == [*plain.action_units, 45]


def test_neutral_clips_are_drawn_like_the_others_but_show_nothing():
    settings = SynthSettings(people=3, clips=60, emotions=("happiness", "neutral"))
    plans = [plan for plan in plan_clips(people(), settings) if plan.emotion == "neutral"]
    assert len(plans) == 90
    for plan in plans:
        assert (plan.intensities, plan.amplitude) == ({}, 0.0)
        assert 0 <= plan.onset < plan.apex < plan.offset < plan.length
        if plan.blink:
            assert 0 < plan.blink.closed < plan.length
            assert plan.blink.first < plan.blink.closed < plan.blink.last
    assert sum(plan.blink is not None for plan in plans) / 90 == pytest.approx(NEUTRAL_BLINKS, abs=0.15)


def test_plans_of_earlier_versions_stay_as_they_were():
    """The first clip of seed 0, as version 0.2.0 drew it."""
    plan = plan_clips(people()[:1], SynthSettings(people=1, pictures=1))[0]
    assert (plan.emotion, plan.length, plan.onset, plan.apex, plan.offset) == ("happiness", 34, 0, 18, 29)
    assert (plan.starts, plan.noise_seed) == ((3,), 1191558744671493402)
    assert (plan.amplitude, plan.residue) == pytest.approx((2.816459629290328, 0.09085706236042815), rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"emotions": ("joy",)},
        {"emotions": ("anger", "anger")},
        {"emotions": ()},
        {"sources": ("somebody",)},
        {"people": 0},
        {"people": 41},
        {"clips": 0},
        {"amplitude": (0.0, 3.0)},
        {"amplitude": (2.0, 1.0)},
        {"amplitude": (0.3, 4.0)},
        {"length": (15, 40)},
        {"length": (24, 72), "subclips": 4},
        {"length": (72, 24)},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"blinks": -0.1},
        {"blinks": 1.1},
        {"blinks": float("nan")},
        {"seed": -1},
        {"frames": 1},
        {"size": 16},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        SynthSettings(**wrong)
