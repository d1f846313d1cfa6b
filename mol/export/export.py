"""`mol export`: a trained network as files that run without this program, each compared with the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mol.common.checks import require_at_most
from mol.common.environment import available_cores
from mol.common.errors import ExportError, SettingsError
from mol.common.storage import write_atomic
from mol.common.terminal import say
from mol.export.check import Checked, Truth, checked, describe, seconds_of, truth_of
from mol.export.clips import CheckClips, check_clips
from mol.export.formats import FORMATS, Format
from mol.export.onnx_model import FORMAT
from mol.export.program import program_of, require_exportable
from mol.networks.mol import NETWORK as MOL
from mol.networks.trained import load_model
from mol.scoring.calibration import temperature_of
from molkernels import __version__

Kind = Literal["pt2", "onnx", "aoti"]


@dataclass
class ExportConfig:
    """A trained network as a file that runs without this program, compared with the network before it is kept.

    Attributes:
        weights: run folder of `mol train`, or a checkpoint folder inside one.
        format: "onnx" (standard operators, for `mol predict` and onnxruntime), "pt2" (for torch.export.load), "aoti"
            (compiled for this machine's kind of processor, for C++), or a list such as '[pt2, onnx]'.
        out: the file to write; of several formats, its name without an ending. By default mol.onnx, mol.pt2,
            mol.aoti.pt2.
        cache: a cache folder with clips to compare on, of `mol extract`; by default synthetic clips of a real face.
        clips: how many clips are compared.
    """

    weights: str
    format: Kind | list[Kind] = "onnx"
    out: str = "mol"
    cache: str | None = None
    clips: int = 4

    def __post_init__(self) -> None:
        names = [self.format] if isinstance(self.format, str) else list(self.format)
        if unknown := [name for name in names if name not in FORMATS]:
            raise SettingsError(f"format is {unknown[0]!r}; must be of {', '.join(FORMATS)}")
        if not names or len(set(names)) < len(names):
            raise SettingsError(f"format is {self.format!r}; one or several different ones of {', '.join(FORMATS)}")
        if self.clips < 2:
            raise SettingsError(f"clips={self.clips} must be at least 2: a batch of one and a larger one are compared")
        require_at_most(self, clips=1000)


def run_export(config: ExportConfig) -> None:
    """Export a network and print how the files compare with it."""
    names = [config.format] if isinstance(config.format, str) else list(config.format)
    paths = paths_of(config.out, names)
    trained = load_model(config.weights)
    if trained.network.name != MOL.name:
        raise ExportError(
            f"{config.weights} is a network {trained.network.name}, which does not read clips: what it reads is "
            f"computed from them by this program, so no file could hold all of it; mol export takes {MOL.name}"
        )
    for name in names:
        FORMATS[name].require()
    torch.set_num_threads(available_cores())
    clips = check_clips(trained.network, config.cache, config.clips)
    say(f"compared on {clips.what}, in batches of 1 and {config.clips - 1}")
    pytorch, files = export_network(trained.model, paths, facts_of(trained.state), clips)
    for done in files:
        say("\n".join(describe(done, pytorch)))


def export_network(
    model: nn.Module, paths: Mapping[str, Path], facts: Mapping[str, str], clips: CheckClips
) -> tuple[float, list[Checked]]:
    """Write a network to files, each of which is run and compared before it is kept.

    Args:
        model: clips (B, 1, 8, 128, 128) → logits, flow, landmarks; on the CPU, in evaluation mode, float32.
        paths: format → file.
        facts: of `facts_of`.
        clips: to compare on.
    Returns:
        Seconds that PyTorch takes for one clip, and the files with their checks.
    Raises:
        ExportError: the network cannot be exported, or a file does not compute what it does; that file is not kept.
        MissingExtraError: what a format needs is not installed.
        StorageError: a file cannot be written.
    """
    require_exportable(model)
    program = program_of(model)
    truths = truth_of(model, clips.inputs)
    with torch.inference_mode():
        pytorch = seconds_of(lambda: model(truths[0].clips))
    return pytorch, [_written(program, FORMATS[name], path, facts, truths) for name, path in paths.items()]


def _written(program: Any, form: Format, path: Path, facts: Mapping[str, str], truths: list[Truth]) -> Checked:
    found: list[Checked] = []

    def write(temporary: Path) -> None:
        form.write(program, temporary, facts)
        found.append(checked(path, temporary, form, truths))

    write_atomic(path, write)
    return found[0]


def paths_of(out: str, formats: Sequence[str]) -> dict[str, Path]:
    """The file of each format.

    Raises:
        SettingsError: the name of a single file has the ending of another format.
    """
    path = Path(out)
    endings = {name: FORMATS[name].ending for name in formats}
    if len(formats) == 1:
        (name,) = formats
        last = endings[name].rpartition(".")[2]
        known = {form.ending.rpartition(".")[2] for form in FORMATS.values()}
        given = path.suffix.removeprefix(".").lower()
        if given == last:
            return {name: path}
        if given in known:
            raise SettingsError(f"--out {out} ends like another format; {name} needs the ending {endings[name]}")
    return {name: path.with_name(path.name + ending) for name, ending in endings.items()}


def facts_of(state: Mapping[str, Any]) -> dict[str, str]:
    """What a file says of its network, as JSON by name; no person is named.

    Args:
        state: of the checkpoint.
    """
    calibration = state.get("calibration")
    facts = {
        "format": FORMAT,
        "version": __version__,
        "network": state.get("network", MOL.name),
        "variant": state["model"].get("variant"),
        "classes": state["classes"],
        "model": state["model"],
        "step": state["step"],
        "normalisation": state.get("normalisation", "clip"),
        "calibration": calibration,
        "action_units": state.get("action_units"),
        "temperature": temperature_of(state).value,
        "input": "clips (batch, 1, 8, 128, 128) float32: aligned grey faces, each clip with mean 0 and deviation 1",
        "output": "logits (batch, classes); flow (batch, 7, 2, 128, 128), (dx, dy) in pixels from frame t to t + 1; "
        "landmarks (batch, 7, 68, 2), (x, y) in pixels, of frames 2 to 8; action_units (batch, units), if it tells any",
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}
