"""Known-answer tests on first use: a wrong backend is left out and named, and no state of the cache is in the way."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from new_machine import begin_again, know_nothing

import molkernels as mk
from molkernels import dispatch, functional, known_answers, precision, reference, trials

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """An empty cache and no memory, as in a new process on a new machine."""
    know_nothing(monkeypatch, tmp_path / "cache")


@pytest.fixture
def planted(monkeypatch):
    """`planted(spoil)` puts a backend before all others; `spoil` changes the reference's results by function."""
    ran = []

    def plant(**spoil):
        def kernel(name):
            def run(*arguments):
                ran.append(name)
                return spoil.get(name, lambda result: result)(getattr(reference, name)(*arguments))

            return run

        backend = dispatch.Backend("planted", lambda device_type, dtype: None, kernel, lambda: "build 1")
        monkeypatch.setitem(dispatch.BACKENDS, "planted", backend)
        monkeypatch.setitem(dispatch.AUTO_ORDER, "cpu", ("planted", "reference"))
        return ran

    return plant


def maps(requires_grad=False):
    return torch.linspace(-1, 1, 2 * 3 * 4 * 4).sin().view(2, 3, 4, 4).requires_grad_(requires_grad)


def doubled(result):
    return 2 * result


def volume(backend="auto", dtype=torch.float32):
    x = maps().to(dtype)
    return functional.cost_volume(x, x, radius=1, stride=1, backend=backend)


def test_a_right_backend_is_tried_once_and_taken(planted):
    ran = planted()
    assert torch.equal(volume(), volume("reference"))
    tries = len(known_answers.SHAPES)
    assert ran == ["cost_volume", "cost_volume_backward"] * tries + ["cost_volume"]
    volume()
    assert len(ran) == 2 * tries + 2
    assert [v.passed for v in mk.verdicts("cpu") if v.backend == "planted"] == [True]


