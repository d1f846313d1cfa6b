"""Weights to start a training from: one safetensors file that says in its metadata what it holds and where it is from.

    network, model, classes      what was trained, with its settings and the names of its classes
    people                       everybody it was trained on
    recipe, scores, versions     how it was made and what it reaches, if `mol pretrain` wrote it
    licence                      what must be known before it is used or passed on
    fingerprint                  of all tensors, because the format has no checksum

Any run or checkpoint folder can be started from as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mol.common.differences import differences
from mol.common.errors import CheckpointError, SettingsError
from mol.common.extras import require
from mol.common.storage import refuse_pipe, write_atomic
from mol.common.typed import Name, parse_json, typed, values_of
from mol.data.action_units import describe_units
from mol.network.checkpoint import WEIGHTS, check_weights, complete_settings, find_checkpoint, read_state, read_tensors
from mol.network.units import LearnedUnits
from mol.networks.interface import Network
from mol.networks.registry import DEFAULT
from mol.scoring.evaluation import describe_weights

FORMAT = "molkernels starting weights 1"
_REQUIRED = ("network", "model", "classes", "people", "fingerprint")
# Settings of a network that its weights do not depend on: a new last layer, a new head for action units, and dropout.
_FREE = ("num_classes", "dropout", "action_units")
_UNITS = "action_units."
# The first bytes of a pickle and of the zip file that torch.save makes of one; endings that such files have.
_PICKLES, _PICKLE_ENDINGS = (b"\x80", b"PK\x03\x04"), (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin")


@dataclass(frozen=True)
class _Known:
    """What the metadata must hold."""

    fingerprint: str
    network: Name
    model: dict[str, Any]
    classes: list[Name]
    people: list[Name]


class StartingWeights(NamedTuple):
    """Weights to start from, and what is known of them.

    Attributes:
        path: as given.
        fingerprint: SHA-256 of the tensors, with their names and shapes; equal weights have the same in any file.
        network: name of the kind of network.
        model: its settings.
        classes: names in the order of the logits.
        people: everybody it was trained on, ``dataset/subject``.
        tensors: parameters and buffers by name.
    """

    path: Path
    fingerprint: str
    network: str
    model: Mapping[str, Any]
    classes: list[str]
    people: list[str]
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """File name and the beginning of the fingerprint, for notes and tables."""
        return describe_weights(self.path.name, self.fingerprint)

    def facts(self, new: Sequence[str]) -> dict[str, Any]:
        """What a run that was started from them records.

        Args:
            new: names of the parameters that were not taken from them.
        """
        known = {"file": self.path.name, "fingerprint": self.fingerprint, "network": self.network}
        return {**known, "classes": self.classes, "people": self.people, "new_parameters": list(new)}


def write_starting_weights(path: Path | str, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write the weights of a trained network as one file.

    Args:
        path: of the file.
        model: with a ``config``.
        facts: ``network``, ``classes``, ``people`` and whatever else belongs into the metadata: texts as they are, all
            else as JSON.
    Raises:
        StorageError: the file could not be written; what was there before is untouched.
    """
    save_file = require("safetensors.torch", "train").save_file
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = {**facts, "model": model.config, "fingerprint": _fingerprint(tensors)}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}
    write_atomic(Path(path), lambda temporary: save_file(tensors, temporary, metadata={"format": FORMAT, **texts}))


