"""Checkpoints without pickle: a folder of safetensors and JSON, replaced as a whole or not at all.

    checkpoints/last/weights.safetensors     the network's parameters and buffers
    checkpoints/last/optimizer.safetensors   the optimizer's moments; its settings as JSON in the header
    checkpoints/last/state.json              format, model settings, classes, step, seed, people, checksums

A new checkpoint is written beside the old one under a temporary name, synced, and only then renamed over it.
Between the two renames the old one is called `last.old`, where loading finds it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.optim import Optimizer

from mol.common.differences import differences
from mol.common.errors import CheckpointError, StorageError
from mol.common.extras import require
from mol.common.locks import runs
from mol.common.names import path_part
from mol.common.storage import refuse_pipe, usual_mode
from mol.common.typed import Count, Name, NotNegative, Seed, Setting, Share, parse_json, read_json, typed
from mol.network.units import CODES
from mol.vision.points import POINTS
from molkernels.modules import GRAPH_OF_VARIANT

FORMAT = 1
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_AGAIN = "use another checkpoint or train again"
_Coordinate = Annotated[float, Meta(ge=-1e6, le=1e6)]


@dataclass(frozen=True)
class _File:
    """Size and checksum of a file of a checkpoint."""

    bytes: Count
    crc32: Annotated[int, Meta(ge=0, lt=1 << 32)]


@dataclass(frozen=True)
class _Start:
    """Weights that a training started from."""

    file: str
    fingerprint: str
    people: list[Name]


@dataclass(frozen=True)
class _Units:
    """Action units that the network tells, as `mol.network.units.LearnedUnits` has them."""

    units: Annotated[list[Annotated[int, Meta(ge=1, lt=CODES)]], Meta(min_length=1)]
    annotated: list[Count]
    shown: list[Count]
    clips: Annotated[int, Meta(ge=1, le=10**12)]


@dataclass(frozen=True)
class _State:
    """What state.json must hold, and of what kind its other entries are, if it has them."""

    format: int
    model: dict[str, Setting | Annotated[list[Setting], Meta(max_length=64)]]
    classes: Annotated[list[Name], Meta(min_length=1)]
    mean_shape: Annotated[list[tuple[_Coordinate, _Coordinate]], Meta(min_length=POINTS, max_length=POINTS)] | None
    step: Count
    files: dict[str, _File]
    network: Name = "mol"
    seed: Seed = 0
    normalisation: Name = "clip"
    selection: Name = "last"
    train_people: list[Name] = field(default_factory=list)
    inner_validation_people: list[Name] = field(default_factory=list)
    held_out_people: list[Name] = field(default_factory=list)
    training_videos: list[Count] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    best: dict[str, float] | None = None
    calibration: dict[str, Any] | None = None
    starting_weights: _Start | None = None
    action_units: _Units | None = None


@dataclass(frozen=True)
class _Group:
    """A group of parameters in the header of the optimizer's file."""

    params: list[Count]
    lr: NotNegative
    betas: tuple[Share, Share]
    eps: NotNegative
    weight_decay: NotNegative
    rate: NotNegative = 1.0
    amsgrad: bool = False
    maximize: bool = False
    foreach: bool | None = None
    capturable: bool = False
    differentiable: bool = False
    fused: bool | None = None