def test_a_wrong_backend_is_left_out_with_a_warning_that_says_all(planted):
    planted(cost_volume=doubled)
    with pytest.warns(
        RuntimeWarning, match="cost_volume on backend 'planted', float32, .*largest error 1, limit 0.0001"
    ) as seen:
        y = volume()
    assert "python -m molkernels --self-test" in str(seen[0].message)
    assert "report" in str(seen[0].message)
    assert torch.equal(y, volume("reference"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume()  # the warning comes once
    assert "cost_volume on cpu: reference" in mk.explain("cost_volume")
    assert "'auto' leaves it out: cost_volume on backend 'planted', float32" in mk.explain("cost_volume")
    assert "knn on cpu: planted" in mk.explain("knn")


@pytest.mark.parametrize("spoiled", ["edge_max", "edge_max_backward"])
def test_a_wrong_gradient_is_as_bad_as_a_wrong_result(planted, spoiled):
    planted(**{spoiled: lambda results: (doubled(results[0]), *results[1:])})
    block = mk.CCC(3, 4, 2)
    x = maps(requires_grad=True)
    with pytest.warns(RuntimeWarning, match="edge_max on backend 'planted'"):
        y = block(x)
    y.sum().backward()
    same = maps(requires_grad=True)
    block.backend = "reference"
    block(same).sum().backward()
    assert torch.equal(x.grad, same.grad)


def test_each_dtype_has_its_own_verdict(planted):
    planted(cost_volume=lambda y: 2 * y if y.dtype == torch.bfloat16 else y)
    volume()
    with pytest.warns(RuntimeWarning, match="bfloat16"):
        y = volume(dtype=torch.bfloat16)
    assert torch.equal(y, volume("reference", torch.bfloat16))
    assert "cost_volume on cpu: planted" in mk.explain("cost_volume", dtype=torch.float32)
    assert "cost_volume on cpu: reference" in mk.explain("cost_volume", dtype=torch.bfloat16)


def test_a_backend_asked_for_by_name_is_not_tried_and_not_blocked(planted):
    ran = planted(cost_volume=doubled)
    assert torch.equal(volume("planted"), 2 * volume("reference"))
    assert ran == ["cost_volume"]


def test_a_kernel_that_raises_is_left_out_and_tried_again_by_the_next_process(planted, monkeypatch, tmp_path):
    def broken(_result):
        raise OSError("no kernel image for this device\nand more")

    planted(cost_volume=broken)
    with pytest.warns(RuntimeWarning, match="it raised OSError: no kernel image for this device"):
        y = volume()
    assert torch.equal(y, volume("reference"))
    assert not (tmp_path / "cache" / trials.FILE).exists()
    begin_again(monkeypatch)
    planted()
    volume()
    assert "cost_volume on cpu: planted" in mk.explain("cost_volume")


def test_without_memory_for_a_trial_there_is_no_verdict(planted):
    def full(_result):
        raise torch.OutOfMemoryError("CUDA out of memory")

    planted(cost_volume_backward=full)
    assert torch.equal(volume(), volume("reference"))
    assert [v for v in mk.verdicts("cpu") if v.backend == "planted"] == []


@pytest.mark.parametrize("value", ["0", "off", "FALSE"])
def test_the_environment_switches_the_trials_off(planted, monkeypatch, value):
    monkeypatch.setenv("MOLKERNELS_SELF_TEST", value)
    ran = planted(cost_volume=doubled)
    assert torch.equal(volume(), 2 * volume("reference"))
    assert ran == ["cost_volume"]


def test_nothing_is_tried_while_a_graph_is_captured_and_the_choice_is_not_kept(planted, monkeypatch):
    ran = planted(cost_volume=doubled)
    monkeypatch.setattr(trials, "busy", lambda device: True)
    assert torch.equal(volume(), 2 * volume("reference"))
    assert ran == ["cost_volume"]
    monkeypatch.setattr(trials, "busy", lambda device: False)
    with pytest.warns(RuntimeWarning, match="planted"):
        assert torch.equal(volume(), volume("reference"))
    monkeypatch.setattr(trials, "busy", lambda device: True)
    dispatch.reselect()
    assert torch.equal(volume(), volume("reference"))  # the last verdict counts


def test_a_capture_and_tracing_are_noticed(monkeypatch):
    from torch._subclasses import FakeTensorMode

    assert not trials.busy(CPU)
    with FakeTensorMode():
        assert trials.busy(CPU)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert trials.busy(CPU)
    monkeypatch.undo()
    for capturing in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        assert trials.busy(torch.device("cuda")) is capturing


def test_compiling_a_module_runs_no_trial_until_the_first_call(planted):
    torch._dynamo.reset()
    ran = planted()
    seen = []

    def backend(graph, _inputs):
        seen.append(len(ran))
        return graph

    x = maps()
    compiled = torch.compile(
        lambda x: functional.cost_volume(x, x, radius=1, stride=1), fullgraph=True, backend=backend
    )
    assert torch.equal(compiled(x), volume("reference"))
    assert seen == [0]
    assert len(ran) > 1


def test_inference_mode_and_autocast_do_not_disturb_a_trial(planted):
    planted()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        y = volume()
    assert y.dtype == torch.bfloat16
    assert [v.passed for v in mk.verdicts("cpu") if v.backend == "planted"] == [True]


def test_the_next_process_reads_the_verdict_and_runs_nothing(planted, monkeypatch):
    ran = planted(cost_volume=doubled)
    with pytest.warns(RuntimeWarning, match="planted"):
        volume()
    begin_again(monkeypatch)
    ran.clear()
    with pytest.warns(RuntimeWarning, match="planted"):
        assert torch.equal(volume(), volume("reference"))
    assert ran == []


def test_another_build_is_tried_again(planted, monkeypatch):
    planted(cost_volume=doubled)
    with pytest.warns(RuntimeWarning, match="planted"):
        volume()
    planted()
    better = dispatch.BACKENDS["planted"]
    monkeypatch.setitem(
        dispatch.BACKENDS, "planted", dispatch.Backend("planted", better.missing, better.kernel, lambda: "build 2")
    )
    begin_again(monkeypatch)
    volume()
    assert "cost_volume on cpu: planted" in mk.explain("cost_volume")


ENTRY = {"op": "cost_volume", "backend": "planted", "device": "x", "precision": "float32", "error": 0.0, "limit": 1.0}


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {"op": "cost_volume"},
        {**ENTRY, "error": "none"},
        {**ENTRY, "limit": None},
        {**ENTRY, "op": [1]},
        {**ENTRY, "x": 1},
    ],
    ids=repr,
)
def test_a_damaged_verdict_is_found_out_again(planted, monkeypatch, tmp_path, entry):
    planted(cost_volume=doubled)
    with pytest.warns(RuntimeWarning, match="planted"):
        volume()
    file = tmp_path / "cache" / trials.FILE
    content = json.loads(file.read_text())
    (key,) = content
    file.write_text(json.dumps({key: {"cost_volume float32": entry}}))
    begin_again(monkeypatch)
    with pytest.warns(RuntimeWarning, match="planted"):
        assert torch.equal(volume(), volume("reference"))
    assert json.loads(file.read_text()) == content


