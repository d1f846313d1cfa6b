"""All data sets: the ``SET`` of every module of this package.

A new data set is one module next to the others; nothing else has to list it. None of the data sets is distributed here.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mol.data.sets
from mol.common.checks import unknown_name
from mol.common.errors import SettingsError
from mol.data.manifest import Loaded, OnError
from mol.data.sets.dataset import DataSet
from mol.data.sets.folders import SetNotFoundError, names_within
from mol.data.sets.sheets import SHEET_SUFFIXES


def _defined() -> Iterator[tuple[str, DataSet]]:
    """The modules of this package that define a data set, and what they define."""
    for module in pkgutil.iter_modules(mol.data.sets.__path__, "mol.data.sets."):
        if module.name not in (__name__, "mol.data.sets.__main__"):
            defined = getattr(import_module(module.name), "SET", None)
            if defined is not None:
                yield module.name, defined


def _collect() -> Mapping[str, DataSet]:
    """Name → data set: those that must be requested from their authors, then the rest, each by title."""
    modules: dict[str, str] = {}
    found = []
    for module, dataset in _defined():
        if (first := modules.setdefault(dataset.name, module)) != module:
            raise SettingsError(f"{first} and {module} both define the data set {dataset.name!r}; rename one of them.")
        found.append(dataset)
    ordered = sorted(found, key=lambda dataset: (not dataset.access, dataset.title.casefold()))
    return MappingProxyType({dataset.name: dataset for dataset in ordered})


SETS = _collect()
# Folders above one with frames in which a data set is recognised.
_LEVELS = 6


def find_set(name: str) -> DataSet:
    """The data set with this name.

    Raises:
        SettingsError: an unknown name; the message suggests a similar one and lists them all.
    """
    if name in SETS:
        return SETS[name]
    raise unknown_name("data set", name, SETS, {entry.title.lower(): known for known, entry in SETS.items()})


def load_set(name: str, root: Path, on_error: OnError = "raise", **options: Any) -> Loaded:
    """Load a data set.

    Args:
        name: of the data set.
        root: folder that its archives were unpacked into.
        on_error: ``"skip"`` drops a clip that cannot be used and lists it, instead of raising.
        options: of its loader (`DataSet.options`).

    Raises:
        SettingsError: an unknown data set.
        DataError: a sheet or folder is missing or not as expected; if `root` looks like another data set, the message
            says so.
    """
    try:
        return find_set(name).load(root, on_error, **options)
    except SetNotFoundError as error:
        raise SetNotFoundError(f"{error}{_other_sets(root, name)}") from error.__cause__


def set_of_folder(folder: Path) -> tuple[str, float] | None:
    """The data set that a folder of frames belongs to, by the names of the folders above it and of the sheets in them.

    Returns:
        Its title and frames per second; None if it belongs to no known set, or that set doesn't have one rate.
    """
    above = list(folder.absolute().parents)[:_LEVELS]
    names = {path.name.lower() for path in (folder, *above)}
    known = names | {name for path in above for name in _file_names(path)}
    found = [entry for entry in SETS.values() if entry.has_name_of(known)]
    if len(found) != 1:
        return None
    (entry,) = found
    cameras = [fps for camera, fps in entry.camera_fps.items() if camera.lower() in names]
    fps = cameras[0] if len(cameras) == 1 else entry.fps
    return (entry.title, fps) if fps else None


def _file_names(folder: Path) -> list[str]:
    """Lower-case names of the files in a folder; none if it may not be read."""
    try:
        return [path.name.lower() for path in folder.iterdir() if path.suffix.lower() in SHEET_SUFFIXES]
    except OSError:
        return []


def describe_sets() -> str:
    """One line per data set with its name, title and options, for ``mol prepare --help``."""
    width = max(map(len, SETS))
    lines = []
    for name, entry in SETS.items():
        options = f"  [{' '.join(f'--{option}' for option in entry.options)}]" if entry.options else ""
        lines.append(f"  {name:<{width}}  {entry.title}{options}")
    return "\n".join(["data sets:", *lines])


def _other_sets(root: Path, own: str) -> str:
    """A sentence for messages: the data sets other than `own` whose files or folders are in `root`."""
    names = names_within(root, depth=2) if root.is_dir() else set()
    others = [name for name, entry in SETS.items() if name != own and entry.has_name_of(names)]
    return f" It looks like another data set: --dataset {' or '.join(others)}." if others else ""
