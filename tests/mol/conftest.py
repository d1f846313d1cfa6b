"""What all tests of `mol` share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import dlib
import pytest


@pytest.fixture(scope="session", autouse=True)
def _dlib_is_read_once() -> Iterator[None]:
    """Its models take 0.8 s to load, and many tests make a detector."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("get_frontal_face_detector", "shape_predictor"):
            patch.setattr(dlib, name, cache(getattr(dlib, name)))
        yield


class Exported(NamedTuple):
    """A small network with F5C blocks in files of both portable formats.

    Attributes:
        model: the network.
        seconds: that PyTorch took for a clip.
        files: format → the file and its check.
        folder: where they are: tiny.pt2 and tiny.onnx.
    """

    model: Any
    seconds: float
    files: dict[str, Any]
    folder: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exported once for all tests of the files."""
    for module in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(module)
    # Here: few tests need them.
    from tiny_graph import STATE, TinyGraph

    from mol.export.clips import random_clips
    from mol.export.export import export_network, facts_of

    folder, model = tmp_path_factory.mktemp("export"), TinyGraph().eval()
    facts = facts_of({**STATE, "model": model.config})
    paths = {name: folder / f"tiny.{name}" for name in ("pt2", "onnx")}
    seconds, files = export_network(model, paths, facts, random_clips(3))
    return Exported(model, seconds, {done.form.name: done for done in files}, folder)
