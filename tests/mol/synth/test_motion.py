"""Motion over time."""

import numpy as np

from mol.synth.motion import intensity_profile


def test_intensity_rises_to_the_apex_and_falls_to_the_offset():
    profile = intensity_profile(40, onset=4, apex=18, offset=33, residue=0.2)
    assert (profile[:5] == 0).all()
    assert profile[18] == 1 == profile.max()
    assert (np.diff(profile[4:19]) > 0).all()
    assert (np.diff(profile[18:34]) < 0).all()
    np.testing.assert_allclose(profile[33:], 0.2)
