"""A network from an ONNX file of `mol export`, run by onnxruntime; nothing here imports PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta

from mol.common.errors import CheckpointError, ClipError
from mol.common.extras import require
from mol.common.typed import Count, Name, Number, Setting, parse_json
from mol.export.onnx_header import read_header
from mol.network.estimates import CROP, FLOW, FRAMES, LANDMARKS
from mol.network.units import LearnedUnits

FORMAT = 1
OPSET = 18
INPUT = "clips"
OUTPUTS = ("logits", "flow", "landmarks", "action_units")
"""The last one only of a network that tells action units."""
CLIP_SHAPE = (1, FRAMES, CROP, CROP)
"""Of an input, without the batch: channel, frames, rows, columns."""

_AGAIN = "export the network again with `mol export`"
_KINDS: dict[str, Any] = {
    "format": int,
    "network": Name,
    "classes": Annotated[list[Name], Meta(min_length=2)],
    "model": dict[str, Setting | Annotated[list[Setting], Meta(max_length=64)]],
    "step": Count,
    "normalisation": Name,
    "calibration": dict[str, Any] | None,
    "temperature": Number | None,
    "version": Name,
    "action_units": dict[str, Any] | None,
}
"""Entries of the metadata, as JSON under ``mol.NAME``."""


def is_onnx(path: Path | str) -> bool:
    """Whether a path of weights means an ONNX file, and not a run or a checkpoint."""
    return Path(path).suffix.lower() == ".onnx"


class Estimate(NamedTuple):
    """What the network gives for B clips."""

    logits: np.ndarray
    """(B, C) float32."""
    flow: np.ndarray
    """(B, T−1, 2, 128, 128) float32, pixels (dx, dy), frame t to t+1."""
    landmarks: np.ndarray
    """(B, T−1, 68, 2) float32, pixels (x, y), of frames 2 to T."""
    action_units: np.ndarray | None = None
    """(B, units) float32, a logit for each unit; None if the network tells none."""


@dataclass(frozen=True)
class Facts:
    """What an exported file says of its network.

    Attributes:
        network: kind of network, such as "mol".
        classes: names in the order of the logits.
        model: the network's settings.
        step: of the training.
        normalisation: of grey values in training.
        calibration: the recorded temperature with what it was fitted on, as in state.json; None if there is none.
        temperature: its value.
        version: of molkernels, which wrote the file.
        action_units: which it tells, and how often they were annotated, as in state.json; None if it tells none.
    """

    network: str
    classes: list[str]
    model: dict[str, Any]
    step: int
    normalisation: str
    calibration: dict[str, Any] | None
    temperature: float | None
    version: str
    action_units: dict[str, Any] | None

    def state(self) -> dict[str, Any]:
        """The same in the form of a checkpoint's state.json, as far as prediction reads it."""
        names = ("network", "classes", "model", "step", "normalisation", "calibration", "action_units")
        return {name: getattr(self, name) for name in names}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Output → its shape without the batch."""
        steps, side = CLIP_SHAPE[1] - 1, CLIP_SHAPE[-1]
        shapes = ((len(self.classes),), (steps, 2, side, side), (steps, 68, 2))
        units = () if self.action_units is None else ((len(self.model["action_units"]),),)
        return dict(zip(OUTPUTS, (*shapes, *units), strict=False))


class OnnxNetwork:
    """What prediction asks of a kind of network, for one that was exported; see `mol.networks.interface.Network`.

    Args:
        facts: of the file.
    """

    name = "mol"
    title = "MOL"
    estimates = (FLOW, LANDMARKS)
    window_note = ""

    def __init__(self, facts: Facts) -> None:
        units = facts.action_units
        self.action_units: LearnedUnits | None = None
        if units is not None:
            told, annotated, shown = (tuple(units[name]) for name in ("units", "annotated", "shown"))
            self.action_units = LearnedUnits(told, annotated, shown, units["clips"])


class OnnxModel:
    """A network from an ONNX file.

    Args:
        path: written by `mol export`.
        threads: of onnxruntime; by default one per core that this process may use.
    Raises:
        CheckpointError: the file is missing, damaged, not of `mol export`, or of another operator set.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        self.path = Path(path)
        self.facts = read_facts(self.path)
        runtime = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or _cores()
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of its own for every kind of failure
            raise CheckpointError(f"onnxruntime cannot load {self.path} ({_first_line(error)}); {_AGAIN}") from error
        found = {value.name: tuple(value.shape[1:]) for value in self._session.get_outputs()}
        inputs = [value.name for value in self._session.get_inputs()]
        if inputs != [INPUT] or found != self.facts.shapes:
            raise CheckpointError(
                f"{self.path} takes {', '.join(inputs)} and gives {_spoken(found)}; its metadata say {INPUT} and "
                f"{_spoken(self.facts.shapes)}: {_AGAIN}"
            )

    def __call__(self, clips: np.ndarray) -> Estimate:
        """The network's estimates.

        Args:
            clips: (B, 1, 8, 128, 128) float32, normalised as `window_inputs` does; any B ≥ 0.
        Raises:
            ClipError: clips of a wrong shape or type, or NaN or infinite values.
        """
        if clips.ndim != 5 or clips.shape[1:] != CLIP_SHAPE or clips.dtype != np.float32:
            raise ClipError(
                f"clips are {clips.dtype} of shape {clips.shape}; float32 of shape (B, 1, 8, 128, 128) is needed"
            )
        if not np.isfinite(clips).all():
            raise ClipError("clips hold NaN or infinite values; leave them out or repair their frames")
        if not len(clips):
            return Estimate(*(np.zeros((0, *shape), np.float32) for shape in self.facts.shapes.values()))
        return Estimate(*self._session.run(list(self.facts.shapes), {INPUT: clips}))

    @staticmethod
    def window_inputs(frames: np.ndarray) -> np.ndarray:
        """The inputs for windows of a video: centre crops, each clip with mean 0 and deviation 1.

        The same as `mol.networks.mol.MOLNetwork.window_inputs`, in NumPy.

        Args:
            frames: (B, T, S, S) uint8, aligned.
        Returns:
            (B, 1, T, 128, 128) float32.
        """
        side = CLIP_SHAPE[-1]
        margin = (frames.shape[-1] - side) // 2
        crops = frames[..., margin : margin + side, margin : margin + side].astype(np.float32)
        mean = crops.mean((-3, -2, -1), keepdims=True)
        centred = crops - mean
        deviation = np.sqrt(np.square(centred).mean((-3, -2, -1), keepdims=True))
        floor = np.float32(1e-5) * np.abs(mean) + np.finfo(np.float32).tiny
        return (centred / np.maximum(deviation, floor))[:, None]


