"""The comparison with float64: right results pass, planted errors do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from torture import operators
from torture.operators import _OPERATORS, _arranged, _cases, _compare, _simplest, _try, units
from torture.sandbox import InvalidResultError
from torture.unit import Session


@pytest.mark.parametrize("operator", _OPERATORS)
def test_the_formula_itself_in_float64_passes(operator: str):
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(_cases(operator))
    def check(case):
        plain = {
            **case,
            "backend": "reference",
            "dtype": "float64",
            "offset": 0.0,
            "inner_threads": 1,
            "bad_index": None,
        }
        try:
            _try(plain)
        except ValueError:
            assert plain["refused"] or plain["groups"] > 1 or plain["n"] * plain["h"] * plain["w"] <= plain["groups"]

    check()


def exact_and_bound() -> tuple[torch.Tensor, torch.Tensor]:
    exact = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return exact, exact.abs() + 1


def test_rounding_passes_and_a_wrong_element_does_not():
    exact, bound = exact_and_bound()
    _compare(exact.float(), exact, bound, torch.float32, 4)
    wrong = exact.float()
    wrong[1, 2] += 1e-3
    with pytest.raises(InvalidResultError, match=r"inaccurate result: .* at \(1, 2\)"):
        _compare(wrong, exact, bound, torch.float32, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_may_not_spread_to_finite_elements(value: float):
    exact, bound = exact_and_bound()
    wrong = exact.float()
    wrong[0, 1] = value
    with pytest.raises(InvalidResultError, match="not finite"):
        _compare(wrong, exact, bound, torch.float32, 4)


def test_nan_may_not_be_lost():
    exact, bound = exact_and_bound()
    result = exact.float()
    exact[0, 0] = float("nan")
    with pytest.raises(InvalidResultError, match="NaN lost"):
        _compare(result, exact, bound, torch.float32, 4)


@pytest.mark.parametrize("layout", operators._LAYOUTS)
def test_layouts_keep_values(layout: str):
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    expected = x[:1].expand_as(x) if layout == "expanded" else x
    assert torch.equal(_arranged(x, layout), expected)
    assert _arranged(x[:0], layout).shape == (0, 4, 5, 6)


@pytest.mark.slow
def test_a_planted_fault_is_found_and_its_case_made_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    knn = operators.functional.knn

    def careless(x, k, **options):
        idx = knn(x, k, **options)
        return idx.flip(2) if x.shape[1] > 2 and k > 1 else idx

    monkeypatch.setattr(operators.functional, "knn", careless)
    unit = next(unit for unit in units() if unit.name == "knn")
    session = Session(unit, tmp_path, tmp_path, tmp_path / "failures", 3, 60, 300.0)
    unit.run(session)
    assert session.done == 60
    faults = [fault for fault in session.faults.values() if fault.outcome.error == "inaccurate similarity"]
    assert faults
    from torture import reproducers

    case, _ = reproducers.load(faults[0].reproducer, tmp_path / "case")
    assert (case["case"]["offset"], case["case"]["threads"], case["case"]["k"]) != (0, 4, 1)
    assert unit.repeat(session, case, None).is_fault
    assert _simplest(case["case"], session, faults[0].outcome) == case["case"]
