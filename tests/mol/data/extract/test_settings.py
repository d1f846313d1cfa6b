"""Settings of an extraction."""

import pytest

from mol.common.errors import SettingsError
from mol.data.extract.settings import ExtractConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"short": "stretch"},
        {"several": "first"},
        {"align": "video"},
        {"upsample": 2},
        {"subclips": -1},
        {"detect_every": 0},
        {"detect_width": -1},
        {"enlarge": 0.0},
        {"workers": -1},
        {"on_error": "ignore"},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        ExtractConfig(manifest="m", out="c", **wrong)
