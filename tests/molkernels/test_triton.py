"""The Triton kernels, in addition to test_ops.py and test_properties.py, which test all backends: the compiled code,
the choice of tile sizes, and the paths that small maps do not take.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from targets import random

from molkernels import precision, reference, triton
from molkernels.functional import EdgeParameters

if not triton.installed():
    pytest.skip("triton is not installed (pip install triton)", allow_module_level=True)

from molkernels.triton import edge_max, fcc, launch, report, tuning

interpreted = pytest.mark.skipif(not triton.interpreted(), reason="compiled kernels do not run on CPU tensors")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(17)


def python(*arguments):
    """A Python that compiles Triton kernels instead of interpreting them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------
# Compiled ahead of time


def test_no_compiled_kernel_spills_or_leaves_the_tensor_cores_idle():
    command = ("-m", "molkernels.triton.report", "--arch", "sm_90", "--precision", "tf32", "--size", "16")
    run = python(*command, "--jobs", "1")
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 with a problem." in run.stdout


@pytest.mark.slow
def test_no_compiled_kernel_has_a_problem_on_any_architecture_or_size():
    run = python("-m", "molkernels.triton.report", "--jobs", "2")
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_report_sees_spills_too_much_shared_memory_and_idle_tensor_cores():
    code = """
from molkernels.triton import report, tuning
report.SHARED_LIMIT = {"sm": 100}
(row,) = report.rows("f5c", "sm_90", "tf32", 16)
assert row.problem == "too much shared memory", row
report.SHARED_LIMIT = {"sm": 1 << 20}
tuning.TABLE["mix_fwd_kernel", None, "ieee"] = tuning.Config({"BLOCK_C": 64, "BLOCK_D": 128, "BLOCK_P": 128}, 4, 1)
(row,) = report.rows("f5c", "sm_90", "float32", 16)
assert row.problem == "spills" and row.spills > 0, row
report.expects_matrix_instructions = lambda *_: True
assert "no tensor cores" in report.rows("f5c", "sm_90", "float32", 16)[0].problem
"""
    run = python("-c", code)
    assert run.returncode == 0, run.stderr


def test_the_report_refuses_the_interpreter(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit) as stopped:
        report.main([])
    assert stopped.value.code == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("precision", "architecture", "products"),
    [
        ("tf32", "sm_80", {"tf32"}),
        ("float32", "sm_80", {"ieee"}),
        ("bfloat16", "sm_80", {"ieee"}),
        ("tf32", "gfx942", {"tf32"}),
        ("tf32", "gfx1100", {"ieee"}),
    ],
)
def test_products_are_as_precise_as_torch_asks_for(precision, architecture, products):
    launches = report.launches("edge_max", architecture, precision, 8)
    assert {launched.constants["PRECISION"] for launched in launches if "PRECISION" in launched.constants} == products


@pytest.mark.parametrize("allowed", [False, True])
def test_the_mixing_convolution_is_as_precise_as_torchs_convolutions(allowed, monkeypatch):
    monkeypatch.setattr(launch, "conv_tf32", lambda: allowed)
    (launched,) = report.launches("f5c", "sm_90", "bfloat16", 8)
    assert launched.constants["PRECISION"] == "ieee"
    with launch.recording("sm_90") as launches, precision.tf32(not allowed):
        report.OPERATORS["f5c"](torch.float32, 8)
    assert launches[0].constants["PRECISION"] == ("tf32" if allowed else "ieee")


# --------------------------------------------------------------------------------------------------------------
# Paths that small maps do not take


def close(got, want):
    error = (got.double() - want).norm() / want.norm().clamp_min(1e-30)
    assert float(error) <= 1e-5


def edge_case(generator, graph, n=3, c=6, p=5, k=3):
    x = random(generator, n, c, p, dtype=torch.float32)
    edge = EdgeParameters(*(random(generator, *s, dtype=torch.float32) for s in ((p, p), (p,), (p, p), (p,))))
    nodes = c if graph == "channel" else p
    rows = [torch.randperm(nodes, generator=generator)[:k] for _ in range(n * nodes)]
    return x, torch.stack(rows).view(n, nodes, k).to(torch.int32), edge


@interpreted
def test_more_channels_than_fit_a_program(generator, monkeypatch):
    x, idx, edge = edge_case(generator, "channel")
    monkeypatch.setattr(edge_max, "MOST_CHANNELS_ON_CHIP", 5)
    y, winner = edge_max.edge_max(x, idx, *edge, "channel")
    want, its_winner = reference.edge_max(x.double(), idx, *(p.double() for p in edge), "channel")
    close(y, want)
    assert torch.equal(winner, its_winner)


@interpreted
def test_messages_gradients_in_several_portions_give_the_same_bits(generator, monkeypatch):
    x, idx, edge = edge_case(generator, "position")
    y, winner = edge_max.edge_max(x, idx, *edge, "position")
    arguments = (torch.randn(y.shape, generator=generator), x, idx, edge.weight1, edge.weight2, y, winner, "position")
    at_once = edge_max.edge_max_backward(*arguments)
    monkeypatch.setattr(edge_max, "WORKSPACE_BYTES", 1)
    for a, b in zip(at_once, edge_max.edge_max_backward(*arguments), strict=True):
        assert torch.equal(a, b)