def read_facts(path: Path) -> Facts:
    """What an ONNX file of `mol export` says of its network.

    Raises:
        CheckpointError: as `OnnxModel`.
    """
    header = read_header(path)
    metadata = header.metadata
    if "mol.format" not in metadata:
        producer = f" (written by {header.producer})" if header.producer else ""
        raise CheckpointError(
            f"{path} is an ONNX file, but not one of this program{producer}: it lacks the entry mol.format, so its "
            "classes and its input are unknown; give a file that `mol export` wrote"
        )
    found = {name: _entry(path, metadata, name, kind) for name, kind in _KINDS.items()}
    if (version := found.pop("format")) != FORMAT:
        raise CheckpointError(f"{path} has format {version}; this version reads {FORMAT}: upgrade molkernels")
    if (opset := header.opsets.get("")) != OPSET:
        raise CheckpointError(
            f"{path} has operator set {opset}; `mol export` writes operator set {OPSET}, and no other one was checked: "
            f"{_AGAIN}"
        )
    if others := sorted(header.opsets.keys() - {"", "ai.onnx"}):
        raise CheckpointError(f"{path} uses operators of {others[0]}, which ONNX does not define; {_AGAIN}")
    return Facts(**found)


def _entry(path: Path, metadata: dict[str, str], name: str, kind: Any) -> Any:
    key = f"mol.{name}"
    if key not in metadata:
        raise CheckpointError(f"{path} lacks the entry {key} in its metadata; {_AGAIN}")
    return parse_json(metadata[key], kind, f"{path}, {key}", _AGAIN, CheckpointError)


def _spoken(shapes: dict[str, tuple[Any, ...]]) -> str:
    return ", ".join(f"{name} (batch, {', '.join(map(str, shape))})" for name, shape in shapes.items())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
