"""Which of PyTorch's settings lets which float32 product use TF32."""

import subprocess
import sys

import pytest
import torch
from targets import EMULATED, Target

import molkernels as mk
from molkernels import functional, precision
from molkernels.functional import EdgeParameters

# A setting of PyTorch, and whether matrix products and convolutions may then use TF32.
SETTINGS = [
    ("", False, True),
    ("torch.set_float32_matmul_precision('high')", True, True),
    ("torch.set_float32_matmul_precision('medium')", True, True),
    ("b.cuda.matmul.allow_tf32 = True", True, True),
    ("b.cudnn.allow_tf32 = False", False, False),
    ("b.fp32_precision = 'tf32'", True, True),
    ("b.fp32_precision = 'ieee'", False, False),
    ("b.cuda.matmul.fp32_precision = 'tf32'", True, True),
    ("b.cudnn.conv.fp32_precision = 'ieee'", False, False),
]


@pytest.fixture(scope="module")
def allowed():
    """What is allowed by setting, each in a process of its own: PyTorch refuses to mix the older and the newer ones."""
    code = """
import os, sys, torch
from molkernels import precision
b = torch.backends
for setting in sys.argv[1:]:
    if not os.fork():  # importing PyTorch takes seconds
        exec(setting)
        print(precision.matmul_tf32(), precision.conv_tf32(), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""
    names = [name for name, _, _ in SETTINGS]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(names, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize(("setting", "matmul", "conv"), SETTINGS)
def test_every_setting_of_pytorch_is_respected(allowed, setting, matmul, conv):
    assert allowed[setting] == f"{matmul} {conv}"


@pytest.mark.parametrize("allowed", [False, True])
def test_a_block_sets_both_and_restores_them(allowed):
    before = precision.matmul_tf32(), precision.conv_tf32()
    with precision.tf32(allowed):
        assert precision.matmul_tf32() is precision.conv_tf32() is allowed
        assert (torch.get_float32_matmul_precision() != "highest") is allowed
    assert (precision.matmul_tf32(), precision.conv_tf32()) == before


def test_each_operator_follows_the_setting_of_its_kind():
    generator = torch.Generator().manual_seed(3)
    block = mk.F5C(8, 8, 8, backend=EMULATED).eval()
    torch.nn.init.normal_(block.mix.weight, generator=generator)
    x = torch.randn(2, 8, 8, 8, generator=generator)
    edge = EdgeParameters(*(p.detach() for p in block.ccc.edge_parameters()))
    statistics = torch.zeros(8), torch.ones(8)

    def results():
        with torch.no_grad():
            idx = functional.knn(x, 8, backend=EMULATED)
            parameters = block.fcc.parameters_for_axes()
            return {
                "knn": idx,
                "fcc": functional.fcc(x, parameters, *statistics, backend=EMULATED),
                "edge_max": functional.edge_max(x, idx, edge, backend=EMULATED)[0],
                "cost_volume": functional.cost_volume(x, x.flip(0), radius=1, backend=EMULATED),
                "f5c": block(x),
            }

    with Target(EMULATED, "cpu").active(), precision.tf32(False), pytest.MonkeyPatch.context() as patch:
        ieee = results()
        for kind, rounded in (
            ("matmul_tf32", {"fcc", "edge_max", "cost_volume", "f5c"}),
            ("conv_tf32", {"f5c"}),
        ):
            with patch.context() as one:
                one.setattr(precision, kind, lambda: True)
                changed = {name for name, value in results().items() if not torch.equal(value, ieee[name])}
            assert changed == rounded