def test_a_cache_that_cannot_be_written_is_no_error(planted, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOLKERNELS_CACHE", str(tmp_path / "file" / "cache"))
    ran = planted()
    volume()
    tries = len(ran)
    volume()
    assert len(ran) == tries + 1


def test_float32_with_tf32_has_its_own_verdict_and_limit(monkeypatch):
    cuda = torch.device("cuda")
    with precision.tf32(True):
        assert trials.arithmetic("fcc", torch.float32, cuda) == "tf32"
        assert trials.arithmetic("knn", torch.float32, cuda) == "float32"
        assert trials.arithmetic("fcc", torch.bfloat16, cuda) == "bfloat16"
        assert trials.arithmetic("fcc", torch.float32, CPU) == "float32"
    with precision.tf32(False):
        assert trials.arithmetic("fcc", torch.float32, cuda) == trials.arithmetic("f5c", None, cuda) == "float32"
        monkeypatch.setattr(precision, "conv_tf32", lambda: True)
        assert trials.arithmetic("f5c", None, cuda) == "tf32"
        assert trials.arithmetic("fcc", None, cuda) == "float32"
    assert set(known_answers.LIMITS) > {"tf32", "float32"}


def test_a_kernel_taken_in_float32_is_judged_again_before_it_runs_in_tf32(planted, monkeypatch):
    planted()
    monkeypatch.setitem(dispatch.AUTO_ORDER, "cuda", ("planted", "reference"))
    monkeypatch.setattr(trials, "busy", lambda device: False)
    judged = []
    monkeypatch.setattr(
        trials, "passes", lambda op, _, device, dtype: judged.append(trials.arithmetic(op, dtype, device)) or True
    )
    for allowed in (False, False, True, True):
        with precision.tf32(allowed):
            dispatch.kernel("fcc", torch.device("cuda"), "auto", torch.float32)
    assert judged == ["float32", "tf32"]


def test_processes_of_their_own_share_a_verdict(tmp_path):
    """Two interpreters, one after the other, with the same planted backend."""
    code = """
import warnings, torch
from molkernels import dispatch, functional, reference
ran = []
def kernel(name):
    return lambda *a: ran.append(name) or 2 * getattr(reference, name)(*a)
dispatch.BACKENDS["planted"] = dispatch.Backend("planted", lambda d, t: None, kernel)
dispatch.AUTO_ORDER["cpu"] = ("planted", "reference")
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    functional.knn(torch.eye(4)[None], 2)
print(len(ran), len(seen))
"""
    environment = {"MOLKERNELS_CACHE": str(tmp_path / "shared"), "PYTHONPATH": ":".join(p for p in sys.path if p)}
    results = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(2)
    ]
    tries = 2 * len(known_answers.SHAPES)
    assert results == [f"{tries} 1\n", "0 1\n"]
