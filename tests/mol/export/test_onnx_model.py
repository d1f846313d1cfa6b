"""Networks in ONNX files, run without PyTorch; every file that is not one of ours is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_graph import STATE

from mol.common.errors import CheckpointError, ClipError
from mol.export.clips import random_clips
from mol.export.onnx_header import BLANK, CHECKSUM, read_header, write_checksum
from mol.export.onnx_model import OnnxModel, is_onnx, read_facts
from mol.networks.mol import NETWORK

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(exported):
    return exported.model


@pytest.fixture(scope="module")
def path(exported):
    return exported.files["onnx"].path


def test_it_gives_what_the_network_gives(model, path):
    loaded, clips = OnnxModel(path), random_clips(3).inputs
    with torch.inference_mode():
        wanted = model(clips)
    for found, value in zip(loaded(clips.numpy()), wanted, strict=False):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4)
    assert loaded(clips.numpy()).action_units is None
    assert [len(value) for value in loaded(clips[:0].numpy())[:3]] == [0, 0, 0]
    assert loaded.facts.classes == STATE["classes"]
    assert loaded.facts.state()["model"] == model.config


def test_nothing_imports_pytorch(path):
    code = (
        "import sys, numpy; from mol.export.onnx_model import OnnxModel;"
        f"model = OnnxModel({str(path)!r}); frames = numpy.zeros((2, 8, 144, 144), numpy.uint8);"
        "print(model(model.window_inputs(frames)).flow.shape); assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(2, 7, 2, 128, 128)"


@pytest.mark.parametrize("constant", [False, True])
def test_windows_become_the_same_inputs_as_in_pytorch(constant):
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 144, 144), dtype=np.uint8)
    if constant:
        frames[:] = 77
    wanted = NETWORK.window_inputs(frames, torch.device("cpu"))
    np.testing.assert_allclose(OnnxModel.window_inputs(frames), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (np.zeros((2, 1, 8, 128, 128)), "clips are float64"),
        (np.zeros((2, 8, 128, 128), np.float32), "of shape"),
        (np.full((1, 1, 8, 128, 128), np.nan, np.float32), "NaN"),
    ],
)
def test_clips_that_it_cannot_take(path, clips, message):
    with pytest.raises(ClipError, match=message):
        OnnxModel(path)(clips)


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        OnnxModel(path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_is_refused(path, tmp_path):
    whole, other = path.read_bytes(), tmp_path / "damaged.onnx"
    for content, message in (
        (whole[: len(whole) // 2], "ends too early"),
        (b"", "no ONNX file"),
        (b"not a protocol buffer at all", "no ONNX file"),
        (whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], "damaged or changed"),
    ):
        other.write_bytes(content)
        refused(other, message)
    refused(tmp_path / "missing.onnx", "is not a file")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "is a pipe")


def changed(path, tmp_path, change):
    """A copy of the file with a change that its checksum agrees to."""
    graph = onnx.load(path)
    change(graph)
    other = tmp_path / "changed.onnx"
    onnx.save(graph, other)
    if any(one.key == CHECKSUM for one in graph.metadata_props):
        write_checksum(other)
    return other


def entry(graph, key):
    return next(entry for entry in graph.metadata_props if entry.key == key)


def test_a_file_of_somebody_else_is_refused(path, tmp_path):
    def strip(graph):
        del graph.metadata_props[:]
        graph.producer_name = "pytorch"

    refused(changed(path, tmp_path, strip), r"not one of this program \(written by pytorch\)")


def test_a_file_of_another_operator_set_is_refused(path, tmp_path):
    def older(graph):
        graph.opset_import[0].version = 11

    refused(changed(path, tmp_path, older), "has operator set 11; `mol export` writes operator set 18")

    def other_domain(graph):
        graph.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))

    refused(changed(path, tmp_path, other_domain), r"uses operators of com\.microsoft")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mol.format", "2", "has format 2; this version reads 1"),
        ("mol.classes", '["a"]', "mol.classes"),
        ("mol.classes", '["a", "b", "c", "d"]', r"gives logits \(batch, 3\).*its metadata say .*logits \(batch, 4\)"),
        ("mol.classes", "no json", "cannot be read as JSON"),
        ("mol.step", None, r"lacks the entry mol\.step"),
    ],
)
def test_facts_that_do_not_fit_are_refused(path, tmp_path, key, value, message):
    def edit(graph):
        if value is None:
            graph.metadata_props.remove(entry(graph, key))
        else:
            entry(graph, key).value = value

    refused(changed(path, tmp_path, edit), message)


def test_a_file_without_checksum_is_taken(path, tmp_path):
    other = changed(path, tmp_path, lambda graph: graph.metadata_props.remove(entry(graph, CHECKSUM)))
    assert read_facts(other).classes == STATE["classes"]
    with pytest.raises(ValueError, match="has no entry"):
        write_checksum(other)
    assert read_header(path).metadata[CHECKSUM] != BLANK


def test_weights_are_told_by_their_ending():
    assert is_onnx("a/B.ONNX")
    assert not is_onnx("runs/a")
