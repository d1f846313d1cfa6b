"""What training on a part of the work costs: `pytest bench/test_learning.py`."""

import pytest

from bench.learning import step_rates


def test_a_step_of_the_emotion_alone_costs_what_its_arithmetic_costs(request):
    """It skips FlowNet and the landmark head: a twentieth of the work of a whole step."""
    if request.config.getoption("--device") != "cpu":
        pytest.skip("measured on the CPU only")
    rates = step_rates()
    print("\n" + ", ".join(f"{kind}: {rate:.1f} clips/s" for kind, rate in rates.items()))
    assert rates["emotion"] >= 8 * rates["whole"]
