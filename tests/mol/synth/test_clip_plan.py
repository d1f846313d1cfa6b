"""What is drawn for each clip."""

from dataclasses import replace

import pytest
from synth_clips import people

from mol.common.errors import SettingsError
from mol.synth.action_units import EMOTIONS
from mol.synth.clip_plan import SynthSettings, plan_clips
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
        {"seed": -1},
        {"frames": 1},
        {"size": 16},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        SynthSettings(**wrong)
