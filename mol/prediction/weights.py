"""The network that a video is read with: of a run, by PyTorch, or of an exported file, by onnxruntime alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mol.common.environment import versions, versions_of
from mol.common.errors import SettingsError
from mol.export.onnx_model import OnnxModel, OnnxNetwork, is_onnx

if TYPE_CHECKING:  # an exported network runs without PyTorch
    from mol.prediction.windows import AnyModel, AnyNetwork


class Weights(NamedTuple):
    """A network to read videos with.

    Attributes:
        model: in evaluation mode, on its device.
        classes: names in the order of the logits.
        state: facts of the training, as in state.json.
        network: what kind of network it is.
        source: the checkpoint's folder, or the exported file.
        precision: "32" or "bf16-mixed".
        versions: of what runs it.
    """

    model: AnyModel
    classes: list[str]
    state: dict[str, Any]
    network: AnyNetwork
    source: Path
    precision: str
    versions: dict[str, str]


def read_weights(weights: str, device: str, precision: str) -> Weights:
    """Read a run, a checkpoint or an ONNX file of `mol export`.

    Args:
        weights: a folder, or a file that ends in .onnx.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "32", "bf16-mixed" or "auto".
    Raises:
        CheckpointError: no network there, or a damaged one.
        SettingsError: a device or precision that is not there.
        MissingExtraError: onnxruntime is needed and not installed.
    """
    return _exported(weights, device, precision) if is_onnx(weights) else _trained(weights, device, precision)


def _exported(weights: str, device: str, precision: str) -> Weights:
    for name, value, allowed in (("device", device, ("auto", "cpu")), ("precision", precision, ("auto", "32"))):
        if value not in allowed:
            raise SettingsError(
                f"{name}={value!r}: an ONNX file is run on the CPU in float32, so it must be "
                f"{' or '.join(map(repr, allowed))}; give the run folder instead"
            )
    model = OnnxModel(weights)
    found = {**versions(pytorch=False), **versions_of(["onnxruntime"])}
    return Weights(
        model, model.facts.classes, model.facts.state(), OnnxNetwork(model.facts), Path(weights), "32", found
    )


def _trained(weights: str, device: str, precision: str) -> Weights:
    # Here: they import PyTorch.
    from mol.common.devices import fastest_precision, start_fabric
    from mol.network.checkpoint import find_checkpoint
    from mol.networks.trained import load_model

    precision = fastest_precision(device) if precision == "auto" else precision
    fabric = start_fabric(device, precision)
    model, classes, state, network = load_model(weights, fabric.device)
    return Weights(model, classes, state, network, find_checkpoint(weights), precision, versions())
