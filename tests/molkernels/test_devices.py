"""self_test and tune on the CPU, as a user calls them and from the command line."""

import json
import subprocess
import sys

import pytest
import torch
from new_machine import begin_again, know_nothing

import molkernels as mk
from molkernels import devices, dispatch, functional, reference
from molkernels.__main__ import main

needs_cpu = pytest.mark.skipif("cpu" not in mk.available_backends("cpu"), reason="the CPU library was not built")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    know_nothing(monkeypatch, tmp_path / "cache")
    for name, value in {"MAPS": 2, "CHANNELS": 8, "SIDE": 4, "RADIUS": 2, "SECONDS": 0.01}.items():
        monkeypatch.setattr(devices, name, value)


def plant(monkeypatch, run, before=True):
    """A backend for the CPU: `run(name, arguments)` computes."""
    backend = dispatch.Backend(
        "planted", lambda device_type, dtype: None, lambda name: lambda *arguments: run(name, arguments)
    )
    monkeypatch.setitem(dispatch.BACKENDS, "planted", backend)
    order = list(dispatch.AUTO_ORDER["cpu"])
    order.insert(0 if before else 1, "planted")
    monkeypatch.setitem(dispatch.AUTO_ORDER, "cpu", tuple(order))


def without_compiling(monkeypatch):
    """Compilation takes a minute and has a test of its own."""
    left_out = dispatch.Backend("compiled", lambda device_type, dtype: "left out", lambda name: None)
    monkeypatch.setitem(dispatch.BACKENDS, "compiled", left_out)


@needs_cpu
def test_self_test_covers_every_operator_and_dtype_and_is_remembered(monkeypatch):
    found = mk.self_test("cpu")
    assert {(v.op, v.precision) for v in found} == {
        (op, precision) for op in dispatch.OPERATORS for precision in ("float64", "float32", "bfloat16", "float16")
    }
    assert all(v.passed and v.backend == "cpu" for v in found)
    begin_again(monkeypatch)
    assert sorted(map(str, mk.verdicts("cpu"))) == sorted(map(str, found))


def test_self_test_finds_a_planted_error_and_auto_leaves_it_out_at_once(monkeypatch):
    wrong = []
    plant(
        monkeypatch,
        lambda name, arguments: getattr(reference, name)(*arguments) + (1 if name in wrong else 0),
    )
    nodes = torch.eye(4)[None]
    functional.knn(nodes, 2)
    wrong.append("knn")
    failed = [v for v in mk.self_test() if not v.passed and v.op == "knn"]
    assert {v.backend for v in failed} == {"planted"}
    assert "FAILED" in str(failed[0])
    with pytest.warns(RuntimeWarning, match="knn on backend 'planted'"):
        assert torch.equal(functional.knn(nodes, 2), reference.knn(nodes, 2))


def test_a_device_with_nothing_but_the_reference_has_no_verdicts():
    assert mk.self_test("meta") == mk.verdicts("meta") == []


def test_tune_measures_each_backend_and_auto_goes_by_it(monkeypatch):
    without_compiling(monkeypatch)
    monkeypatch.setattr(devices, "_seconds", lambda call, leaves, name, device: {"planted": 1e-3}.get(name, 2e-3))
    plant(monkeypatch, lambda name, arguments: getattr(reference, name)(*arguments), before=False)
    assert "fcc on cpu: planted" not in mk.explain("fcc")
    times = mk.tune("cpu")
    assert set(times) == set(dispatch.OPERATORS)
    assert all(next(iter(of_op)) == "planted" for of_op in times.values())
    for begin in (False, True):  # in this process, and in the next
        if begin:
            begin_again(monkeypatch)
        text = mk.explain("fcc")
        assert "fcc on cpu: planted" in text
        assert "measured by molkernels.tune: planted 1 ms" in text
        for op in ("fcc_backward", "edge_max_backward", "cost_volume_backward"):
            assert dispatch.order(op, torch.device("cpu"))[0] == "planted"


def test_tune_really_measures(monkeypatch):
    without_compiling(monkeypatch)
    times = mk.tune()
    for op, of_op in times.items():
        assert set(of_op) == set(mk.available_backends("cpu")), op
        assert list(of_op.values()) == sorted(of_op.values())
        assert all(0 < seconds < 10 for seconds in of_op.values())


def test_tune_does_not_measure_what_is_wrong(monkeypatch):
    without_compiling(monkeypatch)

    def twice(name, arguments):
        found = getattr(reference, name)(*arguments)
        return 2 * found if isinstance(found, torch.Tensor) else tuple(2 * f for f in found)

    plant(monkeypatch, twice)
    with pytest.warns(RuntimeWarning, match="planted"):
        assert not any("planted" in of_op for of_op in mk.tune("cpu").values())


def test_times_of_another_build_and_damaged_ones_do_not_count(monkeypatch, tmp_path):
    without_compiling(monkeypatch)
    mk.tune("cpu")
    file = tmp_path / "cache" / dispatch.TIMES_FILE
    (key,) = json.loads(file.read_text())
    file.write_text(
        json.dumps({key: {"fcc": {"reference": "quick", "unheard-of": 1.0}, "knn": 3}, "another": {"fcc": {}}})
    )
    begin_again(monkeypatch)
    usual = dispatch.AUTO_ORDER["cpu"]
    assert dispatch.order("fcc", torch.device("cpu")) == dispatch.order("knn", torch.device("cpu")) == usual


@pytest.mark.slow
def test_the_compiled_reference_of_ccc_is_measured_and_can_be_taken(monkeypatch):
    """With its gradient, under autograd and in inference mode."""
    real = devices._seconds
    monkeypatch.setattr(devices, "_seconds", lambda *run: real(*run) / (1e6 if run[2] == "compiled" else 1))
    times = mk.tune("cpu")
    assert [op for op, of_op in times.items() if "compiled" in of_op] == ["knn", "edge_max"]
    assert "edge_max on cpu: compiled" in mk.explain("edge_max")
    assert "fcc on cpu: compiled" not in mk.explain("fcc")
    block, same = mk.CCC(8, 4, 2), mk.CCC(8, 4, 2, backend="reference")
    same.load_state_dict(block.state_dict())
    x = torch.linspace(-1, 1, 256).sin().view(2, 8, 4, 4)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = block(one), same(other)
    torch.testing.assert_close(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(block.weight2.grad, same.weight2.grad)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), same(x))


@needs_cpu
def test_the_command_prints_verdicts_and_fails_if_one_does(monkeypatch, capsys):
    assert main(["--self-test", "--device", "cpu"]) == 0
    assert "fcc on backend 'cpu', bfloat16" in capsys.readouterr().out
    without_compiling(monkeypatch)
    assert main(["--tune", "--device", "cpu"]) == 0
    assert "measured by molkernels.tune: " in capsys.readouterr().out
    plant(monkeypatch, lambda name, arguments: 1 / 0)
    assert main(["--self-test", "--device", "cpu"]) == 1
    assert "it raised ZeroDivisionError" in capsys.readouterr().out


@needs_cpu
def test_the_command_runs_as_a_process(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "molkernels", "--self-test"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "cost_volume on backend 'cpu', float64" in run.stdout
