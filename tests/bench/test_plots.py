"""Pictures of a made-up result."""

import json

import pytest
from bench_results import whole_result

from bench import plots


@pytest.fixture
def result():
    return whole_result()


def test_pictures_are_drawn_in_both_formats_and_the_same_again(result, tmp_path):
    first, second = plots.draw(result, tmp_path / "a"), plots.draw(json.loads(json.dumps(result)), tmp_path / "b")
    names = ["speedup", "roofline", "scaling", "memory"]
    assert [path.name for path in first] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size > 5000
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"<?xml")


def test_pictures_without_rows_are_not_drawn(result, tmp_path):
    result["rows"] = [row | {"peak_bytes": None} for row in result["rows"] if row["sweep"] is None]
    result["memory"] = []
    assert [path.name for path in plots.draw(result, tmp_path) if path.suffix == ".png"] == [
        "speedup.png",
        "roofline.png",
    ]


def test_the_speed_up_over_torch_compile_is_that_over_the_faster_form(result):
    row = result["rows"][1]
    slower = row["speedup_over"]["compiled-reference"]
    row["speedup_over"]["compiled-idiomatic"] = faster = [ratio / 2 for ratio in slower]
    forms = plots.OVER["torch.compile"]
    assert plots.least_speedup(row, forms) == faster
    row["speedup_over"]["compiled-idiomatic"] = [ratio * 2 for ratio in slower]
    assert plots.least_speedup(row, forms) == slower
    assert plots.least_speedup(row, plots.OVER["max-autotune"]) is None


def test_the_ideal_grows_with_the_work_and_shrinks_with_the_threads(result):
    first = result["rows"][1]
    double = first | {"flops": 2 * first["flops"], "sizes": {**first["sizes"], "threads": 8}}
    assert plots.ideal_ms(first, double) == pytest.approx(1e3 * first["seconds"][1] / 2)
