"""The kinds of files that a network is written to, and how each is run again."""

from __future__ import annotations

import logging
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from mol.common.errors import ExportError
from mol.common.extras import require
from mol.export.onnx_header import BLANK, CHECKSUM, write_checksum
from mol.export.onnx_model import INPUT, OPSET, OUTPUTS, OnnxModel
from molkernels import __version__

Estimates = tuple[np.ndarray, ...]
"""Logits, flow and landmarks, and logits of action units if the network tells any."""
Run = Callable[[Tensor], Estimates]
Edges = list[np.ndarray]
"""The neighbours in each graph that was built, in the order in which they were: (N, M, k) integers."""


class Loaded(NamedTuple):
    """A file, ready to run as its users run it.

    Attributes:
        run: clips → estimates.
        edges: clips → the neighbours that the file chooses; None if it doesn't show them.
    """

    run: Run
    edges: Callable[[Tensor], Edges] | None = None


class Format(ABC):
    """A kind of file.

    Attributes:
        name: on the command line.
        ending: of its files.
        title: for people.
    """

    name: ClassVar[str]
    ending: ClassVar[str]
    title: ClassVar[str]

    def require(self) -> None:  # noqa: B027 - most formats need nothing
        """Raise an error if what writing this file needs is not installed."""

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
        """Write the file, with facts about the network in it."""

    @abstractmethod
    def load(self, path: Path) -> Loaded:
        """Load the file."""


class PyTorch(Format):
    """A graph that ``torch.export.load`` reads."""

    name, ending, title = "pt2", ".pt2", "torch.export"

    def write(self, program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
        """With the facts as extra files, and without the clips that it was recorded on."""
        kept = copy(program)
        kept.example_inputs = None
        torch.export.save(kept, path, extra_files=dict(facts))

    def load(self, path: Path) -> Loaded:
        """By ``torch.export.load``; edges are the results of ``topk``, the only places where the graph chooses."""
        module = torch.export.load(path).module()

        def edges(clips: Tensor) -> Edges:
            reader = _TopK(module)
            with torch.inference_mode():
                reader.run(clips)
            return reader.found

        return Loaded(_on_tensors(module), edges)


class _TopK(fx.Interpreter):
    """Runs a graph and keeps the indices that ``topk`` gives."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.found: Edges = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_function(target, args, kwargs)
        if target is torch.ops.aten.topk.default:
            self.found.append(result[1].numpy())
        return result


class Onnx(Format):
    """A graph of ONNX's own operators, in one file, with a checksum."""

    name, ending, title = "onnx", ".onnx", f"ONNX, operator set {OPSET}"

    def require(self) -> None:
        """onnx, onnxscript and onnxruntime."""
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, "onnx")

    def write(self, program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
        """By PyTorch's exporter; names, facts and checksum are ours."""
        with _silence():
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=list(OUTPUTS[: len(program.graph_signature.user_outputs)]),
                opset_version=OPSET,
            )
        if written is None:
            raise ExportError("PyTorch's exporter gave no ONNX graph")
        model = written.model
        operators = {(node.domain, node.op_type) for node in model.graph}
        if others := sorted(f"{domain}::{name}" for domain, name in operators if domain not in ("", "ai.onnx")):
            raise ExportError(f"the ONNX graph has operators that ONNX does not define: {', '.join(others)}")
        model.producer_name, model.producer_version = "molkernels", __version__
        model.metadata_props.clear()
        model.metadata_props.update({f"mol.{name}": value for name, value in facts.items()} | {CHECKSUM: BLANK})
        proto = _named_batch(written.model_proto)
        path.write_bytes(proto.SerializeToString())
        write_checksum(path)

    def load(self, path: Path) -> Loaded:
        """By onnxruntime, through the reader that `mol predict` uses."""
        model = OnnxModel(path, torch.get_num_threads())
        session = cache(partial(_with_edges, path))

        def edges(clips: Tensor) -> Edges:
            names, opened = session()
            return list(opened.run(names, {INPUT: clips.numpy()})) if names else []

        return Loaded(lambda clips: tuple(value for value in model(clips.numpy()) if value is not None), edges)


def _with_edges(path: Path) -> tuple[list[str], Any]:
    """A copy of an ONNX graph with the indices that TopK gives as outputs, and their names."""
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    model = onnx.load(path)
    names = [node.output[1] for node in model.graph.node if node.op_type == "TopK"]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    return names, runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


class Compiled(Format):
    """A shared library with its weights, compiled by AOTInductor for the processor of this machine."""

    name, ending, title = "aoti", ".aoti.pt2", "AOTInductor"

    def require(self) -> None:
        """A C++ compiler."""
        if not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise ExportError(
                "the format aoti needs a C++ compiler, and none is found: install g++ or clang++ and try again"
            )

    def write(self, program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
        """Compile; the facts are the package's metadata."""
        from torch import _inductor

        with _silence():
            settings = {"aot_inductor.metadata": dict(facts)}
            _inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)

    def load(self, path: Path) -> Loaded:
        """By the loader that C++ programs use."""
        from torch import _inductor

        return Loaded(_on_tensors(_inductor.aoti_load_package(str(path))))


FORMATS: dict[str, Format] = {form.name: form for form in (PyTorch(), Onnx(), Compiled())}


def _on_tensors(module: Any) -> Run:
    def run(clips: Tensor) -> Estimates:
        with torch.inference_mode():
            return tuple(value.numpy() for value in module(clips))

    return run


def _named_batch(proto: Any) -> Any:
    """The graph with its batch called so, whatever symbol the exporter gave it."""
    symbol = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_param = "batch"
    return proto


@contextmanager
def _silence() -> Iterator[None]:
    """Without what PyTorch's exporters say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
