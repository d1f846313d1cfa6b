"""The modules in graphs that others run: torch.export, torch.jit.trace and ONNX."""

import io

import pytest
import torch
from torch import nn

import molkernels as mk


def block(variant="paper", **settings):
    """An F5C block in which every part takes part."""
    torch.manual_seed(0)
    made = mk.F5C(8, 8, variant=variant, **settings).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    made.fcc.norm.running_mean.normal_()
    return made


def maps(count, seed=1):
    return torch.randn(count, 8, 8, 8, generator=torch.Generator().manual_seed(seed))


class Cost(nn.Module):
    def forward(self, a):
        return mk.functional.cost_volume(a, a.flip(0), radius=3, stride=2, negative_slope=0.1, compact=True)


def modules():
    return {"paper": block(), "released": block("released"), "cost_volume": Cost()}


@pytest.mark.parametrize("kind", ["paper", "released", "cost_volume"])
@torch.no_grad()
def test_a_graph_of_standard_operators_computes_the_same_for_any_batch(kind):
    module = modules()[kind]
    with mk.standard_operators():
        program = torch.export.export(module, (maps(2),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in")) for name in called), called
    for count in (1, 3):
        torch.testing.assert_close(program.module()(maps(count, 2)), module(maps(count, 2)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_outside_the_block_a_graph_has_our_operators():
    program = torch.export.export(block(), (maps(2),))
    assert "molkernels.f5c.default" in {str(node.target) for node in program.graph.nodes}


@torch.no_grad()
def test_a_named_backend_is_not_in_a_graph_of_standard_operators():
    with mk.standard_operators(), pytest.raises(RuntimeError, match=r"'cpu' was requested.*standard operators"):
        block(backend="cpu")(maps(2))
    with mk.standard_operators():
        torch.testing.assert_close(block(backend="reference")(maps(2)), block()(maps(2)))


@pytest.mark.parametrize("kind", ["paper", "released", "cost_volume"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@torch.no_grad()
def test_a_trace_takes_another_batch(kind):
    module = modules()[kind]
    traced = torch.jit.trace(module, maps(2), check_trace=False)
    torch.testing.assert_close(traced(maps(3, 2)), module(maps(3, 2)))


@pytest.mark.parametrize("kind", ["paper", "released", "cost_volume"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@torch.no_grad()
def test_the_older_exporter_writes_onnx(kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    module, file = modules()[kind], io.BytesIO()
    torch.onnx.export(module, (maps(2),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (found,) = session.run(None, {"x": maps(count, 2).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(maps(count, 2)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_newer_exporter_writes_standard_operators():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, shapes = block(), ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(module, (maps(2),), dynamo=True, verbose=False, dynamic_shapes=shapes)
    assert {node.domain for node in program.model.graph} == {""}
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (found,) = session.run(None, {session.get_inputs()[0].name: maps(count, 2).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(maps(count, 2)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_equal_similarities_go_to_the_lowest_index_in_onnx_too():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Graph(nn.Module):
        def forward(self, x):
            return mk.functional.knn(x, 4)

    x = torch.zeros(2, 8, 6)
    x[1, ::2] = torch.arange(1.0, 7)  # four equal channels, four of zeros
    program = torch.onnx.export(Graph(), (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.equal(torch.from_numpy(found), mk.functional.knn(x, 4))
