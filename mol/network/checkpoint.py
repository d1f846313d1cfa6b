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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mol.common.differences import differences
from mol.common.errors import CheckpointError, StorageError
from mol.common.extras import require
from mol.common.locks import runs
from mol.common.names import path_part
from mol.common.storage import usual_mode
from molkernels.modules import GRAPH_OF_VARIANT

FORMAT = 1
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_REQUIRED = ("format", "model", "classes", "mean_shape", "step", "files")


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
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {folder} is not a checkpoint") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); use another checkpoint or train again") from error
    if not isinstance(state, dict) or (missing := [key for key in _REQUIRED if key not in state]):
        lacks = f": {', '.join(missing)} missing" if isinstance(state, dict) else ""
        raise CheckpointError(f"{path} is not from this program{lacks}")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}; this version reads {FORMAT}: upgrade molkernels")
    for name, expected in state["files"].items():
        if path_part(name) != name:
            raise CheckpointError(
                f"{path} lists the file {name!r}, which is no name in its folder; use another checkpoint"
            )
        _check_file(folder / name, expected)
    return state


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
    header = {"param_groups": json.dumps(state["param_groups"])}
    save_file(tensors, folder / OPTIMIZER, metadata=header)
    usual_mode(folder / OPTIMIZER)
    return OPTIMIZER


def _read_optimizer(path: Path, optimizer: Optimizer) -> dict[str, Any]:
    """A state dict for `optimizer`; its moments have the memory layout of the parameters."""
    from safetensors import SafetensorError, safe_open

    tensors = read_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            groups = json.loads((file.metadata() or {})["param_groups"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} contains no optimizer state of this program ({error})") from error
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        raise CheckpointError(f"{path} belongs to an optimizer of other parameters")
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.dim() and value.shape != parameter.shape:
            raise CheckpointError(
                f"{path}: {key} is {tuple(value.shape)}, its parameter is {tuple(parameter.shape)}; "
                "the file belongs to another model"
            )
        laid_out = torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value) if value.dim() else value
        state.setdefault(int(index), {})[name] = laid_out
    for group in groups:
        group.update({name: tuple(value) for name, value in group.items() if name == "betas"})
    return {"state": state, "param_groups": groups}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Everything in a safetensors file, by name.

    Raises:
        CheckpointError: it is missing, damaged or another kind of file.
    """
    safetensors = require("safetensors.torch", "train")
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
    if missing := sorted(expected.keys() - weights.keys()):
        raise CheckpointError(f"{path} lacks {_some(missing)}; it is of another model or damaged")
    if extra := sorted(weights.keys() - expected.keys()):
        raise CheckpointError(f"{path} has entries that the model lacks: {_some(extra)}; it is of another model")
    for name, value in weights.items():
        wanted = expected[name]
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise CheckpointError(
                f"{path}: {name} is {tuple(value.shape)} {value.dtype}, the model needs "
                f"{tuple(wanted.shape)} {wanted.dtype}; the file is of another model"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: {name} has NaN or infinite values; use an earlier checkpoint")


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
    graph = GRAPH_OF_VARIANT.get(settings["variant"])
    return {"fcc": True, "ccc": True, "f5c": True, "graph": graph, "meeting": "side-by-side", **settings}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
