"""Backends: which one runs, which calls are rejected, and the error messages."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import molkernels as mk
from molkernels import dispatch, functional
from molkernels.functional import EdgeParameters


def test_the_reference_is_available_everywhere():
    for device in ("cpu", "cuda", "mps", "meta"):
        assert mk.available_backends(device)[-1] == "reference"


def test_a_backend_asked_for_by_name_runs_or_raises_and_never_falls_back(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch.reselect()
    x = torch.randn(2, 4, 3, 3)
    absent = [name for name in ("cpu", "cuda", "triton") if name not in mk.available_backends("cpu")]
    for name in absent:
        with pytest.raises(RuntimeError, match=f"backend '{name}' was requested but cannot run"):
            mk.F5C(4, 3, 2, backend=name)(x)
        with mk.backend(name), pytest.raises(RuntimeError, match=f"backend '{name}' was requested"):
            mk.F5C(4, 3, 2)(x)


def test_an_explicit_backend_wins_over_the_enclosing_block():
    x = torch.randn(2, 4, 3, 3)
    with mk.backend("triton"):
        assert mk.F5C(4, 3, 2, backend="reference")(x).shape == x.shape


def test_the_block_ends_with_its_with_statement_and_stays_in_its_thread():
    seen = []
    with mk.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(mk.explain("knn")))
        thread.start()
        thread.join()
        assert "requested: reference" in mk.explain("knn")
    assert "requested: auto" in seen[0]
    assert "requested: auto" in mk.explain("knn")
    with pytest.raises(KeyError), mk.backend("reference"):
        raise KeyError
    assert "requested: auto" in mk.explain("knn")


def test_unknown_names_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="backend is 'gpu'; must be one of 'auto', 'reference'"), mk.backend("gpu"):
        pass
    with pytest.raises(ValueError, match="backend is 'gpu'"):
        mk.F5C(4, 3, 2, backend="gpu")
    with pytest.raises(ValueError, match="op is 'conv'; must be one of 'fcc'"):
        mk.explain("conv")


def test_explain_names_each_backend_and_a_reason():
    text = mk.explain("edge_max", "cuda")
    for name in ("reference", "cpu", "cuda", "triton"):
        assert name in text
    assert "it runs on cpu tensors only" in text


def test_the_module_prints_what_was_built():
    out = subprocess.run([sys.executable, "-m", "molkernels"], capture_output=True, text=True, check=True).stdout
    info, _ = json.JSONDecoder().raw_decode(out)
    assert info == mk.build_info()
    assert "fcc on cpu" in out


def test_importing_molkernels_imports_no_triton():
    code = "import sys, molkernels; molkernels.explain(device='cuda'); sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_triton_the_reason_says_how_to_get_it():
    code = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, path=None, t=None: None if name == "triton" else find(name, path))
import molkernels, torch
assert "triton: cannot run, triton is not installed (pip install triton)" in molkernels.explain("knn", "cuda")
assert molkernels.build_info()["backends"]["triton"].startswith("not installed: ")
try:
    molkernels.F5C(4, 3, 2, backend="triton")(torch.randn(2, 4, 3, 3))
except RuntimeError as error:
    assert "triton is not installed (pip install triton)" in str(error), error
else:
    sys.exit("it ran")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def edge(positions=9, **options):
    return EdgeParameters(*(torch.randn(*s, **options) for s in ((positions, positions), (positions,)) * 2))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mk.F5C(5, 3, 2), ValueError, "channels is 5; FCC needs an even number, at least 2"),
        (lambda: mk.F5C(4, 65, 2), ValueError, "size has H = 65; must be between 1 and 64"),
        (lambda: mk.F5C(4, 0, 2), ValueError, "size has H = 0"),
        (lambda: mk.F5C(4, 40, 2, "released"), ValueError, "crop to at most 32"),
        (lambda: mk.F5C(4, 3, 5), ValueError, "k is 5; the graph has only 4 nodes"),
        (lambda: mk.F5C(32, 4, 17), ValueError, "k is 17; must be between 1 and 16"),
        (lambda: mk.F5C(4, 3, 0), ValueError, "k is 0"),
        (
            lambda: mk.F5C(4, 3, 2, "published"),
            ValueError,
            "variant is 'published'; must be one of 'paper', 'released'",
        ),
        (lambda: mk.FCC(4, 3, resize="pad"), ValueError, "resize is 'pad'"),
        (lambda: mk.CCC(4, 3, graph="pixel"), ValueError, "graph is 'pixel'"),
        (lambda: mk.F5C(4, 3, 2)(torch.randn(2, 4, 3, 4)), ValueError, "this module was made for size=(3, 3)"),
        (lambda: mk.F5C(4, 3, 2)(torch.randn(2, 6, 3, 3)), ValueError, "gamma has shape (4,); (6,) is needed"),
        (lambda: mk.F5C(4, 3, 2)(torch.randn(4, 3, 3)), ValueError, "(N, C, H, W) is needed"),
        (lambda: mk.F5C(4, 3, 2)(torch.ones(2, 4, 3, 3, dtype=torch.int64)), TypeError, "x has dtype torch.int64"),
        (lambda: mk.F5C(4, 3, 2)(torch.randn(2, 4, 3, 3).double()), TypeError, "gamma has dtype torch.float32"),
        (lambda: mk.F5C(4, 3, 2)([1.0]), TypeError, "x is list; a torch.Tensor is needed"),
        (lambda: mk.F5C(4, 3, 2)(torch.randn(2, 4, 3, 3, device="meta")), ValueError, "gamma is on cpu; x is on meta"),
        (
            lambda: mk.F5C(4, 3, 2)(torch.randn(3, 4, 3, 3), 2),
            ValueError,
            "groups is 2; it does not divide the 3 samples",
        ),
        (lambda: mk.F5C(4, 1, 1)(torch.randn(1, 4, 1, 1)), ValueError, "one value per channel and group"),
        (lambda: functional.knn(torch.randn(2, 4, 3, 3), 5), ValueError, "k is 5; the graph has only 4 nodes"),
        (
            lambda: functional.edge_max(torch.randn(2, 4, 3, 3), torch.zeros(2, 4, 2), edge()),
            TypeError,
            "idx has type torch.float32",
        ),
        (
            lambda: functional.edge_max(torch.randn(2, 4, 3, 3), torch.zeros(2, 9, 2, dtype=torch.int32), edge()),
            ValueError,
            "(N, nodes, k) = (2, 4, k) is needed",
        ),
        (
            lambda: functional.ccc(torch.randn(2, 4, 3, 3), edge(8)),
            ValueError,
            "weight1 has shape (8, 8); (9, 9) is needed",
        ),
        (lambda: mk.CostVolume(-1), ValueError, "radius is -1"),
        (lambda: mk.F5C(4, 3, True), TypeError, "k is True, of type bool; an integer is needed"),
        (lambda: mk.F5C(4, True, 2), TypeError, "size H is True"),
        (lambda: mk.F5C(4, (3, 3.5), 2), TypeError, "size W is 3.5"),
        (lambda: mk.F5C(4, (3, 3, 3), 2), ValueError, "a pair (H, W) is needed"),
        (lambda: mk.F5C(True, 3, 2), TypeError, "channels is True"),
        (lambda: mk.FCC("4", 3), TypeError, "channels is '4'"),
        (lambda: mk.CCC(True, 3, 1), TypeError, "channels is True"),
        (lambda: mk.CCC(4, 3, 2.0), TypeError, "k is 2.0, of type float"),
        (lambda: mk.FCC(4, 3, eps=True), TypeError, "eps is True, of type bool; a number is needed"),
        (lambda: mk.FCC(4, 3, eps=-1.0), ValueError, "eps is -1.0"),
        (lambda: mk.FCC(4, 3, momentum=True), TypeError, "momentum is True"),
        (lambda: mk.FCC(4, 3, momentum=1.5), ValueError, "momentum is 1.5"),
        (lambda: mk.CostVolume(True), TypeError, "radius is True"),
        (lambda: mk.CostVolume(1, True), TypeError, "stride is True"),
        (lambda: mk.CostVolume(1, 1, negative_slope=True), TypeError, "negative_slope is True"),
        (lambda: mk.F5C(4, 3, 2)(torch.randn(2, 4, 3, 3), True), TypeError, "groups is True"),
        (lambda: mk.FCC(4, 3)(torch.randn(2, 4, 3, 3), True), TypeError, "groups is True"),
        (lambda: functional.knn(torch.randn(2, 4, 3, 3), True), TypeError, "k is True"),
        (lambda: functional.ccc(torch.randn(2, 4, 3, 3), edge(), k=True), TypeError, "k is True"),
        (lambda: functional.reachable_displacements(True, 1, 4), TypeError, "radius is True"),
        (lambda: functional.reachable_displacements(1, 1, True), TypeError, "size H is True"),
        (lambda: mk.CostVolume(1, 0), ValueError, "stride is 0"),
        (lambda: mk.CostVolume(1, 1, negative_slope=-0.1), ValueError, "negative_slope is -0.1"),
        (
            lambda: mk.CostVolume()(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 4)),
            ValueError,
            "b has shape (2, 4, 3, 4)",
        ),
        (lambda: mk.CostVolume()(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3).double()), TypeError, "b has dtype"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"])
def test_a_wrong_argument_is_refused_by_name_whatever_the_backend(call, error, words, backend):
    """Checks run before a backend is selected: the message is the same, even if the backend cannot run at all."""
    with mk.backend(backend), pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_integers_of_numpy_are_integers():
    two, three = np.int64(2), np.int32(3)
    x = torch.randn(2, 4, 3, 3)
    assert mk.F5C(np.int64(4), (three, three), two)(x, two).shape == x.shape
    assert mk.CostVolume(two, two, negative_slope=np.float32(0.5))(x, x).shape == (2, 25, 3, 3)