def save_checkpoint(folder: Path | str, model: Any, optimizer: Optimizer | None, state: Mapping[str, Any]) -> None:
    """Write a checkpoint folder, which replaces the previous one only when it is complete and on the disk.

    Args:
        folder: such as ``run/checkpoints/last``.
        model: a module with a ``config``, such that ``type(model)(**config)`` rebuilds it.
        optimizer: None for a checkpoint that is only used to predict.
        state: everything else in state.json; ``format``, ``model`` and ``files`` are added here.
    Raises:
        StorageError: the disk is full or not writable; what was there before is untouched.
    """
    folder = Path(folder)
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        _clear_leftovers(folder)
        temporary.mkdir(parents=True)
        names = [_write_weights(temporary, model)]
        if optimizer is not None:
            names.append(_write_optimizer(temporary, optimizer))
        files = {name: _fingerprint(temporary / name) for name in names}
        text = json.dumps({"format": FORMAT, "model": model.config, **state, "files": files}, indent=1)
        (temporary / STATE).write_text(text + "\n", encoding="utf-8")
        for name in (*names, STATE):
            _sync(temporary / name)
        _sync(temporary)
        _replace_folder(temporary, folder)
    except (OSError, require("safetensors", "train").SafetensorError) as error:
        raise StorageError(
            f"could not write the checkpoint {folder}: {_reason(error)}; the previous one is untouched. "
            "Free some space, then go on from it with --resume."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint folder that `path` means: itself, or in a run folder ``checkpoints/best``, then ``…/last``.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    path = Path(path)
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the run folder, or the checkpoint folder that contains {STATE}")
    for candidate in (path, path / "checkpoints" / "best", path / "checkpoints" / "last"):
        for folder in (candidate, candidate.with_name(candidate.name + ".old")):
            if (folder / STATE).is_file():
                return folder
    raise CheckpointError(f"no checkpoint in {path}: it has neither {STATE} nor checkpoints/last/{STATE}")


def read_state(folder: Path | str) -> dict[str, Any]:
    """Read and check state.json, and the size and checksum of the files beside it.

    Raises:
        CheckpointError: a file is missing, damaged, not from this program, or of a newer format.
    """
    folder = Path(folder)
    path = folder / STATE
    if not path.exists():
        raise CheckpointError(f"{path} is missing; {folder} is not a checkpoint")
    state = read_json(path, dict[str, Any], _AGAIN, CheckpointError)
    if state.get("format", FORMAT) != FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}; this version reads {FORMAT}: upgrade molkernels")
    _check_state(path, typed(state, _State, str(path), _AGAIN, CheckpointError))
    for name, expected in state["files"].items():
        if path_part(name) != name:
            raise CheckpointError(
                f"{path} lists the file {name!r}, which is no name in its folder; use another checkpoint"
            )
        _check_file(folder / name, expected)
    return state


def _check_state(path: Path, state: _State) -> None:
    """Check that the entries of state.json fit each other."""
    classes, logits = state.classes, state.model.get("num_classes", len(state.classes))
    wrong = ""
    if len(set(classes)) < len(classes):
        wrong = f"classes are {', '.join(classes)}, but must all be different"
    elif logits != len(classes):
        wrong = f"it names {len(classes)} classes, but model.num_classes is {logits}"
    elif state.training_videos and len(state.training_videos) != len(classes):
        wrong = f"training_videos has {len(state.training_videos)} counts for {len(classes)} classes"
    elif (told := state.action_units) and not len(told.units) == len(told.annotated) == len(told.shown):
        wrong = "action_units has not the same number of units and counts"
    elif unknown := state.files.keys() - {WEIGHTS, OPTIMIZER}:
        wrong = f"files names {sorted(unknown)[0]!r}, which is not a file of a checkpoint"
    elif WEIGHTS not in state.files:
        wrong = f"files does not name {WEIGHTS}"
    if wrong:
        raise CheckpointError(f"{path}: {wrong}; {_AGAIN}")