@interpreted
@pytest.mark.parametrize("programs", [1, 3, 1000])
def test_sums_in_any_number_of_parts(generator, monkeypatch, programs):
    """Batch statistics with |mean| ≫ spread, and parameter gradients, summed by few and by many programs."""
    for module in (fcc, edge_max):
        monkeypatch.setattr(module, "resident_programs", lambda x: programs)
    x = random(generator, 10, 4, 6, 7, dtype=torch.float32) + 300
    pe_h, pe_w = random(generator, 4, 6, dtype=torch.float32), random(generator, 4, 7, dtype=torch.float32)
    mean, var = fcc.fcc_statistics(x, pe_h, pe_w, 2)
    want_mean, want_var = reference.fcc_statistics(x.double(), pe_h.double(), pe_w.double(), 2)
    close(mean, want_mean)
    close(var, want_var)
    for graph in ("channel", "position"):
        x, idx, edge = edge_case(generator, graph)
        y, winner = edge_max.edge_max(x, idx, *edge, graph)
        grad = torch.randn(y.shape, generator=generator)
        got = edge_max.edge_max_backward(grad, x, idx, edge.weight1, edge.weight2, y, winner, graph)
        wide = (t.double() for t in (grad, x, edge.weight1, edge.weight2, y))
        grad, x, weight1, weight2, y = wide
        want = reference.edge_max_backward(grad, x, idx, weight1, weight2, y, winner, graph)
        for a, b in zip(got, want, strict=True):
            close(a, b)


@interpreted
def test_the_graph_turned_round_lists_every_edge_under_its_target_in_order(generator):
    _, idx, _ = edge_case(generator, "position", p=40, k=5)
    idx[:, 3] = 7  # a node that many edges point to
    edges, first = edge_max.reverse_graph(idx)
    for n in range(idx.shape[0]):
        targets = idx[n].flatten().tolist()
        for node in range(40):
            listed = edges[n, first[n, node] : first[n, node + 1]].tolist()
            assert listed == [e for e, target in enumerate(targets) if target == node]


# --------------------------------------------------------------------------------------------------------------
# Tile sizes

KEY = ("mix_fwd_kernel", "sm_90", "tf32")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLKERNELS_CACHE", str(tmp_path))
    return tmp_path / "triton-tuned.json"


def test_every_kernel_has_a_line_in_the_table_of_tile_sizes():
    for op in report.OPERATORS:
        for launched in report.launches(op, "sm_120", "tf32", 16):
            assert tuning.from_table((launched.name, "sm_120", "tf32"))
    with pytest.raises(KeyError, match="no line for unknown_kernel"):
        tuning.from_table(("unknown_kernel", "sm_90", "ieee"))


def test_tiles_are_no_longer_than_their_axis():
    (launched,) = report.launches("f5c", "sm_90", "tf32", 8)
    assert launched.constants["BLOCK_P"] == 64
    with launch.recording("sm_90") as small:
        report.f5c.mix(*(torch.empty(2, 3, 5),), torch.empty(3, 3), None, torch.empty(2, 3, 5))
    assert small[0].constants["BLOCK_P"] == small[0].constants["BLOCK_C"] == launch.LEAST_TILE


def test_the_fastest_candidate_is_kept_and_found_again(cache, monkeypatch):
    monkeypatch.setattr("triton.testing.do_bench", lambda run, **options: run())
    tried = []

    def run(config):
        if config.num_warps == 8:
            raise RuntimeError("too much shared memory")
        tried.append(config)
        return 1.0 if config.tiles["BLOCK_P"] == 128 and config.tiles["BLOCK_C"] == 64 else 2.0

    tuning.measure(KEY, ((2, 3),), run)
    best = tuning.config(KEY, ((2, 3),))
    assert (best.tiles["BLOCK_C"], best.tiles["BLOCK_P"], best.num_warps) == (64, 128, 4)
    count = len(tried)
    assert count > 1
    tuning.measure(KEY, ((2, 3),), run)
    assert len(tried) == count  # not again
    assert tuning.config(KEY, ((2, 4),)) == tuning.from_table(KEY)
    assert json.loads(cache.read_text())["mix_fwd_kernel sm_90 tf32 (2, 3)"]["milliseconds"] == 1.0
    assert "| mix_fwd_kernel sm_90 tf32 (2, 3) | BLOCK_C 64, " in report.tuned()


def test_nothing_measured_says_how_to_measure(cache):
    assert "MOLKERNELS_AUTOTUNE=1" in report.tuned()


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"config": {"tiles": {}}}}'])
def test_a_damaged_record_of_tile_sizes_is_named(cache, content):
    cache.write_text(content)
    with pytest.raises(RuntimeError, match=r"triton-tuned\.json is not a record of tile sizes .* delete it"):
        tuning.config(KEY, ())


def test_autotune_is_asked_for_by_block_or_environment(monkeypatch):
    monkeypatch.delenv("MOLKERNELS_AUTOTUNE", raising=False)
    assert not tuning.requested()
    with tuning.autotune():
        assert tuning.requested()
    assert not tuning.requested()
    monkeypatch.setenv("MOLKERNELS_AUTOTUNE", "1")
    assert tuning.requested()
