"""Videos read with an exported network: as with the network itself, and in a process without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import write_frames_folder
from places import environment
from tiny_graph import STATE, TinyGraph
from tiny_model import instead_of_mol

from mol.common.errors import CheckpointError, SettingsError
from mol.network.checkpoint import save_checkpoint
from mol.prediction.predict import PredictConfig, predict
from mol.synth.faces import load_faces


@pytest.fixture(scope="module")
def folder(exported) -> Path:
    """A run, its ONNX file, the frames of a face that drifts, and its landmarks."""
    folder = exported.folder
    save_checkpoint(folder / "run" / "checkpoints" / "last", exported.model, None, {**STATE, "mean_shape": None})
    face = load_faces(("astronaut",))[0]
    image, points = face.image[:220, 60:300], face.points - [60, 0]
    write_frames_folder(np.stack([np.roll(image, shift, axis=1) for shift in range(10)]), folder / "frames")
    np.savez(folder / "points.npz", landmarks=np.stack([points + np.array([shift, 0]) for shift in range(10)]))
    return folder


def settings(folder: Path, weights: str, out: Path) -> dict:
    points = str(folder / "points.npz")
    return {"video": str(folder / "frames"), "weights": str(folder / weights), "out": str(out), "landmarks": points}


QUICK = {"interval": 1, "stride": 1, "overlay": False, "page": False, "save_arrays": True}


def test_a_process_without_pytorch_reads_a_video_as_the_network_does(folder, tmp_path, monkeypatch):
    options = settings(folder, "tiny.onnx", tmp_path / "exported") | {**QUICK, "page": True}
    typed = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    code = (
        "import sys; from mol.cli import main; code = main(sys.argv[1:]);"
        "found = {name.partition('.')[0] for name in sys.modules} & {'torch', 'molkernels', 'lightning_fabric'};"
        "sys.exit(f'{found} imported' if found else code)"
    )
    command = [sys.executable, "-c", code, "predict", *typed]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

    instead_of_mol(monkeypatch, TinyGraph)
    predict(PredictConfig(**settings(folder, "run", tmp_path / "own"), **QUICK))
    found, wanted = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("exported", "own"))
    assert found["vote"] == wanted["vote"]
    assert found["vote"]["temperature"] == 1.5
    assert found["network"]["checkpoint"].endswith("tiny.onnx")
    assert found["network"]["step"] == 7
    assert "onnxruntime" in found["versions"]
    assert "torch" not in found["versions"]
    assert len(found["windows"]) == 3
    with np.load(tmp_path / "exported/arrays.npz") as ours, np.load(tmp_path / "own/arrays.npz") as theirs:
        assert ours.keys() == theirs.keys()
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=2e-3)
    assert (tmp_path / "exported" / "page.html").is_file()


def test_an_exported_network_reads_whole_windows_under_a_shared_alignment(folder, tmp_path):
    options = settings(folder, "tiny.onnx", tmp_path) | QUICK
    (prediction, _) = predict(PredictConfig(**options, alignment="shared"))
    assert len(prediction.trace) == 3


def test_where_an_exported_network_cannot_run(folder, tmp_path):
    options = settings(folder, "tiny.onnx", tmp_path) | QUICK
    with pytest.raises(SettingsError, match=r"device='cuda': an ONNX file is run on the CPU"):
        predict(PredictConfig(**options, device="cuda"))
    with pytest.raises(SettingsError, match=r"precision='bf16-mixed': .* give the run folder"):
        predict(PredictConfig(**options, precision="bf16-mixed"))
    with pytest.raises(CheckpointError, match=r"missing\.onnx is not a file"):
        predict(PredictConfig(**{**options, "weights": str(tmp_path / "missing.onnx")}))