def check_shapes(folder: Path | str, model: nn.Module) -> None:
    """Compare names and shapes of a checkpoint's weights with a model before memory is taken for it.

    Args:
        folder: a checkpoint folder.
        model: on PyTorch's device "meta".
    Raises:
        CheckpointError: they do not fit it.
    """
    path = Path(folder) / WEIGHTS
    with _open_tensors(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    _check_names(path, shapes.keys(), expected.keys())
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise CheckpointError(
                f"{path}: {name} is {shape}, the model needs {expected[name]}; the file is of another model"
            )


def load_checkpoint(folder: Path | str, model: Any, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Read weights, and with an optimizer its state, into objects of the same shape.

    Args:
        folder: a checkpoint folder.
        model: a module whose ``config`` equals the settings in state.json.
        optimizer: over the parameters of `model`, in their order.
    Returns:
        The content of state.json.
    Raises:
        CheckpointError: damaged, not from this program, or of another model; neither argument was changed.
    """
    folder = Path(folder)
    state = read_state(folder)
    saved, wanted = complete_settings(state["model"]), complete_settings(json.loads(json.dumps(model.config)))
    if saved != wanted:
        raise CheckpointError(
            f"{folder} contains a model with other settings: {'; '.join(differences(saved, wanted))}; "
            "build the model with the checkpoint's settings"
        )
    weights = read_tensors(folder / WEIGHTS)
    moments = _read_optimizer(folder / OPTIMIZER, optimizer) if optimizer is not None else None
    check_weights(folder / WEIGHTS, weights, model)
    model.load_state_dict(weights)
    if optimizer is not None and moments is not None:
        optimizer.load_state_dict(moments)
    return state


def _write_weights(folder: Path, model: nn.Module) -> str:
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    usual_mode(folder / WEIGHTS)
    return WEIGHTS


def _write_optimizer(folder: Path, optimizer: Optimizer) -> str:
    from safetensors.torch import save_file

    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    header = {"param_groups": json.dumps(groups)}
    save_file(tensors, folder / OPTIMIZER, metadata=header)
    usual_mode(folder / OPTIMIZER)
    return OPTIMIZER


def _read_optimizer(path: Path, optimizer: Optimizer) -> dict[str, Any]:
    """A state dict for `optimizer`; its moments have the memory layout of the parameters."""
    tensors = read_tensors(path)
    with _open_tensors(path) as file:
        header = (file.metadata() or {}).get("param_groups", "null")
    where = f"{path}, param_groups"
    typed_groups = parse_json(header, list[_Group], where, _AGAIN, CheckpointError)
    groups = parse_json(header, list[dict[str, Any]], where, _AGAIN, CheckpointError)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in typed_groups for number in group.params]
    sizes = [[len(group["params"]) for group in some] for some in (groups, optimizer.param_groups)]
    if sizes[0] != sizes[1] or numbers != list(range(len(parameters))):
        raise CheckpointError(f"{path} belongs to an optimizer of other parameters")
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = _moment(path, key, len(parameters))
        _check_moment(path, key, value, parameters[index])
        parameter = parameters[index]
        laid_out = torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value) if value.dim() else value
        state.setdefault(index, {})[name] = laid_out
    for index, moments in state.items():
        if lacking := sorted({*_MOMENTS} - moments.keys()):
            raise CheckpointError(f"{path} lacks {index}.{lacking[0]}; {_AGAIN}")
    for group in groups:
        group.update({name: tuple(value) for name, value in group.items() if name == "betas"})
    return {"state": state, "param_groups": groups}


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def _moment(path: Path, key: str, count: int) -> tuple[int, str]:
    """``"12.exp_avg"`` → parameter 12 of `count`, ``exp_avg``."""
    found = re.fullmatch(r"(\d{1,9})\.(\w+)", key, re.ASCII)
    if found is None or int(found[1]) >= count or found[2] not in (*_MOMENTS, "max_exp_avg_sq"):
        raise CheckpointError(f"{path} has an entry {key[:60]!r}, which no optimizer of this program has; {_AGAIN}")
    return int(found[1]), found[2]


def _check_moment(path: Path, key: str, value: Tensor, parameter: Tensor) -> None:
    """Compare a moment with its parameter: shape, finiteness, sign."""
    if value.shape != (() if key.endswith(".step") else parameter.shape):
        raise CheckpointError(
            f"{path}: {key} is {tuple(value.shape)}, its parameter is {tuple(parameter.shape)}; "
            "the file belongs to another model"
        )
    if not value.is_floating_point() or not bool(value.isfinite().all()):
        raise CheckpointError(f"{path}: {key} has NaN, infinite or whole values; {_AGAIN}")
    if not key.endswith(".exp_avg") and bool((value < 0).any()):
        raise CheckpointError(f"{path}: {key} has negative values; {_AGAIN}")


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, opened to read its header."""
    safetensors = require("safetensors", "train")
    refuse_pipe(path, CheckpointError)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({error}); {_AGAIN}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Everything in a safetensors file, by name.

    Raises:
        CheckpointError: it is missing, damaged or another kind of file.
    """
    safetensors = require("safetensors.torch", "train")
    refuse_pipe(path, CheckpointError)
    try:
        return safetensors.load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole checkpoint folder") from error
    except (OSError, require("safetensors", "train").SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}); use another checkpoint or train again"
        ) from error


def check_weights(path: Path, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Compare names, shapes, dtypes and finiteness with the model before anything is copied.

    Args:
        path: of the weights, for messages.
        weights: by the names of the model's parameters and buffers.
        model: that they are for.
    Raises:
        CheckpointError: they do not fit it.
    """
    expected = model.state_dict()
    _check_names(path, weights.keys(), expected.keys())
    for name, value in weights.items():
        wanted = expected[name]
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path}: {name} is {tuple(value.shape)} {value.dtype}, the model needs "
                f"{tuple(wanted.shape)} {wanted.dtype}; the file is of another model"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: {name} has NaN or infinite values; use an earlier checkpoint")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise CheckpointError(f"{path}: {name} has negative variances; {_AGAIN}")


def _check_names(path: Path, found: Set[str], expected: Set[str]) -> None:
    if missing := sorted(expected - found):
        raise CheckpointError(f"{path} lacks {_some(missing)}; it is of another model or damaged")
    if extra := sorted(found - expected):
        raise CheckpointError(f"{path} has entries that the model lacks: {_some(extra)}; it is of another model")


def _check_file(path: Path, expected: Mapping[str, int]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy the whole checkpoint folder")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(
            f"{path} has {size} bytes instead of {expected['bytes']}: it was truncated or replaced; copy it again"
        )
    if _fingerprint(path) != expected:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one in {STATE}; copy it again")


def _replace_folder(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; an existing one is kept as ``.old`` until the new one is in place."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def finish_replacing(checkpoints: Path) -> None:
    """Finish what processes that were killed while they replaced a checkpoint have left.

    The old checkpoint gets its name back if there is no complete new one, and is removed if there is. Only for a
    process that alone writes the run.

    Args:
        checkpoints: folder of the checkpoints of a run.
    Raises:
        StorageError: a folder can't be renamed.
    """
    for old in sorted(checkpoints.glob("*.old")):
        folder = old.with_name(old.name.removesuffix(".old"))
        if _is_whole(folder):
            shutil.rmtree(old, ignore_errors=True)
        elif not folder.exists() and _is_whole(old):
            try:
                os.rename(old, folder)
            except OSError as error:
                raise StorageError(f"could not rename {old} to {folder.name}: {error.strerror}") from error
    for folder in {path.with_name(path.name.partition(".tmp-")[0]) for path in checkpoints.glob("*.tmp-*")}:
        _clear_leftovers(folder)


def _is_whole(folder: Path) -> bool:
    try:
        read_state(folder)
    except CheckpointError:
        return False
    return True


def _clear_leftovers(folder: Path) -> None:
    """Remove unfinished checkpoints of processes that were killed while they wrote."""
    if not folder.parent.is_dir():
        return
    for leftover in folder.parent.iterdir():
        found = re.fullmatch(r"\.tmp-(\d+)", leftover.name.removeprefix(folder.name))
        if found and not (runs(int(found[1])) and int(found[1]) != os.getpid()):
            shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot sync a folder; that is no reason to lose a checkpoint.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _fingerprint(path: Path) -> dict[str, int]:
    refuse_pipe(path, CheckpointError)
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            value = zlib.crc32(piece, value)
    return {"bytes": path.stat().st_size, "crc32": value}


def complete_settings(settings: Any) -> dict[str, Any]:
    """Model settings with those that early checkpoints of MOL lack; their networks were complete."""
    settings = settings if isinstance(settings, Mapping) else {}
    if "variant" not in settings:
        return dict(settings)
    graph = GRAPH_OF_VARIANT.get(str(settings["variant"]))
    return {"fcc": True, "ccc": True, "f5c": True, "graph": graph, "meeting": "side-by-side", **settings}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
