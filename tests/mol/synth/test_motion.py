"""Motion over time."""

import numpy as np

from mol.synth.motion import blink_profile, intensity_profile


def test_intensity_rises_to_the_apex_and_falls_to_the_offset():
    profile = intensity_profile(40, onset=4, apex=18, offset=33, residue=0.2)
    assert (profile[:5] == 0).all()
    assert profile[18] == 1 == profile.max()
    assert (np.diff(profile[4:19]) > 0).all()
    assert (np.diff(profile[18:34]) < 0).all()
    np.testing.assert_allclose(profile[33:], 0.2)


def test_eyelids_close_faster_than_they_open():
    profile = blink_profile(60, first=5, closed=17, last=40)
    assert (profile[:6] == 0).all()
    assert (profile[40:] == 0).all()
    assert profile[17] == 1 == profile.max()
    assert (np.diff(profile[5:18]) > 0).all()
    assert (np.diff(profile[17:41]) < 0).all()
    assert np.diff(profile).max() > -1.5 * np.diff(profile).min()


def test_a_blink_may_begin_before_the_video_and_end_after_it():
    profile = blink_profile(10, first=-8, closed=2, last=20)
    np.testing.assert_array_equal(profile, blink_profile(40, first=4, closed=14, last=32)[12:22])