def read_starting_weights(path: Path | str) -> StartingWeights:
    """Read a file of `mol pretrain`, or the weights of a run or checkpoint folder.

    Raises:
        CheckpointError: nothing is there, it is damaged, a pickle, or not from this program.
    """
    path = Path(path)
    return _read_folder(path) if path.is_dir() else _read_file(path)


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What a file of `mol pretrain` says about itself; entries in JSON are read.

    Raises:
        CheckpointError: as `read_starting_weights`.
    """
    path = Path(path)
    _refuse_other_files(path)
    safetensors = require("safetensors", "train")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}); copy it again, or make it again with mol pretrain"
        ) from error
    if not texts.get("format", "").startswith(FORMAT.rpartition(" ")[0]):
        hint = "; give the folder that it lies in" if path.name == WEIGHTS else "; mol pretrain makes such a file"
        raise CheckpointError(f"{path} does not say what it holds (its metadata is not that of starting weights){hint}")
    if texts["format"] != FORMAT:
        raise CheckpointError(f"{path} has the format {texts['format']!r}; this version reads {FORMAT!r}: upgrade mol")
    if missing := [name for name in _REQUIRED if name not in texts]:
        raise CheckpointError(f"{path} is damaged: its metadata lacks {', '.join(missing)}; make it again")
    return {name: _value(text) for name, text in texts.items()}


def start_from(start: StartingWeights, module: nn.Module, network: Network, classes: Sequence[str]) -> list[str]:
    """Put starting weights into a network; its last layer stays new if it has other classes.

    So does the head for action units if it tells others than the weights; if the network tells none, theirs is left
    out.

    Args:
        start: the weights.
        module: at the start of its training.
        network: what kind it is.
        classes: names of its classes, in the order of the logits.
    Returns:
        Names of the parameters that stay new.
    Raises:
        CheckpointError: weights of another kind of network, of other settings, or that do not fit; the module is
            unchanged.
    """
    require_network(start, network.name)
    config: dict[str, Any] = module.config  # type: ignore[assignment]
    saved, wanted = (complete_settings(json.loads(json.dumps(settings))) for settings in (start.model, config))
    if changed := differences(saved, wanted, _FREE):
        raise CheckpointError(
            f"{start.path} holds weights of a network with other settings (there → here: {'; '.join(changed)}); train "
            "with those settings, or make starting weights with these"
        )
    new = [] if list(classes) == start.classes else _parameters_of_classes(network, config)
    tensors = dict(start.tensors)
    if saved.get("action_units") != wanted.get("action_units"):
        tensors = {name: value for name, value in tensors.items() if not name.startswith(_UNITS)}
        new += [name for name in module.state_dict() if name.startswith(_UNITS)]
    weights = {**tensors, **{name: value for name, value in module.state_dict().items() if name in new}}
    check_weights(start.path, weights, module)
    module.load_state_dict(weights)
    return new


def require_network(start: StartingWeights, network: str) -> None:
    """Refuse weights of another kind of network than `network`.

    Raises:
        CheckpointError: naming both.
    """
    if start.network != network:
        raise CheckpointError(
            f"{start.path} holds weights of the network {start.network}, not of {network}; train that one with "
            f"--network {start.network}, or start from weights of {network}"
        )


def require_strangers(start: StartingWeights, held_out: Iterable[str]) -> None:
    """Refuse to hold out people that the starting weights were trained on.

    Args:
        start: the weights.
        held_out: people, ``dataset/subject``.
    Raises:
        SettingsError: naming them.
    """
    if seen := sorted(set(held_out) & set(start.people)):
        shown = ", ".join(seen[:8]) + (f" and {len(seen) - 8} more" if len(seen) > 8 else "")
        raise SettingsError(
            f"{start.path} was trained on {shown}, who are held out here and would not be people never seen; start "
            "from weights that were made without them (mol pretrain --held-out)"
        )


def describe_start(
    start: StartingWeights, new: Sequence[str], classes: Sequence[str], units: LearnedUnits | None = None
) -> str:
    """What a run says of its starting weights when it begins.

    Args:
        start: the weights.
        new: parameters that were not taken from them.
        classes: of the run.
        units: action units of the run, if any.
    """
    parts = [f"starting weights: {start.name}"]
    of_units = [name for name in new if name.startswith(_UNITS)]
    of_classes = [name for name in new if name not in of_units]
    if of_classes:
        parts.append(
            f"it knows the classes {', '.join(start.classes)}, here they are {', '.join(classes)}: the last layer of "
            f"the emotion head is new ({', '.join(of_classes)})"
        )
    told = start.model.get("action_units")
    known = f"it tells {describe_units(told)}" if told else "it tells no action units"
    if of_units and units is not None:
        parts.append(f"{known}, here they are {describe_units(units.units)}: their head is new ({', '.join(of_units)})")
    elif told and units is None:
        parts.append(f"{known}, and here no action units are told: their head is left out")
    return "; ".join(parts)


def _read_folder(path: Path) -> StartingWeights:
    folder = find_checkpoint(path)
    state = read_state(folder)
    earlier = (state.get("starting_weights") or {}).get("people", [])
    people = {*state.get("train_people", []), *state.get("inner_validation_people", []), *earlier}
    tensors = read_tensors(folder / WEIGHTS)
    return StartingWeights(
        path=path,
        fingerprint=_fingerprint(tensors),
        network=state.get("network", DEFAULT),
        model=state["model"],
        classes=list(state["classes"]),
        people=sorted(people),
        tensors=tensors,
    )


def _read_file(path: Path) -> StartingWeights:
    again = "copy it again, or make it again with mol pretrain"
    known = typed(read_metadata(path), _Known, f"{path}, metadata", again, CheckpointError)
    tensors = read_tensors(path)
    if known.fingerprint != _fingerprint(tensors):
        raise CheckpointError(f"{path} is damaged (its fingerprint is not the one in its metadata); {again}")
    return StartingWeights(path=path, tensors=tensors, **values_of(known))


def _refuse_other_files(path: Path) -> None:
    refuse_pipe(path, CheckpointError)
    try:
        with open(path, "rb") as file:
            first = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"there are no starting weights at {path} ({error.strerror}); give a file of mol pretrain, or a run folder"
        ) from error
    # A safetensors file begins with the length of its header, which may look like the first bytes of a pickle.
    header = first[8:] == b"{"
    if (first.startswith(_PICKLES) and not header) or path.suffix in _PICKLE_ENDINGS:
        raise CheckpointError(
            f"{path} is a pickle, which can run any code when it is read; starting weights are safetensors files. For "
            "a checkpoint of the released code use MOL.from_released in a script (docs/network.md), and save it with "
            "mol.training.starting.write_starting_weights"
        )


def _parameters_of_classes(network: Network, config: Mapping[str, Any]) -> list[str]:
    """Names of the parameters whose shape depends on the number of classes: those of the last layer."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        ours, other = (
            network.rebuild(**{**config, "num_classes": config["num_classes"] + more}).state_dict() for more in (0, 1)
        )
    return [name for name, value in ours.items() if value.shape != other[name].shape]


def _value(text: str) -> Any:
    """An entry of the metadata; a text is there as it is."""
    try:
        return parse_json(text, Any, "", "", CheckpointError)
    except CheckpointError:
        return text


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
